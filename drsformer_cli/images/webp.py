"""WebP: Pillow reads pixels and metadata; this module also recognizes lossless files."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from PIL import WebPImagePlugin

from drsformer.errors import UnsupportedError
from drsformer_cli.images.plain import open_plain

if TYPE_CHECKING:
    from drsformer_cli.images.image import Opened


def open_webp(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        UnsupportedError: It is animated, or Pillow was built without WebP.
        DamagedError: It is damaged.
    """
    if not WebPImagePlugin.SUPPORTED:
        raise UnsupportedError("is a WebP image, which this Pillow was built without")
    found = open_plain(file, "WEBP")
    file.seek(0)
    found.lossless = b"VP8L" in _image_chunks(file.read())
    return found


def _image_chunks(data: bytes) -> set[bytes]:
    """Names of the chunks, including those within a frame."""
    names, position = set(), 12
    while position + 8 <= len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        names.add(name)
        position += 8 + (16 if name == b"ANMF" else length + length % 2)
    return names
