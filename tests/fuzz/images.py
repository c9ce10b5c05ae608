"""Damaged image files: each gives an image, or one line of ImageError; never a traceback, never a hang."""

from __future__ import annotations

import functools
import struct
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import numpy as np
from conftest import photo
from harness import one_line
from image_files import chunk, exif_block, pixel_tags, png, png_chunks, saved, tiff, with_exif
from PIL import Image, ImageCms

from drsformer import ImageError
from drsformer_cli import images
from drsformer_cli.formats import FORMATS

if TYPE_CHECKING:
    import random

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:g="http://ns.adobe.com/hdr-gain-map/1.0/"
 tiff:Orientation="6" g:Version="1.0"><g:GainMapMin>1</g:GainMapMin></rdf:Description></x:xmpmeta>"""
MEGAPIXELS = 2


@functools.cache
def seeds() -> list[bytes]:
    """Small files of every format and many kinds."""
    pixels, deep = photo(24, 31), photo(24, 31, np.uint16)
    alpha = np.dstack([pixels, pixels[..., 0]])
    found = [with_exif(Image.fromarray(pixels), name, exif_block()) for name in ("JPEG", "PNG", "WEBP", "AVIF")]
    everything = images.Metadata(exif_block(">"), ICC, XMP, (300.0, 300.0), b"\x1c\x02\x78\0\4rain", b"comment")
    for array in (pixels, deep):
        image = images.DecodedImage(array, metadata=everything)
        found += [images.encode(image, name) for name in FORMATS]
        gray = images.DecodedImage(np.repeat(array[..., :1], 3, axis=2), array[..., 1], gray=True)
        found += [images.encode(gray, name) for name in ("PNG", "TIFF")]
    for mode in ("1", "L", "P", "CMYK"):
        converted = Image.fromarray(pixels).convert(mode)
        able = [name for name in ("PNG", "TIFF", "BMP", "JPEG") if mode not in _REFUSED.get(name, ())]
        found += [saved(converted, name) for name in able]
    found += [saved(Image.fromarray(pixels), "JPEG", progressive=True, restart_marker_blocks=2) + b"tail" * 20]
    found += [saved(Image.fromarray(alpha), name) for name in ("PNG", "WEBP", "AVIF", "TIFF", "BMP")]
    found += [saved(Image.fromarray(pixels), "TIFF", compression=name) for name in ("tiff_lzw", "packbits", "jpeg")]
    found += [saved(Image.fromarray(pixels).convert("1"), "TIFF", compression=name) for name in ("group3", "group4")]
    found += [
        png(photo(9, 7), interlaced=True, before=chunk(b"tRNS", bytes(6)) + chunk(b"gAMA", bytes(4))),
        png(photo(9, 7, np.uint16), 16, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"text"))),
        saved(Image.fromarray(pixels), "WEBP", lossless=True, icc_profile=ICC, xmp=XMP),
    ]
    small = pixel_tags(31, 24) | {271: (2, b"Maker\0"), 274: (3, [6]), 700: (1, XMP), 0x8769: {0x927C: (7, bytes(90))}}
    thumbnail = (pixel_tags(8, 6, subfile=[1]), bytes(144))
    found += [tiff([(small, pixels.tobytes()), thumbnail], order) for order in "<>"]
    twelve = pixel_tags(31, 24, [12], 1)
    found.append(tiff([(twelve, bytes(range(256)) * 5)]))
    return found


_REFUSED = {"PNG": ("CMYK",), "BMP": ("CMYK",), "JPEG": ("P",)}


def with_right_checksums(data: bytes) -> bytes:
    """A damaged PNG with the checksums of what it holds now, so that the damage gets further."""
    try:
        return data[:8] + b"".join(chunk(name, content) for name, content in png_chunks(data) if len(name) == 4)
    except struct.error:
        return data


def case(rng: random.Random) -> tuple[bytes, object]:
    data = harness.damaged(rng.choice(seeds()), rng, seeds())
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        data = with_right_checksums(data)
    target = rng.choice(list(FORMATS))
    return data, functools.partial(check, data, target)


def check(data: bytes, target: str) -> None:
    Image.MAX_IMAGE_PIXELS = MEGAPIXELS * 500_000
    image = one_line(ImageError, images.read, data)
    with tempfile.NamedTemporaryFile(suffix=".img") as file:
        file.write(data)
        file.flush()
        size = one_line(ImageError, images.size, Path(file.name))
    if image is None:
        return
    H, W = image.pixels.shape[:2]
    assert size == (W, H), f"size {size}, read {(W, H)}"
    assert image.pixels.shape == (H, W, 3)
    assert image.pixels.dtype in (np.uint8, np.uint16)
    assert image.alpha is None or (image.alpha.shape == (H, W) and image.alpha.dtype == image.pixels.dtype)
    assert all("\n" not in note for note in image.notes)
    images.losses(image, target)
    written = one_line(ImageError, images.encode, image, target)
    if written is not None:
        again = images.read(written)
        assert again.pixels.shape == image.pixels.shape
        assert not any("damaged" in note for note in again.notes), again.notes
        if target in ("PNG", "TIFF"):
            assert np.array_equal(again.pixels, image.pixels)
            assert again.metadata.exif is None or again.metadata.exif == image.metadata.exif or target == "TIFF"


if __name__ == "__main__":
    harness.main(case)
