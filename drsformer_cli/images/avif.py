"""AVIF: Pillow decodes; what it does not report is read from the boxes."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from PIL import features

from drsformer.errors import UnsupportedError
from drsformer_cli.images import boxes, exif, pillow
from drsformer_cli.images.image import Metadata, Opened, refuse_frames
from drsformer_cli.images.plain import metadata_of

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels

_NO_ITEM = b"none"  # replaces the type of EXIF items, so that Pillow ignores them
_MAJOR_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")  # that Pillow knows


def open_avif(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        UnsupportedError: It has several frames, is HDR, or Pillow was built without AVIF.
        DamagedError: It is damaged.
    """
    if not features.check("avif"):
        raise UnsupportedError("is an AVIF image, which this Pillow was built without")
    file.seek(0)
    data = file.read()
    found = boxes.read_boxes(data)
    plain = bytearray(data)
    if data[8:12] not in _MAJOR_BRANDS:
        plain[8:12] = b"avif"
    for item in found.items.values():
        if item.type == b"Exif":
            plain[item.type_at : item.type_at + 4] = _NO_ITEM
    opened = pillow.open_as(bytes(plain), "AVIF")
    refuse_frames(getattr(opened, "n_frames", 1))
    cicp = boxes.color_of(found)
    bits = max((_bits(content) for content in found.properties(b"av1C")), default=8)
    notes = ([f"{bits} bits reduced to 8"] if bits > 8 else []) + found.dropped()
    metadata = replace(metadata_of(opened, notes), exif=found.exif(), dpi=None, cicp=cicp)

    def decode() -> Channels:
        return pillow.channels(pillow.pixels(opened), None, notes)

    image = Opened("AVIF", *opened.size, decode, metadata=metadata, notes=notes)
    # The orientation in the boxes counts, not that in EXIF; without EXIF, Pillow reports it.
    image.orientation = exif.orientation_of(Metadata(exif=opened.info.get("exif")).exif) or 1
    return image


def with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """Put the EXIF block in place of its placeholder, and write the color description."""
    if metadata.exif:
        data = data.replace(placeholder(metadata.exif), metadata.exif, 1)
    if metadata.cicp and (at := data.find(b"colrnclx")) >= 0:
        changed = bytearray(data)
        changed[at + 8 : at + 12] = struct.pack(">HH", *metadata.cicp[:2])
        data = bytes(changed)
    return data


def placeholder(block: bytes) -> bytes:
    """An empty EXIF block of the same length: Pillow would change the real one."""
    return (b"II*\0\x08\0\0\0" + bytes(6)).ljust(len(block), b"\x5a")[: len(block)]


def _bits(configuration: bytes) -> int:
    """Bits per channel of an AV1 codec configuration (av1C)."""
    flags = configuration[2] if len(configuration) > 2 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
