"""The image formats, one row each. Imports neither Pillow nor numpy, so that planning and `--help` stay fast."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal


class Feature(StrEnum):
    """Something that a format may be able to store; the values appear in messages."""

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
        name: Pillow's name of the format.
        title: Name in messages.
        endings: File endings, which are also the values of --format.
        other_endings: Other endings of such files.
        signatures: The first bytes of such files; a dot matches any byte.
        brands: Brands of such files, if they are ISO base media files.
        holds: What the format can store.
        longest_side: Largest width and height in pixels; None: no limit.
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
            longest_side=32_768,  # libavif's default limit for reading
        ),
    )
}
"""Formats by Pillow's name. A row is enough if Pillow reads and writes the format; a module in `images` can do more."""

FORMAT_OF_ENDING = {f".{ending}": row.name for row in FORMATS.values() for ending in (*row.endings, *row.other_endings)}
"""Pillow's names of the formats by file ending. In a folder, files with these endings are taken as images."""

RAW_ENDINGS = {
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".rwl", ".raf", ".pef"),
    *(".srw", ".3fr", ".fff", ".iiq", ".mos", ".mef", ".erf", ".kdc", ".dcr", ".x3f", ".mrw", ".raw", ".gpr"),
}
"""Endings of raw files, which must be developed first."""

OTHER_IMAGE_ENDINGS = RAW_ENDINGS | {".heic", ".heif", ".hif", ".gif", ".jxl", ".jp2", ".psd", ".exr", ".svg"}
"""Endings of images that are not read: in a folder they are skipped, with a note."""

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(ending for row in FORMATS.values() for ending in row.endings)]
"""Values of --format: file endings without the dot."""

DEFAULT_QUALITY = 95
"""Default quality of the formats that have one."""


def listed(words: list[str], last: str = "and") -> str:
    """Join words as in "a, b and c"."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def titles(feature: Feature | None = None, last: str = "and") -> str:
    """The titles of all formats, or of those that can store a feature, joined for messages and help."""
    return listed([row.title for row in FORMATS.values() if feature is None or feature in row.holds], last)
