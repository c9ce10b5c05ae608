"""Decoding with Pillow: pixels as arrays, and exceptions as errors with a message."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageCms, UnidentifiedImageError

from drsformer.errors import ImageError, UnsupportedError
from drsformer_cli.images import limit
from drsformer_cli.images.image import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drsformer_cli.images.image import Channels


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Turn all exceptions of Pillow's decoders into errors with a message, and keep them from writing to stderr.

    Raises:
        UnsupportedError: The data is not supported.
        TooLargeError: There are more pixels than the limit.
        DamagedError: The data is damaged.
        OSError: The system cannot read the file.
    """
    _silence_libtiff()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    except (ImageError, DamagedError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DamagedError("its header cannot be read") from None
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        limit.check(int(found[0]) if found else 1 << 60)
        raise DamagedError(str(error)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise _in_words(error) from None
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _in_words(error) from None


def _in_words(error: Exception) -> Exception:
    text = " ".join(str(error).split())
    if text.lower().startswith(("unsupported", "cannot handle", "unknown pixel mode", "not supported")):
        return UnsupportedError(f"not supported: {text}")
    return DamagedError(text or type(error).__name__)


@functools.cache
def _silence_libtiff() -> None:
    """Remove libtiff's error handler, which writes to stderr; Pillow raises the errors that matter."""
    here = Path(PIL.__file__).parent
    for library in (*here.parent.glob("[pP]illow.libs/libtiff*"), *here.glob(".dylibs/libtiff*")):
        with contextlib.suppress(OSError, AttributeError):
            handler = ctypes.CDLL(str(library)).TIFFSetErrorHandler
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


def open_as(file: BinaryIO | bytes, image_format: str) -> Image.Image:
    """Open a file as that format."""
    with decoding():
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=[image_format])


def pixels(opened: Image.Image) -> Image.Image:
    """Load all pixels."""
    with decoding():
        opened.load()
    return opened


def channels(opened: Image.Image, icc: bytes | None, notes: list[str]) -> Channels:
    """The pixels of a loaded image: (H, W) gray or (H, W, C) gray and alpha, RGB or RGBA.

    Args:
        opened: The image.
        icc: Its ICC profile, which is used to convert CMYK.
        notes: A note is appended for each conversion.

    Raises:
        UnsupportedError: Its mode is not supported.
    """
    mode = opened.mode
    if mode in ("P", "PA"):
        notes.append("palette converted to RGB")
        opened = opened.convert("RGBA" if mode == "PA" or "transparency" in opened.info else "RGB")
    elif mode == "CMYK":
        notes.append("CMYK converted to RGB")
        opened = cmyk_to_rgb(opened, icc)
    elif mode == "1":
        notes.append("1-bit image converted to 8-bit gray")
        opened = opened.convert("L")
    elif mode in ("La", "RGBa", "RGBX", "YCbCr"):
        opened = opened.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB"))
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        raise UnsupportedError(f"not supported: pixels of mode {mode}; expected 8 or 16 bits of gray, RGB or CMYK")
    return np.asarray(opened)


def cmyk_to_rgb(opened: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert CMYK to RGB by the profile, or by the plain formula if there is no usable profile."""
    if profile:
        # The profile cannot be used; viewers fall back to the plain formula, too.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = ImageCms.profileToProfile(
                opened, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
    return opened.convert("RGB")
