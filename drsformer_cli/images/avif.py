"""AVIF: the boxes that Pillow does not report are read here; Pillow decodes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from PIL import features

from drsformer.errors import ImageError
from drsformer_cli.images import color, exif, pillow, xmp
from drsformer_cli.images.image import Metadata, Opened
from drsformer_cli.images.plain import metadata_of, refuse_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drsformer_cli.images.image import Channels

_CONTAINERS = (b"iprp", b"ipco")
_NO_ITEM = b"none"  # replaces the type of the EXIF item, so that Pillow ignores it


def open_avif(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        ImageError: It has several frames, is HDR, or Pillow was built without AVIF.
        DamagedError: It is damaged.
    """
    if not features.check("avif"):
        raise ImageError("is an AVIF image, which this Pillow was built without")
    file.seek(0)
    data = file.read()
    boxes = _read_boxes(data)
    plain = bytearray(data)
    if boxes.exif_type is not None:
        plain[boxes.exif_type : boxes.exif_type + 4] = _NO_ITEM
    opened = pillow.open_as(bytes(plain), "AVIF")
    refuse_frames(opened)
    color.refuse_hdr(boxes.cicp, "CICP")
    cicp = None if boxes.cicp is None or color.is_srgb(boxes.cicp) else boxes.cicp
    notes: list[str] = []
    if boxes.bits > 8:
        notes.append(f"{boxes.bits} bits reduced to 8")
    if b"tmap" in data[: data.find(b"meta")]:
        notes.append(xmp.GAIN_MAP_DROPPED)
    metadata = replace(metadata_of(opened, notes), exif=boxes.exif, dpi=None, cicp=cicp)

    def decode() -> Channels:
        return pillow.channels(pillow.pixels(opened), None, notes)

    found = Opened("AVIF", *opened.size, decode, metadata=metadata, notes=notes)
    # The orientation in the boxes counts, not that in EXIF; without EXIF, Pillow reports it.
    found.orientation = exif.orientation_of(Metadata(exif=opened.info.get("exif")).exif) or 1
    return found


def with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """Put the EXIF block in place of its placeholder, and write the color description."""
    if metadata.exif:
        data = data.replace(placeholder(metadata.exif), metadata.exif, 1)
    if metadata.cicp and (at := data.find(b"colrnclx")) >= 0:
        changed = bytearray(data)
        changed[at + 8 : at + 12] = struct.pack(">HH", *metadata.cicp[:2])
        data = bytes(changed)
    return data


@dataclass
class _Boxes:
    """The content of the boxes.

    Attributes:
        cicp: Color primaries, transfer function, 0, 1 (full range) of the primary item.
        bits: Bits per channel.
        exif: EXIF block.
        exif_type: Position of the type of the EXIF item.
        exif_id: Number of the EXIF item.
    """

    cicp: bytes | None = None
    bits: int = 8
    exif: bytes | None = None
    exif_type: int | None = None
    exif_id: int | None = None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each box."""
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", data[start : start + 8])
        head = 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack(">Q", data[start + 8 : start + 16])
            head = 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield name, start + head, min(start + size, end)
        start += size


def _read_boxes(data: bytes) -> _Boxes:
    found = _Boxes()
    meta = next(((start, end) for name, start, end in _boxes(data, 0, len(data)) if name == b"meta"), None)
    if meta is None:
        return found
    inner = {name: (start, end) for name, start, end in _boxes(data, meta[0] + 4, meta[1])}
    try:
        if b"iprp" in inner:
            _read_properties(data, *inner[b"iprp"], found)
        if b"iinf" in inner:
            _find_exif(data, *inner[b"iinf"], found)
        if found.exif_id is not None and b"iloc" in inner:
            found.exif = _item(data, *inner[b"iloc"], found.exif_id, inner.get(b"idat"))
    except (struct.error, IndexError):
        return replace(found, exif=None)  # the decoder reports whether the image is damaged
    return found


def _read_properties(data: bytes, start: int, end: int, found: _Boxes) -> None:
    for name, inner_start, inner_end in _boxes(data, start, end):
        if name in _CONTAINERS:
            _read_properties(data, inner_start, inner_end, found)
        elif name == b"colr" and data[inner_start : inner_start + 4] == b"nclx" and found.cicp is None:
            primaries, transfer = struct.unpack(">HH", data[inner_start + 4 : inner_start + 8])
            found.cicp = bytes([primaries & 255, transfer & 255, 0, 1])
        elif name == b"av1C":
            flags = data[inner_start + 2]
            bits = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
            found.bits = max(found.bits, bits)


def _find_exif(data: bytes, start: int, end: int, found: _Boxes) -> None:
    start += 4 + (2 if data[start] == 0 else 4)
    for name, at, _ in _boxes(data, start, end):
        version = data[at]
        if name == b"infe" and version >= 2:
            (item,) = struct.unpack(">H" if version == 2 else ">I", data[at + 4 : at + (6 if version == 2 else 8)])
            type_at = at + (8 if version == 2 else 10)
            if data[type_at : type_at + 4] == b"Exif":
                found.exif_id, found.exif_type = item, type_at
                return


def _item(data: bytes, start: int, end: int, wanted: int, idat: tuple[int, int] | None) -> bytes | None:
    """The EXIF block of an item, beginning with its TIFF header."""
    version = data[start]
    sizes = struct.unpack(">H", data[start + 4 : start + 6])[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    position = start + 6

    def number(size: int) -> int:
        nonlocal position
        value = int.from_bytes(data[position : position + size])
        position += size
        return value

    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        content = b""
        for _ in range(number(2)):
            if version:
                number(index_size)
            offset, length = base + number(offset_size), number(length_size)
            if method == 1 and idat is not None:
                offset += idat[0]
            content += data[offset : offset + length]
        if position > end:
            return None
        if item == wanted and len(content) > 8:
            return content[4 + int.from_bytes(content[:4]) :]
    return None


def placeholder(block: bytes) -> bytes:
    """An empty EXIF block of the same length: Pillow would change the real one."""
    return (b"II*\0\x08\0\0\0" + bytes(6)).ljust(len(block), b"\x5a")[: len(block)]
