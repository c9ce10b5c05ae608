"""Image formats by file ending, apart from the code that reads them so that planning stays quick."""

from __future__ import annotations

from typing import Literal

FORMAT_OF_ENDING = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
"""Pillow's name of the format of an output; also what counts as an image in a folder."""

FormatName = Literal["jpg", "jpeg", "png", "tif", "tiff", "webp", "bmp", "avif"]
"""What --format takes: the endings without their dot."""

DEFAULT_QUALITY = 95
"""Of JPEG, WebP and AVIF."""
