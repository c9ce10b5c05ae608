"""BMP: Pillow reads it; the profile and an alpha channel that nobody filled in are looked at here."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from drsformer_cli.images import color, pillow
from drsformer_cli.images.image import Metadata, Opened

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels

_V5_HEADER = 124


def open_bmp(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        ImageError: It is of a kind that is not supported.
        DamagedError: It is damaged.
    """
    file.seek(0)
    opened = pillow.open_as(file, "BMP")
    notes: list[str] = []
    dpi = opened.info.get("dpi")
    metadata = Metadata(icc=_profile(file), dpi=dpi if dpi and all(0 < value < 1e6 for value in dpi) else None)

    def decode() -> Channels:
        channels = pillow.channels(pillow.pixels(opened), None, notes)
        if channels.ndim == 3 and channels.shape[2] == 4 and not channels[..., 3].any():
            notes.append("alpha of zero everywhere taken as opaque")
            channels = channels[..., :3]
        return channels

    return Opened("BMP", *opened.size, decode, metadata=metadata, notes=notes)


def _profile(file: BinaryIO) -> bytes | None:
    """The ICC profile of a header of version 5."""
    position = file.tell()
    file.seek(14)
    header = file.read(_V5_HEADER)
    profile = None
    if len(header) == _V5_HEADER and header[:4] == struct.pack("<I", _V5_HEADER) and header[56:60] == b"DEBM":
        offset, length = struct.unpack("<II", header[112:120])
        file.seek(14 + offset)
        profile = file.read(length)
    file.seek(position)
    return profile if profile and len(profile) == length and color.is_profile(profile) else None
