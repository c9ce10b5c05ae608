"""EXIF blocks, changed in place: bytes change only where they must, and nothing is moved.

A block begins with its TIFF header. Offsets within the block, such as those in a MakerNote, stay valid.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drsformer_cli.images.ifd import (
    EXIF,
    LONG,
    NUMBER_SIZES,
    SHORT,
    SUBDIRECTORIES,
    Directory,
    Entry,
    Tags,
)
from drsformer_cli.images.image import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIENTATION = 274
DAMAGED = "EXIF is damaged and was dropped"
PARTLY_DAMAGED = "EXIF tags that lead outside the file were dropped"

_IMAGE_WIDTH, _IMAGE_LENGTH, _PIXEL_X, _PIXEL_Y = 256, 257, 0xA002, 0xA003
_SUBJECT_AREA, _SUBJECT_LOCATION = 0x9214, 0xA214
_MAKER_NOTE = 0x927C
_FURTHEST_MAKER_NOTE = 16_384
_MOST_REPAIRS = 100
_LARGEST_DIRECTORY = 64 << 20
_KEPT, _THUMBNAIL = 1, 2

# Tags of a TIFF file that describe the layout of its pixels, or point to data that is not kept.
LAYOUT_TAGS = {
    *range(254, 260),  # subfile type, width, length, bits, compression
    *range(262, 267),  # photometric interpretation, thresholding, cell size, fill order
    *(273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 297, 301),
    *range(317, 348),  # predictor, palette, tiles, SubIFDs, inks, extra samples, sample format, JPEG tables
    *range(512, 522),  # old JPEG
    *range(529, 533),  # YCbCr
    559,
    *(700, 33723, 34377, 34675),  # XMP, IPTC, Photoshop, ICC: kept apart or dropped
    37724,  # Photoshop's layers
}
RESOLUTION_TAGS = {282, 283, 296}


@dataclass
class _Values:
    """A directory to build: type, count and bytes of each tag, and its subdirectories."""

    values: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    below: dict[int, _Values] = field(default_factory=dict)


def orientation(tags: Tags, directory: Directory) -> int | None:
    """The orientation, 1..8; 1 if the value is invalid, None if the tag is missing."""
    entry = directory.entries.get(ORIENTATION)
    if entry is None:
        return None
    if entry.type not in (SHORT, LONG) or entry.count != 1:
        return 1
    value = tags.integer(entry, 1)
    return value if 1 <= value <= 8 else 1


def orientation_of(block: bytes | None) -> int | None:
    """The orientation of an EXIF block; see `orientation`."""
    if block is None:
        return None
    try:
        tags = Tags(block)
        return orientation(tags, tags.directory(tags.first))
    except DamagedError:
        return None


def resolution_of(block: bytes | None) -> tuple[float, float] | None:
    """The resolution of an EXIF block in dots per inch, horizontal and vertical."""
    if block is None:
        return None
    try:
        tags = Tags(block)
        return tags.resolution(tags.directory(tags.first))
    except DamagedError:
        return None


def upright(block: bytes, turn: int, size: tuple[int, int], notes: list[str]) -> bytes | None:
    """The EXIF block of an image that was rotated: orientation 1, sides and subject turned, no thumbnail.

    Tags that point outside the block are removed, since they would point to something else in another file.

    Args:
        block: An EXIF block.
        turn: The orientation 1..8 that was applied to the image.
        size: Width and height of the image before that.
        notes: A note is appended for everything that was lost.
    """
    data = bytearray(block)
    try:
        _mend(data)
        main = _main(data).entries
    except DamagedError:
        main = {}
    if not main or block[2:4] in (b"+\0", b"\0+"):
        if len(block) < 14 or block[8:].strip(b"\0"):  # an empty directory is valid
            notes.append(DAMAGED)
        return None
    if data != block:
        notes.append(PARTLY_DAMAGED)
    _cut_thumbnail(data)
    tags = Tags(bytes(data))
    if orientation(tags, _main(data)) not in (None, 1):
        _put(data, tags.order, main[ORIENTATION], 1)
    main_directory = tags.directory(tags.first)
    photo = tags.subdirectory(main_directory, EXIF)
    if turn >= 5:
        _exchange(data, tags, main_directory, _IMAGE_WIDTH, _IMAGE_LENGTH)
        if photo is not None:
            _exchange(data, tags, photo, _PIXEL_X, _PIXEL_Y)
    if turn > 1 and photo is not None:
        for tag in (_SUBJECT_AREA, _SUBJECT_LOCATION):
            _turn_subject(data, tags, photo.entries.get(tag), turn, size)
    return bytes(data)


def from_tiff(tags: Tags, directories: list[Directory], notes: list[str]) -> bytes | None:
    """An EXIF block with the tags of a TIFF file that describe the image, with unchanged types and values.

    A MakerNote keeps its offset if that is small enough.

    Args:
        tags: The file.
        directories: The directory of the image, then those that add to it.
        notes: A note is appended for everything that was lost.
    """
    found = _Values()
    maker_note: tuple[int, bytes] | None = None
    for directory in directories:
        own = _values(tags, directory, "main", notes)
        found.values = {**own.values, **found.values}
        found.below = {**own.below, **found.below}
        photo = tags.subdirectory(directory, EXIF)
        entry = photo.entries.get(_MAKER_NOTE) if photo is not None else None
        near = entry is not None and entry.length > 4 and 8 <= entry.offset < _FURTHEST_MAKER_NOTE
        if maker_note is None and near and entry is not None and entry.offset + entry.length <= tags.length:
            maker_note = entry.offset, tags.value(entry)
    return _Builder(tags.order, maker_note).build(found) if found.values or found.below else None


def little_endian(block: bytes) -> bytes:
    """The block with little-endian numbers at the same offsets; a MakerNote is not changed."""
    if block[:2] == b"II":
        return block
    data = bytearray(block)
    data[:8] = b"II*\0" + block[7:3:-1]
    done = bytearray(b"\1" * 8).ljust(len(data), b"\0")

    def reverse(position: int, size: int, count: int = 1) -> None:
        for start in range(position, position + size * count, size):
            if not any(done[start : start + size]):
                data[start : start + size] = data[start : start + size][::-1]
                done[start : start + size] = b"\1" * size

    directories = [directory for _, _, directory in _directories(bytearray(block))]
    for directory in directories:
        reverse(directory.position, 2)
        reverse(directory.position + 2 + 12 * directory.count, 4)
        for entry in directory.every:
            reverse(entry.position, 2, 2)
            reverse(entry.position + 4, 4)
            if entry.length > 4:
                reverse(entry.position + 8, 4)
    for entry in (entry for directory in directories for entry in directory.every):
        size = NUMBER_SIZES.get(entry.type, 1)
        reverse(entry.offset, size, entry.length // size if size > 1 else 0)
    return bytes(data)


def _values(tags: Tags, directory: Directory, kind: int | str, notes: list[str]) -> _Values:
    """A copy of a directory without the tags that are meaningless outside its file."""
    found = _Values()
    pointers = SUBDIRECTORIES[kind]
    lengths = (entry.length for tag, entry in directory.entries.items() if tag not in LAYOUT_TAGS)
    if sum(length for length in lengths if length <= tags.length) > _LARGEST_DIRECTORY:
        notes.append(DAMAGED)
        return found
    for tag, entry in directory.entries.items():
        if tag in pointers:
            if (below := tags.subdirectory(directory, tag)) is not None:
                found.below[tag] = _values(tags, below, tag, notes)
        elif not (kind == "main" and tag in LAYOUT_TAGS) and entry.type in range(1, 13):
            try:
                found.values[tag] = (entry.type, entry.count, tags.value(entry))
            except DamagedError:
                if PARTLY_DAMAGED not in notes:
                    notes.append(PARTLY_DAMAGED)
    return found


class _Builder:
    """Lays out directories and values around a MakerNote that must not move."""

    def __init__(self, order: str, maker_note: tuple[int, bytes] | None) -> None:
        self.order = order
        self.maker_note = maker_note
        start, data = maker_note or (1 << 32, b"")
        self.data = bytearray(8)
        self.low, self.limit, self.high = 8, start, start + len(data) + len(data) % 2
        if maker_note:
            self.data += bytes(self.high - 8)
            self.data[start : start + len(data)] = data

    def build(self, values: _Values) -> bytes:
        first = self._directory(values)
        magic = b"II*\0" if self.order == "<" else b"MM\0*"
        self.data[:8] = magic + struct.pack(self.order + "I", first)
        return bytes(self.data)

    def _place(self, length: int) -> int:
        """A free place of that length, at an even offset."""
        even = length + length % 2
        if self.low + even <= self.limit:
            position, self.low = self.low, self.low + even
        else:
            position, self.high = self.high, self.high + even
        if (missing := position + even - len(self.data)) > 0:
            self.data += bytes(missing)
        return position

    def _directory(self, values: _Values) -> int:
        position = self._place(2 + 12 * (len(values.values) + len(values.below)) + 4)
        entries = []
        for tag, (type_, count, data) in values.values.items():
            entries.append(struct.pack(self.order + "HHI", tag, type_, count) + self._stored(tag, data))
        for tag, below in values.below.items():
            entries.append(struct.pack(self.order + "HHII", tag, LONG, 1, self._directory(below)))
        entries.sort(key=lambda entry: struct.unpack(self.order + "H", entry[:2]))
        directory = struct.pack(self.order + "H", len(entries)) + b"".join(entries) + bytes(4)
        self.data[position : position + len(directory)] = directory
        return position

    def _stored(self, tag: int, data: bytes) -> bytes:
        """The last four bytes of an entry: the value, or its offset."""
        if len(data) <= 4:
            return data.ljust(4, b"\0")
        if tag == _MAKER_NOTE and self.maker_note is not None:
            return struct.pack(self.order + "I", self.maker_note[0])
        position = self._place(len(data))
        self.data[position : position + len(data)] = data
        return struct.pack(self.order + "I", position)


def _main(data: bytearray) -> Directory:
    tags = Tags(bytes(data))
    return tags.directory(tags.first)


def _directories(data: bytearray) -> Iterator[tuple[Tags, int | str, Directory]]:
    """The main directory and its subdirectories, each once."""
    tags = Tags(bytes(data))
    waiting: list[tuple[int | str, Directory]] = [("main", tags.directory(tags.first))]
    seen = set[int]()
    while waiting:
        kind, directory = waiting.pop(0)
        if directory.position in seen:
            continue
        seen.add(directory.position)
        yield tags, kind, directory
        below = [(tag, tags.subdirectory(directory, tag)) for tag in SUBDIRECTORIES[kind]]
        waiting += [(tag, found) for tag, found in below if found is not None]


def _mend(data: bytearray) -> None:
    """Shorten directories that extend beyond the block, and remove entries that point outside it."""
    for _ in range(_MOST_REPAIRS):
        for tags, kind, directory in _directories(data):
            start = directory.position
            if directory.cut:
                if tags.length < start + 6:
                    raise DamagedError("a directory without room for entries")
                count = (tags.length - start - 2 - 4) // 12
                struct.pack_into(tags.order + "H", data, start, count)
                struct.pack_into(tags.order + "I", data, start + 2 + 12 * count, 0)
                break
            lost = [entry for entry in directory.every if _leads_nowhere(tags, kind, directory, entry)]
            if lost:
                _take_out(data, tags, directory, lost)
                break
        else:
            return
    raise DamagedError("directories that overlap")


def _leads_nowhere(tags: Tags, kind: int | str, directory: Directory, entry: Entry) -> bool:
    if entry.tag in SUBDIRECTORIES[kind]:
        return tags.subdirectory(directory, entry.tag) is None
    return entry.length > 4 and entry.offset + entry.length > tags.length


def _take_out(data: bytearray, tags: Tags, directory: Directory, lost: list[Entry]) -> None:
    """Remove entries; later entries and the pointer to the next directory move up."""
    start = directory.position
    end = start + 2 + 12 * directory.count + 4
    gone = {entry.position for entry in lost}
    kept = [bytes(data[at : at + 12]) for at in range(start + 2, end - 4, 12) if at not in gone]
    packed = struct.pack(tags.order + "H", len(kept)) + b"".join(kept) + bytes(data[end - 4 : end])
    data[start:end] = packed.ljust(end - start, b"\0")


def _cut_thumbnail(data: bytearray) -> None:
    """Remove the directories after the main one, and blank the bytes that only they use."""
    tags = Tags(bytes(data))
    main = tags.directory(tags.first)
    if not main.following:
        return
    used = bytearray(len(data))
    for thumbnail in _following(tags, main.following):
        _mark_directory(used, _THUMBNAIL, thumbnail)
        for at, lengths in ((513, 514), (273, 279)):
            entries = [thumbnail.entries.get(tag) for tag in (at, lengths)]
            if all(entry is None or entry.offset + entry.length <= tags.length for entry in entries):
                for offset, size in zip(*(tags.integers(entry) for entry in entries), strict=False):
                    _mark(used, _THUMBNAIL, offset, offset + size)
    struct.pack_into(tags.order + "I", data, main.position + 2 + 12 * main.count, 0)
    _mark(used, _KEPT, 0, 8)
    for _, _, directory in _directories(data):
        _mark_directory(used, _KEPT, directory)
    for position, use in enumerate(used):
        if use == _THUMBNAIL:
            data[position] = 0
    del data[len(used.rstrip(bytes([_THUMBNAIL]))) :]


def _following(tags: Tags, position: int) -> Iterator[Directory]:
    seen = set[int]()
    while position and position not in seen and len(seen) < _MOST_REPAIRS:
        seen.add(position)
        try:
            directory = tags.directory(position)
        except DamagedError:
            return
        yield directory
        position = directory.following


def _mark_directory(used: bytearray, value: int, directory: Directory) -> None:
    _mark(used, value, directory.position, directory.position + 2 + 12 * directory.count + 4)
    for entry in directory.every:
        if entry.length > 4:
            _mark(used, value, entry.offset, entry.offset + entry.length)


def _mark(used: bytearray, value: int, start: int, end: int) -> None:
    start, end = min(start, len(used)), min(end, len(used))
    used[start:end] = bytes([value]) * (end - start)


def _put(data: bytearray, order: str, entry: Entry, value: int) -> None:
    """Write a single SHORT or LONG that is stored in its entry."""
    struct.pack_into(order + ("H" if entry.type == SHORT else "I"), data, entry.offset, value)


def _exchange(data: bytearray, tags: Tags, directory: Directory, first: int, second: int) -> None:
    entries = [directory.entries.get(tag) for tag in (first, second)]
    plain = [entry for entry in entries if entry is not None and entry.type in (SHORT, LONG) and entry.count == 1]
    if len(plain) < 2:
        return
    values = [tags.integer(entry, 0) for entry in plain]
    if all(value <= 0xFFFF or entry.type == LONG for entry, value in zip(plain, values[::-1], strict=True)):
        for entry, value in zip(plain, values[::-1], strict=True):
            _put(data, tags.order, entry, value)


def _turn_subject(data: bytearray, tags: Tags, entry: Entry | None, turn: int, size: tuple[int, int]) -> None:
    """Turn a place in the image: x, y of its center, and perhaps a diameter, or a width and a height."""
    if entry is None or entry.type != SHORT or entry.count not in (2, 3, 4):
        return
    x, y, *extent = tags.integers(entry)
    W, H = size
    if turn >= 5:
        x, y, W, H = y, x, H, W
        extent.reverse()
    if turn in (3, 4, 7, 8):
        y = max(0, H - 1 - y)
    if turn in (2, 3, 6, 7):
        x = max(0, W - 1 - x)
    struct.pack_into(f"{tags.order}{entry.count}H", data, entry.offset, x, y, *extent)
