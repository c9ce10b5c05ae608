"""Images in and out: what must come back as it was, and what a bad file is called."""

import io
import itertools
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import chunk, pixel_tags, png, saved, tiff
from PIL import ExifTags, Image, ImageCms

from drsformer import ImageError
from drsformer_cli.formats import FORMAT_OF_ENDING, FORMATS, Feature, Format, FormatName, titles
from drsformer_cli.images import (
    DecodedImage,
    Metadata,
    allow_megapixels,
    avif,
    encode,
    losses,
    read,
    read_rgb8,
    side_by_side,
    size,
)
from drsformer_cli.images.boxes import read_boxes

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
LOSSLESS = ("PNG", "TIFF")


def exif(orientation=1):
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    block[ExifTags.Base.Make] = "Maker"
    block[ExifTags.Base.Copyright] = "Someone"
    block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:11:21 09:00:00"
    block.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return block.tobytes()


def reread(image, image_format, **options):
    return read(encode(image, image_format, **options))


@pytest.mark.parametrize("image_format", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (37, 23), (300, 1000)])
def test_lossless_round_trip(image_format, dtype, gray, alpha, size):
    pixels = photo(*size, dtype)
    if gray:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    image = DecodedImage(pixels, photo(*size, dtype, seed=1)[..., 0] if alpha else None, gray)
    back = reread(image, image_format)
    assert back.pixels.dtype == dtype
    assert np.array_equal(back.pixels, pixels)
    assert (back.alpha is None) == (not alpha)
    assert not alpha or np.array_equal(back.alpha, image.alpha)
    deep_with_alpha = gray and alpha and dtype == np.uint16
    assert back.gray == (gray and not deep_with_alpha)
    expected = [f"16-bit gray with alpha written as RGBA in {image_format}"] if deep_with_alpha else []
    assert losses(image, image_format) == expected
    assert back.format == image_format


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "AVIF", "BMP"])
@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_eight_bit_formats(image_format, gray, alpha):
    pixels = photo(64, 48, noise=0)
    if gray:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    image = DecodedImage(pixels, photo(64, 48, seed=1)[..., 0] if alpha else None, gray)
    back = reread(image, image_format)
    assert np.abs(back.pixels.astype(int) - pixels).mean() < 3
    if image_format in ("WEBP", "AVIF"):
        assert (back.alpha is not None) == alpha
        assert back.gray == (gray and image_format == "AVIF" and not alpha)  # Pillow reads gray with alpha as RGBA
        assert losses(image, image_format) == (
            [f"gray written as RGB{'A' if alpha else ''} in WebP"] if gray and image_format == "WEBP" else []
        )
    else:
        assert back.gray == gray
        assert back.alpha is None
        assert losses(image, image_format) == ([f"alpha dropped: {image_format} has none"] if alpha else [])


def test_16_bits_to_jpeg_are_rounded_and_said():
    image = DecodedImage(photo(16, 16, np.uint16))
    assert losses(image, "JPEG") == ["16 bits reduced to 8: JPEG is written with 8"]
    back = reread(image, "BMP")
    assert np.array_equal(back.pixels, np.rint(image.pixels / 257).astype(np.uint8))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_metadata_travel(image_format, dtype):
    image = DecodedImage(photo(20, 30, dtype), metadata=Metadata(exif(), ICC, XMP, (300.0, 300.0)))
    back = reread(image, image_format).metadata
    assert back.icc == ICC
    assert back.xmp is not None
    assert back.xmp.startswith(b"<x:xmpmeta")
    assert b'Orientation="1"' in back.xmp
    if image_format in ("JPEG", "PNG", "TIFF"):
        assert back.dpi == pytest.approx((300, 300), abs=0.01)
    block = Image.Exif()
    block.load(back.exif)
    assert block[ExifTags.Base.Make] == "Maker"
    assert block[ExifTags.Base.Copyright] == "Someone"
    assert block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2026:11:21 09:00:00"
    assert block.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


@pytest.mark.parametrize(
    ("image_format", "deep"),
    [("JPEG", False), ("WEBP", False), ("PNG", False), ("PNG", True), ("TIFF", False), ("TIFF", True)],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(image_format, deep, orientation):
    pixels = photo(16, 32, np.uint16 if deep else np.uint8, noise=0)
    if image_format == "TIFF":
        data = encode(DecodedImage(pixels), "TIFF").replace(
            struct.pack("<HHLHH", 274, 3, 1, 1, 0), struct.pack("<HHLHH", 274, 3, 1, orientation, 0)
        )
    elif deep:
        data = encode(DecodedImage(pixels, metadata=Metadata(exif=exif(orientation))), "PNG")
    else:
        options = {"lossless": True} if image_format == "WEBP" else {"quality": 100} if image_format == "JPEG" else {}
        data = saved(Image.fromarray(pixels), image_format, exif=exif(orientation), **options)
    image = read(data)
    transpose = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    expected = Image.fromarray((pixels // 257 if deep else pixels).astype(np.uint8))
    if orientation > 1:
        expected = expected.transpose(Image.Transpose(transpose[orientation]))
    found = image.pixels // 257 if deep else image.pixels
    assert found.shape == np.asarray(expected).shape
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 2
    again = reread(image, "PNG")
    assert np.array_equal(again.pixels, image.pixels)


@pytest.mark.parametrize(
    ("mode", "note", "gray", "alpha"),
    [
        ("P", "palette converted to RGB", False, False),
        ("1", "1-bit image converted to 8-bit gray", True, False),
        ("L", None, True, False),
        ("LA", None, True, True),
        ("RGBA", None, False, True),
    ],
)
def test_modes_of_png(mode, note, gray, alpha):
    image = read(saved(Image.fromarray(photo()).convert(mode), "PNG"))
    assert image.notes == ((note,) if note else ())
    assert (image.gray, image.alpha is not None) == (gray, alpha)


@pytest.mark.parametrize(("mode", "key"), [("RGB", (1, 2, 3)), ("L", 7), ("P", 0)])
def test_a_color_that_stands_for_transparent_becomes_alpha(mode, key):
    image = Image.new(mode, (9, 9), key if mode != "P" else 0)
    image = read(saved(image, "PNG", transparency=key))
    assert image.alpha is not None
    assert not image.alpha.any()
    assert image.gray == (mode == "L")


@pytest.mark.parametrize("profile", [None, b"not a profile"])
def test_cmyk_is_converted_and_its_profile_dropped(profile):
    image = read(saved(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95, icc_profile=profile))
    assert image.notes[-1] == "CMYK converted to RGB"
    assert image.metadata.icc is None
    assert np.abs(image.pixels.astype(int) - photo()).mean() < 4


def test_big_endian_16_bit_gray_tiff():
    pixels = photo(12, 10, np.uint16)[..., 0]
    data = saved(Image.frombytes("I;16B", (10, 12), pixels.astype(">u2").tobytes()), "TIFF")
    image = read(data)
    assert image.pixels.dtype == np.uint16
    assert np.array_equal(image.pixels[..., 0], pixels)


def test_16_bit_tiff_whose_zero_is_white():
    pixels = photo(12, 10, np.uint16)
    data = encode(DecodedImage(np.repeat(pixels[..., :1], 3, axis=2), gray=True), "TIFF")
    white = data.replace(struct.pack("<HHLHH", 262, 3, 1, 1, 0), struct.pack("<HHLHH", 262, 3, 1, 0, 0))
    assert np.array_equal(read(white).pixels[..., 0], 65535 - pixels[..., 0])


def test_16_bit_tiff_with_colors_multiplied_by_alpha():
    alpha = np.full((12, 10), 32768, np.uint16)
    data = encode(DecodedImage(photo(12, 10, np.uint16) // 2, alpha), "TIFF")
    multiplied = data.replace(struct.pack("<HHLHH", 338, 3, 1, 2, 0), struct.pack("<HHLHH", 338, 3, 1, 1, 0))
    assert multiplied != data
    assert np.abs(read(multiplied).pixels.astype(int) - photo(12, 10, np.uint16)).max() <= 2


def test_content_counts_not_the_ending(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(Image.fromarray(photo()), "PNG"))
    assert read(path).format == "PNG"


def test_jpeg_is_written_at_quality_95_without_chroma_subsampling():
    with Image.open(io.BytesIO(encode(DecodedImage(photo(64, 64)), "JPEG"))) as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
        best = image.quantization
    with Image.open(io.BytesIO(saved(Image.fromarray(photo(64, 64)), "JPEG", quality=95))) as image:
        assert image.quantization == best
    assert len(encode(DecodedImage(photo(64, 64)), "JPEG", quality=30)) < len(
        encode(DecodedImage(photo(64, 64)), "JPEG")
    )


def animation(image_format):
    frames = [Image.fromarray(photo(seed=i)) for i in range(3)]
    return saved(frames[0], image_format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "PNG", "AVIF"])
def test_several_frames_are_refused(image_format):
    with pytest.raises(ImageError, match="has 3 frames or pages; expected a single image"):
        read(animation(image_format))


def test_multi_image_jpeg_keeps_the_main_image():
    image = read(animation("MPO"))
    assert image.format == "JPEG"
    assert image.notes == ("only the main image of a multi-image JPEG is kept",)


JPEG_LS = bytes.fromhex("fff7000b0800280030010111 00 ffda00080101000000 00") + bytes(40) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"I am a text file.\n", "not an image: expected JPEG"),
        (b"GIF89a" + b"\0" * 40, "is a GIF, which is not supported; expected"),
        (b"P6\n2 2\n255\n" + bytes(12), "is a Netpbm image, which is not supported"),
        (b"P5 2 2 255 abcd", "is a Netpbm image, which is not supported"),
        (b"\0\0\1\0\1\0" + bytes(40), "is an icon, which is not supported"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', "is an SVG drawing, which is not supported"),
        (b"<svg/>", "is an SVG drawing, which is not supported"),
        (b"\0\0\0\x0cJXL \r\n", "is a JPEG XL image, which is not supported"),
        (b"\0\0\0\x0cjP  \r\n", "is a JPEG 2000 image, which is not supported"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "is a video, or an image of another kind"),
        (b"\xff\xd8" + JPEG_LS, "is a JPEG-LS image, which is not supported"),
        (b"\xff\xd8\xff\xe8\0\x08SPIFF\0" + JPEG_LS, "is a JPEG-LS image, which is not supported"),
        (b"\xff\xd8\xff\xe0", "damaged image"),
        (b"\x89PNG\r\n\x1a\n", "damaged image"),
        (b"II*\0\x08\0\0\0", "damaged image"),
    ],
)
def test_what_is_no_image(data, message):
    with pytest.raises(ImageError, match=message) as error:
        read(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_images_are_refused(image_format, share):
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)), image_format)
    with pytest.raises(ImageError, match="damaged image"):
        read(data[: int(len(data) * share)])


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_truncated_16_bit_images_are_refused(image_format):
    data = encode(DecodedImage(np.random.default_rng(0).integers(0, 65536, (90, 80, 3), np.uint16)), image_format)
    with pytest.raises(ImageError, match="damaged image"):
        read(data[: len(data) * 2 // 3])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]), st.integers(0, 2000), st.integers(0, 255))
def test_a_damaged_byte_gives_a_image_or_one_line(image_format, position, value):
    data = bytearray(saved(Image.fromarray(photo(24, 24)), image_format, exif=exif()))
    data[position % len(data)] = value
    try:
        assert read(bytes(data)).pixels.ndim == 3
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are fine


def test_too_large_is_refused_with_the_option_that_allows_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    allow_megapixels(None)
    data = saved(Image.fromarray(photo(40, 50)), "PNG")
    with pytest.raises(ImageError, match=r"more than the limit of 0\.001$"):
        read(data)
    allow_megapixels(0.001, "try --larger")
    with pytest.raises(ImageError, match=r"more than the limit of 0\.001; try --larger$"):
        read(data)
    allow_megapixels(0.01)
    assert read(data).pixels.shape == (40, 50, 3)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="1 channel of 32-bit floating-point gray"):
        read(saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


def test_a_size_that_the_format_cannot_hold():
    with pytest.raises(ImageError, match="cannot be written as WebP, 20000x1"):
        encode(DecodedImage(np.zeros((1, 20_000, 3), np.uint8)), "WEBP")


def test_side_by_side():
    left, right = DecodedImage(photo(8, 9)), DecodedImage(photo(8, 9, seed=1))
    assert np.array_equal(side_by_side(left, right).pixels, np.hstack([left.pixels, right.pixels]))


def test_every_format_name_is_an_ending():
    assert {f".{name}" for name in get_args(FormatName)} <= set(FORMAT_OF_ENDING)


def png_kinds():
    depths = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
    return [(kind, channels, depth) for kind, (channels, some) in depths.items() for depth in some]


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("color_type", "channels", "depth"), png_kinds())
def test_every_kind_of_png(color_type, channels, depth, transparent):
    for shape, interlaced in itertools.product([(1, 1), (7, 9), (21, 33)], (False, True)):
        _check_kind_of_png(color_type, channels, depth, shape, interlaced, transparent)


def _check_kind_of_png(color_type, channels, depth, size, interlaced, transparent):
    rng = np.random.default_rng(depth)
    samples = rng.integers(0, 2**depth, (*size, channels))
    full = 65535 if depth == 16 else 255
    before, alpha = b"", None
    if color_type == 3:
        palette = rng.integers(0, 256, (2**depth, 3), np.uint8)
        opacity = rng.integers(0, 256, 2**depth, np.uint8)
        before = chunk(b"PLTE", palette.tobytes()) + (chunk(b"tRNS", opacity.tobytes()) if transparent else b"")
        colors = palette[samples[..., 0]]
        alpha = opacity[samples[..., 0]] if transparent else None
    elif color_type in (4, 6):
        scaled = samples * (full // (2**depth - 1))
        colors, alpha = scaled[..., :-1], scaled[..., -1]
    else:
        colors = samples * (full // (2**depth - 1))
        if transparent:
            key = samples[0, 0]
            before = chunk(b"tRNS", key.astype(">u2").tobytes())
            alpha = np.where((samples == key).all(axis=2), 0, full)
    image = read(png(samples, depth, color_type, interlaced=interlaced, before=before))
    assert image.pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert image.gray == (color_type in (0, 4))
    assert np.array_equal(image.pixels, np.broadcast_to(colors, image.pixels.shape))
    assert (image.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(image.alpha, alpha)


PIXELS = photo(24, 31)


@pytest.mark.parametrize("name", [b"tEXt", b"iCCP", b"eXIf", b"gAMA"])
def test_a_wrong_checksum_beside_the_pixels_of_a_png_costs_only_its_chunk(name):
    image = read(png(PIXELS, before=chunk(name, b"content of the chunk", wrong=1)))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.notes == (f"{name.decode()} chunk is damaged and was dropped",)


def spoiled(data, position, value):
    return data[:position] + bytes([data[position] ^ value]) + data[position + 1 :]


@pytest.mark.parametrize(("depth", "color_type", "channels"), [(8, 2, 3), (8, 0, 1), (16, 0, 1), (16, 2, 3), (4, 3, 1)])
def test_no_wrong_byte_in_the_pixels_of_a_png_is_believed(depth, color_type, channels):
    samples = np.random.default_rng(0).integers(0, 2**depth, (24, 31, channels))
    palette = chunk(b"PLTE", bytes(48)) if color_type == 3 else b""
    data = png(samples, depth, color_type, before=palette)
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4])
    for position in range(start, start + length, max(1, length // 40)):
        with pytest.raises(ImageError, match="damaged image"):
            read(spoiled(data, position, 0x5A))
        wrong = spoiled(data, position, 0x5A)[start : start + length]
        checksum = struct.pack(">I", zlib.crc32(b"IDAT" + wrong))  # as if it had been written so
        with pytest.raises(ImageError, match="damaged image"):
            read(data[:start] + wrong + checksum + data[start + length + 4 :])


def test_a_png_with_fewer_rows_than_it_says():
    with pytest.raises(ImageError, match="damaged image: truncated"):
        read(png(PIXELS, size=(31, 25)))
    assert read(png(PIXELS, size=(31, 23))).pixels.shape == (23, 31, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(PIXELS).replace(b"\r\n\x1a\n", b"\r\n\x1a\n" + chunk(b"CgBI", bytes(4)), 1), "iPhone-optimized PNG"),
        (png(PIXELS[..., :1], 8, 3), "no palette"),
        (png(PIXELS, size=(0, 24)), "no pixels"),
        (png(PIXELS, before=chunk(b"acTL", struct.pack(">II", 2, 0))), "has 2 frames"),
        (png(PIXELS, before=chunk(b"QQQQ", b"")), "unknown chunk"),
    ],
)
def test_png_that_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        read(data)


def test_an_animation_of_one_frame_is_an_image():
    data = png(PIXELS, before=chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", bytes(26)))
    assert np.array_equal(read(data).pixels, PIXELS)


def packed(samples, bits, order):
    """(H, W, C) -> rows of bytes."""
    if bits in (8, 16):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    rows = []
    for row in samples:
        big = row.reshape(-1).astype(">u2").view(np.uint8).reshape(-1, 2)
        rows.append(np.packbits(np.unpackbits(big, axis=1)[:, 16 - bits :].reshape(-1)).tobytes())
    return b"".join(rows)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("photometric", "channels", "extra"),
    [(0, 1, None), (1, 1, None), (1, 2, 2), (2, 3, None), (2, 4, 2), (2, 4, 0), (2, 4, None), (2, 5, 0), (5, 5, 2)],
)
def test_every_layout_of_tiff(photometric, channels, extra, bits):
    for planar, order in itertools.product((False, True), "<>"):
        _check_layout_of_tiff(photometric, channels, extra, bits, planar, order)


def _check_layout_of_tiff(photometric, channels, extra, bits, planar, order):
    samples = np.random.default_rng(bits).integers(0, 2**bits, (13, 19, channels))
    if planar and channels > 1:
        parts = [packed(samples[..., i : i + 1], bits, order) for i in range(channels)]
    else:
        planar, parts = False, [packed(samples, bits, order)]
    tags = pixel_tags(19, 13, [bits] * channels, photometric, planar=[1 + planar])
    if extra is not None:
        colors = {0: 1, 1: 1, 2: 3, 5: 4}[photometric]
        tags[338] = (3, [extra] * (channels - colors))
    pixels = b"".join(part + bytes(len(part) % 2) for part in parts)
    data = bytearray(tiff([(tags, pixels)], order))
    if planar:  # a strip for each plane
        at = bytes(data).index(pixels)
        length = len(parts[0]) + len(parts[0]) % 2
        tags[273] = (4, [at + i * length for i in range(channels)])
        tags[279] = (4, [len(part) for part in parts])
        start = at - at % 2
        head = bytes(data[:start]) + pixels
        data = tiff([tags], order, start=len(head) + len(head) % 2)
        data = data[:8] + head[8:] + data[len(head) :]
    image = read(bytes(data))
    full = 65535 if bits > 8 else 255
    scaled = np.array([round(value * full / (2**bits - 1)) for value in range(2**bits)])[samples]
    with_alpha = extra == 2 or (extra is None and channels in (2, 4))
    if photometric == 5:
        inks = Image.fromarray(np.rint(scaled[..., :4] / (full / 255)).astype(np.uint8), "CMYK")
        expected, alpha = np.asarray(inks.convert("RGB")), np.rint(scaled[..., 4] / (full / 255))
    else:
        expected, alpha = scaled[..., : 1 if channels < 3 else 3], scaled[..., 3 if channels > 3 else -1]
        expected = full - expected if photometric == 0 else expected
    assert np.array_equal(image.pixels, np.broadcast_to(expected, image.pixels.shape))
    assert (image.alpha is not None) == with_alpha
    assert not with_alpha or np.array_equal(image.alpha, alpha)
    if extra == 0:
        assert "of unspecified meaning dropped" in image.notes[0]


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate", "zstd", "lzma"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_compressed_tiff_as_pillow_writes_it(mode, compression):
    image = (
        Image.fromarray(photo(40, 56, np.uint16)[..., 0]) if mode == "I;16" else Image.fromarray(photo()).convert(mode)
    )
    try:
        data = saved(image, "TIFF", compression=compression)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow has no {compression}")
    decoded = read(data)
    found = decoded.pixels if mode in ("RGB", "RGBA") else decoded.pixels[..., 0]
    assert np.array_equal(found, np.asarray(image)[..., :3] if mode == "RGBA" else np.asarray(image))


SMALL = (pixel_tags(8, 6, subfile=[1]), photo(6, 8).tobytes())
MASK = (pixel_tags(24, 31, [1], 4, subfile=[4]), bytes(200))
PAGE = (pixel_tags(31, 24), PIXELS.tobytes())


@pytest.mark.parametrize("directories", [[PAGE, SMALL], [SMALL, PAGE], [PAGE, MASK], [PAGE, MASK, SMALL]])
def test_the_main_image_of_a_tiff_with_thumbnail_or_mask(directories):
    image = read(tiff(directories))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.notes == ("only the main image of a TIFF with a thumbnail or mask is kept",)


def test_reduced_copies_below_the_main_image_of_a_tiff():
    tags, pixels = PAGE
    assert np.array_equal(read(tiff([({**tags, 330: SMALL[0]}, pixels)])).pixels, PIXELS)


@pytest.mark.parametrize("directories", [[PAGE, PAGE], [PAGE, SMALL, PAGE]])
def test_a_tiff_of_several_pages_is_refused(directories):
    with pytest.raises(ImageError, match="has 2 frames or pages"):
        read(tiff(directories))


SENSOR = pixel_tags(800, 600, [14], 32803)


@pytest.mark.parametrize(
    "data",
    [
        tiff([({**SMALL[0], 330: SENSOR}, SMALL[1])]),  # NEF, ARW
        tiff([({**PAGE[0], 330: SENSOR}, PAGE[1])]),
        tiff([({**PAGE[0], 330: pixel_tags(800, 600)}, PAGE[1])]),
        tiff([SMALL, (SENSOR, bytes(10))]),
        tiff([(SENSOR, bytes(10))]),  # PEF
        tiff([({**PAGE[0], 50706: (1, [1, 4, 0, 0])}, PAGE[1])]),  # DNG
        tiff([({**SMALL[0], 330: (4, [8])}, SMALL[1])]),
        tiff([({**PAGE[0], 259: (3, [34713])}, PAGE[1])]),
        b"II*\0\x10\0\0\0CR\2\0" + bytes(60),
        b"IIRO\x08\0\0\0" + bytes(60),
        b"IIU\0\x18\0\0\0" + bytes(60),
        b"FUJIFILMCCD-RAW 0201" + bytes(60),
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(60),
        b"II\x1a\0\0\0HEAPCCDR" + bytes(60),
        b"FOVb" + bytes(60),
        b"\0MRM" + bytes(60),
        b"MMOR\0\0\0\x08" + bytes(60),
        b"II*\0\x18\0\0\0IIIITwaR" + bytes(60),
        tiff([({**PAGE[0], 259: (3, [32770])}, PAGE[1])]),  # SRW
    ],
)
def test_raw_files_are_refused(data, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for look in (read, size):
        with pytest.raises(ImageError, match=r"^is a raw file; develop it first \(darktable-cli, dcraw, rawpy\)$"):
            look(path)


def test_the_ending_of_a_raw_file_counts_only_for_tiff(tmp_path):
    path = tmp_path / "photo.NEF"
    path.write_bytes(tiff([PAGE]))
    with pytest.raises(ImageError, match="is a raw file"):
        read(path)
    path.write_bytes(png(PIXELS))
    assert np.array_equal(read(path).pixels, PIXELS)


def test_a_preview_alone_is_refused():
    with pytest.raises(ImageError, match="holds only a reduced image or a mask"):
        read(tiff([SMALL]))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (pixel_tags(4, 4, [32] * 3, sample_format=[3] * 3), "3 channels of 32-bit floating-point RGB"),
        (pixel_tags(4, 4, [16] * 3, sample_format=[3] * 3), "3 channels of 16-bit floating-point RGB"),
        (pixel_tags(4, 4, [16] * 3, sample_format=[2] * 3), "3 channels of 16-bit signed RGB"),
        (pixel_tags(4, 4, [16] * 3, 8), r"3 channels of 16-bit L\*a\*b\*"),
        (pixel_tags(4, 4, [8] * 3, 8), r"3 channels of 8-bit L\*a\*b\*"),
        (pixel_tags(4, 4, [16], 3), "1 channel of 16-bit palette"),
        (pixel_tags(4, 4, [5, 6, 5]), "3 channels of 5/6/5-bit RGB"),
        (pixel_tags(4, 4, [32], 1), "1 channel of 32-bit gray"),
        (pixel_tags(4, 4, compression=[50001]), "TIFF with the compression WebP"),
        (pixel_tags(4, 4, [16] * 3, compression=[8], predictor=[3]), "with predictor 3"),
    ],
)
def test_sound_tiff_of_another_kind_is_not_called_damaged(tags, message):
    with pytest.raises(ImageError, match=f"^not supported: .*{message}") as error:
        read(tiff([(tags, bytes(400))]))
    assert "damaged" not in str(error.value)


def test_the_ending_tells_the_kind_if_nothing_else_does(tmp_path):
    path = tmp_path / "a.TGA"
    path.write_bytes(bytes(3000))
    with pytest.raises(ImageError, match="is a TGA image, which is not supported"):
        read(path)


SMOOTH = photo(90, 120, noise=0.02)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"subsampling": "4:2:0"}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_without_its_end_marker(mode, options):
    data = saved(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=90, **options)
    expected = read(data)
    assert expected.notes == ()
    for cut in (1, 2):
        image = read(data[:-cut])
        assert image.notes == ("its end marker is missing; all pixels are there",)
        assert np.array_equal(image.pixels, expected.pixels)
    for cut in (*range(4, 40), *range(40, len(data) - data.index(b"\xff\xda"), len(data) // 40)):
        try:
            assert np.array_equal(read(data[:-cut]).pixels, expected.pixels), cut
        except ImageError as error:
            assert "truncated" in str(error)  # noqa: PT017 - both outcomes are fine


def test_jpeg_of_12_bits():
    data = bytearray(saved(Image.fromarray(SMOOTH), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match=r"^not supported: JPEG of 12 bits; expected 8$"):
        read(bytes(data))


@pytest.mark.parametrize(("alpha", "note"), [(0, ("alpha of zero everywhere taken as opaque",)), (7, ())])
def test_bmp_whose_alpha_nobody_filled_in(alpha, note):
    rows = np.dstack([PIXELS[::-1, :, ::-1], np.full((24, 31), alpha, np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, 31, 24, 1, 32, 3, 0, 2835, 2835, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    image = read(b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows)
    assert np.array_equal(image.pixels, PIXELS)
    assert (image.alpha is None) == (alpha == 0)
    assert image.notes == note


def test_bmp_of_a_kind_that_is_not_supported():
    data = bytearray(saved(Image.fromarray(PIXELS), "BMP"))
    data[28] = 64
    with pytest.raises(ImageError, match=r"^not supported: Unsupported BMP pixel depth"):
        read(bytes(data))


@pytest.mark.parametrize("with_alpha", [False, True])
def test_a_lossless_webp_stays_lossless(with_alpha):
    pixels = np.dstack([PIXELS, photo(24, 31, seed=1)[..., 0] // 200]) if with_alpha else PIXELS
    image = read(saved(Image.fromarray(pixels), "WEBP", lossless=True, exact=True))
    again = reread(image, "WEBP")
    assert image.lossless
    assert again.lossless
    assert np.array_equal(again.pixels, PIXELS)
    assert not with_alpha or np.array_equal(again.alpha, pixels[..., 3])
    assert not reread(image, "WEBP", quality=80).lossless
    assert not read(saved(Image.fromarray(PIXELS), "WEBP", quality=80)).lossless


def test_deep_avif_is_said():
    data = bytearray(saved(Image.fromarray(PIXELS), "AVIF"))
    data[data.index(b"av1C") + 6] |= 0x40
    assert avif._bits(read_boxes(bytes(data)).properties(b"av1C")[0]) == 10


def test_a_pipe_is_read_like_a_file(tmp_path):
    for data in (png(PIXELS), tiff([PAGE]), saved(Image.fromarray(PIXELS), "JPEG", quality=100, subsampling="4:4:4")):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with ThreadPoolExecutor(1) as writer:
            writing = writer.submit(pipe.write_bytes, data)
            assert np.abs(read(pipe).pixels.astype(int) - PIXELS).max() <= 8
            writing.result()
        pipe.unlink()


class Endless(io.RawIOBase):
    """A stream of zeros that counts what is read of it."""

    taken = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.taken += len(buffer)
        assert self.taken < 100_000
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_a_stream_without_an_image_is_not_read_to_its_end():
    with pytest.raises(ImageError, match="not an image"):
        read(io.BufferedReader(Endless()))


def test_a_stream_is_read_from_where_it_is():
    stream = io.BytesIO(b"before" + png(PIXELS))
    stream.seek(6)
    assert np.array_equal(read(stream).pixels, PIXELS)


def test_nothing_is_said_on_stderr(capfd):
    data = tiff([(pixel_tags(31, 24, compression=[5]), bytes(range(200)))])
    with pytest.raises(ImageError, match=r"^damaged image"):
        read(data)
    read(png(PIXELS, before=chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(130)))))
    read(saved(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\xea\x60"))
    assert capfd.readouterr().err == ""


def test_size_and_read_refuse_the_same(tmp_path):
    path = tmp_path / "a"
    for data in (b"", b"text", b"GIF89a" + bytes(20), tiff([PAGE, PAGE]), png(PIXELS, size=(30_000, 20_000))):
        path.write_bytes(data)
        messages = []
        for look in (read, size):
            with pytest.raises(ImageError) as error:
                look(path)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_read_rgb8(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(DecodedImage(photo(9, 7, np.uint16), photo(9, 7, np.uint16)[..., 0]), "PNG"))
    assert np.array_equal(read_rgb8(path), np.rint(photo(9, 7, np.uint16) / 257).astype(np.uint8))
    path.write_bytes(b"text")
    with pytest.raises(ImageError, match=r"^a\.png: not an image"):
        read_rgb8(path)


def test_every_format_has_its_encoder():
    image = DecodedImage(PIXELS)
    for name, row in FORMATS.items():
        assert reread(image, name).format == name
        assert row.title in titles()
    assert titles(Feature.QUALITY) == "JPEG, WebP, AVIF and HEIC"


def test_a_row_is_all_that_a_format_needs(monkeypatch):
    row = Format("PPM", "PPM", ("ppm",), frozenset({Feature.GRAY}), signatures=(b"P.\n",))
    monkeypatch.setitem(FORMATS, "PPM", row)
    image = DecodedImage(PIXELS, PIXELS[..., 0], metadata=Metadata(icc=ICC))
    assert losses(image, "PPM") == ["alpha dropped: PPM has none", "ICC profile dropped: PPM has none"]
    back = reread(image, "PPM")
    assert (back.format, back.alpha) == ("PPM", None)
    assert np.array_equal(back.pixels, PIXELS)
    with pytest.raises(ImageError, match="JPEG, PNG, TIFF, WebP, BMP, AVIF, HEIC or PPM"):
        read(b"text")


def test_a_count_of_billions_asks_for_no_memory(tmp_path):
    path = tmp_path / "a.tif"
    data = tiff([(PAGE[0] | {271: (2, b"Maker\0")}, PAGE[1])])
    path.write_bytes(data.replace(struct.pack("<HHI", 271, 2, 6), struct.pack("<HHI", 271, 12, 0xFFFFFFFF)))
    assert size(path) == (31, 24)
    assert read(path).notes == ("EXIF tags that lead outside the file were dropped",)
