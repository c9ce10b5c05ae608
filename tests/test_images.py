"""Images in and out: what must come back as it was, and what a bad file is called."""

import io
import struct
import zlib
from typing import get_args

import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from drsformer import ImageError
from drsformer_cli.formats import FORMAT_OF_ENDING, FormatName
from drsformer_cli.images import DecodedImage, Metadata, allow_megapixels, encode, losses, read, side_by_side

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


def file_of(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


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
    assert back.gray == (gray and not (alpha and dtype == np.uint16))  # which becomes RGBA
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
    else:
        assert back.gray == gray
        assert back.alpha is None
        assert losses(image, image_format) == ([f"alpha dropped: {image_format} has none"] if alpha else [])


def test_16_bits_to_jpeg_are_rounded_and_said():
    image = DecodedImage(photo(16, 16, np.uint16))
    assert losses(image, "JPEG") == ["16 bits reduced to 8: JPEG has no more"]
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
        data = file_of(Image.fromarray(pixels), image_format, exif=exif(orientation), **options)
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
    image = read(file_of(Image.fromarray(photo()).convert(mode), "PNG"))
    assert image.notes == ((note,) if note else ())
    assert (image.gray, image.alpha is not None) == (gray, alpha)


@pytest.mark.parametrize(("mode", "key"), [("RGB", (1, 2, 3)), ("L", 7), ("P", 0)])
def test_a_color_that_stands_for_transparent_becomes_alpha(mode, key):
    image = Image.new(mode, (9, 9), key if mode != "P" else 0)
    image = read(file_of(image, "PNG", transparency=key))
    assert image.alpha is not None
    assert not image.alpha.any()
    assert image.gray == (mode == "L")


@pytest.mark.parametrize("profile", [None, b"not a profile"])
def test_cmyk_is_converted_and_its_profile_dropped(profile):
    image = read(file_of(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95, icc_profile=profile))
    assert image.notes[-1] == "CMYK converted to RGB"
    assert image.metadata.icc is None
    assert np.abs(image.pixels.astype(int) - photo()).mean() < 4


def test_big_endian_16_bit_gray_tiff():
    pixels = photo(12, 10, np.uint16)[..., 0]
    data = file_of(Image.frombytes("I;16B", (10, 12), pixels.astype(">u2").tobytes()), "TIFF")
    image = read(data)
    assert image.pixels.dtype == np.uint16
    assert np.array_equal(image.pixels[..., 0], pixels)


def test_16_bit_gray_png_with_alpha():
    rows = photo(6, 5, np.uint16)[..., :2]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 5, 6, 16, 4, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    image = read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    assert image.gray
    assert np.array_equal(image.pixels[..., 1], rows[..., 0])
    assert np.array_equal(image.alpha, rows[..., 1])


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
    path.write_bytes(file_of(Image.fromarray(photo()), "PNG"))
    assert read(path).format == "PNG"


def test_jpeg_is_written_at_quality_95_without_chroma_subsampling():
    with Image.open(io.BytesIO(encode(DecodedImage(photo(64, 64)), "JPEG"))) as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
        best = image.quantization
    with Image.open(io.BytesIO(file_of(Image.fromarray(photo(64, 64)), "JPEG", quality=95))) as image:
        assert image.quantization == best
    assert len(encode(DecodedImage(photo(64, 64)), "JPEG", quality=30)) < len(
        encode(DecodedImage(photo(64, 64)), "JPEG")
    )


def animation(image_format):
    frames = [Image.fromarray(photo(seed=i)) for i in range(3)]
    return file_of(frames[0], image_format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "PNG", "AVIF"])
def test_several_frames_are_refused(image_format):
    with pytest.raises(ImageError, match="has 3 frames or pages; expected a single image"):
        read(animation(image_format))


def test_multi_image_jpeg_keeps_the_main_image():
    image = read(animation("MPO"))
    assert image.format == "JPEG"
    assert image.notes == ("only the main image of a multi-image JPEG is kept",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"I am a text file.\n", "not an image: expected JPEG"),
        (b"GIF89a" + b"\0" * 40, "is a GIF; expected"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "is a HEIC image"),
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
    data = file_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)), image_format)
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
    data = bytearray(file_of(Image.fromarray(photo(24, 24)), image_format, exif=exif()))
    data[position % len(data)] = value
    try:
        assert read(bytes(data)).pixels.ndim == 3
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are fine


def test_too_large_is_refused_with_the_option_that_allows_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    data = file_of(Image.fromarray(photo(40, 50)), "PNG")
    with pytest.raises(ImageError, match="more than the limit of 0.001$"):
        read(data)
    allow_megapixels(0.001, "try --larger")
    with pytest.raises(ImageError, match="more than the limit of 0.001; try --larger$"):
        read(data)
    allow_megapixels(0.01)
    assert read(data).pixels.shape == (40, 50, 3)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="1 channel of 32-bit floating-point gray"):
        read(file_of(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


def test_a_size_that_the_format_cannot_hold():
    with pytest.raises(ImageError, match="cannot be written as WebP, 20000x1"):
        encode(DecodedImage(np.zeros((1, 20_000, 3), np.uint8)), "WEBP")


def test_side_by_side():
    left, right = DecodedImage(photo(8, 9)), DecodedImage(photo(8, 9, seed=1))
    assert np.array_equal(side_by_side(left, right).pixels, np.hstack([left.pixels, right.pixels]))


def test_every_format_name_is_an_ending():
    assert {f".{name}" for name in get_args(FormatName)} <= set(FORMAT_OF_ENDING)
