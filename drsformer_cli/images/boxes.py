"""ISO base media files, which hold AVIF and HEIC: their boxes, the items in them, and what describes each item."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drsformer_cli.images import color, xmp
from drsformer_cli.images.image import CREDENTIALS_DROPPED, DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CREDENTIALS = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP_TYPE = b"application/rdf+xml"
_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
_DEPTH = (b"urn:mpeg:hevc:2015:auxid:2", b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth")


@dataclass
class Item:
    """One item of a file: an image, a tile of one, or metadata.

    Attributes:
        type: Four characters, such as hvc1, av01, grid or Exif.
        type_at: Position of the type in the file.
        content_type: MIME type, if the type is mime.
        properties: Name and content of its properties, in order.
        from_idat: Whether the extents are within the box idat.
        extents: Offset and length of its parts.
    """

    type: bytes
    type_at: int
    content_type: bytes = b""
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    from_idat: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Boxes:
    """The boxes of a file.

    Attributes:
        data: The file.
        names: Names of the outermost boxes.
        items: Items by number.
        primary: Number of the main image.
        references: Type, item and referenced items of each reference.
        idat: Start and end of the content of the box idat.
    """

    data: bytes
    names: set[bytes] = field(default_factory=set)
    items: dict[int, Item] = field(default_factory=dict)
    primary: int = 0
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)
    idat: tuple[int, int] = (0, 0)

    def properties(self, name: bytes) -> list[bytes]:
        """The properties of the main image with that name, or else those of the images that it is composed of."""
        parts = [
            to for kind, item, others in self.references if kind == b"dimg" and item == self.primary for to in others
        ]
        for numbers in ([self.primary], parts):
            described = [self.items[number] for number in numbers if number in self.items]
            found = [content for item in described for kind, content in item.properties if kind == name]
            if found:
                return found
        return []

    def icc(self) -> bytes | None:
        """The ICC profile of the main image."""
        return next((found[4:] for found in self.properties(b"colr") if found[:4] in (b"prof", b"rICC")), None)

    def cicp(self) -> bytes | None:
        """The color description of the main image as in a PNG: primaries, transfer function, 0, 1 (full range)."""
        for found in self.properties(b"colr"):
            if found[:4] == b"nclx" and len(found) >= 8:
                return bytes([found[5], found[7], 0, 1])
        return None

    def exif(self) -> bytes | None:
        """The EXIF block of the main image, beginning with its TIFF header."""
        for content in self._metadata(b"Exif"):
            block = content[4 + int.from_bytes(content[:4]) :]
            if block:
                return block
        return None

    def xmp(self) -> bytes | None:
        """The XMP packet of the main image."""
        return next(self._metadata(b"mime", _XMP_TYPE), None)

    def swaps_sides(self) -> bool:
        """Whether the main image is stored rotated by a quarter turn."""
        return sum(content[0] & 1 for content in self.properties(b"irot") if content) % 2 == 1

    def dropped(self) -> list[str]:
        """Notes about what belongs to the main image and is not kept."""
        kinds = [
            next((content[4:].partition(b"\0")[0] for name, content in item.properties if name == b"auxC"), b"")
            for number, item in self.items.items()
            if any(kind == b"auxl" and source == number for kind, source, _ in self.references)
        ]
        gain = any(b"gainmap" in kind for kind in kinds) or any(item.type == b"tmap" for item in self.items.values())
        others = [kind for kind in kinds if kind not in (*_ALPHA, *_DEPTH) and b"gainmap" not in kind]
        told = {
            xmp.GAIN_MAP_DROPPED: gain,
            "depth map dropped": any(kind in _DEPTH for kind in kinds),
            "auxiliary images dropped": bool(others),
            xmp.VIDEO_DROPPED: b"mpvd" in self.names,
            CREDENTIALS_DROPPED: b"uuid" + _CREDENTIALS in self.data,
        }
        return [note for note, true in told.items() if true]

    def _metadata(self, kind: bytes, content_type: bytes = b"") -> Iterator[bytes]:
        """The contents of the metadata items of a type; first those that describe the main image."""
        about = {item for name, item, to in self.references if name == b"cdsc" and self.primary in to}
        described = {item for name, item, _ in self.references if name == b"cdsc"}
        for wanted in (about, self.items.keys() - described):
            for number in sorted(wanted & self.items.keys()):
                item = self.items[number]
                if item.type == kind and item.content_type == content_type:
                    yield self._content(item)

    def _content(self, item: Item) -> bytes:
        start, end = self.idat if item.from_idat else (0, len(self.data))
        parts, rest = [], end - start
        for offset, length in item.extents:
            part = self.data[start + offset : min(start + offset + min(length, rest), end)]
            parts.append(part)
            rest -= len(part)  # extents that overlap would multiply a small file
        return b"".join(parts)


def color_of(found: Boxes, source: str = "CICP") -> bytes | None:
    """The color description of the main image if it is not sRGB.

    Raises:
        UnsupportedError: It is HDR.
    """
    cicp = found.cicp()
    color.refuse_hdr(cicp, source)
    return None if cicp is None or color.is_srgb(cicp) else cicp


def read_boxes(data: bytes) -> Boxes:
    """Read the boxes; what is damaged is left out, and the decoder reports it."""
    found = Boxes(data)
    meta = None
    for name, start, end in _boxes(data, 0, len(data)):
        found.names.add(name)
        meta = (start, end) if name == b"meta" and meta is None else meta
    if meta is not None:
        inner = {name: _Reader(data, start, end) for name, start, end in _boxes(data, meta[0] + 4, meta[1])}
        if b"idat" in inner:
            found.idat = inner[b"idat"].position, inner[b"idat"].end
        for name, read in _META.items():  # in this order: items first
            if name in inner:
                with contextlib.suppress(DamagedError):
                    read(inner[name], found)
    return found


class _Reader:
    """Reads numbers from the content of a box."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.end = end

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self.position += size
        if self.position > self.end:
            raise DamagedError("truncated")
        return self.data[self.position - size : self.position]

    def number(self, size: int) -> int:
        """The next bytes as a number; 0 if there are none to read."""
        return int.from_bytes(self.take(size))

    def text(self) -> bytes:
        """The bytes up to the next zero."""
        end = self.data.find(b"\0", self.position, self.end)
        found = self.data[self.position : end if end >= 0 else self.end]
        self.position += len(found) + 1
        return found

    def boxes(self) -> Iterator[tuple[bytes, _Reader]]:
        """The boxes from here on."""
        for name, start, end in _boxes(self.data, self.position, self.end):
            yield name, _Reader(self.data, start, end)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each box."""
    while start + 8 <= end:
        size, name, head = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], 8
        if size == 1 and start + 16 <= end:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield name, start + head, min(start + size, end)
        start += size


def _read_primary(box: _Reader, found: Boxes) -> None:
    found.primary = box.number(2 if box.number(4) >> 24 == 0 else 4)


def _read_items(box: _Reader, found: Boxes) -> None:
    box.take(2 if box.number(4) >> 24 == 0 else 4)
    for name, entry in box.boxes():
        version = entry.number(4) >> 24
        if name == b"infe" and version >= 2:
            number = entry.number(2 if version == 2 else 4)
            entry.take(2)
            item = Item(entry.take(4), entry.position - 4)
            entry.text()
            if item.type == b"mime":
                item.content_type = entry.text()
            found.items.setdefault(number, item)


def _read_locations(box: _Reader, found: Boxes) -> None:
    version = box.number(4) >> 24
    sizes = box.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(box.number(4 if version == 2 else 2)):
        number = box.number(4 if version == 2 else 2)
        method = box.number(2) & 15 if version else 0
        box.take(2)
        base = box.number(base_size)
        extents = []
        for _ in range(box.number(2)):
            box.take(index_size if version else 0)
            extents.append((base + box.number(offset_size), box.number(length_size)))
        if number in found.items and method < 2:  # 2: within another item
            found.items[number].from_idat, found.items[number].extents = method == 1, extents


def _read_properties(box: _Reader, found: Boxes) -> None:
    properties: list[tuple[bytes, bytes]] = []
    for name, inner in box.boxes():
        if name == b"ipco":
            properties = [(kind, content.data[content.position : content.end]) for kind, content in inner.boxes()]
        elif name == b"ipma":
            head = inner.number(4)
            for _ in range(inner.number(4)):
                item = found.items.get(inner.number(2 if head >> 24 == 0 else 4))
                for _ in range(inner.number(1)):
                    index = inner.number(2) & 0x7FFF if head & 1 else inner.number(1) & 0x7F
                    if item is not None and 0 < index <= len(properties):
                        item.properties.append(properties[index - 1])


def _read_references(box: _Reader, found: Boxes) -> None:
    size = 2 if box.number(4) >> 24 == 0 else 4
    for kind, inner in box.boxes():
        item = inner.number(size)
        found.references.append((kind, item, [inner.number(size) for _ in range(inner.number(2))]))


_META = {
    b"pitm": _read_primary,
    b"iinf": _read_items,
    b"iloc": _read_locations,
    b"iprp": _read_properties,
    b"iref": _read_references,
}
