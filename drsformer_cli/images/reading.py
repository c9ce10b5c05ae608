"""Open a file, and decode it or read only its size."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from drsformer.errors import ImageError
from drsformer.images import upright
from drsformer_cli.formats import FORMATS, RAW_ENDINGS, titles
from drsformer_cli.images import color, exif, limit, orientation, xmp
from drsformer_cli.images.avif import open_avif
from drsformer_cli.images.bmp import open_bmp
from drsformer_cli.images.image import DamagedError, DecodedImage, Metadata, Opened, UnsupportedError, to_8_bits
from drsformer_cli.images.jpeg import open_jpeg
from drsformer_cli.images.plain import open_plain
from drsformer_cli.images.png import open_png
from drsformer_cli.images.tiff import RAW, open_tiff
from drsformer_cli.images.webp import open_webp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_READERS: dict[str, Callable[[BinaryIO], Opened]] = {
    "JPEG": open_jpeg,
    "PNG": open_png,
    "TIFF": open_tiff,
    "WEBP": open_webp,
    "BMP": open_bmp,
    "AVIF": open_avif,
}
"""Functions that open a format; Pillow alone opens the others."""

_HEIC_BRANDS = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"heif",
    b"mif1",
    b"mif2",
    b"msf1",
}
_ANY = ord(".")
_RAW_MAGIC = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")
_KNOWN = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL",
    b"\xff\x0a": "a JPEG XL",
    b"II\xbc\x01": "a JPEG XR",
    b"8BPS": "a Photoshop file",
    b"\x76\x2f\x31\x01": "an OpenEXR image",
    b"qoif": "a QOI image",
    b"#?RADIANCE": "a Radiance HDR image",
}


def read(source: Path | bytes) -> DecodedImage:
    """Decode an image from a file or from the bytes of one; the format is recognized by content.

    Raises:
        ImageError: It is not an image of a known format, or is damaged, too large, HDR, raw, or has several frames.
        OSError: The file cannot be read.
    """
    with _opened(source) as opened:
        channels = opened.decode()
        turn = opened.orientation
        metadata = _upright(opened.metadata, turn, opened.notes)
        if metadata.icc and not color.fits(metadata.icc, gray=channels.ndim == 2 or channels.shape[2] == 2):
            metadata = replace(metadata, icc=None)
            if not any("CMYK" in note for note in opened.notes):
                opened.notes.append("ICC profile dropped: it is for another kind of pixels")
    alpha = None
    if channels.ndim == 3 and channels.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(upright(channels[..., -1], turn))
        channels = channels[..., :-1]
    if channels.ndim == 2:
        channels = channels[..., None]
    gray = channels.shape[2] == 1
    if gray:
        channels = np.repeat(channels, 3, axis=2)
    pixels = np.ascontiguousarray(upright(channels, turn))
    notes = tuple(dict.fromkeys(opened.notes))
    return DecodedImage(pixels, alpha, gray, opened.format, metadata, notes, opened.lossless)


def size(path: Path) -> tuple[int, int]:
    """Width and height of the upright image; its pixels are not decoded.

    Raises:
        ImageError: `read` would refuse the image because of its header.
        OSError: The file cannot be read.
    """
    with _opened(path) as opened:
        turned = orientation.swaps_sides(opened.orientation)
        return (opened.height, opened.width) if turned else (opened.width, opened.height)


def read_rgb8(path: Path) -> NDArray[np.uint8]:
    """Decode an image to upright (H, W, 3) RGB uint8; gray has three equal channels, alpha is dropped, 16 bits rounded.

    Raises:
        ImageError: The file is not an image that `read` supports; the message begins with its name.
        OSError: The file cannot be read.
    """
    try:
        pixels = read(path).pixels
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    return to_8_bits(pixels)


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[Opened]:
    """Open a file and read its header; errors in the block become ImageErrors."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        file: BinaryIO = stream if stream.seekable() else io.BytesIO(stream.read())
        try:
            if isinstance(source, Path) and source.suffix.lower() in RAW_ENDINGS:
                _refuse_raw(file)
            opened = _open(file)
            _check_size(opened)
            color.refuse_hdr(color.cicp_of_icc(opened.metadata.icc), "ICC profile")
            yield opened
        except DamagedError as error:
            raise ImageError(f"damaged image: {error}") from None
        except (struct.error, zlib.error) as error:  # raised by our parsers on a damaged file
            raise ImageError(f"damaged image: {error}") from None


def _refuse_raw(file: BinaryIO) -> None:
    """Refuse files with the ending of a raw file, unless their content shows that they are something else."""
    file.seek(0)
    if _format_of(file.read(64)) in (None, "TIFF"):
        raise UnsupportedError(RAW)


def _format_of(start: bytes) -> str | None:
    """The format of a file by its first bytes."""
    brands = _brands(start)
    for row in FORMATS.values():
        if row.brands & brands or any(_begins(start, signature) for signature in row.signatures):
            return row.name
    return None


def _begins(start: bytes, signature: bytes) -> bool:
    return len(start) >= len(signature) and all(
        expected in (found, _ANY) for found, expected in zip(start, signature, strict=False)
    )


def _open(file: BinaryIO) -> Opened:
    """Open a file by its first bytes.

    Raises:
        ImageError: It is not an image of a known format.
        DamagedError: It is damaged.
    """
    file.seek(0)
    start = file.read(64)
    if not start:
        raise ImageError("the file is empty")
    if start.startswith(_RAW_MAGIC) or start[8:10] == b"CR" or start[6:14] == b"HEAPCCDR" or start[4:12] == b"ftypcrx ":
        raise UnsupportedError(RAW)
    image_format = _format_of(start)
    if image_format is not None:
        reader = _READERS.get(image_format)
        return reader(file) if reader is not None else open_plain(file, image_format)
    brands = _brands(start)
    found = next((name for magic, name in _KNOWN.items() if start.startswith(magic)), None)
    if brands & _HEIC_BRANDS:
        found = "a HEIC image"
    elif brands:
        found = "a video, or an image of another kind"
    expected = titles(last="or")
    raise UnsupportedError(f"is {found}; expected {expected}" if found else f"not an image: expected {expected}")


def _brands(start: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file."""
    if start[4:8] != b"ftyp":
        return set()
    length = min(int.from_bytes(start[:4]), len(start))
    return {start[8:12], *(start[at : at + 4] for at in range(16, length - 3, 4))}


def _check_size(opened: Opened) -> None:
    if not opened.width * opened.height:
        raise DamagedError("it has no pixels")
    limit.check(opened.width * opened.height)


def _upright(metadata: Metadata, turn: int, notes: list[str]) -> Metadata:
    """Metadata for the rotated image, without references to data that is not kept."""
    block, packet = metadata.exif, metadata.xmp
    if block is not None:
        block = exif.upright(block, turn, notes)
    if packet is not None:
        packet, dropped = xmp.without_dropped_data(xmp.upright(packet, turn))
        notes += [text for text in dropped if text not in notes]
    return replace(metadata, exif=block, xmp=packet or None)
