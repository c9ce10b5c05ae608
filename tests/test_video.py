"""`drsformer derain` for videos, as a user runs it."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition
from conftest import documented_keys
from PIL import Image, ImageCms
from test_pages import Page
from video_files import Clip, flashes, found, planes

from drsformer_cli import images
from drsformer_cli.images import DecodedImage
from drsformer_cli.video import color, encoding, formats, muxing, reading, segments
from drsformer_cli.video.color import Coding
from drsformer_cli.video.reading import Stream, Tags
from drsformer_cli.video.threads import Behind, ahead
from drsformer_cli.video.timeline import Timeline

TURNED = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]  # a phone held upright


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def derain(run, here, tiny_file):
    """Run `drsformer derain` with the tiny network in an empty folder."""

    def derain(*arguments):
        return run("derain", *arguments, "--model", tiny_file)

    return derain


def names(path="."):
    return sorted(str(p.relative_to(path)) for p in Path(path).rglob("*") if p.is_file())


def test_everything_in_a_file_is_kept(derain):
    Clip(
        frames=12, sound="aac", metadata={"title": "Rain", "comment": "heavy"}, chapters=True, aspect=Fraction(4, 3)
    ).write(Path("a.mp4"))
    answer = derain("a.mp4", "-o", "b.mp4")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("a.mp4 -> b.mp4  12 frames of 48x32 in ")
    assert names() == ["a.mp4", "b.mp4"]
    before, after = found("a.mp4"), found("b.mp4")
    assert after.codec == "h264"
    assert after.streams == before.streams
    assert {"title": "Rain", "comment": "heavy"}.items() <= after.metadata.items()
    assert after.chapters == before.chapters == [(0, 0.1, "one"), (0.1, 0.32, "two")]
    assert after.aspect == Fraction(4, 3)
    assert after.times == pytest.approx(before.times, abs=1e-4)
    assert after.average_rate == 25
    assert len(after.clicks) == 3
    assert after.clicks == pytest.approx(flashes(after), abs=0.02)


LOSSLESS = {
    "601": Clip(codec="ffv1", tags=(6, 1, 6, 6)),
    "709": Clip(codec="ffv1", pixel_format="yuv422p", tags=(1, 1, 1, 1)),
    "full": Clip(codec="ffv1", pixel_format="yuv444p", tags=(1, 2, 1, 13)),
    "2020": Clip(codec="ffv1", pixel_format="yuv420p10le", tags=(9, 1, 9, 14)),
    "deep": Clip(codec="ffv1", pixel_format="yuv422p10le", tags=(2, 0, 2, 2)),
    "odd": Clip(codec="ffv1", size=(47, 31)),
}


def test_without_a_change_every_value_stays(derain):
    """All matrices, ranges and pixel formats, values outside of RGB included."""
    Path("in").mkdir()
    for name, clip in LOSSLESS.items():
        clip.frames = 3
        clip.write(Path(f"in/{name}.mkv"))
    assert derain("in", "-o", "out", "--strength", 0, "--codec", "ffv1").code == 0
    for name in LOSSLESS:
        before, after = found(f"in/{name}.mkv"), found(f"out/{name}.mkv")
        assert len(after.frames) == 3
        for x, y in zip(before.frames, after.frames, strict=True):
            assert y.format.name == x.format.name
            assert (y.colorspace, y.color_range) == (x.colorspace, x.color_range), name
            assert (y.color_primaries, y.color_trc) == (x.color_primaries, x.color_trc), name
            for a, b in zip(planes(x), planes(y), strict=True):
                assert np.array_equal(a, b), name


def test_rgb_stays_in_a_lossless_video(derain):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(f"{i}.png")
    assert derain("%d.png", "-o", "a.mkv", "--strength", 0, "--codec", "ffv1").code == 0
    after = [frame.to_ndarray(format="rgb24") for frame in found("a.mkv").frames]
    assert np.array_equal(after, pixels)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["gray", "ya8", "monow", "gray9le", "gray10le", "gray12le", "gray16le", "ya16le"])
def test_gray_has_no_tint(name, full):
    frame = av.VideoFrame(48, 32, name)
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = np.arange(plane.buffer_size) % 2
    frame.color_range = 1 + full
    wanted = encoding.choose_encoding(Stream(48, 32, name, Tags(1, 1 + full, 1, 1), 1, 1, 1), None, None).pixel_format
    _, *chroma = reading.planes_of(frame, wanted, Tags(1, 1 + full, 1, 1))
    assert {value for plane in chroma for value in plane.ravel().tolist()} == {1 << (wanted.bits - 1)}


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_gray_images_get_no_matrix_of_rgb(derain, codec):
    Clip(frames=2, codec="png", pixel_format="gray", tags=(2, 0, 2, 2)).write(Path("a.mov"))
    answer = derain("a.mov", "-o", "b.mp4", "--codec", codec)
    assert (answer.code, answer.err) == (0, "")
    assert found("b.mp4").first.colorspace == color.UNSPECIFIED


@pytest.mark.parametrize("name", ["rgb555le", "rgb565be"])
def test_white_of_few_bits_stays_white(name):
    frame = av.VideoFrame(48, 32, name)
    np.frombuffer(frame.planes[0], np.uint8)[:] = 255
    tags = Tags(1, 1, 1, 1)
    luma, *_ = reading.planes_of(frame, encoding.PixelFormat("444", 10), tags)
    assert (luma.min(), luma.max()) == (940, 940)


@pytest.mark.parametrize("coding", [Coding(1, False, 8), Coding(6, True, 8), Coding(9, False, 10)])
@pytest.mark.parametrize("shape", [(16, 24), (32, 24), (32, 48)])
def test_a_change_of_rgb_is_the_same_change_of_the_planes(coding, shape):
    """Take flat planes, change RGB by what other planes would be, and get those planes."""
    unit = 1 << (coding.bits - 8)
    kind = np.uint8 if coding.bits == 8 else np.uint16

    def flat(y, cb, cr):
        return tuple(
            np.full(size, value * unit, kind) for size, value in zip([(32, 48), shape, shape], (y, cb, cr), strict=True)
        )

    one, two = flat(90, 120, 140), flat(140, 135, 118)
    changed = color.changed(one, color.to_rgb(one, coding), color.to_rgb(two, coding), coding)
    for a, b in zip(changed, two, strict=True):
        assert np.abs(a.astype(int) - b).max() <= unit


def test_av1_of_more_frames_per_second_than_its_encoder_takes(derain):
    Clip(frames=2, rate=Fraction(250)).write(Path("a.mp4"))
    answer = derain("a.mp4", "-o", "b.webm", "--codec", "av1")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "drsformer: a.mp4: has 250 frames/s; AV1 is written with at most 240\n"
    assert names() == ["a.mp4"]


def test_known_colors():
    red = [np.full((2, 2), value, np.uint8) for value in (63, 102, 240)]  # BT.709, limited
    assert color.to_rgb(tuple(red), Coding(1, full_range=False, bits=8))[0, 0].tolist() == [255, 1, 0]
    white = [np.full((2, 2), value, np.uint16) for value in (940, 512, 512)]
    assert color.to_rgb(tuple(white), Coding(9, full_range=False, bits=10))[0, 0].tolist() == [65535] * 3


def test_a_name_with_colons_is_no_address(derain):
    Clip(frames=2).write(Path("a.mp4"))
    Path("a.mp4").rename("rec-12:30:05.mp4")
    assert derain("rec-12:30:05.mp4", "-o", "b:1.mp4").code == 0
    assert names() == ["b:1.mp4", "rec-12:30:05.mp4"]


def covers(path):
    with av.open(str(path)) as file:
        rows = [row.index for row in file.streams.video if row.disposition & Disposition.attached_pic]
        assert len(file.streams.video) == 1 + len(rows)
        return [bytes(packet) for packet in file.demux() if packet.stream.index in rows and packet.size]


def test_covers(derain):
    """In Matroska they are attachments, in MP4 packets without a time."""
    Image.new("RGB", (16, 16), "red").save("cover.png")
    cover = Path("cover.png").read_bytes()
    Clip(frames=2, cover=cover).write(Path("a.mkv"))
    assert derain("a.mkv", "-o", "b.mp4").err == ""
    assert derain("b.mp4", "-o", "c.mp4").err == ""
    assert derain("c.mp4", "-o", "d.mkv").err == ""
    assert derain("d.mkv", "-o", "e.mkv").err == ""
    assert [covers(name) for name in ("b.mp4", "c.mp4", "d.mkv", "e.mkv")] == [[cover]] * 4
    for name, title in (("f.mov", "MOV"), ("f.avi", "AVI")):
        assert derain("c.mp4", "-o", name).err == f"c.mp4: cover 1 (png) dropped: {title} cannot hold it\n"
        assert covers(name) == []


def test_time_code(derain):
    Clip(frames=2, metadata={"timecode": "01:02:03:04"}).write(Path("a.mov"))  # FFmpeg makes a stream of it
    assert found("a.mov").streams["data"]
    for name in ("b.mov", "b.mp4", "b.mkv"):
        answer = derain("a.mov", "-o", name)
        assert (answer.code, answer.err) == (0, "")
    assert derain("b.mkv", "-o", "c.mov").err == ""
    for source, name, title in (("a.mov", "d.avi", "AVI"), ("a.mov", "d.ts", "MPEG-TS"), ("b.mkv", "e.avi", "AVI")):
        answer = derain(source, "-o", name)
        said = f"{source}: time code 01:02:03:04 of video 0 dropped: {title} cannot hold it\n"
        assert (answer.code, answer.err) == (0, said)
        assert list(found(name).streams) == ["video"]
    for name in ("b.mov", "b.mp4", "b.mkv", "c.mov"):
        with av.open(name) as file:
            metadata = {key.lower(): text for key, text in file.streams.video[0].metadata.items()}
            assert metadata["timecode"] == "01:02:03:04"


def test_a_muxer_that_refuses_does_not_cost_the_video(derain, monkeypatch):
    monkeypatch.setattr("drsformer_cli.video.muxing._is_written_anyway", lambda *_: False)
    Clip(frames=2, metadata={"timecode": "01:02:03:04", "title": "Rain"}).write(Path("a.mov"))
    answer = derain("a.mov", "-o", "b.mov")
    assert (answer.code, answer.err) == (0, "a.mov: data streams dropped: MOV cannot hold them together\n")
    assert found("b.mov").metadata["title"] == "Rain"


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("b.mp4", "vp9", True),
        ("b.mov", "h264", True),
        ("b.mkv", "h264", True),
        ("b.mkv", "ffv1", False),
        ("b.avi", "ffv1", False),
        ("b.webm", "vp9", False),
    ],
)
def test_a_pixel_aspect_is_kept_or_its_loss_is_said(derain, name, codec, kept):
    Clip(frames=2, aspect=Fraction(4, 3)).write(Path("a.mp4"))
    answer = derain("a.mp4", "-o", name, "--codec", codec)
    assert answer.code == 0
    assert ("pixel aspect 4:3 dropped: it cannot be written with" in answer.err) != kept
    assert (found(name).aspect == Fraction(4, 3)) == kept


@pytest.mark.parametrize("wanted", [Disposition.default, Disposition.default | Disposition.forced])
def test_disposition(derain, wanted):
    Clip(frames=2, disposition=wanted).write(Path("a.mkv"))
    for name in ("b.mkv", "b.mov"):
        assert derain("a.mkv", "-o", name).code == 0
    with av.open("b.mkv") as file:
        assert file.streams.video[0].disposition == wanted
    with av.open("b.mov") as file:
        assert file.streams.video[0].disposition & Disposition.default


def test_variable_frame_rate(derain):
    times = [0, 40, 200, 210, 333, 500, 501, 900]
    Clip(times=times).write(Path("a.mp4"))
    assert derain("a.mp4", "-o", "b.mp4").code == 0
    assert found("b.mp4").times == pytest.approx([t / 1000 for t in times], abs=1e-3)


def test_rotated_video_is_restored_upright(derain, monkeypatch):
    """The network sees the rain fall down, and the file stays rotated."""
    from drsformer_cli.video import pipeline

    seen = []
    original = pipeline.restore_frames

    def spy(frames, *arguments, **options):
        def look():
            for frame in frames:
                seen.append(frame.shape)
                yield frame

        return original(look(), *arguments, **options)

    monkeypatch.setattr(pipeline, "restore_frames", spy)
    Clip(frames=2, matrix=TURNED).write(Path("a.mov"))
    answer = derain("a.mov", "-o", "b.mov", "--compare")
    assert answer.code == 0
    assert seen == [(48, 32, 3)] * 2
    after = found("b.mov")
    assert (after.first.width, after.first.height, after.first.rotation) == (48, 32, -90)
    both = found("b_compare.mov")
    assert (both.first.width, both.first.height) == (48, 64)
    # Displayed, the input is at the left; clockwise by a quarter turn, that is the lower half of what is stored.
    assert np.abs(both.planes(0)[0][32:] - found("a.mov").planes(0)[0]).mean() < 4


def test_any_angle_is_kept(derain):
    turned = [46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30]
    Clip(frames=2, matrix=turned).write(Path("a.mov"))
    answer = derain("a.mov", "-o", "b.mov")
    said = "a.mov: is displayed rotated by an angle that is not a multiple of 90 degrees; it is kept\n"
    assert (answer.code, answer.err) == (0, said)
    assert found("b.mov").first.rotation == found("a.mov").first.rotation == -45
    assert "rotation dropped: AVI has none" in derain("a.mov", "-o", "b.avi").err


def test_side_data_that_pyav_does_not_know(derain):
    """EXIF in the frames of a camera's Motion JPEG, which also says how they are turned."""
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes()
    Clip(frames=2, codec="mjpeg", pixel_format="yuvj420p").write(Path("b.avi"))
    with av.open("b.avi") as source, av.open("a.avi", "w") as output:
        row = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(source.demux()):
            if data := bytes(packet):
                marked = av.Packet(data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2) + block + data[2:])
                marked.pts = marked.dts = number
                marked.stream, marked.time_base = row, packet.time_base
                output.mux(marked)
    answer = derain("a.avi", "-o", "b.mkv")
    assert (answer.code, answer.err) == (0, "")
    assert found("b.mkv").first.rotation == -90


def test_closed_captions_are_said_to_be_dropped(derain):
    caption = b"\xb5\0\x31GA94\x03\xc1\xff\xfc\x94\x20\xff"
    data = Clip(frames=2, options={"bf": "0"}).write(Path("b.h264")).read_bytes()
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    marked = [b"\6\4" + bytes([len(caption)]) + caption + b"\x80" if part[0] & 31 in (1, 5) else b"" for part in parts]
    parts = [part for pair in zip(marked, parts, strict=True) for part in pair if part]
    Path("a.h264").write_bytes(b"".join(b"\0\0\0\1" + part for part in parts))
    answer = derain("a.h264", "-o", "b.mkv")
    assert (answer.code, answer.err) == (0, "a.h264: closed captions dropped\n")


def test_10_bits_stay_10(derain):
    Clip(codec="libx264", pixel_format="yuv420p10le", tags=(9, 1, 9, 18), frames=2).write(Path("a.mp4"))
    answer = derain("a.mp4", "-o", "b.mp4")
    assert answer.code == 0
    assert answer.err == "a.mp4: is HDR (HLG) and stays HDR; the models were trained on SDR\n"
    first = found("b.mp4").first
    assert first.format.name == "yuv420p10le"
    assert (first.colorspace, first.color_primaries, first.color_trc) == (9, 9, 18)


@pytest.mark.parametrize(
    ("name", "clip", "format_", "note"),
    [
        ("b.mp4", Clip(codec="ffv1", size=(47, 31)), "yuv444p", "47x31 is odd, so H.264 is written with 4:4:4 color"),
        ("b.webm", Clip(codec="ffv1", size=(47, 31)), "yuv420p", ""),
        ("b.webm", LOSSLESS["deep"], "yuv422p", "10 bits reduced to 8: VP9 is written with 8"),
        ("b.mp4", Clip(codec="ffv1", size=(1, 1), pixel_format="yuv444p"), "yuv444p", ""),
        ("b.mkv", Clip(codec="ffv1", frames=1, sound="pcm_s16le"), "yuv420p", ""),
        (
            "b.webm",
            Clip(codec="ffv1", frames=1, sound="aac"),
            "yuv420p",
            "it cannot be written into WebM; Matroska keeps it",
        ),
        (
            "b.ts",
            Clip(frames=1, sound="pcm_s16le"),
            "yuv420p",
            "audio 1 (pcm_s16le) dropped",
        ),
        ("b.ts", Clip(frames=1, sound="flac"), "yuv420p", "audio 1 (flac) dropped"),
    ],
)
def test_what_a_codec_or_container_cannot_hold_is_said(derain, name, clip, format_, note):
    clip.frames = min(clip.frames, 2)
    clip.write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", name)
    assert answer.code == 0
    assert note in answer.err
    assert answer.err.count("\n") == (note != "")
    first = found(name).first
    assert (first.width, first.height, first.format.name) == (*clip.size, format_)


def test_sound_that_pyav_does_not_write_into_matroska(derain):
    """FFmpeg would: PyAV takes the codecs of the format's own table only."""
    Clip(frames=2, sound="adpcm_ms").write(Path("a.avi"))
    answer = derain("a.avi", "-o", "b.mkv")
    said = "a.avi: audio 1 (adpcm_ms) dropped: it cannot be written into Matroska; AVI keeps it\n"
    assert (answer.code, answer.err) == (0, said)


def test_sound_without_names_of_channels_stays(derain):
    """AVI says that there are two channels, and MP4 wants to know which."""
    Clip(frames=4, sound="pcm_s16le", layout="stereo").write(Path("a.avi"))
    answer = derain("a.avi", "-o", "b.mp4")
    assert (answer.code, answer.err) == (0, "")
    assert found("b.mp4").streams == {"video": ["h264"], "audio": ["pcm_s16le"]}


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "pcm_mulaw"])
def test_sound_that_avi_holds_stays_in_avi(derain, codec):
    Clip(frames=12, sound=codec).write(Path("a.avi"))
    answer = derain("a.avi", "-o", "b.avi", "--strength", 0)
    assert (answer.code, answer.err) == (0, "")
    before, after = found("a.avi"), found("b.avi")
    assert after.streams == before.streams
    assert after.clicks == pytest.approx(before.clicks, abs=1e-3)
    assert len(after.clicks) >= 2


@pytest.mark.parametrize("codec", ["aac", "ac3"])
def test_sound_of_avi_stays_in_sync_in_avi(derain, codec):
    Clip(frames=12, sound=codec).write(Path("a.avi"))
    answer = derain("a.avi", "-o", "b.avi", "--strength", 0)
    assert (answer.code, answer.err) == (0, "")
    assert found("b.avi").clicks == pytest.approx(found("a.avi").clicks, abs=1e-3)
    assert len(found("b.avi").clicks) >= 2


def test_sound_that_avi_would_play_at_another_speed_is_dropped(derain):
    Clip(sound="eac3").write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", "b.avi")
    assert "audio 1 (eac3) dropped: it cannot be written into AVI; Matroska keeps it" in answer.err
    assert "audio" not in found("b.avi").streams


def test_adpcm_of_rounded_times_stays_in_sync_in_avi(derain):
    Clip(frames=50, sound="adpcm_ms", size=(16, 16)).write(Path("a.wmv"))
    answer = derain("a.wmv", "-o", "b.avi", "--temporal", "off")
    assert answer.code == 0
    before, after = (found(name).clicks for name in ("a.wmv", "b.avi"))
    assert after[-1] - after[0] == pytest.approx(before[-1] - before[0], abs=3e-3)
    assert before[-1] > 1.5


WMA = Clip(frames=7, size=(16, 16), rate=Fraction(1, 2), codec="msmpeg4v3", sound="wmav2", bit_rate=32_000)


def sound_packets(path):
    """Times and sizes."""
    with av.open(path) as file:
        return [(float(packet.pts * packet.time_base), packet.size) for packet in file.demux(audio=0) if packet.size]


def test_wma_stays_in_sync_in_avi(derain):
    """Its packets are of whole bytes, so they last longer than the bit rate of the file says: here 50 ms in 13 s."""
    WMA.write(Path("a.wmv"))
    assert derain("a.wmv", "-o", "b.avi", "--temporal", "off", "--strength", 0).code == 0
    before, after = sound_packets("a.wmv"), sound_packets("b.avi")
    assert before[-1][0] - before[0][0] > 12
    assert after[-1][0] - after[0][0] == pytest.approx(before[-1][0] - before[0][0], abs=3e-3)


def test_packets_that_become_equal_in_the_output_do_not_cost_the_video(derain, monkeypatch):
    """Times of the input in milliseconds, counted in the packets of AVI."""
    monkeypatch.setattr(muxing, "_bytes_per_second", lambda *_: None)
    WMA.write(Path("a.wmv"))
    assert derain("a.wmv", "-o", "b.avi", "--temporal", "off", "--strength", 0).code == 0
    assert [size for _, size in sound_packets("b.avi")] == [size for _, size in sound_packets("a.wmv")]


def test_the_end_of_sound_without_durations_is_kept(derain):
    Clip(sound="alac").write(Path("a.mkv"))
    assert derain("a.mkv", "-o", "b.mp4").code == 0
    sizes = []
    for name in ("a.mkv", "b.mp4"):
        with av.open(name) as file:
            sizes.append([packet.size for packet in file.demux(audio=0) if packet.size])
    assert sizes[0] == sizes[1]


def test_languages_by_other_names(derain):
    Clip(sound="aac", language="deu").write(Path("a.mkv"))
    for name, language, error in (("c.mov", "ger", ""), ("c.avi", None, "language deu of audio 1 dropped")):
        answer = derain("a.mkv", "-o", name)
        assert (answer.code, error in answer.err) == (0, True)
        assert ("language" in answer.err) == bool(error)
        with av.open(name) as file:
            assert file.streams.audio[0].metadata.get("language") == language


def of_several_kinds(path):
    """A video with a title and two sounds: the second one is the default, has a title and is for a purpose."""
    Clip(frames=2, sound="aac", metadata={"title": "Rain"}).write(Path("one.mkv"))
    with av.open("one.mkv") as source, av.open(str(path), "w") as output:
        picture, sound = source.streams
        rows = [output.add_stream_from_template(row, opaque=True) for row in (picture, sound, sound)]
        rows[0].metadata["title"] = "Front"
        rows[2].metadata.update(title="Comments", language="eng")
        rows[1].disposition, rows[2].disposition = 0, Disposition.default | Disposition.comment
        for packet in source.demux():
            for row in (rows[:1], rows[1:])[packet.stream.index] if packet.size else ():
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, row
                copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                output.mux(copy)


def test_what_streams_are_for_is_kept_or_its_loss_is_said(derain):
    of_several_kinds("a.mkv")
    for source, target, said in (
        ("a.mkv", "b.mp4", ""),
        ("b.mp4", "c.mp4", ""),
        ("c.mp4", "d.mkv", ""),
        ("c.mp4", "e.mov", "disposition comment of audio 2 dropped: MOV cannot hold it"),
        (
            "c.mp4",
            "f.avi",
            "language eng, disposition comment and disposition default of audio 2 dropped: AVI cannot hold them",
        ),
        ("c.mp4", "g.ts", "title 'Front' of video 0 dropped: MPEG-TS cannot hold it"),
    ):
        answer = derain(source, "-o", target, "--strength", 0, "--temporal", "off")
        assert (answer.code, said in answer.err, bool(answer.err)) == (0, True, bool(said)), answer.err
    wanted = [("Front", False), (None, False), ("Comments", True)]
    for name in ("b.mp4", "c.mp4", "d.mkv"):
        with av.open(name) as file:
            titles = [row.metadata.get("title", row.metadata.get("name")) for row in file.streams]
            comments = [bool(row.disposition & Disposition.comment) for row in file.streams]
            assert list(zip(titles, comments, strict=True)) == wanted
            assert "NAME" not in file.streams[2].metadata
            assert [row.disposition & Disposition.default for row in file.streams.audio] == [0, 1]


def test_metadata_that_a_container_cannot_hold_is_said(derain):
    Clip(metadata={"title": "Rain", "camera-height": "2 m"}).write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", "b.mp4")
    assert "a.mkv: metadata dropped: MP4 cannot hold CAMERA-HEIGHT" in answer.err
    assert found("b.mp4").metadata["title"] == "Rain"


def test_columns_that_the_codec_crops_on_the_left(derain):
    Clip(size=(52, 32)).write(Path("a.h264"))
    with av.open("a.h264") as source:
        crop = BitStreamFilterContext("h264_metadata=crop_left=4", source.streams.video[0])
        cropped = [one for packet in source.demux() if packet.size for one in crop.filter(packet)]
        Path("b.h264").write_bytes(b"".join(map(bytes, cropped)))
    assert derain("b.h264", "-o", "c.mp4", "--temporal", "off").code == 0
    assert (found("c.mp4").first.width, found("c.mp4").first.height) == (48, 32)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(derain):
    os.mkfifo("a.mp4")
    answer = derain("a.mp4", "-o", "b.mp4")
    assert (answer.code, "a.mp4: is a pipe or a device" in answer.err) == (1, True)


def test_attachments_and_a_part_of_a_video(derain):
    clip = Clip(frames=12, sound="aac", attachment=b"drops", chapters=True, options={"g": "3"})
    clip.write(Path("a.mkv"))
    assert derain("a.mkv", "-o", "b.mkv", "--start", "0.11", "--end", "0:00:00.41", "--strength", 0).code == 0
    after = found("b.mkv")
    # Frames 3 to 10; the sound begins up to one of its packets earlier.
    assert np.diff(after.times) == pytest.approx([0.04] * 7, abs=2e-3)
    assert 0 <= after.times[0] < 0.03
    assert after.attachments == [b"drops"]
    assert after.chapters == [(0, pytest.approx(0.2, abs=2e-3), "two")]
    assert after.clicks == pytest.approx(flashes(after), abs=0.02)
    assert len(after.clicks) == 2
    before = found("a.mkv")
    for i in range(8):
        assert np.abs(after.planes(i)[1] - before.planes(i + 3)[1]).mean() < 4


class Unsearchable:
    """A file in which a search fails and leaves another position, as FLV may."""

    def __init__(self, path):
        self.file = reading.open_file(path)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def seek(self, _):
        self.file.seek(10**9)
        raise av.error.PermissionError(1, "Operation not permitted")


def test_a_part_of_a_file_that_cannot_be_searched_has_sound(derain, monkeypatch):
    monkeypatch.setattr("drsformer_cli.video.muxing.open_input", Unsearchable)
    Clip(frames=30, sound="aac", options={"g": "10"}).write(Path("a.flv"))
    assert derain("a.flv", "-o", "b.mkv", "--start", "0.4", "--strength", 0).code == 0
    after = found("b.mkv")
    assert after.clicks == pytest.approx(flashes(after), abs=0.02)
    assert len(after.clicks) == 5


def test_avi_has_no_times_and_stays_in_sync(derain):
    Clip(frames=12, sound="pcm_s16le").write(Path("a.mkv"))
    assert derain("a.mkv", "-o", "b.avi", "--strength", 0).code == 0
    assert derain("b.avi", "-o", "c.mkv", "--strength", 0).code == 0
    after = found("c.mkv")
    assert after.times == pytest.approx(found("a.mkv").times, abs=2e-3)
    assert after.clicks == pytest.approx(flashes(after), abs=0.02)
    assert len(after.clicks) == 3
    with av.open("b.avi") as file:
        assert file.duration == pytest.approx(480_000, abs=50_000)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_whose_frames_are_stored_in_another_order(derain, codec):
    Clip(frames=12, codec=codec, sound="mp3", options={"bf": "2", "b": "1000000"}).write(Path("a.avi"))
    assert derain("a.avi", "-o", "b.mkv", "--strength", 0).err == ""
    after = found("b.mkv")
    assert np.diff(after.times) == pytest.approx([0.04] * 11, abs=1e-3)
    assert len(after.clicks) == 3
    assert after.clicks == pytest.approx(flashes(after), abs=0.06)
    assert derain("a.avi", "-o", "c.avi", "--strength", 0).err == ""
    with av.open("c.avi") as file:
        assert file.streams.video[0].frames == 12
    assert derain("a.avi", "-o", "d.mkv", "--start", "0.2", "--strength", 0).err == ""
    assert len(found("d.mkv").frames) == 7


@pytest.mark.parametrize(("late", "repeated"), [(23, 0), (143, 3)])
def test_avi_of_a_video_that_begins_after_its_sound(derain, late, repeated):
    Clip(times=[late + 40 * i for i in range(6)], sound="pcm_s16le").write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", "b.avi", "--strength", 0)
    note = "a.mkv: first frame repeated 3 times, since the sound begins earlier\n"
    assert (answer.code, answer.err) == (0, note if repeated else "")
    with av.open("b.avi") as file:
        assert file.streams.video[0].frames == 6 + repeated


@pytest.mark.parametrize(("late", "pause"), [(700, 0), (0, 700), (40, 40), (0, 0)])
def test_sound_that_begins_late_or_pauses_is_early_in_avi(derain, late, pause):
    Clip(frames=12, sound="aac").write(Path("sound.mkv"))
    with av.open("sound.mkv") as source, av.open("a.mkv", "w") as output:
        rows = [output.add_stream_from_template(row, opaque=True) for row in source.streams]
        for packet in source.demux():
            if packet.stream.type == "audio" and packet.size:
                packet.pts += late + (pause if packet.pts > 300 else 0)  # not within the first packets
                packet.dts = packet.pts
            if packet.size:
                packet.stream = rows[packet.stream.index]
                output.mux(packet)
    answer = derain("a.mkv", "-o", "b.avi", "--strength", 0)
    note = "a.mkv: audio 1 is played up to 0.7 seconds early: AVI cannot hold that sound begins later or pauses\n"
    assert (answer.code, answer.err) == (0, note if late + pause > 100 else "")
    assert derain("a.mkv", "-o", "b.mkv", "--strength", 0).err == ""


def test_sound_whose_packets_have_no_durations_is_not_cut_off(derain):
    """A packet of WavPack may be one second long."""
    Clip(frames=15, sound="wavpack").write(Path("sound.mkv"))
    with av.open("sound.mkv") as source, av.open("a.mkv", "w") as output:
        rows = [output.add_stream_from_template(row, opaque=True) for row in source.streams]
        for packet in source.demux():
            if packet.size and (packet.stream.type == "audio" or packet.pts < 40):
                packet.duration = packet.duration or 600  # for the header, not for the packet
                packet.stream = rows[packet.stream.index]
                output.mux(packet)
    with av.open("a.mkv") as file:
        assert [packet.duration for packet in file.demux(file.streams.audio[0]) if packet.size] == [0]
    answer = derain("a.mkv", "-o", "b.mkv")
    assert (answer.code, answer.err) == (0, "")


def test_frames_that_repeat_the_one_before_are_not_damaged(derain, monkeypatch):
    """Theora stores them as empty packets, which a decoder refuses."""
    original = Timeline.packets

    def refuse():
        raise av.error.ArgumentError(errno.EINVAL, "Invalid argument")

    def packets(timeline, *arguments):
        for packet in original(timeline, *arguments):
            is_frame, stream = packet.size > 0, packet.stream
            facts = {"pts": packet.pts, "dts": packet.dts, "time_base": packet.time_base, "duration": 1}
            yield packet
            if is_frame:
                yield SimpleNamespace(
                    **facts, size=0, stream=stream, is_corrupt=False, has_sidedata=lambda _: False, decode=refuse
                )

    monkeypatch.setattr(Timeline, "packets", packets)
    Clip(frames=6).write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", "b.mkv")
    assert (answer.code, answer.err) == (0, "")
    assert len(found("b.mkv").frames) == 6


def test_a_truncated_avi_is_cut_off(derain):
    whole = Clip(frames=25, codec="ffv1").write(Path("a.avi")).read_bytes()
    Path("a.avi").write_bytes(whole[: len(whole) * 4 // 10])
    answer = derain("a.avi", "-o", "b.mkv")
    assert answer.code == 3
    assert "a.avi: cut off: the last 0." in answer.err
    assert 5 < len(found("b.mkv").frames) < 12


@pytest.mark.parametrize(("codec", "count"), [("theora", 3), ("h264", 0)])
def test_frames_that_an_ogv_lacks_are_counted(codec, count):
    """FFmpeg says nothing of a page that it passes over; in Theora each frame has its packet, so the times tell."""
    video = SimpleNamespace(index=0, codec_context=SimpleNamespace(name=codec))
    missing = reading._MissingFrames(video)
    for at, breaks in ((3, 0), (4, 0), (6, 0), (9, 0), (20, 1), (21, 1)):
        missing.add(SimpleNamespace(pts=at, stream=video), breaks)
        missing.add(SimpleNamespace(pts=1000 * at, stream=SimpleNamespace(index=1)), breaks)
    assert missing.count == count


def test_frames_that_are_missing_are_said(derain, monkeypatch):
    monkeypatch.setattr(reading._MissingFrames, "add", lambda missing, *_: setattr(missing, "count", 2))
    Clip(frames=3).write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", "b.mkv", "--strength", 0, "--temporal", "off")
    assert (answer.code, answer.err) == (3, "drsformer: a.mkv: damaged: 2 frames are missing\n")


@pytest.mark.parametrize("length", [60, 200])
def test_a_matroska_file_that_ends_within_its_header(derain, length):
    """FFmpeg calls it an error of the disk."""
    Path("a.mkv").write_bytes(Clip(frames=2).write(Path("b.mkv")).read_bytes()[:length])
    answer = derain("a.mkv", "-o", "c.mkv")
    assert (answer.code, answer.err) == (1, "drsformer: a.mkv: its header is damaged or cut off\n")


def test_a_damaged_ts_is_not_complete(derain):
    """Where a TS packet is lost, FFmpeg decodes what is there."""
    data = bytearray(Clip(frames=8, size=(96, 64)).write(Path("a.ts")).read_bytes())
    assert derain("a.ts", "-o", "b.mkv").code == 0
    video = [at for at in range(0, len(data), 188) if data[at + 1] & 0x5F == 0x01 and data[at + 2] == 0x00]
    data[video[12] + 1] = 0x1F  # another stream
    Path("a.ts").write_bytes(data)
    answer = derain("a.ts", "-o", "c.mkv")
    assert answer.code == 3
    assert "a.ts: damaged: some frames are incomplete" in answer.err


def test_times_that_begin_again_go_on(derain):
    """As in recordings that were put together."""
    Path("a.ts").write_bytes(2 * Clip(frames=20, sound="aac").write(Path("b.ts")).read_bytes())
    answer = derain("a.ts", "-o", "c.mkv", "--strength", 0)
    assert "a.ts: its times begin again 1 time, as in files that were put together; they go on\n" in answer.err
    after = found("c.mkv")
    assert len(after.frames) == 40
    assert 0.039 < np.diff(after.times).min() < np.diff(after.times).max() < 0.2
    assert len(after.clicks) == 10
    assert after.clicks == pytest.approx(flashes(after), abs=0.05)


@pytest.mark.parametrize(("kind", "moved"), [("audio", [0, 20, 21, 22, 40]), ("subtitle", [0, 20, 20, 20, 40])])
def test_packets_that_step_back_do_not_cost_the_video(kind, moved):
    latest = {}
    packets = [
        SimpleNamespace(pts=time, dts=time, stream=SimpleNamespace(index=1, type=kind)) for time in (0, 20, 10, 20, 40)
    ]
    for packet in packets:
        muxing._keep_in_order(packet, latest)
    assert [packet.dts for packet in packets] == [packet.pts for packet in packets] == moved


def test_a_video_that_begins_late_is_not_cut_off(derain):
    Clip(times=[1300 + 40 * i for i in range(6)]).write(Path("a.mkv"))
    answer = derain("a.mkv", "-o", "b.mkv")
    assert (answer.code, answer.err) == (0, "")


def test_preview(derain):
    Clip(frames=10).write(Path("a.mp4"))
    assert derain("a.mp4", "--preview", "0.2").code == 0
    assert names() == ["a.mp4", "a_preview.mp4"]
    after = found("a_preview.mp4")
    assert len(after.frames) == 5
    assert (after.first.width, after.first.height) == (96, 32)
    assert np.abs(after.planes(0)[0][:, :48] - found("a.mp4").planes(0)[0]).mean() < 4


def test_a_folder_of_images_and_videos(derain):
    Path("in").mkdir()
    Clip(frames=3).write(Path("in/a.mp4"))
    Image.new("RGB", (40, 24), "gray").save("in/b.png")
    Path("in/c.ts").write_text("export const typescript = true;\n")
    Image.new("RGB", (40, 24), "gray").save("in/photo.mp4", "PNG")
    Path("in/d.jpg").write_bytes(Path("in/a.mp4").read_bytes())
    answer = derain("in", "-o", "out", "--json", "--report", "page.html")
    assert answer.code == 3
    rows = {row["input"]: row for row in map(json.loads, answer.out.splitlines())}
    assert set(rows) == {"in/a.mp4", "in/b.png", "in/d.jpg", "in/photo.mp4"}
    assert rows["in/d.jpg"]["error"] == "is a video, but is named as an image; rename it"
    assert rows["in/photo.mp4"]["error"] == "is an image, but is named as a video; rename it"
    row = rows["in/a.mp4"]
    assert (row["output"], row["frames"], row["scales"], row["resumed_frames"]) == ("out/a.mp4", 3, [1.0], 0)
    assert row["megapixels"] == pytest.approx(48 * 32 / 1e6, abs=1e-3)
    assert row["mean_change"] > 0
    assert {"incomplete"}.union(*rows.values()) == documented_keys("derain")
    assert names("out") == ["a.mp4", "b.png"]
    page = Page("page.html")
    assert page.said("h1") == ["2 of 4 files derained"]
    assert [(a["data-name"], a.get("data-scale"), a.get("data-frames")) for a in page.all("li", "card")] == [
        ("in/b.png", "1.0", None), ("in/a.mp4", None, "3"),
    ]  # fmt: skip
    assert [Path(unquote(a["href"])) for a in page.all("a")] == list(
        map(Path, ("in/b.png", "out/b.png", "in/a.mp4", "out/a.mp4"))
    )
    assert len(page.all("img")) == 2  # of the image
    assert "in/a.mp4 -> new/a.mp4" in derain("in", "-o", "new", "--dry-run").out


def test_content_decides_and_names_follow(derain):
    Clip(frames=2).write(Path("a.mp4"))
    Path("a.mp4").rename("a.dat")
    assert derain("a.dat").code == 0
    assert names() == ["a.dat", "a_derained.mkv"]
    assert len(found("a_derained.mkv").frames) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.mp4", "-o", "b.jpg"], 2, "-o b.jpg: a.mp4 is a video; expected .mp4"),
        (["a.png", "-o", "b.mp4"], 2, "-o b.mp4: an image cannot become a video; expected one of .avif"),
        (["video.jpg"], 2, "video.jpg: is a video, but is named as an image; rename it"),
        (["a.mp4", "-o", "b.webm", "--codec", "h264"], 2, "WebM cannot hold H.264; expected --codec vp9 or av1"),
        (["a.mp4", "-o", "b.webm", "--crf", "64"], 2, "--crf 64: expected at most 63 for VP9"),
        (["a.mp4", "-o", "b.mp4", "--crf", "99"], 2, "--crf 99: expected at most 51 for H.264"),
        (["a.mp4", "-o", "-"], 2, "a.mp4 is a video, which cannot be written to stdout"),
        (["a.mp4", "--start", "3", "--end", "2"], 2, "--end 2 is not after --start 3"),
        (["a.mp4", "--start", "soon"], 2, "'soon' is not a time"),
        (["a.mp4", "--start", "1:99"], 2, "'1:99' is not a time; expected seconds, m:ss or h:mm:ss"),
        (["a.mp4", "--start", "9"], 1, "a.mp4: has no frames in that time"),
        (["a.mp4", "--preview", "1", "--end", "1"], 2, "--preview and --end exclude each other"),
        (["a.mp4", "--temporal", "-1"], 2, "is not auto, off or a number of frames"),
        (["a.png", "--codec", "hevc"], 2, "--codec is for videos, but there are none among the inputs"),
        (["sound.mp4"], 1, "sound.mp4: has no video stream, only audio"),
        (["photo.mp4"], 2, "photo.mp4: is an image, but is named as a video"),
        (["text.mp4"], 1, "text.mp4: not a video"),
        (["empty.mp4"], 1, "empty.mp4: not a video"),
        (["nomoov.mp4"], 1, "nomoov.mp4: its index is missing"),
        (["pq.mp4"], 1, "pq.mp4: is HDR (PQ); expected SDR or HLG"),
        (["frame_%04d.png", "-o", "b.mp4"], 2, "frame_%04d.png: no such file or folder"),
        (["a.mp4", "-o", "f_%d.png", "--resume"], 2, "-o f_%d.png and --resume exclude each other"),
        (["a.mp4", "--codec", "ffv1", "-o", "b.mkv", "--crf", "3"], 2, "--crf 3: FFV1 has no such setting"),
        (["a.mp4", "--fps", "3"], 2, "--fps is for a pattern such as frame_%04d.png"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(derain, bad, arguments, code, message):
    before = names()
    answer = derain(*arguments)
    assert answer.code == code
    assert message in " ".join(answer.err.split())
    if code == 1:
        assert answer.err.count("\n") == 1
    assert names() == before


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    Clip(frames=4).write(folder / "a.mp4")
    Image.new("RGB", (40, 24), "gray").save(folder / "a.png")
    Image.new("RGB", (40, 24), "gray").save(folder / "photo.mp4", "PNG")
    Clip(frames=1, pixel_format="yuv420p10le", tags=(9, 1, 9, 16)).write(folder / "pq.mp4")
    (folder / "text.mp4").write_text("I am no video.\n" * 100)
    (folder / "empty.mp4").touch()
    data = (folder / "a.mp4").read_bytes()
    (folder / "video.jpg").write_bytes(data)
    (folder / "nomoov.mp4").write_bytes(data[: data.index(b"moov") - 4])
    with av.open(str(folder / "sound.mp4"), "w") as output:
        sound = output.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return folder


@pytest.fixture
def bad(bad_files, here):
    for path in bad_files.iterdir():
        (here / path.name).write_bytes(path.read_bytes())


def test_a_truncated_video_gives_what_can_be_read(derain):
    Clip(frames=40, options={"g": "5"}, sound="aac").write(Path("a.mkv"))
    data = Path("a.mkv").read_bytes()
    Path("a.mkv").write_bytes(data[: len(data) // 2])
    answer = derain("a.mkv", "-o", "b.mkv", "--json")
    assert answer.code == 3
    assert json.loads(answer.out)["incomplete"].startswith("cut off: the last")
    assert "a.mkv: cut off: the last" in answer.err
    assert 5 < len(found("b.mkv").frames) < 35


def test_without_the_extra(derain, bad, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    answer = derain("a.mp4")
    assert (answer.code, answer.err) == (2, "drsformer: a.mp4: videos need PyAV: pip install 'drsformer[video]'\n")
    answer = derain(".", "-o", "out")
    assert answer.code == 3
    assert "video.jpg: is a video, but is named as an image; rename it" in answer.err
    assert ".: 7 videos skipped: videos need PyAV" in answer.err
    assert names("out") == ["a.png"]


def test_numbered_images(derain):
    Path("in").mkdir()
    for number in (3, 4, 5):
        Image.new("RGB", (40, 24), (number * 20, 90, 120)).save(f"in/f_{number:03d}.png", dpi=(72, 72))
    assert derain("in/f_%03d.png", "-o", "b.mp4", "--fps", 10, "--strength", 0).code == 0
    assert found("b.mp4").times == pytest.approx([0, 0.1, 0.2], abs=1e-3)
    assert derain("in/f_%03d.png", "-o", "out/g_%d.jpg").code == 0
    assert names("out") == ["g_3.jpg", "g_4.jpg", "g_5.jpg"]
    assert derain("in/f_%03d.png", "-o", "out/g_%d.jpg").code == 2
    assert derain("b.mp4", "-o", "back/%02d.png", "--strength", 0).code == 0
    assert names("back") == ["01.png", "02.png", "03.png"]
    pixels = images.read(Path("back/02.png")).pixels
    assert np.abs(pixels.astype(int) - (80, 90, 120)).max() <= 6


def test_damaged_numbered_images_are_left_out(derain):
    for number in (1, 2, 3, 4):
        Image.new("RGB", (40, 24), (number * 20, 90, 120)).save(f"f_{number}.png")
    damage = Path("f_1.png").read_bytes()[:60]
    Path("f_1.png").write_bytes(damage)
    Path("f_3.png").write_bytes(damage)
    for output in ("b.mp4", "out/g_%d.png"):
        answer = derain("f_%d.png", "-o", output)
        assert answer.code == 3
        assert re.fullmatch(r"drsformer: f_%d.png: left out: f_1.png: .*, and 1 more image\n", answer.err), answer.err
    assert found("b.mp4").times == pytest.approx([0, 1 / 25], abs=1e-3)
    assert names("out") == ["g_2.png", "g_4.png"]
    for number in (2, 4):
        Path(f"f_{number}.png").write_bytes(damage)
    assert derain("f_%d.png", "-o", "c.mp4").code == 1
    assert not Path("c.mp4").exists()


def test_what_numbered_images_lose_is_said(derain):
    for number in (1, 2):
        image = Image.new("RGBA", (40, 24), (90, 90, 120, 200))
        image.save(f"f_{number}.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    answer = derain("f_%d.png", "-o", "b.mp4")
    profile = "f_%d.png: ICC profile dropped: a video has none, and its colors are taken for sRGB\n"
    assert (answer.code, sorted(answer.err.splitlines(keepends=True))) == (
        0,
        [profile, "f_%d.png: transparency dropped\n"],
    )
    answer = derain("f_%d.png", "-o", "out/g_%d.jpg")
    assert (answer.code, answer.err) == (0, "f_%d.png: alpha dropped: JPEG has none\n")
    assert derain("f_%d.png", "-o", "out/g_%d.png").err == ""


def test_numbered_images_of_several_depths(derain):
    Image.new("RGB", (40, 24), "gray").save("f_1.png")
    Path("f_2.png").write_bytes(images.encode(DecodedImage(np.zeros((24, 40, 3), np.uint16)), "PNG", quality=95))
    for output in ("b.mp4", "out/g_%d.png"):
        answer = derain("f_%d.png", "-o", output)
        assert (answer.code, answer.err) == (1, "drsformer: f_%d.png: f_2.png has 16 bits, unlike the first image\n")


def test_numbered_images_are_not_overwritten(derain):
    for number in (9, 10, 12):
        Image.new("RGB", (40, 24), "gray").save(f"f_{number:02d}.png")
    answer = derain("f_%02d.png", "-o", "f_%d.png", "--overwrite")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "f_10.png would be overwritten, but it is an input" in answer.err
    answer = derain("f_%02d.png", "f_10.png", "-o", "out/")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "f_%02d.png and f_10.png would both be written to out/f_10.png" in answer.err
    answer = derain("f_%02d.png", "-o", "out/f_%d.png")
    assert (answer.code, answer.err) == (0, "f_%02d.png: 1 number is missing; it is left out\n")


def test_a_video_whose_size_changes(derain):
    parts = []
    for number, size in enumerate(((64, 48), (96, 64))):
        Clip(frames=3, size=size).write(Path(f"{number}.h264"))
        parts.append(Path(f"{number}.h264").read_bytes())
    Path("a.h264").write_bytes(b"".join(parts))
    answer = derain("a.h264", "-o", "b.mkv")
    assert (answer.code, answer.err) == (0, "a.h264: its size changes; frames of 96x64 are scaled to 64x48\n")
    assert [(frame.width, frame.height) for frame in found("b.mkv").frames] == [(64, 48)] * 6


def test_full_disk(derain, monkeypatch):
    Clip(frames=3).write(Path("a.mp4"))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    answer = derain("a.mp4", "-o", "b.mp4")
    assert answer.code == 1
    assert answer.err == "drsformer: a.mp4: .b.mp4.drsformer: cannot be written: No space left on device\n"
    assert names() == ["a.mp4"]


@pytest.mark.parametrize(
    ("kilobytes", "kept", "name"),
    [
        (2, "", ".b.avi.drsformer"),
        (20, "a.mkv: 12 frames are kept in .b.avi.drsformer; --resume continues with them\n", "b.avi"),
    ],
)
def test_a_file_that_cannot_grow_is_one_line(derain, kilobytes, kept, name):
    """While a part is encoded, and while the parts are joined."""
    resource = pytest.importorskip("resource")
    Clip(frames=12, sound="pcm_s16le").write(Path("a.mkv"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, hard))
    try:
        answer = derain("a.mkv", "-o", "b.avi")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer.code == 1
    assert answer.err == f"{kept}drsformer: a.mkv: {name}: cannot be written: File too large\n"


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 5)


def test_segments_join_to_what_one_segment_gives(derain, short_segments):
    """Times that a new encoder would not continue: frames are far apart where a segment begins."""
    times = [0, 40, 80, 120, 160, 200, 500, 800, 1100, 1140, 1180, 1220]
    Clip(times=times, sound="aac").write(Path("a.mp4"))
    assert derain("a.mp4", "-o", "b.mp4", "--strength", 0).code == 0
    after = found("b.mp4")
    assert after.times == pytest.approx([t / 1000 for t in times], abs=1e-3)
    before = found("a.mp4")
    for i in range(12):
        assert np.abs(after.planes(i)[1] - before.planes(i)[1]).mean() < 4


@pytest.mark.parametrize(("ending", "codec"), [(".h264", "libx264"), (".hevc", "libx265"), (".ivf", "libvpx-vp9")])
def test_streams_without_a_container_are_videos(derain, ending, codec):
    Path("folder").mkdir()
    Clip(frames=3, size=(64, 64), codec=codec).write(Path(f"folder/a{ending}"))
    assert derain("folder").code == 0
    assert len(found("folder/a_derained.mkv").frames) == 3


@pytest.mark.parametrize("start", [b".RMF\0\0\0\x12", b"RIFF\0\0\0\0AMV LIST"])
def test_kinds_that_only_the_content_tells(here, start):
    Path("a.dat").write_bytes(start + bytes(100))
    assert formats.kind_by_content(Path("a.dat")) == "video"


@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_boxes_beyond_any_file(derain, length):
    Path("a.mp4").write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\1free" + length.to_bytes(8) + bytes(99))
    answer = derain("a.mp4")
    assert answer.code == 1
    assert "never finished" in answer.err


def test_an_interrupted_video_is_resumed(derain, short_segments, monkeypatch):
    # Smaller frames are encoded in several ways by libx264: it reads memory that nobody wrote.
    Clip(frames=12, size=(128, 64)).write(Path("a.mp4"))
    assert derain("a.mp4", "-o", "whole.mp4").code == 0
    add = segments.Work.add

    def interrupted(work, segment):
        add(work, segment)
        if len(work.segments) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments.Work, "add", interrupted)
        answer = derain("a.mp4", "-o", "b.mp4")
    assert answer.code == 130
    assert "a.mp4: 10 frames are kept in .b.mp4.drsformer; --resume continues with them" in answer.err
    assert not Path("b.mp4").exists()
    answer = derain("a.mp4", "-o", "b.mp4")
    assert answer.code == 2
    assert "was begun by an earlier run: --resume continues it, --overwrite starts again" in answer.err
    answer = derain("a.mp4", "-o", "b.mp4", "--resume", "--crf", 30)
    assert answer.code == 1
    assert "cannot be resumed: --crf has changed (17 then, 30 now)" in answer.err
    answer = derain("a.mp4", "-o", "b.mp4", "--resume", "--compare")
    assert "cannot be resumed: --compare has changed (off then, on now)" in answer.err
    with monkeypatch.context() as patch:
        patch.setattr("drsformer_cli.video.pipeline.__version__", "99")  # its frames may differ
        answer = derain("a.mp4", "-o", "b.mp4", "--resume")
    assert "cannot be resumed: the version of drsformer has changed" in answer.err
    answer = derain("a.mp4", "-o", "b.mp4", "--resume", "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["resumed_frames"] == 10
    assert names() == ["a.mp4", "b.mp4", "whole.mp4"]
    for x, y in zip(found("whole.mp4").frames, found("b.mp4").frames, strict=True):
        assert x.pts == y.pts
        assert all(np.array_equal(a, b) for a, b in zip(planes(x), planes(y), strict=True))
    answer = derain("a.mp4", "-o", "b.mp4", "--resume")
    assert (answer.code, answer.err) == (0, "1 skipped: their output exists\n")


def test_one_process_writes_an_output(derain):
    Clip(frames=2).write(Path("a.mp4"))
    with segments.alone(Path("b.mp4")):
        before = names()
        answer = derain("a.mp4", "-o", "b.mp4")
        assert (answer.code, answer.err) == (1, "drsformer: a.mp4: another process is writing b.mp4\n")
        assert names() == before
    assert names() == ["a.mp4"]
    assert derain("a.mp4", "-o", "b.mp4").code == 0


def test_parts_that_cannot_be_kept(derain):
    Clip(frames=2).write(Path("a.mp4"))
    Path(".b.mp4.drsformer").touch()
    answer = derain("a.mp4", "-o", "b.mp4")
    assert (answer.code, answer.err) == (1, "drsformer: a.mp4: .b.mp4.drsformer: cannot be written: File exists\n")


def test_damaged_parts_are_restored_again(derain, short_segments, monkeypatch):
    Clip(frames=12).write(Path("a.mp4"))
    with monkeypatch.context() as patch:
        patch.setattr("drsformer_cli.video.pipeline.join", interrupt)
        assert derain("a.mp4", "-o", "b.mp4").code == 130
    with monkeypatch.context() as patch:  # all frames are kept
        patch.setattr("drsformer_cli.video.pipeline.join", interrupt)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # as when it is killed
        assert derain("a.mp4", "-o", "b.mp4", "--resume").code == 130
    assert (
        [name for name in names() if name.endswith(".part")]
        == [name for name in names() if "drsformer/." in name]
        != []
    )
    copy = Path(shutil.copytree(".b.mp4.drsformer", ".c.mp4.drsformer"))
    answer = derain("a.mp4", "-o", "c.mp4", "--resume", "--json")
    assert json.loads(answer.out)["mean_change"] > 0.2
    assert answer.err == ""
    assert not copy.exists()
    part = Path(".b.mp4.drsformer/000001.nut")
    part.write_bytes(part.read_bytes()[:500])
    answer = derain("a.mp4", "-o", "b.mp4", "--resume", "--end", 9)
    assert "--end has changed (not set then, 9 now)" in answer.err
    answer = derain("a.mp4", "-o", "b.mp4", "--resume", "--json")
    assert answer.err == "a.mp4: kept frames from frame 6 on are damaged; they are restored again\n"
    assert json.loads(answer.out)["resumed_frames"] == 5
    assert len(found("b.mp4").frames) == 12


def interrupt(*_):
    raise KeyboardInterrupt


def test_kill_and_resume(run, here, tiny_file, short_segments):
    """A process that is killed leaves finished segments, and the next one continues with them."""
    Clip(frames=12).write(Path("a.mp4"))
    arguments = ["derain", "a.mp4", "-o", "b.mp4", "--json", "--model", str(tiny_file)]
    code = (
        "import sys, time\n"
        "from drsformer_cli.video import segments\n"
        "segments.SEGMENT_FRAMES = 5\n"
        "add = segments.Work.add\n"
        "segments.Work.add = lambda *row: (add(*row), time.sleep(600))\n"
        f"sys.argv = ['drsformer', *{arguments}]\n"
        "from drsformer_cli.app import main\n"
        "main()"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 100
        while not Path(".b.mp4.drsformer/state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert names() == [*(f".b.mp4.drsformer/{name}" for name in ("000000.nut", "lock", "state.json")), "a.mp4"]
    answer = run(*arguments, "--resume")
    assert answer.code == 0
    row = json.loads(answer.out)
    assert (row["resumed_frames"], row["frames"]) == (5, 12)
    assert len(found("b.mp4").frames) == 12
    assert names() == ["a.mp4", "b.mp4"]


def test_threads_stop_and_raise():
    def numbers():
        yield from (1, 2)
        raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        list(ahead(numbers(), 1))
    endless = ahead(iter(int, 1), 2)
    assert next(endless) == 0
    endless.close()

    def refuse(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match="4"), Behind(refuse, 1) as behind:
        for _ in range(1000):
            behind.add(4)
