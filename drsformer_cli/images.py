"""Read and write images: 8 and 16 bits, gray, alpha, orientation, EXIF, ICC profile, XMP and resolution.

Shapes: pixels (H, W, 3) RGB, alpha (H, W).
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from drsformer.errors import ImageError
from drsformer_cli.formats import DEFAULT_QUALITY, FORMAT_OF_ENDING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Channels = NDArray[Any]  # uint8 or uint16

READABLE = "JPEG, PNG, TIFF, WebP, BMP or AVIF"

_WITH_ALPHA = {"PNG", "TIFF", "WEBP", "AVIF"}
_WITH_16_BITS = {"PNG", "TIFF"}
_WITH_GRAY = {"JPEG", "PNG", "TIFF", "BMP", "AVIF"}

# Tags of a TIFF file that describe the image; the others lay out its pixels and mean nothing elsewhere.
_DESCRIPTIVE_TAGS = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
    ExifTags.Base.Rating,
}
_EXIF_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_LONGEST_JPEG_SEGMENT = 65_000


@dataclass(frozen=True)
class Metadata:
    """What travels with the pixels.

    Attributes:
        exif: EXIF block, its orientation reset to 1.
        icc: Color profile.
        xmp: XMP packet, its orientation reset to 1.
        dpi: Horizontal and vertical resolution in dots an inch.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, upright.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16; three equal channels where `gray`.
        alpha: (H, W) of the same type, or None.
        gray: Whether it is written as a gray image.
        format: Pillow's name of the format that it was read from.
        metadata: EXIF, ICC profile, XMP and resolution.
        notes: What reading had to change, for the user.
    """

    pixels: Channels
    alpha: Channels | None = None
    gray: bool = False
    format: str = "PNG"
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()


def allow_megapixels(limit: float | None) -> None:
    """Set the size above which `read` refuses an image, for the process; None is Pillow's own limit of 179."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the hard limit is twice that
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = max(1, int(limit * 1e6 / 2))


def read(source: Path | bytes) -> DecodedImage:
    """Decode an image from a file or from the bytes of one; the format is recognized by content.

    Raises:
        ImageError: It is no image of a known format, is damaged, too large, or has several frames.
        OSError: The file cannot be read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            return _decode(file)
        except (ImageError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise ImageError(_unidentified(file)) from None
        except Image.DecompressionBombError as error:
            found = re.search(r"\d+", str(error))
            size = f"{int(found[0]) / 1e6:.4g} megapixels" if found else str(error)
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise ImageError(
                f"{size}, more than the limit of {limit:.4g}; --max-megapixels raises it for images you trust"
            ) from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise ImageError(f"damaged image: {error}") from None
        except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
            raise ImageError(f"damaged image: {error!r}") from None


def size(path: Path) -> tuple[int, int]:
    """Width and height of an image, upright; only the file's head is read.

    Raises:
        ImageError: It is no image of a known format.
        OSError: The file cannot be read.
    """
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            # Pillow swaps those of TIFF by itself, and would decode a whole PNG in search of EXIF at its end.
            tells = opened.format != "TIFF" and (opened.format != "PNG" or "exif" in opened.info)
            turned = tells and opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except UnidentifiedImageError:
        with path.open("rb") as file:
            raise ImageError(_unidentified(file)) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(f"more than the limit of {limit:.4g} megapixels") from None
    except (ValueError, TypeError, SyntaxError) as error:
        raise ImageError(f"damaged image: {error}") from None
    return (height, width) if turned else (width, height)


def encode(image: DecodedImage, image_format: str, *, quality: int = DEFAULT_QUALITY) -> bytes:
    """The bytes of a file.

    Args:
        image: What to write; `losses` tells what the format cannot hold of it.
        image_format: A value of `FORMAT_OF_ENDING`.
        quality: 1..100, for JPEG, WebP and AVIF.

    Raises:
        ImageError: The format cannot hold the image, usually for its size.
    """
    pixels: Channels = image.pixels
    gray, alpha, metadata = image.gray, image.alpha, image.metadata
    if alpha is not None and image_format not in _WITH_ALPHA:
        alpha = None
    if pixels.dtype == np.uint16 and image_format not in _WITH_16_BITS:
        pixels, alpha = to_8_bits(pixels), None if alpha is None else to_8_bits(alpha)
    # 16-bit gray with alpha is a kind that OpenCV cannot write and Pillow cannot read.
    no_gray = image_format not in _WITH_GRAY or (alpha is not None and pixels.dtype == np.uint16)
    if gray:
        luma = _luma(pixels)
        pixels = np.repeat(luma[..., None], 3, axis=2) if no_gray else luma
        if no_gray:
            metadata = replace(metadata, icc=None)  # a gray profile does not describe RGB
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    try:
        if image_format == "TIFF":
            return _encode_tiff(pixels, metadata)
        if image_format == "PNG" and pixels.dtype == np.uint16 and pixels.ndim == 3:
            return _encode_png16(pixels, metadata)
        return _encode_with_pillow(Image.fromarray(pixels), image_format, metadata, quality)
    except (OSError, ValueError, struct.error) as error:
        H, W = pixels.shape[:2]
        raise ImageError(f"cannot be written as {image_format}, {W}x{H}: {error}") from None


def losses(image: DecodedImage, image_format: str) -> list[str]:
    """What that format cannot hold of the image, for the user."""
    lost = []
    if image.alpha is not None and image_format not in _WITH_ALPHA:
        lost.append(f"alpha dropped: {image_format} has none")
    if image.pixels.dtype == np.uint16 and image_format not in _WITH_16_BITS:
        lost.append(f"16 bits reduced to 8: {image_format} has no more")
    metadata = image.metadata
    if image_format == "BMP" and (metadata.exif or metadata.icc or metadata.xmp):
        lost.append("EXIF, ICC profile and XMP dropped: BMP has none")
    for name, block in (("EXIF", metadata.exif), ("XMP", metadata.xmp)):
        if image_format == "JPEG" and block and len(block) > _LONGEST_JPEG_SEGMENT:
            lost.append(f"{name} of {len(block)} bytes dropped: too long for JPEG")
    return lost


def side_by_side(left: DecodedImage, right: DecodedImage) -> DecodedImage:
    """Two images of one size and type, next to each other, with the metadata of the right one."""
    alpha = None
    if left.alpha is not None and right.alpha is not None:
        alpha = np.hstack([left.alpha, right.alpha])
    return replace(right, pixels=np.hstack([left.pixels, right.pixels]), alpha=alpha)


def _decode(file: BinaryIO) -> DecodedImage:
    with Image.open(file, formats=sorted(set(FORMAT_OF_ENDING.values()))) as opened:
        notes = []
        image_format = opened.format or ""
        frames = getattr(opened, "n_frames", 1)
        if image_format == "MPO":  # a camera's JPEG with previews or a gain map behind the image
            image_format, frames = "JPEG", 1
            notes.append("only the main image of a multi-image JPEG is kept")
        if frames > 1:
            raise ImageError(f"has {frames} frames or pages; expected a single image")
        metadata, orientation = _metadata(opened, notes)
        deep = _bits(opened, file) == 16 and opened.mode in ("RGB", "RGBA", "LA")
        gray_png = image_format == "PNG" and _png_header(file)[1] in (0, 4)
        opened.load()
        if deep:  # Pillow has checked the data but keeps only 8 bits of 16-bit color
            channels = _decode_16_bits(file)
            gray = gray_png
            if channels.ndim == 3 and channels.shape[2] == 4 and _tiff_tag(opened, 338, 2) == 1:
                channels = _unmultiplied(channels)
        else:
            simple, metadata = _simplified(opened, metadata, notes)
            channels = np.asarray(simple)
            if channels.dtype not in (np.uint8, np.uint16):
                channels = channels.astype(np.uint16)  # big-endian
            if channels.dtype == np.uint16 and _tiff_tag(opened, 262, 1) == 0:  # 0 is white; Pillow turns 8 bits only
                channels = 65535 - channels
            gray = channels.ndim == 2 or channels.shape[2] == 2
    alpha = None
    if channels.ndim == 3 and channels.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(_upright(channels[..., -1], orientation))
        channels = channels[..., :-1]
    if channels.ndim == 2:
        channels = channels[..., None]
    if channels.shape[2] == 1:
        channels = np.repeat(channels, 3, axis=2)
    pixels = np.ascontiguousarray(_upright(channels, orientation))
    return DecodedImage(pixels, alpha, gray, image_format, metadata, tuple(notes))


def _simplified(opened: Image.Image, metadata: Metadata, notes: list[str]) -> tuple[Image.Image, Metadata]:
    """The image in one of the modes L, LA, RGB, RGBA, I;16."""
    mode = opened.mode
    if mode in ("L", "RGB") and "transparency" in opened.info:  # one color of a PNG stands for transparent
        return opened.convert("LA" if mode == "L" else "RGBA"), metadata
    if mode in ("L", "LA", "RGB", "RGBA") or mode.startswith("I;16"):
        return opened, metadata
    if mode in ("P", "PA"):
        notes.append("palette converted to RGB")
        return opened.convert("RGBA" if mode == "PA" or "transparency" in opened.info else "RGB"), metadata
    if mode == "CMYK":
        notes.append("CMYK converted to RGB")
        return _cmyk_to_rgb(opened, metadata.icc), replace(metadata, icc=None)
    if mode == "1":
        notes.append("1-bit image converted to 8-bit gray")
    converted = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}
    if mode not in converted:
        raise ImageError(f"pixels of mode {mode} are not supported; expected 8 or 16 bits of gray, RGB or CMYK")
    return opened.convert(converted[mode]), metadata


def _cmyk_to_rgb(opened: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                opened, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # an unusable profile: the plain formula is what viewers fall back to as well
    return opened.convert("RGB")


def _metadata(opened: Image.Image, notes: list[str]) -> tuple[Metadata, int]:
    """Metadata with its orientation reset, and the turn that the pixels still need."""
    orientation = 1
    exif_block = None
    try:
        exif = opened.getexif()
        if opened.format == "TIFF":  # Pillow and OpenCV turn TIFF themselves
            described = Image.Exif()
            described.update({tag: value for tag, value in exif.items() if tag in _DESCRIPTIVE_TAGS})
            for tag in _EXIF_DIRECTORIES:
                if values := exif.get_ifd(tag):
                    described.get_ifd(tag).update(values)
            exif = described
        elif ExifTags.Base.Orientation in exif:
            orientation = exif[ExifTags.Base.Orientation]
            exif[ExifTags.Base.Orientation] = 1
        exif_block = exif.tobytes() if len(exif) or any(exif.get_ifd(tag) for tag in _EXIF_DIRECTORIES) else None
    except Exception:  # noqa: BLE001 - damaged EXIF must not cost the image
        notes.append("EXIF is damaged and was dropped")
    xmp = opened.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if xmp:
        xmp = re.sub(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""", rb"\g<1>1", xmp)
    dpi = opened.info.get("dpi")
    usable = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(value) < 1e6 for value in dpi)
    return (
        Metadata(
            exif_block,
            opened.info.get("icc_profile") or None,
            xmp or None,
            (float(dpi[0]), float(dpi[1])) if usable and dpi else None,
        ),
        orientation,
    )


def _upright(channels: Channels, orientation: int) -> Channels:
    """Turn (H, W, ...) as EXIF orientation 1..8 says; unknown values are left alone."""
    turned: dict[int, Any] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    turn = turned.get(orientation)
    upright: Channels = turn(channels) if turn else channels
    return upright


def _png_header(file: BinaryIO) -> tuple[int, int]:
    """Bit depth and color type."""
    file.seek(24)
    depth, color_type = file.read(2)
    return depth, color_type


def _bits(opened: Image.Image, file: BinaryIO) -> int:
    """Bits a channel of the file, which Pillow's mode does not tell."""
    if opened.format == "PNG":
        return _png_header(file)[0]
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return int(max(opened.tag_v2.get(ExifTags.Base.BitsPerSample, (8,))))
    return 8


def _tiff_tag(opened: Image.Image, tag: int, default: int) -> int:
    """First value of a tag; `default` for other formats and where it is missing."""
    value = opened.tag_v2.get(tag, default) if isinstance(opened, TiffImagePlugin.TiffImageFile) else default
    return int(value[0] if isinstance(value, tuple) else value)


def _unmultiplied(channels: Channels) -> Channels:
    """(H, W, 4) uint16 with colors that are multiplied by alpha -> the same with plain colors."""
    straight = channels.copy()
    alpha = np.maximum(channels[..., 3:], 1).astype(np.float32)
    straight[..., :3] = np.minimum(np.rint(channels[..., :3] * (65535 / alpha)), 65535)
    return straight


def _decode_16_bits(file: BinaryIO) -> Channels:
    import cv2  # noqa: PLC0415 - most images never need it

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    file.seek(0)
    decoded = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ImageError("damaged image, or a 16-bit layout that is not supported")
    channels: Channels = decoded if decoded.ndim == 2 else decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
    return channels


def _unidentified(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(16)
    if not start:
        return "the file is empty"
    known = {
        b"GIF8": "a GIF",
        b"%PDF": "a PDF",
        b"\x00\x00\x00\x0cjP  ": "a JPEG 2000",
        b"8BPS": "a Photoshop file",
        b"\x76\x2f\x31\x01": "an OpenEXR image",
    }
    found = next((name for magic, name in known.items() if start.startswith(magic)), None)
    if start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        found = "a HEIC image"
    if start[4:12] in (b"ftypavif", b"ftypavis") and not features.check("avif"):
        return "is an AVIF image, which this Pillow was built without"
    if start[4:8] == b"ftyp" and found is None:
        return "damaged image, or a video"
    if found is None and start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"RIFF", b"BM")):
        return "damaged image: its header cannot be read"
    return f"not an image: expected {READABLE}" if found is None else f"is {found}; expected {READABLE}"


def to_8_bits(channels: Channels) -> Channels:
    """uint16 -> uint8, rounded; uint8 as it is."""
    if channels.dtype == np.uint8:
        return channels
    return np.rint(channels / np.float32(257)).astype(np.uint8)


def read_rgb8(path: Path) -> NDArray[np.uint8]:
    """An image as (H, W, 3) RGB uint8, upright: gray in three equal channels, no alpha, 16 bits rounded to 8.

    Raises:
        ImageError: The file is not an image that can be read; the message begins with its name.
        OSError: The file cannot be read.
    """
    try:
        return to_8_bits(read(path).pixels)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def _luma(pixels: Channels) -> Channels:
    """(H, W, 3) -> (H, W), ITU-R BT.601; equal channels give just that value."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma: Channels = np.rint(pixels.astype(np.float32) @ weights).astype(pixels.dtype)
    return luma


def _encode_with_pillow(opened: Image.Image, image_format: str, metadata: Metadata, quality: int) -> bytes:
    options: dict[str, Any] = {}
    if image_format != "BMP":
        options = {"exif": metadata.exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
        if image_format == "JPEG":
            for name in ("exif", "xmp"):
                if options[name] and len(options[name]) > _LONGEST_JPEG_SEGMENT:
                    options[name] = None
    if image_format == "PNG" and metadata.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode("utf-8", "replace"))
    if image_format in ("JPEG", "PNG", "BMP") and metadata.dpi:
        options["dpi"] = metadata.dpi
    if image_format in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = quality
    if image_format in ("JPEG", "AVIF"):
        options["subsampling"] = "4:4:4"
    buffer = io.BytesIO()
    opened.save(buffer, image_format, **{name: value for name, value in options.items() if value is not None})
    return buffer.getvalue()


def _encode_png16(channels: Channels, metadata: Metadata) -> bytes:
    """(H, W, 3 or 4) uint16 -> PNG: pixels by OpenCV, which has 16-bit color, metadata by Pillow."""
    import cv2  # noqa: PLC0415 - most images never need it

    order = [2, 1, 0, 3][: channels.shape[2]]
    done, pixels = cv2.imencode(".png", channels[..., order])
    if not done:
        raise ImageError("cannot be written as 16-bit PNG")
    described = _encode_with_pillow(Image.new("RGB", (1, 1)), "PNG", metadata, DEFAULT_QUALITY)
    chunks = [chunk for name, chunk in _png_chunks(described) if name not in (b"IHDR", b"IDAT", b"IEND")]
    after_header = 8 + 25
    data = pixels.tobytes()
    return data[:after_header] + b"".join(chunks) + data[after_header:]


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and whole bytes of each chunk."""
    position = 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        yield data[position + 4 : position + 8], data[position : position + 12 + length]
        position += 12 + length


def _encode_tiff(channels: Channels, metadata: Metadata) -> bytes:
    """(H, W) or (H, W, 2..4) of 8 or 16 bits -> TIFF, deflate with horizontal prediction.

    Pillow's own writer has neither 16-bit color nor, with compression, EXIF; the directory of tags is still its.
    """
    if channels.ndim == 2:
        channels = channels[..., None]
    H, W, C = channels.shape
    little_endian = channels.dtype.newbyteorder("<")
    rows = max(1, 2**20 // (W * C * channels.itemsize))
    strips = []
    for top in range(0, H, rows):
        strip = channels[top : top + rows].copy()
        strip[:, 1:] -= channels[top : top + rows, :-1]  # differences wrap, as the format wants
        strips.append(zlib.compress(strip.astype(little_endian).tobytes()))
    header = b"II*\0" + struct.pack("<L", 8)
    tags = _tiff_tags(header, metadata)
    offsets = np.cumsum([0, *(len(strip) for strip in strips)])[:-1]
    tags[256], tags[257] = W, H
    tags[258] = (8 * channels.itemsize,) * C
    tags[259] = 8  # deflate
    tags[262] = 1 if C < 3 else 2  # gray, RGB
    tags[273] = tuple(int(offset) for offset in offsets)  # Pillow adds the length of the directory
    tags[274] = 1
    tags[277] = C
    tags[278] = rows
    tags[279] = tuple(len(strip) for strip in strips)
    tags[284] = 1
    tags[317] = 2  # horizontal prediction
    if C in (2, 4):
        tags[338] = 2  # alpha that is not multiplied into the colors
    return b"".join([header, tags.tobytes(len(header)), *strips])


def _tiff_tags(header: bytes, metadata: Metadata) -> TiffImagePlugin.ImageFileDirectory_v2:
    """A directory with the tags that describe the image."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    if metadata.exif:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag, value in exif.items():
            if tag in _DESCRIPTIVE_TAGS:
                tags[tag] = value
        for group in _EXIF_DIRECTORIES:
            if values := exif.get_ifd(group):
                tags[group] = dict(values)
    if metadata.xmp:
        tags[700] = metadata.xmp
    if metadata.icc:
        tags[34675] = metadata.icc
    if metadata.dpi:
        tags[282], tags[283], tags[296] = metadata.dpi[0], metadata.dpi[1], 2  # dots an inch
    return tags
