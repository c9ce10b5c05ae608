"""Directories of tags (IFDs), which TIFF files and EXIF blocks consist of."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from drsformer_cli.images.image import DamagedError

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8, IFD8 = 1, 2, 3, 4, 5, 7, 13, 16, 18
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by type."""

NUMBER_SIZES = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a number, by type; a rational is two numbers. Other types have no numbers of several bytes."""

_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
SUBDIRECTORIES = {"main": (EXIF, GPS), EXIF: (INTEROPERABILITY,), GPS: (), INTEROPERABILITY: ()}
"""Tags that point to a subdirectory, by the tag that points to their own directory."""


@dataclass(frozen=True)
class Entry:
    """One tag of a directory.

    Attributes:
        tag: Number of the tag.
        type: Type of the values.
        count: Number of values.
        raw: The whole entry as stored: 12 bytes, 20 in BigTIFF.
        position: Position of the entry.
        offset: Position of the values.
    """

    tag: int
    type: int
    count: int
    raw: bytes
    position: int
    offset: int

    @property
    def length(self) -> int:
        """Bytes of all values; values of an unknown type are assumed to be stored in the entry."""
        return SIZES.get(self.type, 0) * self.count


@dataclass(frozen=True)
class Directory:
    """A list of tags.

    Attributes:
        position: Position of its first byte.
        every: Its entries, in order.
        count: Number of entries that it claims to have.
        following: Position of the next directory; 0: none.
        cut: Whether the file ends within the directory.
    """

    position: int
    every: tuple[Entry, ...]
    count: int
    following: int
    cut: bool = False

    @cached_property
    def entries(self) -> dict[int, Entry]:
        """Entries by tag; if a tag occurs twice, the first entry."""
        return {entry.tag: entry for entry in reversed(self.every)}


class Tags:
    """Directories of a TIFF file or an EXIF block.

    Raises:
        DamagedError: It has no TIFF header.
    """

    def __init__(self, source: BinaryIO | bytes) -> None:
        self.file = io.BytesIO(source) if isinstance(source, bytes) else source
        self.length = self.file.seek(0, io.SEEK_END)
        head = self._read(0, min(16, self.length))
        if head[:2] not in (b"II", b"MM") or len(head) < 8:
            raise DamagedError("no TIFF header")
        self.order = "<" if head[:2] == b"II" else ">"
        (magic,) = struct.unpack(self.order + "H", head[2:4])
        self.big = magic == 43 and len(head) == 16
        if magic != 42 and not self.big:
            raise DamagedError("no TIFF header")
        if self.big:
            (self.first,) = struct.unpack(self.order + "Q", head[8:])
        else:
            (self.first,) = struct.unpack(self.order + "I", head[4:8])

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self.length:  # before memory is asked for
            raise DamagedError("a part is outside the file")
        self.file.seek(offset)
        return self.file.read(length)

    def directory(self, position: int) -> Directory:
        """The directory at a position, as far as it is in the file.

        Raises:
            DamagedError: There is no directory.
        """
        count_format, entry_format = ("Q", "HHQ8s") if self.big else ("H", "HHI4s")
        count_size, entry_size, pointer = (8, 20, "Q") if self.big else (2, 12, "I")
        if not 8 <= position <= self.length - count_size:
            raise DamagedError("a directory is outside the file")
        (count,) = struct.unpack(self.order + count_format, self._read(position, count_size))
        start = position + count_size
        fitting = min(count, (self.length - start) // entry_size)
        data = self._read(start, fitting * entry_size)
        every = []
        for i in range(fitting):
            raw = data[i * entry_size : (i + 1) * entry_size]
            tag, type_, number, _ = struct.unpack(self.order + entry_format, raw)
            at = start + (i + 1) * entry_size - (8 if self.big else 4)
            if SIZES.get(type_, 0) * number > (8 if self.big else 4):
                (offset,) = struct.unpack(self.order + pointer, raw[-8:] if self.big else raw[-4:])
            else:
                offset = at
            every.append(Entry(tag, type_, number, raw, start + i * entry_size, offset))
        end = start + count * entry_size
        size = struct.calcsize(pointer)
        cut = end + size > self.length
        following = 0 if cut else struct.unpack(self.order + pointer, self._read(end, size))[0]
        return Directory(position, tuple(every), count, following, cut)

    def value(self, entry: Entry) -> bytes:
        """The bytes of all values, in the file's byte order.

        Raises:
            DamagedError: They are outside the file.
        """
        return self._read(entry.offset, entry.length)

    def integers(self, entry: Entry | None, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Values of an integer type; `default` if the tag is missing or has another type."""
        if entry is None or entry.type not in _INTEGERS:
            return default
        return struct.unpack(f"{self.order}{entry.count}{_INTEGERS[entry.type]}", self.value(entry))

    def integer(self, entry: Entry | None, default: int) -> int:
        """The first value of an integer type; `default` if there is none."""
        return (self.integers(entry) or (default,))[0]

    def rational(self, entry: Entry | None) -> float | None:
        """The first value of a number type as a float."""
        if entry is None or not entry.count:
            return None
        data = self.value(entry)
        if entry.type in (RATIONAL, 10):
            numerator, denominator = struct.unpack(self.order + ("2I" if entry.type == RATIONAL else "2i"), data[:8])
            return numerator / denominator if denominator else None
        if entry.type in (11, 12):
            return float(struct.unpack(self.order + ("f" if entry.type == 11 else "d"), data[: SIZES[entry.type]])[0])
        return float(self.integer(entry, 0)) if entry.type in _INTEGERS else None

    def subdirectory(self, directory: Directory, tag: int) -> Directory | None:
        """The directory that a tag points to, or None."""
        entry = directory.entries.get(tag)
        if entry is None or entry.type not in (LONG, IFD, LONG8, IFD8) or entry.count != 1:
            return None
        try:
            found = self.directory(self.integer(entry, 0))
        except DamagedError:
            return None
        return found if found.entries else None

    def resolution(self, directory: Directory) -> tuple[float, float] | None:
        """Resolution in dots per inch, horizontal and vertical."""
        entries = directory.entries
        try:
            found = [self.rational(entries.get(tag)) for tag in (282, 283)]
            unit = self.integer(entries.get(296), 2)
        except DamagedError:
            return None
        per_inch = {2: 1.0, 3: 2.54}.get(unit)
        if per_inch is None or not all(value and 0 < value < 1e6 for value in found):
            return None
        return (found[0] or 0) * per_inch, (found[1] or 0) * per_inch
