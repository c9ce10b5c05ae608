"""PNG: chunks are read and written here; Pillow gets those that the pixels need, one byte of each sample at a time."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import PngImagePlugin

from drsformer.errors import UnsupportedError
from drsformer_cli.images import color, orientation, pillow
from drsformer_cli.images.image import CREDENTIALS_DROPPED, DamagedError, Metadata, Opened, refuse_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drsformer_cli.images.image import Channels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_GAMMA = (b"gAMA", b"cHRM", b"sRGB")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_LARGEST_METADATA = 256 << 20


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    position: int  # of its content
    length: int


def open_png(file: BinaryIO) -> Opened:
    """Read the chunks around the pixels.

    Raises:
        UnsupportedError: It is of a kind that is not supported.
        DamagedError: It is damaged.
    """
    notes: list[str] = []
    kept: dict[bytes, bytes] = {}
    text: list[bytes] = []
    data_chunks: list[_Chunk] = []
    for chunk in _chunks(file):
        if chunk.name == b"CgBI":
            raise UnsupportedError("not supported: iPhone-optimized PNG (CgBI); convert it to a plain PNG first")
        if chunk.name == b"IDAT":
            data_chunks.append(chunk)
            continue
        if chunk.name in (b"fdAT", b"IEND"):
            continue
        content = _checked(file, chunk, notes)
        if content is None:
            continue
        if chunk.name in _TEXT:
            text.append(pack(chunk.name, content))
        elif chunk.name not in kept:
            kept[chunk.name] = content
    header = kept.get(b"IHDR", b"")
    if len(header) != 13 or not data_chunks:
        raise DamagedError("its header cannot be read" if len(header) != 13 else "it holds no pixels")
    width, height = struct.unpack(">II", header[:8])
    refuse_frames(int.from_bytes(kept.get(b"acTL", b"")[:4]))
    metadata = _metadata(kept, text, notes)
    color.refuse_hdr(metadata.cicp, "cICP chunk")

    def decode() -> Channels:
        return _decode(file, data_chunks, kept, notes)

    opened = Opened("PNG", width, height, decode, metadata=metadata, notes=notes)
    opened.orientation = orientation.from_metadata(metadata.exif, metadata.xmp)
    return opened


def pack(name: bytes, content: bytes) -> bytes:
    """A complete chunk, with length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def metadata_chunks(metadata: Metadata) -> bytes:
    """All metadata as chunks, which belong after IHDR."""
    chunks = list(metadata.gamma)
    if metadata.cicp:
        chunks.insert(0, (b"cICP", metadata.cicp))
    if metadata.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.xmp:
        chunks.append((b"iTXt", _XMP_KEYWORD + bytes(5) + metadata.xmp))
    if metadata.dpi:
        x, y = (round(value / 0.0254) for value in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    return b"".join([*(pack(*chunk) for chunk in chunks), *metadata.text])


def with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """Insert metadata into a PNG file without metadata."""
    after_header = len(SIGNATURE) + 25
    return data[:after_header] + metadata_chunks(metadata) + data[after_header:]


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """All chunks up to IEND, including one that the end of the file cuts off."""
    position = len(SIGNATURE)
    end = file.seek(0, io.SEEK_END)
    while position + 8 <= end:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        yield _Chunk(name, position + 8, min(length, end - position - 8))
        if name == b"IEND":
            return
        position += 12 + length


def _checked(file: BinaryIO, chunk: _Chunk, notes: list[str]) -> bytes | None:
    """The content of a chunk; None if it is damaged and the pixels do not need it."""
    needed = not chunk.name[0] & 0x20
    if needed and chunk.name not in (b"IHDR", b"PLTE"):
        raise DamagedError(f"an unknown chunk {chunk.name!r}")
    file.seek(chunk.position)
    content = file.read(chunk.length)
    checksum = file.read(4)
    if len(content) == chunk.length and checksum == struct.pack(">I", zlib.crc32(chunk.name + content)):
        return content
    if needed:
        raise DamagedError(f"wrong checksum of {chunk.name.decode('latin-1')}")
    name = chunk.name.decode("latin-1") if chunk.name.isalpha() else repr(chunk.name)
    notes.append(f"{name} chunk is damaged and was dropped")
    return None


def _metadata(kept: dict[bytes, bytes], text: list[bytes], notes: list[str]) -> Metadata:
    block, packet, iptc = kept.get(b"eXIf"), None, None
    rest = []
    for chunk in text:
        name, content = chunk[4:8], chunk[8:-4]
        keyword = content.partition(b"\0")[0].lower()
        if keyword == _XMP_KEYWORD.lower():
            packet = packet or _text(name, content)
        elif keyword.startswith(b"raw profile type "):  # how ImageMagick stores EXIF without eXIf
            profile = _raw_profile(_text(name, content))
            kind = keyword.removeprefix(b"raw profile type ")
            if kind in (b"exif", b"app1") and profile.startswith(b"Exif\0\0"):
                block = block or profile
            elif kind == b"xmp" or (kind == b"app1" and profile.startswith(b"http://ns.adobe.com/xap/1.0/\0")):
                packet = packet or profile.removeprefix(b"http://ns.adobe.com/xap/1.0/\0")
            elif kind == b"iptc":
                iptc = profile[profile.index(b"\x1c\x02") :] if b"\x1c\x02" in profile else None
        else:
            rest.append(chunk)
    if b"caBX" in kept:
        notes.append(CREDENTIALS_DROPPED)
    dpi = None
    if len(physical := kept.get(b"pHYs", b"")) == 9:
        x, y, unit = struct.unpack(">IIB", physical)
        dpi = (x * 0.0254, y * 0.0254) if unit == 1 and x and y else None
    cicp = kept.get(b"cICP")
    gamma = tuple((name, kept[name]) for name in _GAMMA if name in kept)
    return Metadata(
        block or None,
        _icc(kept.get(b"iCCP"), notes),
        packet or None,
        dpi,
        iptc,
        text=tuple(rest),
        cicp=cicp if cicp and len(cicp) == 4 else None,
        gamma=gamma,
    )


def _icc(content: bytes | None, notes: list[str]) -> bytes | None:
    if content is None:
        return None
    profile = _inflated(content.partition(b"\0")[2][1:])
    if not color.is_profile(profile):
        notes.append("ICC profile is damaged and was dropped")
        return None
    return profile


def _inflated(data: bytes) -> bytes:
    """Decompress as much as possible."""
    try:
        return zlib.decompressobj().decompress(data, _LARGEST_METADATA)
    except zlib.error:
        return b""


def _text(name: bytes, content: bytes) -> bytes:
    """The text of a chunk as bytes."""
    rest = content.partition(b"\0")[2]
    if name == b"tEXt":
        return rest
    if name == b"zTXt":
        return _inflated(rest[1:])
    compressed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]  # after language and translated keyword
    return _inflated(text) if compressed else text


def _raw_profile(text: bytes) -> bytes:
    """Name, length and hexadecimal digits -> bytes."""
    parts = text.split(maxsplit=2)
    try:
        return bytes.fromhex(parts[2].decode("ascii")) if len(parts) == 3 else b""
    except ValueError:
        return b""


def _decode(file: BinaryIO, data_chunks: list[_Chunk], kept: dict[bytes, bytes], notes: list[str]) -> Channels:
    width, height, depth, color_type, *_, interlaced = struct.unpack(">IIBBBBB", kept[b"IHDR"])
    parts = [SIGNATURE, pack(b"IHDR", kept[b"IHDR"])]
    if color_type == _PALETTE:
        if b"PLTE" not in kept:
            raise DamagedError("it has no palette")
        parts += [pack(name, kept[name]) for name in (b"PLTE", b"tRNS") if name in kept]
    stream = _stream(file, data_chunks)
    data = b"".join([*parts, pack(b"IDAT", stream), pack(b"IEND", b"")])
    deep = depth == 16 and color_type != _GRAY
    samples = None if deep else pillow.pixels(_opened(data))
    found = _decode_16_bits(data, color_type) if samples is None else np.asarray(samples)
    if interlaced or not found[-1].any():  # Pillow leaves missing rows black
        _refuse_short(stream, _length_of_rows(width, height, depth * _SAMPLES.get(color_type, 1), interlaced))
    if samples is None:
        return _with_transparent_color(found, kept, depth, color_type)
    if color_type == _GRAY:
        gray = found
        if depth == 1:
            notes.append("1-bit image converted to 8-bit gray")
            gray = gray * np.uint8(255)
        elif depth == 16:
            gray = gray.astype(np.uint16)
        return _with_transparent_color(gray, kept, depth, color_type)
    return _with_transparent_color(pillow.channels(samples, None, notes), kept, depth, color_type)


def _length_of_rows(width: int, height: int, bits: int, interlaced: int) -> int:
    """Bytes of all rows with their filter bytes; `bits` per pixel."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    length = 0
    for x, y, step_x, step_y in passes:
        columns, lines = -(-(width - x) // step_x), -(-(height - y) // step_y)
        length += lines * (1 + (columns * bits + 7) // 8) if columns > 0 and lines > 0 else 0
    return length


def _stream(file: BinaryIO, data_chunks: list[_Chunk]) -> bytes:
    """The compressed pixels.

    Raises:
        DamagedError: A checksum is wrong, or the file is truncated.
    """
    parts = []
    for chunk in data_chunks:
        file.seek(chunk.position)
        content, checksum = file.read(chunk.length), file.read(4)
        if checksum != struct.pack(">I", zlib.crc32(b"IDAT" + content)):
            raise DamagedError("truncated" if len(checksum) < 4 else "wrong checksum of its pixels")
        parts.append(content)
    return b"".join(parts)


def _refuse_short(stream: bytes, length: int) -> None:
    """Refuse a stream that decompresses to fewer than `length` bytes.

    Raises:
        DamagedError: The stream is too short.
    """
    inflater, count = zlib.decompressobj(), 0
    while count < length and not inflater.eof:
        data = inflater.decompress(stream, min(1 << 20, length - count))
        stream = inflater.unconsumed_tail
        if not data:
            break
        count += len(data)
    if count < length:
        raise DamagedError("truncated")


def _opened(data: bytes) -> PngImagePlugin.PngImageFile:
    opened = pillow.open_as(data, "PNG")
    if not isinstance(opened, PngImagePlugin.PngImageFile) or len(opened.tile) != 1:
        raise DamagedError("its header cannot be read")
    return opened


def _decode_16_bits(data: bytes, color_type: int) -> Channels:
    """Decode to (H, W, 2..4) uint16: Pillow keeps one byte of each sample, so it decodes twice."""

    def decoded(raw_mode: str) -> Channels:
        opened = _opened(data)
        opened.tile = [opened.tile[0]._replace(args=raw_mode)]
        return np.asarray(pillow.pixels(opened))

    if color_type == _GRAY_ALPHA:
        return np.ascontiguousarray(decoded("RGBA")).view(">u2").astype(np.uint16)  # the four bytes of a pixel
    mode = "RGB" if color_type == _RGB else "RGBA"
    samples = decoded(f"{mode};16B").astype(np.uint16) << 8
    samples |= decoded(f"{mode};16L")
    return samples


def _with_transparent_color(samples: Channels, kept: dict[bytes, bytes], depth: int, color_type: int) -> Channels:
    """Add an alpha channel if the file declares one gray or color as transparent."""
    count = {_GRAY: 1, _RGB: 3}.get(color_type)
    key = kept.get(b"tRNS")
    if count is None or key is None or len(key) < 2 * count:
        return samples
    largest = 2**depth - 1
    values = [value & largest for value in struct.unpack(f">{count}H", key[: 2 * count])]
    full = np.iinfo(samples.dtype).max
    values = [value * (full // largest) for value in values]
    flat = samples.reshape(*samples.shape[:2], count)
    alpha = np.where((flat == values).all(axis=2), 0, full).astype(samples.dtype)
    return np.dstack([flat, alpha])
