"""Metadata from every format into every format: raw tags before and after, byte for byte."""

import itertools
import struct
import zlib

import numpy as np
import pytest
from conftest import photo
from image_files import (
    MAKER_NOTE,
    THUMBNAIL,
    chunk,
    exif_block,
    exif_of,
    jpeg_segments,
    pixel_tags,
    png,
    png_chunks,
    raw_tags,
    saved,
    tiff,
    with_exif,
)
from PIL import Image, ImageCms

from drsformer import ImageError
from drsformer_cli import images
from drsformer_cli.images import DecodedImage, Metadata

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HOLDING_EXIF = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")
LAYOUT = {*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 317, 338, 700, 33723, 34675}
PIXELS = photo(40, 56)


def described(data):
    """Raw tags apart from those that lay out the pixels of a TIFF."""
    tags = raw_tags(data)
    return {key: value for key, value in tags.items() if not (key[0] == "main" and key[1] in LAYOUT)}


@pytest.mark.parametrize("target", HOLDING_EXIF)
@pytest.mark.parametrize("origin", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_raw_tags_of_every_pair_of_formats(origin, target):
    for order, orientation in itertools.product("<>", (1, 3, 6)):
        _check_raw_tags(origin, target, orientation, order)


def _check_raw_tags(origin, target, orientation, order):
    block = exif_block(order, orientation)
    image = images.read(with_exif(Image.fromarray(PIXELS), origin, block))
    assert image.notes == ()
    written = exif_of(images.encode(image, target))
    before, after = described(block), described(written)
    turned = orientation == 6 and origin != "AVIF"
    assert image.pixels.shape == ((56, 40, 3) if turned else (40, 56, 3))
    assert before.pop("following")
    assert not after.pop("following")
    expected = before | {("main", 274): (3, 1, b"\1\0")}
    if turned:
        expected |= {("Exif", 0xA002): (3, 1, struct.pack("<H", 40)), ("Exif", 0xA003): (4, 1, struct.pack("<I", 56))}
    assert after == expected
    assert THUMBNAIL not in written
    assert written.index(MAKER_NOTE) == block.index(MAKER_NOTE)


@pytest.mark.parametrize("target", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_block_stays_byte_for_byte(order, target):
    block = exif_block(order, 1, thumbnail=False)
    image = images.read(with_exif(Image.fromarray(PIXELS), "JPEG", block))
    assert exif_of(images.encode(image, target))[: len(block)] == block


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", HOLDING_EXIF)
def test_raw_tags_of_a_tiff(target, order):
    tags = pixel_tags(56, 40) | {
        271: (2, b"Maker\0"),
        274: (3, [6]),
        282: (5, [118, 1]),
        283: (5, [118, 1]),
        296: (3, [3]),
        306: (2, b"2026:11:21 09:00:00\0"),
        315: (2, "Jürgen 雨\0".encode()),
        18246: (3, [4]),
        0x8769: {
            0x9101: (7, b"\1\2\3\0"),
            0x927C: (7, MAKER_NOTE),
            0xA002: (4, [56]),
            0xA003: (4, [40]),
            0xA005: {1: (2, b"R98\0")},
        },
        0x8825: {1: (2, b"N\0"), 2: (5, [48, 1, 51, 1, 0, 1])},
    }
    data = tiff([(tags, PIXELS.tobytes())], order)
    image = images.read(data)
    assert image.metadata.dpi == pytest.approx((299.72, 299.72))
    written = exif_of(images.encode(image, target))
    before, after = described(data), described(written)
    swapped = {("Exif", 0xA002): (4, 1, struct.pack("<I", 40)), ("Exif", 0xA003): (4, 1, struct.pack("<I", 56))}
    assert after == before | swapped | {("main", 274): (3, 1, b"\1\0")}


def test_a_maker_note_near_the_beginning_of_a_tiff_stays_in_its_place():
    image = images.read(with_exif(Image.fromarray(PIXELS), "JPEG", exif_block("<")))
    there = images.encode(image, "TIFF")
    back = exif_of(images.encode(images.read(there), "JPEG"))
    assert back.index(MAKER_NOTE) == there.index(MAKER_NOTE) == exif_block("<").index(MAKER_NOTE)


@pytest.mark.parametrize("kind", ["short", "long"])
def test_orientation_of_either_integer_type(kind):
    entry = (3, [8]) if kind == "short" else (4, [8])
    image = images.read(with_exif(Image.fromarray(PIXELS), "JPEG", tiff([{274: entry}])))
    assert image.pixels.shape == (56, 40, 3)
    assert raw_tags(image.metadata.exif)["main", 274][2].rstrip(b"\0") == b"\1"


@pytest.mark.parametrize("entry", [(2, b"6\0"), (1, [6]), (3, [0]), (3, [9]), (3, [6, 6]), (5, [6, 1])])
def test_an_orientation_that_is_none_is_left_alone_by_read_and_size(entry, tmp_path):
    block = tiff([{274: entry}])
    for image_format in ("JPEG", "PNG", "WEBP"):
        path = tmp_path / "a"
        path.write_bytes(with_exif(Image.fromarray(PIXELS), image_format, block))
        assert images.size(path) == (56, 40)
        assert images.read(path).pixels.shape == (40, 56, 3)
        assert images.read(path).metadata.exif == block


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_agrees_with_read(image_format, orientation, tmp_path):
    path = tmp_path / "a"
    if image_format == "TIFF":
        path.write_bytes(tiff([(pixel_tags(56, 40) | {274: (3, [orientation])}, PIXELS.tobytes())]))
    else:
        block = exif_block("<", orientation)
        path.write_bytes(with_exif(Image.fromarray(PIXELS), image_format, block))
    H, W = images.read(path).pixels.shape[:2]
    assert images.size(path) == (W, H)
    assert ((40, 56) if orientation >= 5 and image_format != "AVIF" else (56, 40)) == (W, H)


def test_exif_behind_the_pixels_of_a_png():
    image = images.read(png(PIXELS, after=chunk(b"eXIf", exif_block("<", 6))))
    assert image.pixels.shape == (56, 40, 3)
    assert raw_tags(image.metadata.exif)["main", 315][2] == "Jürgen 雨\0".encode()


def test_the_raw_profile_of_an_old_png():
    block = b"Exif\0\0" + exif_block("<", 6, thumbnail=False)
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    image = images.read(png(PIXELS, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))))
    assert image.pixels.shape == (56, 40, 3)
    assert raw_tags(image.metadata.exif)["main", 271][2] == b"Maker\0"
    assert image.metadata.text == ()


def test_tags_that_lead_nowhere_are_taken_out():
    block = tiff([{271: (2, b"Maker\0"), 0x8769: (4, [60_000]), 315: (2, b"Somebody\0")}])
    block = block.replace(struct.pack("<HHI", 315, 2, 9), struct.pack("<HHI", 315, 2, 9_000))
    image = images.read(with_exif(Image.fromarray(PIXELS), "JPEG", block))
    assert image.notes == ("EXIF tags that lead outside the file were dropped",)
    assert {key for key in raw_tags(image.metadata.exif) if key != "following"} == {("main", 271)}
    assert {key for key in described(images.encode(image, "TIFF")) if key != "following"} == {
        ("main", 271),
        ("main", 274),
    }


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"MM\0*\0\0\xff\xff", b"nothing that is known", b"II*\0\x08\0\0\0\0\0"]
)
def test_exif_that_is_none_costs_a_note_and_not_the_image(block):
    image = images.read(png(PIXELS, before=chunk(b"eXIf", block)))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.metadata.exif is None
    assert image.notes == (("EXIF is damaged and was dropped",) if block else ())


def test_every_cut_of_an_exif_block_gives_an_image():
    block = exif_block(">", 6)
    for length in range(8, len(block), 7):
        image = images.read(png(PIXELS, before=chunk(b"eXIf", block[:length])))
        for target in HOLDING_EXIF:
            if image.metadata.exif:
                raw_tags(exif_of(images.encode(image, target)))


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" tiff:Orientation="6" exif:PixelXDimension="56" exif:PixelYDimension="40"
 dc:title="雨"/></rdf:RDF></x:xmpmeta>""".encode()


@pytest.mark.parametrize("target", HOLDING_EXIF)
def test_xmp_travels_with_its_orientation_reset(target):
    image = images.read(saved(Image.fromarray(PIXELS), "JPEG", xmp=XMP))
    assert image.pixels.shape == (56, 40, 3)  # what XMP alone says counts
    back = images.read(images.encode(image, target)).metadata.xmp
    expected = XMP.replace(b'tion="6"', b'tion="1"').replace(
        b'exif:PixelXDimension="56" exif:PixelYDimension="40"', b'exif:PixelXDimension="40" exif:PixelYDimension="56"'
    )
    assert back == expected


_REGIONS = (
    b'<mwg-rs:Regions xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" rdf:parseType="Resource">'
    b'<mwg-rs:RegionList><rdf:Bag><rdf:li mwg-rs:Name="Ann"/></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>'
)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_of_xmp_do_not_outlive_a_turn(orientation):
    packet = (
        b'<r:RDF xmlns:r="urn:r" xmlns:rdf="urn:rdf"><d xmlns:tiff="urn:t" tiff:Orientation="%d">' % orientation
        + _REGIONS
        + b"</d></r:RDF>"
    )
    image = images.read(saved(Image.fromarray(PIXELS), "JPEG", xmp=packet))
    assert (b"Ann" in image.metadata.xmp) == (orientation == 1)
    assert image.notes == (() if orientation == 1 else ("marked regions (faces) dropped: the image was turned",))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_subject_in_exif_follows_the_turn(orientation, order):
    pixels = np.zeros((40, 56, 3), np.uint8)
    pixels[20, 10] = 255
    photo_tags = {0x9214: (3, [10, 20, 5, 6]), 0xA214: (3, [10, 20])}
    block = tiff([{274: (3, [orientation]), 0x8769: photo_tags}], order)
    image = images.read(with_exif(Image.fromarray(pixels), "PNG", block))
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + image.metadata.exif)
    x, y, *extent = exif.get_ifd(0x8769)[0x9214]
    assert exif.get_ifd(0x8769)[0xA214] == (x, y)
    assert image.pixels[y, x].min() == 255
    assert extent == ([6, 5] if orientation >= 5 else [5, 6])


def test_exif_counts_before_xmp():
    block = tiff([{274: (3, [1])}])
    data = saved(Image.fromarray(PIXELS), "JPEG", xmp=XMP, exif=b"Exif\0\0" + block)
    assert images.read(data).pixels.shape == (40, 56, 3)


def test_what_xmp_promises_and_is_gone():
    packet = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:Camera="http://ns.google.com/photos/1.0/camera/" xmlns:g='http://ns.adobe.com/hdr-gain-map/1.0/'
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 Camera:MotionPhoto="1" Camera:MotionPhotoVersion='1' Camera:SpecialTypeID="x" g:Version="1.0" xmp:Rating="4"
 xmpNote:HasExtendedXMP="0123">
<g:GainMapMin><rdf:Seq><rdf:li>0.1</rdf:li></rdf:Seq></g:GainMapMin>
<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="video/mp4" Item:Length="9"/>
</rdf:li></rdf:Seq></Container:Directory><xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails>
</rdf:Description></rdf:RDF></x:xmpmeta>"""
    image = images.read(saved(Image.fromarray(PIXELS), "JPEG", xmp=packet) + b"\0\0\0\x18ftypmp42" + bytes(500))
    assert image.notes == ("video of the motion photo dropped", "gain map (HDR) dropped: the SDR image is kept")
    kept = image.metadata.xmp
    for gone in (b"MotionPhoto", b"g:", b"GainMap", b"Container", b"Item:", b"HasExtendedXMP", b"Thumbnails", b"AAAA"):
        assert gone not in kept, gone
    for still in (b'Camera:SpecialTypeID="x"', b'xmp:Rating="4"', b"</rdf:Description></rdf:RDF></x:xmpmeta>"):
        assert still in kept


_CAMERA = b'xmlns:G="http://ns.google.com/photos/1.0/camera/"'


@pytest.mark.parametrize(
    ("packet", "kept"),
    [
        (b"<x " + _CAMERA + b">" + b"<G:MotionPhoto>" * 100_000 + b"</x>", None),  # not closed
        (
            b"<x " + b" ".join(_CAMERA.replace(b"G", b"p%d" % i) for i in range(20_000)) + b' p7:MotionPhoto="1"/>',
            b"<x/>",
        ),
        (b"<x " + _CAMERA + b">" + b"<G:MotionPhoto/>" * 20_000 + b"</x>", b"<x></x>"),
        (b"<x " + _CAMERA + b' y="' + b"G:MotionPhoto=1 " * 100_000 + b'"></x>', None),
    ],
    ids=["unclosed", "prefixes", "many", "attribute"],
)
def test_hostile_xmp_takes_no_longer_than_other(packet, kept):
    """With the square of the length it would take hours."""
    assert images.xmp.without_dropped_data(packet, 1)[0] == (kept or packet)


def test_only_references_of_xmp_are_removed():
    packet = (
        b'<?xpacket begin="\xef\xbb\xbf"?><x ' + _CAMERA + b' xmlns:o="urn:o"><o:a note="<G:MotionPhoto>1"/>'
        b'<G:MotionPhoto/><o:b G:MicroVideo="1" o:c="G:MotionPhoto=\'1\'"><G:MotionPhoto>1<o:d/></G:MotionPhoto>'
        b'kept</o:b><y xmlns:G="urn:other" G:MotionPhoto="1"/></x><?xpacket end="w"?>\0\0'
    )
    packet = packet.replace(b'"<G:MotionPhoto>1"', b'"&lt;G:MotionPhoto>1"')
    without, notes = images.xmp.without_dropped_data(packet, 1)
    expected = packet.replace(b"<G:MotionPhoto/>", b"").replace(b' G:MicroVideo="1"', b"")
    assert without == expected.replace(b"<G:MotionPhoto>1<o:d/></G:MotionPhoto>", b"")
    assert notes == [images.xmp.VIDEO_DROPPED]
    assert images.xmp.without_dropped_data(packet[:-40], 1) == (packet[:-40], [])  # not well-formed
    assert images.xmp.without_dropped_data(packet[10:-40].decode().encode("utf-16"), 1)[1] == []
    declared = b'<?xml version="1.0" encoding="utf-7"?>' + packet[packet.index(b"<x") :]
    assert images.xmp.without_dropped_data(declared, 1)[1] == notes


@pytest.mark.parametrize(
    ("tail", "note"),
    [
        (b"\0" * 100 + b"\r\n", None),
        (b"\0\0\0\x18ftypmp42" + bytes(900), "video after the image dropped"),
        (b"SEFT and other data of a phone", "30 bytes after the image dropped"),
    ],
)
def test_what_lies_behind_a_jpeg(tail, note):
    assert images.read(saved(Image.fromarray(PIXELS), "JPEG") + tail).notes == ((note,) if note else ())


@pytest.mark.parametrize(("kind", "whole"), [(1, True), (2, True), (7, True), (4, False)])
def test_xmp_of_odd_types_in_a_tiff(kind, whole):
    packet = '<x:xmpmeta xmlns:x="adobe:ns:meta/">é</x:xmpmeta> '.encode()
    content = packet if kind != 2 else packet + b"\0"
    content = content[: len(content) // 4 * 4] if kind == 4 else content
    data = tiff([(pixel_tags(56, 40) | {271: (2, b"Maker\0"), 700: (kind, content)}, PIXELS.tobytes())])
    image = images.read(data)
    assert image.notes == ()
    assert image.metadata.xmp == (packet if whole else content)
    assert images.read(images.encode(image, "TIFF")).metadata.xmp == image.metadata.xmp


IPTC = b"\x1c\x02\x78\x00\x04rain"


def test_iptc_and_comment():
    data = saved(
        *(Image.fromarray(PIXELS), "JPEG"),
        comment=b"a comment",
        extra=b"\xff\xed"
        + struct.pack(">H", 2 + 14 + 12 + 3 + 1 + 12 + len(IPTC) + 1)
        + b"Photoshop 3.0\0"
        + b"8BIM\x03\xed\0\0\0\0\0\x03abc\0"
        + b"8BIM\x04\x04\0\0"
        + struct.pack(">I", len(IPTC))
        + IPTC
        + b"\0",
    )
    image = images.read(data)
    assert (image.metadata.iptc, image.metadata.comment) == (IPTC, b"a comment")
    for target in ("JPEG", "TIFF"):
        assert images.read(images.encode(image, target)).metadata.iptc == IPTC
    assert images.read(images.encode(image, "JPEG")).metadata.comment == b"a comment"
    assert images.losses(image, "JPEG") == []
    assert images.losses(image, "TIFF") == ["comment dropped: TIFF has none"]
    assert images.losses(image, "WEBP") == ["IPTC and comment dropped: WebP has none"]


TEXT = chunk(b"tEXt", b"parameters\0a rainy street"), chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2 << 20)))


def test_text_of_a_png():
    image = images.read(png(PIXELS, before=TEXT[0], after=TEXT[1]))
    assert image.notes == ()
    written = images.encode(image, "PNG")
    assert all(text in written for text in TEXT)
    assert images.losses(image, "JPEG") == ["PNG text dropped: JPEG has none"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
        (b"cICP", bytes([12, 13, 0, 1])),
        (b"sRGB", b"\1"),
    ],
)
def test_color_chunks_of_a_png(name, content, deep):
    pixels = PIXELS.astype(np.uint16) * 257 if deep else PIXELS
    image = images.read(png(pixels, 16 if deep else 8, before=chunk(name, content)))
    written = png_chunks(images.encode(image, "PNG"))
    assert (name, content) in written
    assert [found for found, _ in written].index(name) < [found for found, _ in written].index(b"IDAT")
    lost = [text for text in images.losses(image, "JPEG") if "color description" in text]
    assert len(lost) == (name != b"sRGB")
    assert not lost or name.decode() in lost[0]


def test_the_colors_of_srgb_need_no_words():
    chunks = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(
        b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    )
    assert images.losses(images.read(png(PIXELS, before=chunks)), "JPEG") == []


def test_colors_of_avif():
    data = saved(Image.fromarray(PIXELS), "AVIF", quality=90)
    at = data.index(b"colrnclx") + 8
    image = images.read(data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :])
    written = images.encode(image, "AVIF")
    assert struct.unpack_from(">HH", written, written.index(b"colrnclx") + 8) == (12, 13)
    assert dict(png_chunks(images.encode(image, "PNG")))[b"cICP"] == bytes([12, 13, 0, 1])
    assert images.losses(image, "WEBP") == ["color description (cICP 12/13) dropped: WebP has none"]
    assert images.losses(images.read(data), "WEBP") == []


@pytest.mark.parametrize("title", ["AVIF", "HEIC", "JPEG"])
def test_narrow_range_that_only_png_can_say_is_said(title):
    image = images.read(png(PIXELS, before=chunk(b"cICP", bytes([1, 13, 0, 0]))))
    lost = images.losses(image, "HEIF" if title == "HEIC" else title)
    assert lost == [f"narrow range (cICP) dropped: {title} is written as full range"]
    assert images.losses(image, "PNG") == []


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(transfer, name, tmp_path):
    avif = saved(Image.fromarray(PIXELS), "AVIF")
    at = avif.index(b"colrnclx") + 8
    profile = bytearray(ICC[:128] + struct.pack(">I", 1) + b"cicp" + struct.pack(">II", 144, 12))
    profile += b"cicp" + bytes(4) + bytes([9, transfer, 0, 1])
    files = (
        png(PIXELS, before=chunk(b"cICP", bytes([9, transfer, 0, 1]))),
        avif[:at] + struct.pack(">HHH", 9, transfer, 9) + avif[at + 6 :],
        saved(Image.fromarray(PIXELS), "JPEG", icc_profile=bytes(profile)),
    )
    for data in files:
        with pytest.raises(ImageError, match=rf"is HDR \({name}, by its"):
            images.read(data)
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(ImageError, match="is HDR"):
            images.size(tmp_path / "a")


def test_a_gray_profile_is_said_when_it_goes():
    profile = ICC[:16] + b"GRAY" + ICC[20:]
    image = DecodedImage(np.repeat(PIXELS[..., :1], 3, axis=2), gray=True, metadata=Metadata(icc=profile))
    assert images.losses(image, "WEBP") == [
        "gray written as RGB in WebP",
        "gray ICC profile dropped: written as RGB in WebP",
    ]
    assert images.read(images.encode(image, "WEBP")).metadata.icc is None
    assert images.read(images.encode(image, "PNG")).metadata.icc == profile


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_profile_that_is_none_is_dropped(image_format):
    if image_format == "PNG":
        data = png(PIXELS, before=chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20))))
    else:
        data = saved(Image.fromarray(PIXELS), image_format, icc_profile=b"not a profile")
    image = images.read(data)
    assert image.metadata.icc is None
    assert image.notes == ("ICC profile is damaged and was dropped",)


def test_the_profile_of_a_bmp():
    header = struct.pack("<IiiHHIIiiII", 124, 56, -40, 1, 24, 0, 0, 2835, 2835, 0, 0) + bytes(16) + b"DEBM" + bytes(48)
    rows = PIXELS[..., ::-1].tobytes()
    header += struct.pack("<IIII", 4, 124 + len(rows), len(ICC), 0)
    image = images.read(b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 124) + header + rows + ICC)
    assert np.array_equal(image.pixels, PIXELS)
    assert image.metadata.icc == ICC
    assert image.metadata.dpi == pytest.approx((72, 72), abs=0.1)


def test_losses_name_what_there_is():
    image = DecodedImage(PIXELS, metadata=Metadata(exif_block(), ICC, XMP, (300.0, 300.0)))
    assert images.losses(image, "BMP") == ["EXIF, ICC profile and XMP dropped: BMP has none"]
    assert images.losses(DecodedImage(PIXELS, metadata=Metadata(icc=ICC)), "BMP") == [
        "ICC profile dropped: BMP has none"
    ]
    plain = DecodedImage(PIXELS, metadata=Metadata(dpi=(300.0, 300.0)))
    assert images.losses(plain, "WEBP") == ["resolution dropped: WebP has none"]
    long = DecodedImage(PIXELS, metadata=Metadata(xmp=XMP + b" " * 70_000))
    assert images.losses(long, "JPEG") == [f"XMP of {len(XMP) + 70_000} bytes dropped: too long for JPEG"]
    assert images.read(images.encode(long, "JPEG")).metadata.xmp is None


@pytest.mark.parametrize("length", [255 * 65_519, 255 * 65_519 + 1])
def test_an_icc_profile_that_jpeg_cannot_hold(length):
    image = DecodedImage(PIXELS, metadata=Metadata(icc=ICC.ljust(length, b"\0")))
    fits = length <= 255 * 65_519
    assert images.losses(image, "JPEG") == (
        [] if fits else [f"ICC profile of {length} bytes dropped: too long for JPEG"]
    )
    back = images.read(images.encode(image, "JPEG"))
    assert back.notes == ()
    assert back.metadata.icc == (image.metadata.icc if fits else None)


def test_a_gain_map_that_only_a_segment_announces_is_named():
    announced = [b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0", b"MPF\0MM\0*" + bytes(30)]
    plain = saved(Image.fromarray(PIXELS), "JPEG")
    segments = b"".join(struct.pack(">HH", 0xFFE2, len(data) + 2) + data for data in announced)
    image = images.read(plain[:2] + segments + plain[2:] + plain)
    assert image.notes == ("gain map (HDR) dropped: the SDR image is kept",)


def test_only_the_segments_that_are_meant_are_written():
    image = DecodedImage(PIXELS, metadata=Metadata(exif_block(), ICC, XMP, (300.0, 300.0)))
    markers = [marker for marker, _ in jpeg_segments(images.encode(image, "JPEG"))]
    assert sorted(marker for marker in markers if 0xE0 <= marker <= 0xEF) == [0xE0, 0xE1, 0xE1, 0xE2]


def test_content_credentials_do_not_outlive_the_rain():
    jpeg = saved(Image.fromarray(PIXELS), "JPEG", extra=b"\xff\xeb\0\x08JP\0\1abcd"[:10])
    for data in (jpeg, png(PIXELS, before=chunk(b"caBX", b"manifest"))):
        image = images.read(data)
        assert image.notes == ("content credentials (C2PA) dropped: they belong to the rainy image",)
        assert b"manifest" not in images.encode(image, "PNG")
