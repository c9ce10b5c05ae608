"""An image before and after, with a divider between them that can be moved; compare.css and compare.js belong to it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2

from drsformer_cli import images
from drsformer_cli.images import DecodedImage, Metadata
from drsformer_cli.pages.page import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

_QUALITY = 80
_LONGEST_PROFILE = 1 << 16  # bytes; profiles of printers have megabytes


@dataclass(frozen=True)
class Preview:
    """A small version of an image.

    Attributes:
        data: A JPEG file.
        width: Width in pixels.
        height: Height in pixels.
    """

    data: bytes
    width: int
    height: int


def preview(image: DecodedImage, side: int) -> Preview:
    """A small version of an image, with its ICC profile and no other metadata.

    Args:
        image: The image.
        side: Largest width and height in pixels.

    Raises:
        ImageError: The image cannot be encoded.
    """
    H, W = image.pixels.shape[:2]
    scale = min(1.0, side / max(H, W))
    width, height = max(1, round(W * scale)), max(1, round(H * scale))
    pixels = image.pixels
    if (height, width) != (H, W):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    icc = image.metadata.icc
    metadata = Metadata(icc=icc if icc and len(icc) <= _LONGEST_PROFILE else None)
    small = replace(image, pixels=pixels, alpha=None, metadata=metadata)
    return Preview(images.encode(small, "JPEG", quality=_QUALITY), width, height)


def comparison(name: str, previews: Mapping[str, Preview]) -> str:
    """The HTML of images on top of each other.

    Args:
        name: The image, for people who cannot see it.
        previews: By kind, such as "rainy" and "restored". The last one lies below and is uncovered to the right of the
            divider; of the others, which lie above it, the page shows one at a time.
    """
    *before, (kind, after) = previews.items()
    layers = "".join(
        f'<div class="layer" data-kind="{escape(kind)}">{_image(name, kind, image)}{_badge(kind)}</div>'
        for kind, image in before
    )
    above = (
        f'<div class="before">{layers}</div><div class="divider"></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{escape(f"Divider before {kind}, {name}")}">'
        if before
        else ""
    )
    return (
        f'<div class="frame"><div class="compare" data-ratio="{after.width / after.height:.4f}">'
        f'<div class="after">{_image(name, kind, after)}{_badge(kind)}</div>{above}</div></div>'
    )


def _image(name: str, kind: str, image: Preview) -> str:
    return (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(image.data).decode()}" alt="{escape(f"{name}, {kind}")}" '
        f'width="{image.width}" height="{image.height}" loading="lazy" decoding="async" draggable="false">'
    )


def _badge(kind: str) -> str:
    return f'<span class="badge" aria-hidden="true">{escape(kind.capitalize())}</span>'
