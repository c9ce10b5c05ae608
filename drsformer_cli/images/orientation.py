"""Orientation of images: the same rule for all formats, in `size` and in `read`."""

from __future__ import annotations

from drsformer_cli.images import exif, xmp


def from_metadata(block: bytes | None, packet: bytes | None) -> int:
    """The orientation 1..8 in EXIF, or in XMP if EXIF has none."""
    return exif.orientation_of(block) or xmp.orientation(packet) or 1


def swaps_sides(turn: int) -> bool:
    """Whether an orientation exchanges width and height."""
    return turn >= 5
