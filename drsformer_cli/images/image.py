"""The data that reading and writing share: decoded images, metadata, and files that are not decoded yet.

Shapes: pixels (H, W, 3) RGB, alpha (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from drsformer.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Channels = NDArray[Any]  # uint8 or uint16


CREDENTIALS_DROPPED = "content credentials (C2PA) dropped: they belong to the rainy image"


class DamagedError(Exception):
    """The file contradicts its format; `reading` replaces this with an ImageError."""


@dataclass(frozen=True)
class Metadata:
    """The metadata that is kept from the input to the output.

    Attributes:
        exif: EXIF block, its orientation reset to 1; it begins with the TIFF header, without the prefix "Exif".
        icc: ICC profile.
        xmp: XMP packet, its orientation reset to 1.
        dpi: Horizontal and vertical resolution in dots per inch.
        iptc: IPTC-IIM records.
        comment: JPEG comment.
        text: Complete text chunks of a PNG.
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
        metadata: The metadata that is kept.
        notes: What reading had to change, for the user.
        lossless: Whether it was read from a lossless WebP file.
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
    """A file whose header was read.

    Attributes:
        format: Pillow's name of the format.
        width: Width of the stored pixels.
        height: Height of the stored pixels.
        decode: Function that decodes the pixels, not yet rotated: (H, W) gray or (H, W, C) gray and alpha, RGB or
            RGBA; uint8 or uint16. Metadata and notes are complete only afterwards.
        orientation: EXIF orientation 1..8 that the file has.
        upright: Whether width, height and the decoded pixels are upright already; otherwise the orientation is to be
            applied.
        metadata: The metadata in the file.
        notes: Notes for the user.
        lossless: Whether it is a lossless WebP file.
        notes_on_tail: Function from the notes about data that XMP refers to and that is not kept, to the notes about
            data after the image; None: there is none. Complete only after decoding.
    """

    format: str
    width: int
    height: int
    decode: Callable[[], Channels]
    orientation: int = 1
    upright: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    lossless: bool = False
    notes_on_tail: Callable[[Sequence[str]], list[str]] | None = None


def refuse_frames(number: int) -> None:
    """Refuse animations and documents.

    Raises:
        UnsupportedError: There are several frames.
    """
    if number > 1:
        raise UnsupportedError(f"has {number} frames or pages; expected a single image")


def to_8_bits(channels: Channels) -> Channels:
    """Round uint16 to uint8; uint8 is returned unchanged."""
    if channels.dtype == np.uint8:
        return channels
    return np.rint(channels / np.float32(257)).astype(np.uint8)
