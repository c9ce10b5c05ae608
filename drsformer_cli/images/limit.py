"""The number of pixels above which images are refused."""

from __future__ import annotations

import warnings

from PIL import Image

from drsformer.errors import ImageError

_advice = ""


class TooLargeError(ImageError):
    """An image has more pixels than the limit."""


def allow_megapixels(limit: float | None, advice: str = "") -> None:
    """Set the size above which images are refused, for the process.

    Args:
        limit: Limit in megapixels; None: Pillow's limit of 179.
        advice: How to raise the limit, for the message.
    """
    global _advice  # noqa: PLW0603 - Pillow's limit is global, too
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the hard limit is twice that
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = max(1, int(limit * 1e6 / 2))
    _advice = advice


def check(pixels: int) -> None:
    """Refuse images that are too large.

    Raises:
        TooLargeError: There are more pixels than the limit.
    """
    if Image.MAX_IMAGE_PIXELS is not None and pixels > (limit := 2 * Image.MAX_IMAGE_PIXELS):
        advice = f"; {_advice}" if _advice else ""
        raise TooLargeError(f"{pixels / 1e6:.4g} megapixels, more than the limit of {limit / 1e6:.4g}{advice}")
