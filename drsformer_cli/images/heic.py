"""HEIC: pillow-heif, from the extra `heic`, decodes and encodes; metadata is read from the boxes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from drsformer.heic import heic_pixels, library, open_heic
from drsformer_cli.formats import FORMATS
from drsformer_cli.images import boxes, color, exif, pillow
from drsformer_cli.images.image import Metadata, Opened

if TYPE_CHECKING:
    from drsformer_cli.images.image import Channels

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_QUARTER_TURN = 6
_LONGEST_PICTURE = 5760  # a square of this side is within level 6.2 of HEVC, the highest that decoders must know
_TILE = 1024


def open_heic_file(file: BinaryIO) -> Opened:
    """Open the file.

    Raises:
        UnsupportedError: It is an image sequence, is HDR, or pillow-heif is not installed.
        DamagedError: It is damaged.
    """
    file.seek(0)
    data = file.read()
    with pillow.decoding():
        opened = open_heic(data)
    found = boxes.read_boxes(data)
    cicp, icc, notes = boxes.color_of(found), found.icc(), found.dropped()
    if len(opened) > 1:
        notes.append(f"only the main image of {len(opened)} is kept")
    if b"moov" in found.names:
        notes.append("image sequence beside the main image dropped")
    if icc is not None and not color.is_profile(icc):
        notes.append("ICC profile is damaged and was dropped")
        icc = None
    block = Metadata(exif=found.exif()).exif
    metadata = Metadata(block, icc, found.xmp(), exif.resolution_of(block), cicp=cicp)

    def decode() -> Channels:
        with pillow.decoding():
            return heic_pixels(opened)

    # Decoding applies the rotation in the boxes; the orientation in EXIF and XMP says the same or does not count.
    turn = _QUARTER_TURN if found.swaps_sides() else 1
    width, height = opened.size
    return Opened("HEIF", width, height, decode, turn, upright=True, metadata=metadata, notes=notes)


def encode_heic(channels: Channels, metadata: Metadata, quality: int) -> bytes:
    """The bytes of a file: 4:2:0, since few programs read 4:4:4; uint16 as 10 bits; large images as a grid of tiles.

    Raises:
        UnsupportedError: pillow-heif is not installed.
    """
    mode = _MODES[channels.shape[2] if channels.ndim == 3 else 1]
    bits = FORMATS["HEIF"].deep_bits
    if channels.dtype == np.uint16:
        mode = f"{mode};{bits}"
        channels = np.rint(channels * np.float32((2**bits - 1) / 65535)).astype("<u2")
    H, W = channels.shape[:2]
    # As plain items, blocks stay byte for byte; as EXIF and XMP, their orientation would be applied again.
    items = []
    if metadata.exif is not None:
        items.append({"type": "Exif", "content_type": "", "data": bytes(4) + metadata.exif})
    if metadata.xmp is not None:
        items.append({"type": "mime", "content_type": "application/rdf+xml", "data": metadata.xmp})
    primaries, transfer = metadata.cicp[:2] if metadata.cicp is not None else (1, 13)
    buffer = io.BytesIO()
    library().encode(
        *(mode, (W, H), np.ascontiguousarray(channels).tobytes(), buffer),
        quality=quality,
        chroma=420,
        enc_params={"preset": "ultrafast"},  # 7 times as fast as the default, 8% larger, equally good
        tile_size=_TILE if max(H, W) > _LONGEST_PICTURE else 0,
        icc_profile=metadata.icc,
        metadata=items,
        color_primaries=primaries,
        transfer_characteristics=transfer,
        matrix_coefficients=6,
        full_range_flag=1,
    )
    return buffer.getvalue()
