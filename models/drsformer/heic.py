"""HEIC files, decoded by pillow-heif, which the extra `heic` installs.

Shapes: H, W height and width of the upright image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drsformer.errors import UnsupportedError

if TYPE_CHECKING:
    from types import ModuleType

    from pillow_heif import HeifFile

    from drsformer.images import ImageArray

_SEQUENCES = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}


def library() -> ModuleType:
    """The package pillow_heif.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise UnsupportedError("HEIC needs pip install 'drsformer[heic]'") from None
    return pillow_heif


def open_heic(data: bytes) -> HeifFile:
    """Read the header of a file.

    Raises:
        UnsupportedError: It is an image sequence, or pillow-heif is not installed.
        ValueError, EOFError, SyntaxError, RuntimeError: It is damaged or not supported; from pillow-heif.
    """
    pillow_heif = library()
    if data[8:12] in _SEQUENCES:
        raise UnsupportedError("is an image sequence; expected a single image")
    opened: HeifFile = pillow_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    if not len(opened):
        raise ValueError("it holds no image")
    return opened


def heic_pixels(opened: HeifFile) -> ImageArray:
    """Decode the main image: upright, with 10 and 12 bits as 16.

    Returns:
        (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha; uint8 or uint16.
    """
    from drsformer.images import full_range, unmultiplied

    pixels = full_range(np.asarray(opened), opened.info["bit_depth"])
    if opened.premultiplied_alpha:
        pixels = np.dstack([unmultiplied(pixels[..., :-1], pixels[..., -1:]), pixels[..., -1]])
    # Gray with alpha is decoded as RGB with alpha.
    is_gray = "chroma" not in opened.info
    return pixels[..., [0, 3]] if is_gray and pixels.ndim == 3 and pixels.shape[2] == 4 else pixels
