"""The image formats, one row each. Imports neither Pillow nor numpy, so that planning and `--help` stay fast."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from drsformer.signatures import AVIF_BRANDS, GENERAL_BRANDS, HEIC_BRANDS, RAW_ENDINGS, brands

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        deep_bits: Bits per channel that 16-bit images are written with, if the format holds more than 8.
        extra: The extra that installs what reads and writes it, and the package of that; None: nothing is needed.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    holds: frozenset[Feature]
    other_endings: tuple[str, ...] = ()
    signatures: tuple[bytes, ...] = ()
    brands: frozenset[bytes] = frozenset()
    longest_side: int | None = None
    deep_bits: int = 16
    extra: tuple[str, str] | None = None

    @property
    def mime(self) -> str:
        """The MIME type."""
        return f"image/{self.title.lower()}"

    def missing(self) -> str | None:
        """What to install before this format can be read and written; None: nothing."""
        if self.extra is None or importlib.util.find_spec(self.extra[1]) is not None:
            return None
        return f"{self.title} needs pip install 'drsformer[{self.extra[0]}]'"


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
            brands=AVIF_BRANDS,
            longest_side=32_768,  # libavif's default limit for reading
        ),
        Format(
            *("HEIF", "HEIC", ("heic", "heif")),
            _PORTABLE | {Feature.ALPHA, Feature.DEEP, Feature.GRAY, Feature.QUALITY, Feature.CICP},
            other_endings=("hif",),
            brands=HEIC_BRANDS | GENERAL_BRANDS,
            longest_side=65_535,
            deep_bits=10,
            extra=("heic", "pillow_heif"),
        ),
    )
}
"""Formats by Pillow's name. A row is enough if Pillow reads and writes the format; a module in `images` can do more."""

FORMAT_OF_ENDING = {f".{ending}": row.name for row in FORMATS.values() for ending in (*row.endings, *row.other_endings)}
"""Pillow's names of the formats by file ending. In a folder, files with these endings are taken as images."""


def format_of(start: bytes) -> str | None:
    """Pillow's name of the format of a file, by its first bytes, of which `LONGEST_START` are enough."""
    for row in FORMATS.values():
        if any(_begins(start, signature) for signature in row.signatures):
            return row.name
    by_brand = {brand: row.name for row in FORMATS.values() for brand in row.brands}
    return next((by_brand[brand] for brand in brands(start) if brand in by_brand), None)


def _begins(start: bytes, signature: bytes) -> bool:
    return len(start) >= len(signature) and all(
        expected in (found, ord(".")) for found, expected in zip(start, signature, strict=False)
    )


def missing_extra(ending: str) -> str | None:
    """What to install before files with this ending can be read and written; None: nothing."""
    return FORMATS[FORMAT_OF_ENDING[ending]].missing() if ending in FORMAT_OF_ENDING else None


OTHER_KINDS = {
    "a GIF": (".gif",),
    "an icon": (".ico", ".cur"),
    "a JPEG 2000 image": (".jp2", ".j2k", ".jpf", ".jpx"),
    "a JPEG XL image": (".jxl",),
    "a JPEG XR image": (".jxr", ".wdp"),
    "a JPEG-LS image": (".jls",),
    "a Netpbm image": (".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm"),
    "a PCX image": (".pcx",),
    "a Photoshop file": (".psd", ".psb"),
    "a QOI image": (".qoi",),
    "a Radiance HDR image": (".hdr",),
    "a TGA image": (".tga",),
    "an OpenEXR image": (".exr",),
    "an SVG drawing": (".svg", ".svgz"),
}
"""Other kinds of images, which are not read, and their endings."""

KIND_OF_ENDING = {ending: kind for kind, endings in OTHER_KINDS.items() for ending in endings}
"""The other kinds by file ending."""

OTHER_IMAGE_ENDINGS = RAW_ENDINGS | KIND_OF_ENDING.keys()
"""Endings of images that are not read: in a folder they are skipped, with a note."""


def skipped_images(names: Iterable[str]) -> str | None:
    """The note about images of a folder that are not read, by the names of its files; None: there are none."""
    endings = [PurePath(name).suffix.lower() for name in names if not name.startswith(".")]
    others = [ending for ending in endings if ending in OTHER_IMAGE_ENDINGS]
    if not others:
        return None
    return f"{len(others)} image{'s' * (len(others) != 1)} skipped that cannot be read: {', '.join(sorted({*others}))}"


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
