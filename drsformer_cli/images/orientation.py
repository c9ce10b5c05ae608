"""How an image is turned: one rule for all formats, for `size` as for `read`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drsformer_cli.images import exif, xmp

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels


def told(block: bytes | None, packet: bytes | None) -> int:
    """1..8: what EXIF says, or XMP where EXIF says nothing."""
    return exif.orientation_of(block) or xmp.orientation(packet) or 1


def swaps_sides(turn: int) -> bool:
    """Whether width and height change places."""
    return turn >= 5


def upright(channels: Channels, turn: int) -> Channels:
    """Turn (H, W, ...) as orientation 1..8 says."""
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
