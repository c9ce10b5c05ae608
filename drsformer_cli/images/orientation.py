"""Orientation of images: the same rule for all formats, in `size` and in `read`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drsformer_cli.images import exif, xmp

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels


def from_metadata(block: bytes | None, packet: bytes | None) -> int:
    """The orientation 1..8 in EXIF, or in XMP if EXIF has none."""
    return exif.orientation_of(block) or xmp.orientation(packet) or 1


def swaps_sides(turn: int) -> bool:
    """Whether an orientation exchanges width and height."""
    return turn >= 5


def upright(channels: Channels, turn: int) -> Channels:
    """Apply an orientation 1..8 to (H, W, ...)."""
    turned: dict[int, Any] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    upright: Channels = turned[turn](channels) if turn in turned else channels
    return upright
