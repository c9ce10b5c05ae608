"""HEIC in and out: pixels, metadata, orientation, and what is refused."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from image_files import exif_block, raw_tags, saved
from PIL import Image, ImageCms

from drsformer import ImageError, read_image
from drsformer.signatures import is_heic
from drsformer_cli import images
from drsformer_cli.images import DecodedImage, Metadata, allow_megapixels, boxes

pillow_heif = pytest.importorskip("pillow_heif")

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SMOOTH = photo(48, 64, noise=0)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'


def heic(pixels=SMOOTH, mode="RGB", **options):
    """A file as other programs write it; with EXIF, its orientation becomes a rotation in the boxes."""
    buffer = io.BytesIO()
    data = np.ascontiguousarray(pixels).tobytes()
    pillow_heif.encode(mode, pixels.shape[1::-1], data, buffer, **{"quality": 95, "chroma": 444} | options)
    return buffer.getvalue()


def refusal(data, look=images.read):
    with pytest.raises(ImageError) as error:
        look(data)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_round_trip(dtype, gray, alpha):
    pixels = photo(33, 47, dtype, noise=0)
    if gray:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    image = DecodedImage(pixels, photo(33, 47, dtype, seed=1, noise=0)[..., 0] if alpha else None, gray)
    data = images.encode(image, "HEIF", quality=100)
    back = images.read(data)
    stays_gray = gray and not (alpha and dtype == np.uint16)  # as in the other formats
    assert (back.format, back.gray, back.pixels.dtype, back.notes) == ("HEIF", stays_gray, dtype, ())
    scale = np.iinfo(dtype).max
    assert np.abs(back.pixels / scale - pixels / scale).mean() < (0.002 if gray else 0.015)  # 4:2:0
    assert (back.alpha is not None) == alpha
    assert not alpha or np.abs(back.alpha / scale - image.alpha / scale).mean() < 0.002
    expected = ["16 bits reduced to 10: HEIC is written with 10"] if dtype == np.uint16 else []
    if gray and not stays_gray:
        expected.insert(0, "16-bit gray with alpha written as RGBA in HEIC")
    assert images.losses(image, "HEIF") == expected
    assert images.losses(back, "HEIF") == []
    again = images.read(images.encode(back, "PNG"))
    assert np.array_equal(again.pixels, back.pixels)


@pytest.mark.parametrize("bits", [10, 12])
def test_the_values_of_10_and_12_bits_fill_16(bits, tmp_path):
    largest = 2**bits - 1
    values = np.repeat(np.array([[0, 1, largest // 3, largest - 1, largest]], np.uint16), 8, axis=1).repeat(8, axis=0)
    data = heic(values, f"L;{bits}", quality=-1)
    expected = np.rint(values * (65535 / largest)).astype(np.uint16)
    assert np.array_equal(images.read(data).pixels[..., 0], expected)
    path = tmp_path / "a.heic"
    path.write_bytes(data)
    assert np.array_equal(read_image(path), expected)


def test_the_library_reads_what_the_command_reads(tmp_path):
    path = tmp_path / "a.jpg"
    for data in (heic(), heic(np.dstack([SMOOTH, SMOOTH[..., 0]]), "RGBA"), heic(SMOOTH[..., :2], "LA")):
        path.write_bytes(data)
        image, found = images.read(data), read_image(path)
        channels = image.pixels[..., 0] if image.gray else image.pixels
        assert np.array_equal(found, channels if image.alpha is None else np.dstack([channels, image.alpha]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_in_the_boxes_is_applied_once(orientation, tmp_path):
    block = exif_block("<", orientation, thumbnail=False)
    data = heic(exif=block, xmp=XMP.replace(b"6", str(orientation).encode()))
    image = images.read(data)
    expected = saved(Image.fromarray(SMOOTH), "TIFF", exif=tags(orientation))
    upright = images.read(expected).pixels
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).mean() < 2
    (tmp_path / "a.heic").write_bytes(data)
    assert images.size(tmp_path / "a.heic") == upright.shape[1::-1]
    before, after = raw_tags(block), raw_tags(image.metadata.exif)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {
        *([("main", 274)] if orientation > 1 else []),
        *([("Exif", 0xA002), ("Exif", 0xA003)] if orientation > 4 else []),
    }
    assert b'Orientation="1"' in image.metadata.xmp
    written = images.encode(image, "HEIF")
    assert b"irot" not in written
    assert b"imir" not in written
    again = images.read(written)
    assert again.pixels.shape == upright.shape
    assert again.metadata == image.metadata


def tags(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block


def test_orientation_in_exif_alone_does_not_count():
    block = exif_block("<", 6, thumbnail=False)
    data = heic(metadata=[{"type": "Exif", "content_type": "", "data": b"\0\0\0\6Exif\0\0" + block}])
    image = images.read(data)
    assert image.pixels.shape == SMOOTH.shape
    assert raw_tags(image.metadata.exif)["main", 274] == (3, 1, b"\1\0")


@pytest.mark.parametrize("origin", ["JPEG", "HEIF"])
def test_metadata_stays_byte_for_byte(origin):
    block = exif_block(">", 1, thumbnail=False)
    metadata = Metadata(block, ICC, XMP.replace(b"6", b"1"))
    image = images.read(images.encode(DecodedImage(SMOOTH, metadata=metadata), origin))
    written = images.read(images.encode(image, "HEIF")).metadata
    assert (written.exif, written.icc, written.xmp) == (block, ICC, metadata.xmp)
    back = images.read(images.encode(images.read(images.encode(image, "HEIF")), "JPEG")).metadata
    assert (back.exif, back.icc, back.xmp) == (block, ICC, metadata.xmp)


def test_a_grid_of_tiles_is_one_image(monkeypatch):
    monkeypatch.setattr(images.heic, "_LONGEST_PICTURE", 40)
    monkeypatch.setattr(images.heic, "_TILE", 32)
    metadata = Metadata(exif_block("<", 1, thumbnail=False), ICC, dpi=(300, 300))
    data = images.encode(DecodedImage(SMOOTH, metadata=metadata), "HEIF")
    assert b"grid" in data
    image = images.read(data)
    assert image.notes == ()
    assert np.abs(image.pixels.astype(int) - SMOOTH).mean() < 4
    assert image.metadata == metadata
    assert images.read(heic(SMOOTH[..., 0], "L", tile_size=32)).gray


def test_colors():
    data = heic(color_primaries=12, transfer_characteristics=13, matrix_coefficients=6, full_range_flag=1)
    image = images.read(data)
    assert image.metadata.cicp == bytes([12, 13, 0, 1])
    assert images.read(images.encode(image, "HEIF")).metadata.cicp == image.metadata.cicp
    assert images.read(images.encode(image, "AVIF")).metadata.cicp == image.metadata.cicp
    assert images.losses(image, "JPEG") == ["color description (cICP 12/13) dropped: JPEG has none"]
    assert images.read(heic()).metadata.cicp is None


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(transfer, name):
    values = photo(32, 32, np.uint16, noise=0) >> 6
    data = heic(values, "RGB;10", color_primaries=9, transfer_characteristics=transfer, full_range_flag=1)
    assert f"is HDR ({name}, by its CICP)" in refusal(data)


def test_hdr_is_refused_beside_a_profile_and_in_tiles():
    colors = [(b"colr", b"prof" + ICC), (b"colr", b"nclx" + struct.pack(">HHHB", 9, 16, 9, 128))]
    items = {1: boxes.Item(b"grid", 0), 2: boxes.Item(b"hvc1", 0, properties=colors)}
    found = boxes.Boxes(b"", items=items, primary=1, references=[(b"dimg", 1, [2])])
    assert found.icc() == ICC
    with pytest.raises(ImageError, match="is HDR"):
        boxes.color_of(found)


def test_the_main_image_of_several():
    several = pillow_heif.HeifFile()
    for i in range(3):
        pixels = photo(32, 40, seed=i, noise=0)
        several.add_frombytes("RGB", (40, 32), pixels.tobytes())
    buffer = io.BytesIO()
    several.save(buffer, quality=95, primary_index=1)
    image = images.read(buffer.getvalue())
    assert image.notes == ("only the main image of 3 is kept",)
    assert np.abs(image.pixels.astype(int) - photo(32, 40, seed=1, noise=0)).mean() < 4


def test_a_thumbnail_is_dropped_silently():
    image = images.read(heic(thumbnails=[16]))
    assert (image.pixels.shape, image.notes) == (SMOOTH.shape, ())


@pytest.mark.parametrize("brand", [b"hevc", b"hevx", b"msf1"])
def test_image_sequences_are_refused(brand, tmp_path):
    data = b"".join((heic()[:8], brand, heic()[12:]))
    assert refusal(data) == "is an image sequence; expected a single image"
    (tmp_path / "a.heic").write_bytes(data)
    assert refusal(tmp_path / "a.heic", read_image).endswith("is an image sequence; expected a single image")


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"heif"])
def test_every_brand(brand):
    data = b"".join((heic()[:8], brand, heic()[12:]))
    assert is_heic(data)
    assert images.read(data).format == "HEIF"


@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"mif2", b"miaf"])
def test_avif_is_told_apart(brand):
    data = bytearray(saved(Image.fromarray(SMOOTH), "AVIF"))
    assert b"avif" in data[16:32]
    data[8:12] = brand
    assert not is_heic(bytes(data))
    assert images.read(bytes(data)).format == "AVIF"


def test_what_belongs_to_the_main_image_and_goes():
    with_alpha = heic(np.dstack([SMOOTH, SMOOTH[..., 0]]), "RGBA")
    assert images.read(with_alpha).notes == ()
    urn = b"urn:mpeg:hevc:2015:auxid:1"
    assert urn in with_alpha
    for other, note in (
        (urn[:-1] + b"2", "depth map dropped"),
        (urn[:-1] + b"3", "auxiliary images dropped"),
        (b"urn:aux:hdrgainmap".ljust(len(urn), b"\0"), images.xmp.GAIN_MAP_DROPPED),
    ):
        image = images.read(with_alpha.replace(urn, other))
        assert (image.notes, image.alpha) == ((note,), None)
    tail = struct.pack(">I", 16) + b"mpvd" + bytes(8)
    tail += struct.pack(">I", 24) + b"uuid" + bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    notes = images.read(heic() + tail).notes
    assert notes == (images.xmp.VIDEO_DROPPED, images.image.CREDENTIALS_DROPPED)


def test_damaged_files_cost_one_line():
    data = heic(exif=exif_block("<", 6))
    for share in (0.1, 0.3, 0.6, 0.95):
        assert refusal(data[: int(len(data) * share)]).startswith("damaged image: ")
    at = data.index(b"ispe") + 8
    other = data[:at] + struct.pack(">II", 640, 480) + data[at + 8 :]
    assert refusal(other).startswith("damaged image: ")


def test_no_wrong_byte_ends_in_a_traceback():
    data = heic(photo(16, 16), exif=exif_block("<", 6), xmp=XMP)
    for position in range(12, data.index(b"mdat"), 3):
        wrong = bytearray(data)
        wrong[position] ^= 0xFF
        try:
            images.read(bytes(wrong))
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both outcomes are fine


def test_many_extents_ask_for_no_memory():
    item = boxes.Item(b"Exif", 0, extents=[(0, 1000)] * 60_000)
    found = boxes.Boxes(bytes(1000), items={1: item})
    assert found.exif() == bytes(996)


def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    allow_megapixels(None)
    data = heic()
    monkeypatch.setattr("drsformer_cli.images.heic.heic_pixels", None)
    assert "more than the limit of 0.002" in refusal(data)


def test_without_the_extra(tmp_path, monkeypatch, run):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.chdir(tmp_path)
    Path("a.heic").write_bytes(heic())
    Path("b.png").write_bytes(saved(Image.fromarray(SMOOTH), "PNG"))
    line = "HEIC needs pip install 'drsformer[heic]'"
    for arguments in (["a.heic"], ["a.heic", "-o", "a.png"], ["b.png", "-o", "b.heic"], ["b.png", "--format", "heic"]):
        answer = run("derain", *arguments)
        assert (answer.code, answer.err) == (2, f"drsformer: {line}\n"), arguments
    answer = run("derain", ".", "--dry-run")
    assert (answer.code, answer.out, answer.err) == (0, "b.png -> b_derained.png\n", f".: .heic skipped: {line}\n")
    Path("c.jpg").write_bytes(heic())
    assert refusal(Path("c.jpg")) == line
    assert refusal(Path("c.jpg"), read_image) == f"c.jpg: {line}"
    Path("a.heic").write_bytes(saved(Image.fromarray(SMOOTH), "JPEG"))  # the content counts
    assert run("derain", "a.heic", "-o", "a.jpg", "--dry-run").code == 0
    with pytest.raises(ImageError, match=r"HEIC needs pip install"):
        images.encode(DecodedImage(SMOOTH), "HEIF")
    answer = run("eval", "--dataset", "rain200h", "--sheet", "x.heic")
    assert (answer.code, answer.err) == (2, f"drsformer: {line}\n")
