"""TIFF: pages, metadata and layout are read here; Pillow and libtiff decompress.

Shapes: samples (H, W, C), C samples per pixel, including extra ones.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from drsformer.errors import UnsupportedError
from drsformer.images import full_range, unmultiplied
from drsformer.signatures import RAW_MESSAGE
from drsformer_cli.images import color, exif, orientation, pillow
from drsformer_cli.images.ifd import ASCII, BYTE, LONG, LONG8, NUMBER_SIZES, RATIONAL, SHORT, UNDEFINED, Directory, Tags
from drsformer_cli.images.image import DamagedError, Metadata, Opened, refuse_frames, to_8_bits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from drsformer_cli.images.image import Channels

_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_SIZES, _PLANES, _PREDICTOR = 273, 274, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES, _SUBDIRECTORIES = 322, 323, 324, 325, 330
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _XMP, _IPTC, _PHOTOSHOP, _ICC, _DNG_VERSION = 338, 339, 700, 33723, 34377, 34675, 50706
_REDUCED, _MASK = 1, 4
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892
_MULTIPLIED, _UNSPECIFIED = 1, 0

_PHOTOMETRICS = {
    0: "gray",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "L*a*b*",
    9: "L*a*b*",
    10: "L*a*b*",
    32844: "LogL",
    32845: "LogLuv",
}
_FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 4: "", 5: "complex ", 6: "complex "}
_RAW_COMPRESSIONS = {
    *(262, 32867, 65000),  # Kodak
    *(32767, 32769, 32770, 32772, 34713, 34892, 65535),  # Sony, Epson, Samsung (two), Nikon, lossy DNG, Pentax
}
_BYTES_ALONE = {1, 5, 8, 32773, 32946, 34925, 50000}  # compress bytes, whatever they mean
_PILLOWS = {*_BYTES_ALONE, 2, 3, 4, 6, 7, 32771, 32809}
_COMPRESSIONS = {
    34661: "JBIG",
    34676: "LogLuv",
    34677: "LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
# The tags that Pillow needs; others might confuse it.
_PIXEL_TAGS = {
    *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, 263, 266, _STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_SIZES),
    *(_PLANES, 292, 293, _PREDICTOR, 320, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES, 332, 334),
    *(_EXTRA_SAMPLES, _SAMPLE_FORMAT, 347, *range(512, 522), 529, 530, 531, 532),
}
_MOST_DIRECTORIES = 10_000


def open_tiff(file: BinaryIO) -> Opened:
    """Read the directories.

    Raises:
        UnsupportedError: It has several pages, is a raw file or of a kind that is not supported.
        DamagedError: It is damaged.
    """
    tags = Tags(file)
    directories = _chain(tags)
    notes: list[str] = []
    main = _main(tags, directories, notes)
    width, height = (tags.integer(main.entries.get(tag), 0) for tag in (_WIDTH, _LENGTH))
    if main.cut or width < 1 or height < 1:
        raise DamagedError("its header cannot be read")
    layout = _Layout(tags, main, width, height)
    layout.refuse()
    metadata = _metadata(tags, main, directories[0], notes)
    opened = Opened("TIFF", width, height, lambda: _decode(layout, metadata.icc, notes), metadata=metadata, notes=notes)
    from_exif = exif.orientation(tags, main)
    opened.orientation = orientation.from_metadata(None, metadata.xmp) if from_exif is None else from_exif
    return opened


def _chain(tags: Tags) -> list[Directory]:
    directories: list[Directory] = []
    position, seen = tags.first, set[int]()
    while position and position not in seen and len(directories) < _MOST_DIRECTORIES:
        seen.add(position)
        try:
            directories.append(tags.directory(position))
        except DamagedError:
            if not directories:
                raise
            break
        position = directories[-1].following
    return directories


def _main(tags: Tags, directories: list[Directory], notes: list[str]) -> Directory:
    """The directory of the image, among directories of masks and reduced copies."""
    if _is_raw(tags, directories):
        raise UnsupportedError(RAW_MESSAGE)
    pages = [found for found in directories if not _is_secondary(tags, found)]
    if not pages:
        raise UnsupportedError("holds only a reduced image or a mask; expected the image itself")
    refuse_frames(len(pages))
    if len(directories) > 1:
        notes.append("only the main image of a TIFF with a thumbnail or mask is kept")
    return pages[0]


def _is_secondary(tags: Tags, directory: Directory) -> bool:
    """Whether it is a reduced copy or a mask of another one."""
    kind = tags.integer(directory.entries.get(_SUBFILE_TYPE), 0)
    mask = tags.integer(directory.entries.get(_PHOTOMETRIC), 1) == 4
    return bool(kind & (_REDUCED | _MASK)) or mask or tags.integer(directory.entries.get(_OLD_SUBFILE_TYPE), 1) == 2


def _is_raw(tags: Tags, directories: list[Directory]) -> bool:
    """Whether the pixels are those of a sensor, or only a raw converter can find them."""
    found = list(directories)
    for directory in directories:
        if _DNG_VERSION in directory.entries:
            return True
        for position in _integers(tags, directory, _SUBDIRECTORIES)[:16]:
            try:
                found.append(tags.directory(position))
            except DamagedError:
                continue
    if any(
        tags.integer(directory.entries.get(_PHOTOMETRIC), 1) in (_COLOR_FILTER_ARRAY, _LINEAR_RAW)
        or tags.integer(directory.entries.get(_COMPRESSION), 1) in _RAW_COMPRESSIONS
        for directory in found
    ):
        return True
    reduced = all(_is_secondary(tags, directory) for directory in directories)
    # The first directory is a preview, and a later one the raw image.
    widths = [tags.integer(directory.entries.get(_WIDTH), 0) for directory in found]
    below = any(
        width > widths[0] and not _is_secondary(tags, directory)
        for width, directory in zip(widths[len(directories) :], found[len(directories) :], strict=True)
    )
    return below or (reduced and any(_SUBDIRECTORIES in directory.entries for directory in directories))


def _integers(tags: Tags, directory: Directory, tag: int) -> tuple[int, ...]:
    try:
        return tags.integers(directory.entries.get(tag))
    except DamagedError:
        return ()


def _metadata(tags: Tags, main: Directory, first: Directory, notes: list[str]) -> Metadata:
    directories = [main] if first.position == main.position else [main, first]
    icc = _value(tags, main, _ICC)
    if icc is not None and not color.is_profile(icc):
        notes.append("ICC profile is damaged and was dropped")
        icc = None
    packet = _value(tags, main, _XMP)
    entry = main.entries.get(_XMP)
    if packet is not None and entry is not None and entry.type not in (BYTE, UNDEFINED, 6):
        packet = packet.rstrip(b"\0") if entry.type == ASCII else packet
        if b"<" not in packet:
            notes.append("XMP is damaged and was dropped")
            packet = None
    iptc = _value(tags, main, _IPTC)
    if _PHOTOSHOP in main.entries or 37724 in main.entries:
        notes.append("Photoshop's own data (layers, paths) dropped")
    return Metadata(exif.from_tiff(tags, directories, notes), icc, packet or None, tags.resolution(main), iptc or None)


def _value(tags: Tags, directory: Directory, tag: int) -> bytes | None:
    entry = directory.entries.get(tag)
    try:
        return tags.value(entry) or None if entry is not None else None
    except DamagedError:
        return None


class _Layout:
    """The layout of the samples of a directory in the file."""

    def __init__(self, tags: Tags, main: Directory, width: int, height: int) -> None:
        def number(tag: int, default: int) -> int:
            return tags.integer(main.entries.get(tag), default)

        self.tags, self.main, self.width, self.height = tags, main, width, height
        self.photometric = number(_PHOTOMETRIC, 0)
        self.compression = number(_COMPRESSION, 1)
        self.planar = number(_PLANES, 1) == 2
        self.predictor = number(_PREDICTOR, 1) if self.compression not in (1, 32773) else 1
        formats = tags.integers(main.entries.get(_SAMPLE_FORMAT), (1,))
        self.sample_format = formats[0] if len(set(formats)) == 1 else 0
        bits = tags.integers(main.entries.get(_BITS), (1,))
        self.samples = number(_SAMPLES, len(bits) if self.photometric != _YCBCR else 3)
        self.bits = bits[0] if len(set(bits)) == 1 else 0
        self.all_bits = bits
        self.extra = tags.integers(main.entries.get(_EXTRA_SAMPLES), ())
        self.colors = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}.get(self.photometric, 0)

    @property
    def plain(self) -> bool:
        """Whether the samples are stored as consecutive numbers, which are read here."""
        return (
            self.compression in _BYTES_ALONE
            and self.sample_format in (1, 4)
            and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK)
            and self.colors <= self.samples <= self.colors + 8
            and 1 <= self.bits <= 16
            and (self.predictor == 1 or (self.predictor == 2 and self.bits in (8, 16)))
        )

    @property
    def left_to_pillow(self) -> bool:
        """Whether it has at most 8 bits, and a palette, YCbCr, or a compression that depends on the kind of pixels."""
        return (
            (self.compression not in _BYTES_ALONE or self.photometric in (_PALETTE, _YCBCR))
            and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR)
            and 1 <= self.bits <= 8
            and self.sample_format in (1, 4)
        )

    def describe(self) -> str:
        """A description for messages."""
        bits = self.bits or "/".join(map(str, self.all_bits[:5]))
        kind = _FORMATS.get(self.sample_format, "mixed ")
        photometric = _PHOTOMETRICS.get(self.photometric, f"photometric interpretation {self.photometric}")
        channels = f"{self.samples} channel{'s' if self.samples != 1 else ''}"
        return f"TIFF of {channels} of {bits}-bit {kind}{photometric}"

    def refuse(self) -> None:
        """Refuse layouts that neither Pillow nor this module reads.

        Raises:
            UnsupportedError: The layout is not supported.
        """
        if self.compression not in _PILLOWS:
            name = _COMPRESSIONS.get(self.compression, f"number {self.compression}")
            raise UnsupportedError(f"not supported: TIFF with the compression {name}")
        if not self.plain and not self.left_to_pillow:
            predicted = f" with predictor {self.predictor}" if self.predictor != 1 else ""
            raise UnsupportedError(
                f"not supported: {self.describe()}{predicted}; expected unsigned integers of up to 16 bits of gray, "
                "RGB or CMYK"
            )


def _decode(layout: _Layout, icc: bytes | None, notes: list[str]) -> Channels:
    if not layout.plain:
        return pillow.channels(_load(layout, _entries_for_pillow(layout)), icc, notes)
    samples = _samples(layout)
    samples = full_range(samples, layout.bits)
    full = np.iinfo(samples.dtype).max
    colors, extra = samples[..., : layout.colors], samples[..., layout.colors :]
    alpha = None
    if extra.shape[2]:
        kind = layout.extra[0] if layout.extra else None
        if kind == _UNSPECIFIED or extra.shape[2] > 1:
            dropped = extra.shape[2] - (kind != _UNSPECIFIED)
            notes.append(f"{dropped} channel{'s' if dropped > 1 else ''} of unspecified meaning dropped")
        if kind != _UNSPECIFIED:
            alpha = extra[..., :1]
    if layout.photometric == _WHITE_IS_ZERO:
        colors = full - colors
    if layout.bits == 1 and layout.colors == 1:
        notes.append("1-bit image converted to 8-bit gray")
    if layout.photometric == _CMYK:
        notes.append("CMYK converted to RGB" if samples.dtype == np.uint8 else "16-bit CMYK converted to 8-bit RGB")
        inks = Image.fromarray(np.ascontiguousarray(to_8_bits(colors)), "CMYK")
        colors = np.asarray(pillow.cmyk_to_rgb(inks, icc))
        alpha = None if alpha is None else to_8_bits(alpha)
    if alpha is not None and layout.extra[:1] == (_MULTIPLIED,):
        colors = unmultiplied(colors, alpha)
    if alpha is not None:
        return np.concatenate([colors, alpha], axis=2)
    return colors[..., 0] if colors.shape[2] == 1 else colors


def _samples(layout: _Layout) -> Channels:
    """The stored samples, (H, W, C) uint8 or uint16.

    Pillow decompresses each plane as an image of bytes, whose width is the number of bytes of a row.
    """
    tags, main = layout.tags, layout.main
    H, W, bits = layout.height, layout.width, layout.bits
    channels = 1 if layout.planar else layout.samples
    tiled = _TILE_WIDTH in main.entries
    tile = tags.integer(main.entries.get(_TILE_WIDTH), 0) if tiled else W
    if tile < 1:
        raise DamagedError("its tiles have no width")
    across = -(-W // tile)
    row = -(-tile * channels * bits // 8)  # bytes of a row of a tile
    offsets_tag, sizes_tag = (_TILE_OFFSETS, _TILE_SIZES) if tiled else (_STRIP_OFFSETS, _STRIP_SIZES)
    offsets, sizes = (tags.integers(main.entries.get(tag)) for tag in (offsets_tag, sizes_tag))
    planes = layout.samples if layout.planar else 1
    each = len(offsets) // planes
    if not each or len(offsets) % planes:
        raise DamagedError("its pixels are not there")
    kept = [_copied(tags, main, tag) for tag in (_COMPRESSION, 266, _ROWS, _TILE_LENGTH) if tag in main.entries]
    found = []
    for plane in range(planes):
        part = slice(plane * each, (plane + 1) * each)
        entries = [
            *kept,
            *(_new(tag, LONG, [value]) for tag, value in ((_WIDTH, across * row), (_LENGTH, H))),
            *(_new(tag, SHORT, [value]) for tag, value in ((_BITS, 8), (_PHOTOMETRIC, 1), (_SAMPLES, 1))),
            _new(offsets_tag, LONG8 if tags.big else LONG, offsets[part]),
        ]
        if sizes:
            entries.append(_new(sizes_tag, LONG8 if tags.big else LONG, sizes[part]))
        if tiled:
            entries.append(_new(_TILE_WIDTH, LONG, [row]))
        loaded = np.asarray(_load(layout, entries))
        if loaded.shape != (H, across * row) or loaded.dtype != np.uint8:
            raise DamagedError("its pixels are not there")
        values = _numbers(loaded.reshape(H * across, row), bits, tile * channels, tags.order)
        values = values.reshape(H, across, tile, channels)
        if layout.predictor == 2:  # differences that wrap
            values = np.cumsum(values, axis=2, dtype=values.dtype)
        found.append(values.reshape(H, across * tile, channels)[:, :W])
    return found[0] if planes == 1 else np.concatenate(found, axis=2)


def _numbers(rows: Channels, bits: int, count: int, order: str) -> Channels:
    """The numbers in rows of bytes: (R, B) -> (R, `count`)."""
    if bits == 8:
        return rows
    if bits == 16:
        return np.ascontiguousarray(rows).view(order + "u2").astype(np.uint16, copy=False)
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint16)
    numbers = np.empty((len(rows), count), np.uint16)
    for top in range(0, len(rows), 64):  # a few rows at a time: each bit takes a byte
        single = np.unpackbits(rows[top : top + 64], axis=1)[:, : count * bits]
        numbers[top : top + 64] = single.reshape(len(single), count, bits) @ weights
    return numbers


def _entries_for_pillow(layout: _Layout) -> list[_NewEntry]:
    return [_copied(layout.tags, layout.main, tag) for tag in layout.main.entries if tag in _PIXEL_TAGS]


@dataclass(frozen=True)
class _NewEntry:
    """An entry of a little-endian directory to write."""

    tag: int
    type: int
    count: int
    content: bytes


def _copied(tags: Tags, directory: Directory, tag: int) -> _NewEntry:
    entry = directory.entries[tag]
    content = tags.value(entry)
    size = NUMBER_SIZES.get(entry.type, 1)
    if tags.order == ">" and size > 1:
        content = np.frombuffer(content, f">u{size}").astype(f"<u{size}").tobytes()
    return _NewEntry(tag, entry.type, entry.count, content)


def _new(tag: int, kind: int, values: Sequence[int]) -> _NewEntry:
    """An entry of numbers; a rational is a pair of numbers."""
    letter = {BYTE: "B", UNDEFINED: "B", SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q"}[kind]
    count = len(values) // 2 if kind == RATIONAL else len(values)
    return _NewEntry(tag, kind, count, struct.pack(f"<{len(values)}{letter}", *values))


def _packed(entries: Iterable[_NewEntry], position: int, *, big: bool = False) -> bytes:
    """The bytes of a directory for a position in the file, followed by its values."""
    field, counter, pointer = (8, "Q", "Q") if big else (4, "H", "I")
    ordered = sorted(entries, key=lambda entry: entry.tag)
    packed, elsewhere = [struct.pack("<" + counter, len(ordered))], []
    free = position + len(packed[0]) + len(ordered) * (4 + 2 * field) + field
    for entry in ordered:
        packed.append(struct.pack("<HH" + pointer, entry.tag, entry.type, entry.count))
        if len(entry.content) <= field:
            packed.append(entry.content.ljust(field, b"\0"))
        else:
            packed.append(struct.pack("<" + pointer, free))
            elsewhere.append(entry.content + bytes(len(entry.content) % 2))
            free += len(elsewhere[-1])
    return b"".join([*packed, bytes(field), *elsewhere])


def _load(layout: _Layout, entries: list[_NewEntry]) -> Image.Image:
    """Let Pillow read the file as if its only directory had these entries.

    The directory is little-endian even if the file is not: samples that Pillow reads have at most one byte.
    """
    file, big = layout.tags.file, layout.tags.big
    file.seek(0)
    buffer = io.BytesIO(file.read())
    end = buffer.seek(0, io.SEEK_END)
    start = end + end % 2
    buffer.write(bytes(end % 2) + _packed(entries, start, big=big))
    buffer.seek(0)
    buffer.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, start) if big else struct.pack("<2sHI", b"II", 42, start))
    buffer.seek(0)
    with pillow.decoding():
        try:
            opened = TiffImagePlugin.TiffImageFile(buffer)
        except (SyntaxError, KeyError):  # raised for kinds of TIFF that Pillow does not support
            raise UnsupportedError(f"not supported: {layout.describe()}") from None
        return pillow.pixels(opened)


def encode_tiff(channels: Channels, metadata: Metadata) -> bytes:
    """Encode (H, W) or (H, W, 2..4) of 8 or 16 bits as TIFF, with deflate and horizontal prediction.

    The file begins with the EXIF block, so that offsets in it stay valid; the directory of the file, at its end,
    includes the entries of the block's main directory.
    """
    if channels.ndim == 2:
        channels = channels[..., None]
    H, W, C = channels.shape
    block = exif.little_endian(metadata.exif) if metadata.exif else b"II*\0" + bytes(4)
    ordered = channels.dtype.newbyteorder("<")
    rows = max(1, 2**20 // (W * C * channels.itemsize))
    strips = []
    for top in range(0, H, rows):
        strip = channels[top : top + rows].copy()
        strip[:, 1:] -= channels[top : top + rows, :-1]  # differences wrap around, as the format requires
        strips.append(zlib.compress(strip.astype(ordered).tobytes()))
    start = len(block) + len(block) % 2
    offsets = [int(offset) for offset in start + np.cumsum([0, *(len(strip) for strip in strips)])]
    entries = _taken_over(block, metadata.dpi) if metadata.exif else {}
    own = [
        _new(_WIDTH, LONG, [W]),
        _new(_LENGTH, LONG, [H]),
        _new(_BITS, SHORT, [8 * channels.itemsize] * C),
        _new(_COMPRESSION, SHORT, [8]),
        _new(_PHOTOMETRIC, SHORT, [_BLACK_IS_ZERO if C < 3 else _RGB]),
        _new(_STRIP_OFFSETS, LONG, offsets[:-1]),
        _new(_ORIENTATION, SHORT, [1]),
        _new(_SAMPLES, SHORT, [C]),
        _new(_ROWS, LONG, [rows]),
        _new(_STRIP_SIZES, LONG, [len(strip) for strip in strips]),
        _new(_PLANES, SHORT, [1]),
        _new(_PREDICTOR, SHORT, [2]),
    ]
    if C in (2, 4):
        own.append(_new(_EXTRA_SAMPLES, SHORT, [2]))  # alpha that is not multiplied into the colors
    if metadata.dpi and 282 not in entries:
        x, y = ([round(value * 10_000), 10_000] for value in metadata.dpi)
        own += [_new(282, RATIONAL, x), _new(283, RATIONAL, y), _new(296, SHORT, [2])]
    blocks = ((_XMP, BYTE, metadata.xmp), (_IPTC, UNDEFINED, metadata.iptc), (_ICC, UNDEFINED, metadata.icc))
    own += [_new(tag, kind, content) for tag, kind, content in blocks if content]
    entries.update({entry.tag: entry for entry in own})
    end = offsets[-1] + offsets[-1] % 2
    head = block[:4] + struct.pack("<I", end) + block[8:] + bytes(len(block) % 2)
    return b"".join([head, *strips, bytes(end - offsets[-1]), _packed(entries.values(), end)])


def _taken_over(block: bytes, resolution: tuple[float, float] | None) -> dict[int, _NewEntry]:
    """Entries of the EXIF block at the beginning of the file; its resolution only if it is that of the image."""
    tags = Tags(block)
    main = tags.directory(tags.first)
    own = tags.resolution(main)
    same = own is not None and (resolution is None or all(map(_near, own, resolution)))
    return {
        tag: _NewEntry(tag, entry.type, entry.count, entry.raw[8:])  # the value, or its offset in the block
        for tag, entry in main.entries.items()
        if tag not in exif.LAYOUT_TAGS and (same or tag not in exif.RESOLUTION_TAGS)
    }


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 0.01 * other
