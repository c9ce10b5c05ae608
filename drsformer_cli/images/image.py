"""What passes between reading and writing: pixels, metadata, and a file that was opened but not yet decoded.

Shapes: pixels (H, W, 3) RGB, alpha (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Channels = NDArray[Any]  # uint8 or uint16


class DamagedError(Exception):
    """The file contradicts its format; `reading` makes an ImageError of it."""


@dataclass(frozen=True)
class Metadata:
    """What travels with the pixels.

    Attributes:
        exif: EXIF block, its orientation reset to 1; begins with its TIFF header, a prefix "Exif" is taken off.
        icc: ICC profile.
        xmp: XMP packet, its orientation reset to 1.
        dpi: Horizontal and vertical resolution in dots per inch.
        iptc: IPTC-IIM records.
        comment: JPEG comment.
        text: Chunks of a PNG that hold text, whole.
        cicp: Content of a PNG's cICP chunk: color primaries, transfer function, matrix (0), full range.
        gamma: Name and content of a PNG's chunks gAMA, cHRM and sRGB.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    text: tuple[bytes, ...] = ()
    cicp: bytes | None = None
    gamma: tuple[tuple[bytes, bytes], ...] = ()

    def __post_init__(self) -> None:
        if self.exif is not None:
            object.__setattr__(self, "exif", self.exif.removeprefix(b"Exif\0\0") or None)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, upright.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16; three equal channels where `gray`.
        alpha: (H, W) of the same type, or None.
        gray: Whether it is written as a gray image.
        format: Pillow's name of the format that it was read from.
        metadata: What travels with the pixels.
        notes: What reading had to change, for the user.
        lossless: Whether it comes from a lossless WebP file.
    """

    pixels: Channels
    alpha: Channels | None = None
    gray: bool = False
    format: str = "PNG"
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()
    lossless: bool = False


@dataclass
class Opened:
    """A file whose head was read.

    Attributes:
        format: Pillow's name of the format.
        width: Width of the stored pixels.
        height: Height of the stored pixels.
        decode: Reads the pixels as they are stored: (H, W) gray or (H, W, C) gray and alpha, RGB or RGBA; uint8 or
            uint16. Metadata and notes are complete only afterwards.
        orientation: EXIF orientation 1..8 that the pixels still need.
        metadata: As found.
        notes: For the user.
        lossless: Whether it is a lossless WebP file.
    """

    format: str
    width: int
    height: int
    decode: Callable[[], Channels]
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    lossless: bool = False


def to_8_bits(channels: Channels) -> Channels:
    """uint16 -> uint8, rounded; uint8 as it is."""
    if channels.dtype == np.uint8:
        return channels
    return np.rint(channels / np.float32(257)).astype(np.uint8)
