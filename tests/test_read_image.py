"""read_image: upright arrays with the file's own depth, or a refusal; never other values."""

import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import image_files
import numpy as np
import pytest
from conftest import photo
from PIL import Image, ImageOps

import drsformer
from drsformer import ImageError, Restorer, read_image
from drsformer.images import luma

ROOT = Path(__file__).parents[1]


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


SHAPES = {(9, 13): "png tiff", (9, 13, 2): "png tiff", (9, 13, 3): "png tiff bmp webp", (9, 13, 4): "png tiff webp"}


@pytest.mark.parametrize(
    ("shape", "image_format"), [(shape, name) for shape in SHAPES for name in SHAPES[shape].split()]
)
def test_8_bits_exactly(tmp_path, image_format, shape):
    pixels = noise(shape)
    if shape[2:] == (4,):
        pixels[..., 3] |= 1  # where alpha is 0, WebP may choose the color
    options = {"lossless": True, "exact": True} if image_format == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{image_format}", **options)
    found = read_image(tmp_path / f"a.{image_format}")
    assert (found.dtype, found.shape) == (np.uint8, shape)
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("image_format", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_exactly(tmp_path, image_format, channels):
    pixels = noise((9, 13, channels), np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{image_format}"), pixels[..., [2, 1, 0, 3][:channels] if channels > 1 else [0]])
    found = read_image(tmp_path / f"a.{image_format}")
    assert found.dtype == np.uint16
    assert np.array_equal(found, pixels if channels > 1 else pixels[..., 0])


def png(width, height, depth, color_type, rows, *chunks):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = [chunk(b"IHDR", header), *(chunk(*given) for given in chunks), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


def test_16_bit_gray_with_alpha(tmp_path):
    pixels = noise((5, 7, 2), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "a.png").write_bytes(png(7, 5, 16, 4, rows))
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize(
    ("depth", "color_type", "row"), [(16, 0, b"\0\1\2"), (16, 2, b"\0" + b"\1\2" * 3), (2, 0, b"\0\xc0")]
)
def test_a_transparent_color_of_another_depth_is_refused(tmp_path, depth, color_type, row):
    transparent = b"\0\3" * (3 if color_type else 1)
    (tmp_path / "a.png").write_bytes(png(1, 1, depth, color_type, row, (b"tRNS", transparent)))
    with pytest.raises(ImageError, match="a transparent color, which is not supported"):
        read_image(tmp_path / "a.png")


def test_a_transparent_color_of_8_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, 0, b"\0\x03\x04", (b"tRNS", b"\0\3")))
    assert read_image(tmp_path / "a.png").tolist() == [[[3, 0], [4, 255]]]


def tiff(samples, **tags):
    """Uncompressed, one strip: (H, W) or (H, W, C)."""
    H, W, C = (*samples.shape, 1)[:3]
    data = samples.astype("<u2").tobytes()
    values = {256: W, 257: H, 258: 16, 259: 1, 262: 2 if C > 2 else 1, 273: 0, 277: C, 278: H, 279: len(data)}
    values |= {int(tag[1:]): value for tag, value in tags.items()}
    extra = struct.pack("<5H", *(values.pop(258),) * 5)
    start = 8 + 2 + 12 * (len(values) + 1) + 4
    values[273] = start + len(extra)
    values[258] = start if C > 2 else extra[0] + 256 * extra[1]
    entries = b"".join(
        struct.pack("<HHI", tag, 4 if tag in (273, 279) else 3, {258: C, 338: 2}.get(tag, 1))
        + (struct.pack("<I", value) if tag in (273, 279) or (tag == 258 and C > 2) else struct.pack("<HH", value, 0))
        for tag, value in sorted(values.items())
    )
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + b"\0" * 4 + extra + data


def test_tiff_of_16_bits(tmp_path):
    path = tmp_path / "a.tif"
    gray, color = noise((5, 7), np.uint16), noise((5, 7, 3), np.uint16)
    path.write_bytes(tiff(gray))
    assert np.array_equal(read_image(path), gray)
    path.write_bytes(tiff(gray, t262=0))  # 0 is white
    assert np.array_equal(read_image(path), 65535 - gray)
    path.write_bytes(tiff(color))
    assert np.array_equal(read_image(path), color)


def test_the_preview_of_a_raw_file_is_refused(tmp_path):
    data = tiff(noise((5, 7), np.uint16))
    for name, content in (("a.dng", data), ("a.NEF", data), ("a.tif", tiff(noise((5, 7), np.uint16), t254=1))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=r"is a raw file; develop it first"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_of_16_bits_is_upright_or_refused(tmp_path, orientation):
    color = noise((5, 7, 3), np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(color, t274=orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    high = Image.fromarray((color >> 8).astype(np.uint8))
    high.getexif().update(exif)
    try:
        found = read_image(tmp_path / "a.tif")
    except ImageError:
        assert orientation != 1
    else:
        assert np.array_equal(found >> 8, np.asarray(ImageOps.exif_transpose(high)))


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(tmp_path, image_format, orientation):
    path = tmp_path / f"a.{image_format}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "webp" else {}
    Image.fromarray(photo(40, 56)).save(path, exif=exif, **options)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    found = read_image(path)
    assert found.shape == ((56, 40, 3) if orientation > 4 else (40, 56, 3))
    assert np.array_equal(found, expected)


def test_the_example_of_the_readme_on_a_portrait_photo_of_a_phone(tmp_path, monkeypatch, general):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    path = ".github/demo/rainy.jpg"
    assert path in example
    upright = photo(60, 40)  # a phone stores it lying on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / path).parent.mkdir(parents=True)
    Image.fromarray(np.rot90(upright)).save(tmp_path / path, exif=exif, quality=100, subsampling=0)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)  # noqa: S102 - our own README
    assert names["restored"].shape == (60, 40, 3)
    assert np.abs(names["rainy"].astype(int) - upright).mean() < 2
    assert np.array_equal(names["restored"], drsformer.derain(general, names["rainy"]))


def test_other_modes(tmp_path):
    color = photo(9, 13)
    for mode, shape in (("P", (9, 13, 3)), ("1", (9, 13)), ("CMYK", (9, 13, 3)), ("YCbCr", (9, 13, 3))):
        Image.fromarray(color).convert(mode).save(tmp_path / "a.tif")
        found = read_image(tmp_path / "a.tif")
        assert (found.shape, found.dtype) == (shape, np.uint8)
    palette = Image.fromarray(color).convert("P")
    palette.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").shape == (9, 13, 4)


@pytest.mark.parametrize("depth", [1, 8])
def test_transparent_gray_is_gray_with_alpha(tmp_path, depth):
    row = b"\0" + (b"\x40" if depth == 1 else bytes([0, 255, 0]))
    (tmp_path / "a.png").write_bytes(png(3, 1, depth, 0, row, (b"tRNS", b"\0\0")))
    assert read_image(tmp_path / "a.png").tolist() == [[[0, 0], [255, 255], [0, 0]]]


def gif():
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "GIF")
    return buffer.getvalue()


def unspecified():
    buffer = io.BytesIO()
    Image.new("RGBX", (4, 4)).save(buffer, "TIFF")
    return buffer.getvalue()


def pages():
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))])
    return buffer.getvalue()


def floats():
    buffer = io.BytesIO()
    Image.new("F", (4, 4)).save(buffer, "TIFF")
    return buffer.getvalue()


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(photo(200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def damaged_png():
    data = png(70, 50, 8, 2, noise((50, 211)).tobytes())
    return data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty; expected JPEG, PNG, TIFF"),
        (b"hello", "not an image; expected JPEG, PNG, TIFF"),
        (gif(), "is a GIF; expected JPEG, PNG, TIFF"),
        (b"P6\n2 2\n255\n" + bytes(12), "is a Netpbm image; expected JPEG, PNG, TIFF"),
        (tiff(noise((5, 7, 3), np.uint16), t339=2), "damaged, or TIFF of a kind that is not supported"),
        (tiff(noise((5, 7), np.uint16))[:20], "damaged, or TIFF of a kind that is not supported"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "damaged, or AVIF of a kind that is not supported"),
        (unspecified(), "has channels beside color and alpha"),
        (tiff(noise((5, 7, 5), np.uint16), t258=8, t338=2), "has channels beside color and alpha"),
        (pages(), "has 2 frames or pages; expected a single image"),
        (floats(), "32-bit pixels .mode F.; expected 8 or 16 bits"),
        (jpeg()[:5000], "damaged image: "),
        (damaged_png(), "damaged image: "),
        (png(4, 4, 16, 2, b"\0\1"), "damaged image: "),
        (png(60_000, 60_000, 8, 2, b"\0"), "larger than PIL.Image.MAX_IMAGE_PIXELS allows"),
        (tiff(noise((5, 7), np.uint16), t258=12), "12 bits a channel|damaged image"),
    ],
)
def test_what_is_refused(tmp_path, data, message):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"^{path}: .*({message})") as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_image(path)
    assert "\n" not in str(error.value)


def test_opencv_prints_nothing(tmp_path, capfd):
    pixels = noise((5, 7, 3), np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(5, 21)).save(buffer, "TIFF", compression="zstd")
    tags = Image.open(buffer).tag_v2  # Pillow cannot write 16-bit RGB, whose bytes are the same
    strip = buffer.getvalue()[tags[273][0] :][: tags[279][0]]
    layout = {256: [7], 257: [5], 258: [16] * 3, 259: [50000], 262: [2], 277: [3], 278: [5]}
    (tmp_path / "a.tif").write_bytes(image_files.tiff([({tag: (3, values) for tag, values in layout.items()}, strip)]))
    level = cv2.utils.logging.getLogLevel()
    with contextlib.suppress(ImageError):  # a build of OpenCV may know ZSTD
        assert np.array_equal(read_image(tmp_path / "a.tif"), pixels)
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == level


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_luma(dtype):
    peak = 1 if dtype is np.float32 else np.iinfo(dtype).max
    gray = np.linspace(0, peak, 1000).astype(dtype).reshape(10, 100)
    assert np.array_equal(luma(np.repeat(gray[..., None], 3, axis=2)), gray)
    color = (np.random.default_rng(0).random((10, 100, 3)) * peak).astype(dtype)
    expected = color.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert luma(color).dtype == dtype
    assert np.abs(luma(color) - expected).max() <= (1e-6 if peak == 1 else 0.51)


def test_library_and_command_agree(run, general, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    color = photo(40, 56)
    alpha = noise((40, 56))
    files = {
        "gray": color[..., 0],
        "gray_alpha": np.dstack([color[..., 0], alpha]),
        "color": color,
        "color_alpha": np.dstack([color, alpha]),
    }
    for name, pixels in files.items():
        Image.fromarray(pixels).save(f"{name}.png")
    assert run("derain", *(f"{name}.png" for name in files), "-o", "out/").code == 0
    restorer = Restorer(general)
    for name, pixels in files.items():
        read = read_image(f"{name}.png")
        assert np.array_equal(read, pixels)
        assert np.array_equal(restorer(read), read_image(f"out/{name}.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png: is a pipe, a socket or a device; expected a file"):
        read_image(tmp_path / "a.png")
