"""Encode images, and list what a format cannot store."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from drsformer.errors import ImageError
from drsformer.images import luma
from drsformer_cli.formats import DEFAULT_QUALITY, FORMATS, Feature, Format, listed
from drsformer_cli.images import avif, color, jpeg, png
from drsformer_cli.images.heic import encode_heic
from drsformer_cli.images.image import DamagedError, DecodedImage, Metadata, to_8_bits
from drsformer_cli.images.tiff import encode_tiff

if TYPE_CHECKING:
    from collections.abc import Callable

    from drsformer_cli.images.image import Channels


def check_size(image: DecodedImage, image_format: str) -> None:
    """Refuse an image that has more pixels a side than a format can store.

    Raises:
        ImageError: It has.
    """
    row, (H, W) = FORMATS[image_format], image.pixels.shape[:2]
    if row.longest_side is not None and max(H, W) > row.longest_side:
        raise ImageError(
            f"cannot be written as {row.title}, {W}x{H}: expected at most {row.longest_side} pixels a side"
        )


def encode(image: DecodedImage, image_format: str, *, quality: int = DEFAULT_QUALITY) -> bytes:
    """The bytes of a file.

    Args:
        image: The image; `losses` lists what the format cannot store of it.
        image_format: A name in `FORMATS`.
        quality: 1..100, for the formats that have one. A lossless WebP stays lossless at the default.

    Raises:
        ImageError: The format cannot store the image, usually because of its size.
    """
    check_size(image, image_format)
    pixels, alpha, metadata = image.pixels, image.alpha, _holdable(image, image_format)
    row, holds = FORMATS[image_format], FORMATS[image_format].holds
    H, W = pixels.shape[:2]
    if Feature.ALPHA not in holds:
        alpha = None
    if Feature.DEEP not in holds:
        pixels, alpha = to_8_bits(pixels), None if alpha is None else to_8_bits(alpha)
    if image.gray:
        gray = luma(pixels)
        pixels = gray if _stays_gray(image, image_format) else np.repeat(gray[..., None], 3, axis=2)
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    encoder = _ENCODERS.get(image_format)
    try:
        if encoder is not None:
            return encoder(pixels, metadata, quality)
        options = _options(row, metadata, quality)
        if image_format == "AVIF" and image.gray:
            options["subsampling"] = "4:0:0"
        if image.lossless and image_format == "WEBP" and quality == DEFAULT_QUALITY:
            options |= {"lossless": True, "exact": True}  # exact: colors where alpha is 0, too
        return _finished(_saved(pixels, image_format, options), image_format, metadata)
    except (OSError, ValueError, RuntimeError, struct.error, DamagedError) as error:
        raise ImageError(f"cannot be written as {row.title}, {W}x{H}: {error}") from None


def losses(image: DecodedImage, image_format: str) -> list[str]:
    """What a format cannot store of an image, as notes for the user."""
    row, metadata, kept = FORMATS[image_format], image.metadata, _holdable(image, image_format)
    lost = []
    if image.alpha is not None and Feature.ALPHA not in row.holds:
        lost.append(f"alpha dropped: {row.title} has none")
    if image.gray and not _stays_gray(image, image_format):
        alpha = image.alpha is not None and Feature.ALPHA in row.holds
        deep = "16-bit gray with alpha" if Feature.GRAY in row.holds else "gray"
        lost.append(f"{deep} written as RGB{'A' if alpha else ''} in {row.title}")
    bits = row.deep_bits if Feature.DEEP in row.holds else 8
    if image.pixels.dtype == np.uint16 and bits < 16 and image.format != row.name:
        lost.append(f"16 bits reduced to {bits}: {row.title} is written with {bits}")
    missing = [kind for kind, value in _kinds(metadata).items() if value and kind not in row.holds]
    if missing:
        lost.append(f"{listed([_named(kind, metadata) for kind in missing])} dropped: {row.title} has none")
    if metadata.cicp and not metadata.cicp[3] and image_format != "PNG":
        lost.append(f"narrow range (cICP) dropped: {row.title} is written as full range")
    after = _kinds(kept)
    for kind, value in _kinds(metadata).items():
        if value and kind in row.holds and not after[kind]:
            if kind is Feature.ICC and color.is_gray(value) and not _stays_gray(image, image_format):
                lost.append(f"gray ICC profile dropped: written as RGB in {row.title}")
            else:
                lost.append(f"{kind} of {len(value)} bytes dropped: too long for {row.title}")
    return lost


def side_by_side(left: DecodedImage, right: DecodedImage) -> DecodedImage:
    """Two images of one size and type, next to each other, with the metadata of the right one."""
    alpha = None
    if left.alpha is not None and right.alpha is not None:
        alpha = np.hstack([left.alpha, right.alpha])
    return replace(right, pixels=np.hstack([left.pixels, right.pixels]), alpha=alpha)


def _kinds(metadata: Metadata) -> dict[Feature, Any]:
    """The metadata by kind; color descriptions only if they differ from sRGB, the default without them."""
    return {
        Feature.EXIF: metadata.exif,
        Feature.ICC: metadata.icc,
        Feature.XMP: metadata.xmp,
        Feature.IPTC: metadata.iptc,
        Feature.RESOLUTION: metadata.dpi if metadata.exif is None else None,
        Feature.COMMENT: metadata.comment,
        Feature.TEXT: metadata.text,
        Feature.CICP: metadata.cicp if metadata.cicp and not color.is_srgb(metadata.cicp) else None,
        Feature.GAMMA: metadata.gamma if metadata.icc is None and not color.says_srgb(metadata.gamma) else None,
    }


def _named(kind: Feature, metadata: Metadata) -> str:
    """The name of a kind in messages; color descriptions with their content."""
    if kind is Feature.CICP and metadata.cicp:
        return f"color description (cICP {metadata.cicp[0]}/{metadata.cicp[1]})"
    if kind is Feature.GAMMA:
        return f"color description ({listed([name.decode() for name, _ in metadata.gamma])})"
    return str(kind)


def _holdable(image: DecodedImage, image_format: str) -> Metadata:
    """The metadata of an image that a format can store."""
    metadata, holds = image.metadata, FORMATS[image_format].holds

    def fitting(block: bytes | None, kind: Feature) -> bytes | None:
        in_jpeg = jpeg.LONGEST_PROFILE if kind is Feature.ICC else jpeg.LONGEST_SEGMENT
        longest = in_jpeg if image_format == "JPEG" else 1 << 32
        return block if block and kind in holds and len(block) <= longest else None

    icc = fitting(metadata.icc, Feature.ICC)
    if icc and image.gray and color.is_gray(icc) and not _stays_gray(image, image_format):
        icc = None  # a gray profile does not describe RGB
    return Metadata(
        exif=fitting(metadata.exif, Feature.EXIF),
        icc=icc,
        xmp=fitting(metadata.xmp, Feature.XMP),
        dpi=metadata.dpi,
        iptc=fitting(metadata.iptc, Feature.IPTC),
        comment=fitting(metadata.comment, Feature.COMMENT),
        text=metadata.text if Feature.TEXT in holds else (),
        cicp=metadata.cicp if Feature.CICP in holds else None,
        gamma=metadata.gamma if Feature.GAMMA in holds else (),
    )


def _stays_gray(image: DecodedImage, image_format: str) -> bool:
    """Whether a gray image is written as gray; few programs read 16-bit gray with alpha."""
    holds = FORMATS[image_format].holds
    deep_with_alpha = image.alpha is not None and image.pixels.dtype == np.uint16 and Feature.DEEP in holds
    return Feature.GRAY in holds and not deep_with_alpha


def _options(row: Format, metadata: Metadata, quality: int) -> dict[str, Any]:
    """Pillow's options for writing a format."""
    block = metadata.exif
    if block and row.name == "JPEG":
        block = b"Exif\0\0" + block
    elif block and row.name == "AVIF":
        block = avif.placeholder(block)
    options = {
        "quality": quality if Feature.QUALITY in row.holds else None,
        "dpi": metadata.dpi if Feature.RESOLUTION in row.holds else None,
        "subsampling": "4:4:4" if row.name in ("JPEG", "AVIF") else None,
        "exif": block,
        "icc_profile": metadata.icc,
        "xmp": metadata.xmp,
        "comment": metadata.comment,
        "extra": jpeg.iptc_segment(metadata.iptc) if metadata.iptc and row.name == "JPEG" else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _saved(channels: Channels, image_format: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(channels).save(buffer, image_format, **options)
    return buffer.getvalue()


def _finished(data: bytes, image_format: str, metadata: Metadata) -> bytes:
    """A file that Pillow wrote, completed with the metadata that Pillow cannot write."""
    return avif.with_metadata(data, metadata) if image_format == "AVIF" else data


def _encode_png(channels: Channels, metadata: Metadata) -> bytes:
    if channels.dtype == np.uint8 or channels.ndim == 2:
        return png.with_metadata(_saved(channels, "PNG", {}), metadata)
    import cv2  # most images never need it; Pillow has no 16-bit color

    done, data = cv2.imencode(".png", channels[..., [2, 1, 0, 3][: channels.shape[2]]])
    if not done:
        raise ImageError("cannot be written as 16-bit PNG")
    return png.with_metadata(data.tobytes(), metadata)


_ENCODERS: dict[str, Callable[[Channels, Metadata, int], bytes]] = {
    "PNG": lambda channels, metadata, _: _encode_png(channels, metadata),
    "TIFF": lambda channels, metadata, _: encode_tiff(channels, metadata),
    "HEIF": encode_heic,
}
"""Functions that write formats which Pillow does not write, or not completely; the last argument is the quality."""
