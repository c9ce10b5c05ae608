"""Formats that Pillow reads without help."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from drsformer_cli.images import color, exif, orientation, pillow
from drsformer_cli.images.image import Metadata, Opened, refuse_frames

if TYPE_CHECKING:
    from PIL import Image

    from drsformer_cli.images.image import Channels


def open_plain(file: BinaryIO, image_format: str) -> Opened:
    """Open the file.

    Raises:
        UnsupportedError: It has several frames, or is of a kind that is not supported.
        DamagedError: It is damaged.
    """
    file.seek(0)
    opened = pillow.open_as(file, image_format)
    refuse_frames(getattr(opened, "n_frames", 1))
    notes: list[str] = []
    metadata = metadata_of(opened, notes)

    def decode() -> Channels:
        return pillow.channels(pillow.pixels(opened), metadata.icc, notes)

    found = Opened(image_format, *opened.size, decode, metadata=metadata, notes=notes)
    found.orientation = orientation.from_metadata(metadata.exif, metadata.xmp)
    return found


def metadata_of(opened: Image.Image, notes: list[str]) -> Metadata:
    """The metadata that Pillow returns as bytes."""
    icc = opened.info.get("icc_profile")
    if icc and not color.is_profile(icc):
        notes.append("ICC profile is damaged and was dropped")
        icc = None
    dpi = opened.info.get("dpi")
    if not (isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < value < 1e6 for value in dpi)):
        dpi = None
    block, packet = opened.info.get("exif"), opened.info.get("xmp")
    return Metadata(block or None, icc or None, packet or None, dpi or exif.resolution_of(block or None))
