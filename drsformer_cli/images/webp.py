"""WebP: Pillow reads it, metadata included, which it hands out as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from PIL import WebPImagePlugin

from drsformer.errors import ImageError
from drsformer_cli.images import color, orientation, pillow
from drsformer_cli.images.image import Metadata, Opened

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels


def open_webp(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        ImageError: It is animated, or Pillow was built without WebP.
        DamagedError: It is damaged.
    """
    if not WebPImagePlugin.SUPPORTED:
        raise ImageError("is a WebP image, which this Pillow was built without")
    file.seek(0)
    data = file.read()
    opened = pillow.open_as(data, "WEBP")
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"has {frames} frames or pages; expected a single image")
    notes: list[str] = []
    icc = opened.info.get("icc_profile")
    if icc and not color.is_profile(icc):
        notes.append("ICC profile is damaged and was dropped")
        icc = None
    metadata = Metadata(opened.info.get("exif") or None, icc or None, opened.info.get("xmp") or None)

    def decode() -> Channels:
        return pillow.channels(pillow.pixels(opened), None, notes)

    found = Opened("WEBP", *opened.size, decode, metadata=metadata, notes=notes)
    found.orientation = orientation.told(metadata.exif, metadata.xmp)
    found.lossless = b"VP8L" in _image_chunks(data)
    return found


def _image_chunks(data: bytes) -> set[bytes]:
    """Names of the chunks, those within a frame included."""
    names, position = set(), 12
    while position + 8 <= len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        names.add(name)
        position += 8 + (16 if name == b"ANMF" else length + length % 2)
    return names
