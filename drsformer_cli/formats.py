"""The image formats: one row each. Free of Pillow and numpy, so that planning and `--help` stay quick."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal


class Feature(StrEnum):
    """What a format may hold; the values are the words of messages."""

    ALPHA = "alpha"
    DEEP = "16 bits"
    GRAY = "gray"
    QUALITY = "quality"
    EXIF = "EXIF"
    ICC = "ICC profile"
    XMP = "XMP"
    IPTC = "IPTC"
    RESOLUTION = "resolution"
    COMMENT = "comment"
    TEXT = "PNG text"
    CICP = "CICP"
    GAMMA = "gAMA and cHRM"


@dataclass(frozen=True)
class Format:
    """One image format that is read and written.

    Attributes:
        name: Pillow's name of it.
        title: Its name in messages.
        endings: File endings that --format offers.
        other_endings: Further endings of files in a folder.
        signatures: What its files begin with; a dot stands for any byte.
        brands: Of its files, where they are ISO base media files.
        holds: What it can hold.
        longest_side: Most pixels a side; None where memory is the limit.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    holds: frozenset[Feature]
    other_endings: tuple[str, ...] = ()
    signatures: tuple[bytes, ...] = ()
    brands: frozenset[bytes] = frozenset()
    longest_side: int | None = None


_PORTABLE = frozenset({Feature.EXIF, Feature.ICC, Feature.XMP})

FORMATS = {
    row.name: row
    for row in (
        Format(
            *("JPEG", "JPEG", ("jpg", "jpeg")),
            _PORTABLE | {Feature.GRAY, Feature.QUALITY, Feature.RESOLUTION, Feature.IPTC, Feature.COMMENT},
            other_endings=("jpe", "jfif", "mpo"),
            signatures=(b"\xff\xd8\xff",),
            longest_side=65_500,
        ),
        Format(
            *("PNG", "PNG", ("png",)),
            _PORTABLE
            | {Feature.ALPHA, Feature.DEEP, Feature.GRAY, Feature.RESOLUTION}
            | {Feature.TEXT, Feature.CICP, Feature.GAMMA},
            signatures=(b"\x89PNG\r\n\x1a\n",),
        ),
        Format(
            *("TIFF", "TIFF", ("tif", "tiff")),
            _PORTABLE | {Feature.ALPHA, Feature.DEEP, Feature.GRAY, Feature.RESOLUTION, Feature.IPTC},
            signatures=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        ),
        Format(
            *("WEBP", "WebP", ("webp",)),
            _PORTABLE | {Feature.ALPHA, Feature.QUALITY},
            signatures=(b"RIFF....WEBP",),
            longest_side=16_383,
        ),
        Format(
            *("BMP", "BMP", ("bmp",)),
            frozenset({Feature.GRAY, Feature.RESOLUTION}),
            signatures=(b"BM",),
        ),
        Format(
            *("AVIF", "AVIF", ("avif",)),
            _PORTABLE | {Feature.ALPHA, Feature.GRAY, Feature.QUALITY, Feature.CICP},
            brands=frozenset({b"avif", b"avis"}),
            longest_side=32_768,  # what libavif reads unless told otherwise
        ),
    )
}
"""By Pillow's name. A row is all that a format needs which Pillow reads and writes; `images` may know it better."""

FORMAT_OF_ENDING = {f".{ending}": row.name for row in FORMATS.values() for ending in (*row.endings, *row.other_endings)}
"""Pillow's name of the format of an output; also what counts as an image in a folder."""

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(ending for row in FORMATS.values() for ending in row.endings)]
"""What --format takes: endings without their dot."""

DEFAULT_QUALITY = 95
"""Of the formats that have a quality."""


def listed(words: list[str], last: str = "and") -> str:
    """Words as English lists them: "a, b and c"."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def titles(feature: Feature | None = None, last: str = "and") -> str:
    """The formats, or those that hold something, as messages and help list them."""
    return listed([row.title for row in FORMATS.values() if feature is None or feature in row.holds], last)
