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

from drsformer.errors import ImageError, UnsupportedError
from drsformer.images import upright
from drsformer.signatures import LONGEST_START, RAW_ENDINGS, RAW_MESSAGE, is_raw, other_kind
from drsformer_cli.formats import KIND_OF_ENDING, format_of, titles
from drsformer_cli.images import color, exif, limit, orientation, xmp
from drsformer_cli.images.avif import open_avif
from drsformer_cli.images.bmp import open_bmp
from drsformer_cli.images.heic import open_heic_file
from drsformer_cli.images.image import DamagedError, DecodedImage, Metadata, Opened, to_8_bits
from drsformer_cli.images.jpeg import open_jpeg
from drsformer_cli.images.plain import open_plain
from drsformer_cli.images.png import open_png
from drsformer_cli.images.tiff import open_tiff
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
    "HEIF": open_heic_file,
}
"""Functions that open a format; Pillow alone opens the others."""


def read(source: Path | bytes | BinaryIO) -> DecodedImage:
    """Decode an image from a file, from the bytes of one, or from a stream; the format is recognized by content.

    Of a stream that is not an image, only the first bytes are read: it may be long, or never end.

    Raises:
        UnsupportedError: It is not an image of a known format, or is of an unsupported kind, such as raw, HDR, or with
            several frames.
        TooLargeError: It has more pixels than the limit.
        ImageError: It is damaged.
        OSError: The file cannot be read.
    """
    with _opened(source) as opened:
        channels = opened.decode()
        metadata, dropped = _upright(opened)
        opened.notes += [*dropped, *(opened.notes_on_tail(dropped) if opened.notes_on_tail else ())]
        turn = 1 if opened.upright else opened.orientation
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
        turned = orientation.swaps_sides(opened.orientation) and not opened.upright
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
def _opened(source: Path | bytes | BinaryIO) -> Iterator[Opened]:
    """Open a file and read its header; errors in the block become ImageErrors."""
    ending = source.suffix.lower() if isinstance(source, Path) else ""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            file: BinaryIO = io.BytesIO(source)
        elif isinstance(source, Path):
            file = stack.enter_context(source.open("rb"))
        else:
            file = source
        if file is source or not file.seekable():
            start = file.read(LONGEST_START)
            _format(start, ending)
            file = io.BytesIO(start + file.read())
        try:
            opened = _open(file, ending)
            _check_size(opened)
            color.refuse_hdr(color.cicp_of_icc(opened.metadata.icc), "ICC profile")
            yield opened
        except DamagedError as error:
            raise ImageError(f"damaged image: {error}") from None
        except (struct.error, zlib.error) as error:  # raised by our parsers on a damaged file
            raise ImageError(f"damaged image: {error}") from None


def _open(file: BinaryIO, ending: str) -> Opened:
    """Open a file by its first bytes.

    Raises:
        UnsupportedError: It is not an image of a known format, or is of an unsupported kind.
        ImageError: It is empty.
        DamagedError: It is damaged.
    """
    file.seek(0)
    image_format = _format(file.read(LONGEST_START), ending)
    reader = _READERS.get(image_format)
    return reader(file) if reader is not None else open_plain(file, image_format)


def _format(start: bytes, ending: str) -> str:
    """Pillow's name of the format of a file by its first bytes; its ending tells only what kind it is if they do not.

    Raises:
        UnsupportedError: It is not an image of a known format.
        ImageError: It is empty.
    """
    if not start:
        raise ImageError("the file is empty")
    image_format = format_of(start)
    if is_raw(start) or (ending in RAW_ENDINGS and image_format in (None, "TIFF")):
        raise UnsupportedError(RAW_MESSAGE)
    if image_format is not None:
        return image_format
    kind = other_kind(start) or KIND_OF_ENDING.get(ending)
    expected = titles(last="or")
    if kind is None:
        raise UnsupportedError(f"not an image: expected {expected}")
    raise UnsupportedError(f"is {kind}, which is not supported; expected {expected}")


def _check_size(opened: Opened) -> None:
    if not opened.width * opened.height:
        raise DamagedError("it has no pixels")
    limit.check(opened.width * opened.height)


def _upright(opened: Opened) -> tuple[Metadata, list[str]]:
    """Metadata for the rotated image, and notes about data that XMP referred to and that is not kept."""
    metadata, turn = opened.metadata, opened.orientation
    block, packet = metadata.exif, metadata.xmp
    dropped: list[str] = []
    if block is not None:
        turned = opened.upright and orientation.swaps_sides(turn)
        stored = (opened.height, opened.width) if turned else (opened.width, opened.height)
        block = exif.upright(block, turn, stored, opened.notes)
    if packet is not None:
        packet, dropped = xmp.without_dropped_data(xmp.upright(packet, turn), turn)
    return replace(metadata, exif=block, xmp=packet or None), dropped
