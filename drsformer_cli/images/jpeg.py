"""JPEG: segments, and data after the image."""

from __future__ import annotations

import re
import struct
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from drsformer.errors import UnsupportedError
from drsformer_cli.images import color, exif, orientation, pillow, xmp
from drsformer_cli.images.image import CREDENTIALS_DROPPED, DamagedError, Metadata, Opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drsformer_cli.images.image import Channels

LONGEST_SEGMENT = 65_000
LONGEST_PROFILE = 255 * 65_519  # in segments that are numbered by a byte

_SOS, _EOI, _COM, _APP0, _APP1, _APP2, _APP11, _APP13, _APP14 = 0xDA, 0xD9, 0xFE, 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_NEVER_SUPPORTED = {0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
_LOSSLESS, _LS = 0xC3, 0xF7
_XMP, _EXTENDED_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_ICC, _MPF, _PHOTOSHOP, _EXIF = b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0", b"Exif\0\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_IPTC_RESOURCE = 0x0404
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END = b"\xff\xd9"
_MOST_CYCLES = 512


def open_jpeg(file: BinaryIO) -> Opened:
    """Read the segments before the pixels.

    Raises:
        UnsupportedError: It is of a kind that is not supported.
        DamagedError: It is damaged.
    """
    notes: list[str] = []
    segments, start = _segments(file)
    frame, frame_marker = next(((data, marker) for marker, data in segments if marker in _FRAMES), (b"", 0))
    if not frame and any(marker == _LS for marker, _ in segments):
        raise UnsupportedError("is a JPEG-LS image, which is not supported; expected JPEG")
    if len(frame) < 6:
        raise DamagedError("its header cannot be read")
    bits, height, width, layers = struct.unpack(">BHHB", frame[:6])
    if bits != 8:
        raise UnsupportedError(f"not supported: JPEG of {bits} bits; expected 8")
    if layers not in (1, 3, 4):
        raise UnsupportedError(f"not supported: JPEG of {layers} channels; expected 1, 3 or 4")
    if not height:
        raise UnsupportedError("not supported: JPEG whose height is stored after its pixels")
    if frame_marker in _NEVER_SUPPORTED:
        raise UnsupportedError("not supported: JPEG that is hierarchical, or lossless with arithmetic coding")
    metadata, multiple = _metadata(segments, notes)
    opened = Opened("JPEG", width, height, lambda: _decode(file, opened, segments, start, multiple=multiple))
    opened.orientation = orientation.from_metadata(metadata.exif, metadata.xmp)
    opened.metadata, opened.notes = metadata, notes
    return opened


def iptc_segment(iptc: bytes) -> bytes:
    """IPTC records as an APP13 segment."""
    resource = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    return struct.pack(">BBH", 0xFF, _APP13, 2 + len(_PHOTOSHOP) + len(resource)) + _PHOTOSHOP + resource


def _segments(file: BinaryIO) -> tuple[list[tuple[int, bytes]], int]:
    """Marker and content of the segments before the pixels, and the position of the first scan."""
    segments: list[tuple[int, bytes]] = []
    file.seek(2)
    while True:
        byte = file.read(1)
        while byte and byte != b"\xff":  # junk between segments
            byte = file.read(1)
        while byte == b"\xff":  # fill bytes
            byte = file.read(1)
        if not byte:
            raise DamagedError("its header cannot be read")
        marker = byte[0]
        if marker == _SOS:
            return segments, file.tell() - 2
        if marker in {0x00, 0x01, *range(0xD0, 0xD9)}:
            continue
        length = file.read(2)
        if marker == _EOI or len(length) < 2 or length < b"\0\2":
            raise DamagedError("its header cannot be read")
        size = struct.unpack(">H", length)[0] - 2
        data = file.read(size)
        if len(data) < size:
            raise DamagedError("truncated")
        segments.append((marker, data))


def _metadata(segments: list[tuple[int, bytes]], notes: list[str]) -> tuple[Metadata, bool]:
    """Metadata, and whether the segments announce further images."""

    def contents(marker: int, prefix: bytes) -> list[bytes]:
        return [data[len(prefix) :] for found, data in segments if found == marker and data.startswith(prefix)]

    block = b"".join(contents(_APP1, _EXIF)) or None
    packets = contents(_APP1, _XMP)
    if contents(_APP1, _EXTENDED_XMP):
        notes.append("extended XMP dropped")
    if contents(_APP11, b"JP"):
        notes.append(CREDENTIALS_DROPPED)
    if contents(_APP2, _GAIN_MAP):
        notes.append(xmp.GAIN_MAP_DROPPED)
    comments = b"\n".join(data for marker, data in segments if marker == _COM)
    iptc = _iptc(b"".join(contents(_APP13, _PHOTOSHOP)))
    dpi = _density(segments) or exif.resolution_of(block)
    icc = _icc(contents(_APP2, _ICC), notes)
    metadata = Metadata(block, icc, packets[0] if packets else None, dpi, iptc, comments or None)
    return metadata, bool(contents(_APP2, _MPF))


def _icc(parts: list[bytes], notes: list[str]) -> bytes | None:
    if not parts:
        return None
    parts = sorted(part for part in parts if len(part) > 2)
    profile = b"".join(part[2:] for part in parts)
    if not parts or parts[0][1] != len(parts) or not color.is_profile(profile):
        notes.append("ICC profile is damaged and was dropped")
        return None
    return profile


def _density(segments: list[tuple[int, bytes]]) -> tuple[float, float] | None:
    """Resolution of the JFIF segment in dots per inch."""
    for marker, data in segments:
        if marker == _APP0 and data.startswith(b"JFIF\0") and len(data) >= 12:
            unit, x, y = struct.unpack(">BHH", data[7:12])
            per_inch = {1: 1.0, 2: 2.54}.get(unit)
            if per_inch and x and y:
                return x * per_inch, y * per_inch
    return None


def _iptc(resources: bytes) -> bytes | None:
    """The IPTC records among Photoshop's resources."""
    position = 0
    while resources[position : position + 4] == b"8BIM" and len(resources) >= position + 12:
        (kind,) = struct.unpack(">H", resources[position + 4 : position + 6])
        name = 1 + resources[position + 6]
        position += 6 + name + name % 2
        length = int.from_bytes(resources[position : position + 4])
        if kind == _IPTC_RESOURCE:
            return resources[position + 4 : position + 4 + length] or None
        position += 4 + length + length % 2
    return None


def _decode(
    file: BinaryIO, opened: Opened, segments: list[tuple[int, bytes]], start: int, *, multiple: bool
) -> Channels:
    file.seek(start)
    scans = file.read()
    frame = next(data for marker, data in segments if marker in _FRAMES)
    end, complete = _end_of_scans(scans, set(frame[6::3]))
    # Pillow gets only the segments that the pixels need.
    head = b"\xff\xd8" + b"".join(
        struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
        for marker, data in segments
        if marker < _APP0 or (marker == _APP0 and len(data) >= 14) or (marker == _APP14 and len(data) >= 12)
    )
    if end is None:
        return _decode_without_end(head, scans.removesuffix(b"\xff"), opened, complete=complete)
    told = [note for note in opened.notes if note == xmp.GAIN_MAP_DROPPED]
    opened.notes_on_tail = partial(_notes_on_tail, scans[end:], told, multiple=multiple)
    loaded = pillow.pixels(pillow.open_as(head + scans[:end], "JPEG"))
    return pillow.channels(loaded, opened.metadata.icc, opened.notes)


def _end_of_scans(scans: bytes, components: set[int]) -> tuple[int | None, bool]:
    """The end of the image if it has an end marker, and whether its scans hold all bits of all coefficients."""
    position, missing = 0, dict[tuple[int, int], int]()
    while (found := _MARKER.search(scans, position)) is not None:
        marker, position = scans[found.end() - 1], found.end()
        if marker == _EOI:
            return position, True
        if marker in {_SOS, _COM, 0xC4, 0xCC, *range(0xDB, 0xF0)}:
            length = int.from_bytes(scans[position : position + 2])
            if marker == _SOS:
                header = scans[position + 2 : position + length]
                if len(header) < 6 or len(header) < 2 * header[0] + 4:
                    break
                first, last, bits = header[1 + 2 * header[0] :][:3]
                for component in header[1 : 1 + 2 * header[0] : 2]:
                    missing.update({(component, k): bits & 15 for k in range(first, min(last, 63) + 1)})
            position += length
    if scans.rstrip(b"\0\r\n").endswith(_END):  # a marker in the data was misleading
        return scans.rindex(_END) + 2, True
    return None, all(missing.get((c, k), 1) == 0 for c in components for k in range(64))


def _decode_without_end(head: bytes, scans: bytes, opened: Opened, *, complete: bool) -> Channels:
    """Pixels of a file without an end marker, if nothing else is missing.

    Raises:
        DamagedError: Something else is missing.
    """
    if not complete:
        raise DamagedError("truncated")
    restarts = re.findall(rb"\xff([\xd0-\xd7])", scans[scans.rindex(b"\xff\xda") :])
    following = restarts[-1][0] + 1 if restarts else 0xD0
    found = []
    for filler in (b"", b"\x55" * 64, b"\xaa" * 64):  # would be visible if data were missing
        intervals = b"".join(bytes([*filler, 0xFF, 0xD0 + (following + i) % 8]) for i in range(8)) * _MOST_CYCLES
        data = head + scans + (intervals if filler else b"") + _END
        found.append(pillow.pixels(pillow.open_as(data, "JPEG")))
    if any(other.tobytes() != found[0].tobytes() for other in found[1:]):
        raise DamagedError("truncated")
    opened.notes.append("its end marker is missing; all pixels are there")
    return pillow.channels(found[0], opened.metadata.icc, opened.notes)


def _notes_on_tail(tail: bytes, told: Sequence[str], dropped: Sequence[str], *, multiple: bool) -> list[str]:
    """Notes about the data after the image, if those about what segments and XMP announce do not cover it."""
    rest, notes, dropped = tail.strip(b"\0\r\n\xff"), list[str](), [*told, *dropped]
    if b"ftyp" in rest and xmp.VIDEO_DROPPED not in dropped:
        notes.append("video after the image dropped")
    if multiple and not (dropped or notes):
        notes.append("only the main image of a multi-image JPEG is kept")
    if len(rest) > 16 and not (dropped or notes):
        notes.append(f"{len(rest)} bytes after the image dropped")
    return notes
