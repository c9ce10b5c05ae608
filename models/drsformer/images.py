"""Read images as arrays, and convert RGB to gray. Does not import torch."""

from __future__ import annotations

import struct
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from drsformer.errors import ImageError, UnsupportedError
from drsformer.heic import heic_pixels, open_heic
from drsformer.signatures import LONGEST_START, RAW_ENDINGS, RAW_MESSAGE, is_heic, is_raw, other_kind

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    ImageArray = NDArray[Any]  # uint8, uint16 or float32

_FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "TIFF", "WEBP")

_SUBFILE_TYPE, _DNG_VERSION = 254, 50706

_CONVERTED = {"1": "L", "La": "LA", "RGBa": "RGBA", "YCbCr": "RGB", "CMYK": "RGB", "LAB": "RGB"}

_quiet = threading.Lock()  # held while OpenCV's log, which is one for all threads, is off

# Exceptions of Pillow's decoders for damaged files.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip


def read_image(path: str | os.PathLike[str]) -> ImageArray:
    """Read an image for `derain`: upright, with the bits per channel of the file.

    EXIF orientation is applied. Palettes, CMYK and YCbCr are converted to RGB, 1 bit to gray; colors are not managed:
    ICC profiles and HDR transfer functions are ignored. AVIF of more than 8 bits is read as 8 bits. Metadata is not
    read; the command `drsformer derain` keeps it.

    Args:
        path: A JPEG, PNG, TIFF, WebP, BMP, AVIF or HEIC file; the format is recognized by its content. HEIC needs the
            extra `heic`.

    Returns:
        (H, W, 3) RGB, (H, W, 4) RGB and alpha, (H, W) gray, or (H, W, 2) gray and alpha; uint8, or uint16 if the file
        has 16 bits, or is HEIC of 10 or 12.

    Raises:
        ImageError: The file is not such an image, is a pipe or a device, is damaged, has several frames or pages, is a
            camera's raw file, is larger than Pillow allows, has pixels or channels that these types cannot hold, is a
            TIFF that Pillow cannot read, or needs an extra.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    try:
        return _read(path)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise UnsupportedError(f"{path}: {_what_it_is(path)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: larger than PIL.Image.MAX_IMAGE_PIXELS allows") from None
    except _DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: damaged image: {reason}") from None


def luma(rgb: ImageArray) -> ImageArray:
    """BT.601 luma, (H, W, 3) -> (H, W) of the same type. Where the channels are equal, it is exactly their value."""
    if rgb.dtype == np.float32:
        red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
        exact: ImageArray = green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green)
        return exact.clip(0, 1, out=exact)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    rounded: ImageArray = np.rint(rgb.astype(np.float32) @ weights).astype(rgb.dtype)
    return rounded


def full_range(samples: ImageArray, bits: int) -> ImageArray:
    """Scale samples of 1 to 16 bits to the full range of uint8 or uint16, with exact rounding."""
    if bits in (8, 16):
        return samples
    full, largest = (255 if bits < 8 else 65535), 2**bits - 1
    table = (np.arange(largest + 1, dtype=np.uint32) * full + largest // 2) // largest
    stretched: ImageArray = table.astype(np.uint8 if bits < 8 else np.uint16)[samples]
    return stretched


def unmultiplied(colors: ImageArray, alpha: ImageArray) -> ImageArray:
    """Divide colors by the alpha that they were multiplied by."""
    full = np.iinfo(colors.dtype).max
    plain = np.rint(colors * (full / np.maximum(alpha, 1).astype(np.float32)))
    return np.minimum(plain, full).astype(colors.dtype)


def _read(path: Path) -> ImageArray:
    if path.exists() and not (path.is_file() or path.is_dir()):  # it is opened more than once
        raise UnsupportedError("is a pipe, a socket or a device; expected a file")
    with path.open("rb") as file:
        start = file.read(LONGEST_START)
    if is_raw(start):
        raise UnsupportedError(RAW_MESSAGE)
    if is_heic(start):
        return _heic(path)
    with Image.open(path, formats=_FORMATS) as opened:
        return _array(opened, path)


def is_rgb(image: object) -> bool:
    """Whether it is an array (H, W, 3), uint8 or uint16."""
    return (
        isinstance(image, np.ndarray)
        and image.ndim == 3
        and image.shape[2] == 3
        and image.dtype in (np.uint8, np.uint16)
    )


def shape_and_type(image: object) -> str:
    """The shape and type of an array, or the type of anything else, for messages."""
    return f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__


def _what_it_is(path: Path) -> str:
    """Why Pillow, which does not say it, cannot open a file, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(LONGEST_START)
    formats = ((name, Image.OPEN[name][1]) for name in _FORMATS if name in Image.OPEN)
    kind = next((name for name, accepts in formats if accepts is not None and accepts(start[:16])), None)
    if kind is not None:
        return f"damaged, or {kind} of a kind that is not supported"
    other = other_kind(start)
    found = "the file is empty" if not start else "not an image" if other is None else f"is {other}"
    return f"{found}; expected JPEG, PNG, TIFF, WebP, BMP, AVIF or HEIC"


def _heic(path: Path) -> ImageArray:
    opened = open_heic(path.read_bytes())
    if Image.MAX_IMAGE_PIXELS is not None and opened.size[0] * opened.size[1] > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    return np.ascontiguousarray(heic_pixels(opened))


def _array(opened: Image.Image, path: Path) -> ImageArray:
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format != "MPO":  # a camera's JPEG, whose other images are previews
        raise UnsupportedError(f"has {frames} frames or pages; expected a single image")
    raw_mode = _raw_mode(opened)
    is_tiff = opened.format == "TIFF"
    if is_tiff:
        tags = getattr(opened, "tag_v2", {})
        is_preview = tags.get(_SUBFILE_TYPE, 0) & 1  # the image itself is in another directory
        if is_preview or _DNG_VERSION in tags or path.suffix.lower() in RAW_ENDINGS:
            raise UnsupportedError(RAW_MESSAGE)
        held = 3 if opened.mode == "RGBX" else len(opened.getbands())
        if tags.get(ExifTags.Base.SamplesPerPixel, 1) > held:
            raise UnsupportedError("has channels beside color and alpha, which are not supported")
    opened.load()  # applies the orientation of TIFF; PNG may have EXIF after the pixels
    orientation = 1 if is_tiff else opened.getexif().get(ExifTags.Base.Orientation, 1)
    if opened.mode.startswith("I;16"):
        pixels = _gray16(opened, raw_mode)
    elif opened.mode in ("I", "F"):
        raise UnsupportedError(f"has 32-bit pixels (mode {opened.mode}); expected 8 or 16 bits")
    elif ";16" in raw_mode or (is_tiff and _tiff_bits(opened) > 8):
        pixels = _color16(opened, path, raw_mode)
    else:
        pixels = np.asarray(_simplified(opened, raw_mode))
    return np.ascontiguousarray(upright(pixels, orientation))


def _raw_mode(opened: Image.Image) -> str:
    """Pillow's name of the layout of the pixels in the file, such as RGB;16B; "" where the decoder has none."""
    tiles = getattr(opened, "tile", None) or [(None, None, None, "")]
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _tiff_bits(opened: Image.Image) -> int:
    """Bits per sample of a TIFF."""
    return int(max(getattr(opened, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (8,))))


def _gray16(opened: Image.Image, raw_mode: str) -> ImageArray:
    if "transparency" in opened.info:
        raise UnsupportedError("has 16 bits and a transparent color, which is not supported")
    pixels: ImageArray = np.asarray(opened).astype(np.uint16)  # in the machine's byte order
    if opened.format == "TIFF":
        if _tiff_bits(opened) != 16:  # Pillow does not scale 12 bits
            raise UnsupportedError(f"has {_tiff_bits(opened)} bits a channel ({raw_mode}); expected 8 or 16")
        if getattr(opened, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:  # 0 is white
            pixels = 65535 - pixels
    return pixels


def _color16(opened: Image.Image, path: Path, raw_mode: str) -> ImageArray:
    """Decode 16-bit color or gray with alpha by OpenCV; its high bytes must be those that Pillow decodes."""
    import cv2

    if "transparency" in opened.info:
        raise UnsupportedError("has 16 bits and a transparent color, which is not supported")
    high = np.asarray(opened)
    with _quiet:  # OpenCV prints why it cannot decode a file
        level = cv2.utils.logging.setLogLevel(0)
        try:
            decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        finally:
            cv2.utils.logging.setLogLevel(level)
    if decoded is not None and decoded.dtype == np.uint16 and decoded.ndim == 3:
        pixels: ImageArray = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]  # from BGR or BGRA
        if pixels.shape == high.shape and np.array_equal(pixels >> 8, high):
            return pixels[..., [0, 3]] if raw_mode.startswith("LA") else pixels  # both read LA as RGBA
    raise UnsupportedError("has more than 8 bits a channel in a layout that is not supported; try 16-bit PNG")


def _simplified(opened: Image.Image, raw_mode: str) -> Image.Image:
    """Convert an image to mode L, LA, RGB or RGBA."""
    mode = opened.mode
    if mode in ("P", "PA"):
        return opened.convert("RGBA" if mode == "PA" or "transparency" in opened.info else "RGB")
    if "transparency" in opened.info and mode in ("1", "L", "RGB"):  # one color of a PNG is transparent
        if raw_mode != mode:  # Pillow compares it with scaled values
            raise UnsupportedError("has less than 8 bits and a transparent color, which is not supported")
        return opened.convert("RGBA" if mode == "RGB" else "LA")
    if mode in ("L", "LA", "RGB", "RGBA"):
        return opened
    if mode not in _CONVERTED:
        raise UnsupportedError(f"has pixels of mode {mode}; expected 8 or 16 bits a channel of gray, RGB or CMYK")
    return opened.convert(_CONVERTED[mode])


def upright(pixels: ImageArray, orientation: int) -> ImageArray:
    """Apply an EXIF orientation, 1 to 8, to (H, W, ...); other values change nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
