"""BMP: Pillow reads it; the ICC profile and unused alpha channels are handled here."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from drsformer_cli.images import color
from drsformer_cli.images.plain import open_plain

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels, Opened

_V5_HEADER = 124
_LARGEST_PROFILE = 64 << 20


def open_bmp(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        UnsupportedError: It is of a kind that is not supported.
        DamagedError: It is damaged.
    """
    opened = open_plain(file, "BMP")
    opened.metadata = replace(opened.metadata, icc=_profile(file))
    decode = opened.decode

    def decode_and_look() -> Channels:
        channels = decode()
        if channels.ndim == 3 and channels.shape[2] == 4 and not channels[..., 3].any():
            opened.notes.append("alpha of zero everywhere taken as opaque")
            channels = channels[..., :3]
        return channels

    opened.decode = decode_and_look
    return opened


def _profile(file: BinaryIO) -> bytes | None:
    """The ICC profile of a header of version 5."""
    position = file.tell()
    file.seek(14)
    header = file.read(_V5_HEADER)
    profile = None
    if len(header) == _V5_HEADER and header[:4] == struct.pack("<I", _V5_HEADER) and header[56:60] == b"DEBM":
        offset, length = struct.unpack("<II", header[112:120])
        file.seek(14 + offset)
        profile = file.read(min(length, _LARGEST_PROFILE))
    file.seek(position)
    return profile if profile and len(profile) == length and color.is_profile(profile) else None
