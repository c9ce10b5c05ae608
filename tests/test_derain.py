"""`drsformer derain`, as a user runs it."""

import errno
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import on_two_ranks, photo
from PIL import Image

import drsformer
from drsformer_cli import images
from drsformer_cli.deraining import pipeline

COMMAND = [sys.executable, "-m", "drsformer_cli"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two good images and a text file that calls itself one; the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("in/deep").mkdir(parents=True)
    Image.fromarray(photo()).save("in/a.png")
    Image.fromarray(photo(seed=1)).save("in/deep/b.jpg", quality=95)
    Path("in/text.jpg").write_text("I am no image.\n")
    return tmp_path


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("a.png")
    return Path("a.png")


def opened(path):
    """Format, mode and pixels of an image."""
    with Image.open(path) as image:
        return image.format, image.mode, np.asarray(image)


def files(path="."):
    return sorted(str(p.relative_to(path)) for p in Path(path).rglob("*") if p.is_file())


def test_one_image_gives_what_the_library_gives(run, image, general):
    answer = run("derain", image, "-o", "b.png")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("a.png -> b.png")
    assert np.array_equal(opened("b.png")[2], drsformer.derain(general, photo()))
    assert files() == ["a.png", "b.png"]


def test_default_name(run, image):
    assert run("derain", image).code == 0
    assert files() == ["a.png", "a_derained.png"]


def test_published_checkpoint_gives_the_authors_pipeline(run, image, tiny, tiny_file):
    """Read, scale, pad by reflection to a multiple of 8, restore, crop, clamp, round: to the level."""
    x = torch.from_numpy(photo()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = (tiny(x).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    assert run("derain", image, "-o", "b.png", "--model", tiny_file).code == 0
    assert np.abs(opened("b.png")[2] - expected).max() <= 1


def test_folder_goes_on_after_a_bad_image(run, folder):
    answer = run("derain", "in", "-o", "out", "-r")
    assert answer.code == 3
    assert files("out") == ["a.png", "deep/b.jpg"]
    assert "1 of 3 inputs failed:" in answer.err
    assert "in/text.jpg: not an image: expected JPEG, PNG" in answer.err


def test_json_has_one_object_a_image(run, folder):
    answer = run("derain", "in", "-o", "out", "-r", "--json", "--tile", 32)
    rows = {row["input"]: row for row in map(json.loads, answer.out.splitlines())}
    assert set(rows) == {"in/a.png", "in/deep/b.jpg", "in/text.jpg"}
    assert set(rows["in/text.jpg"]) == {"input", "error"}
    good = rows["in/a.png"]
    assert list(good) == ["input", "output", "seconds", "megapixels", "scale", "tile", "model", "mean_change"]
    assert (good["output"], good["tile"], good["model"]) == ("out/a.png", 32, "general")
    assert good["megapixels"] == pytest.approx(40 * 56 / 1e6, abs=1e-3)
    before, after = photo().astype(int), opened("out/a.png")[2].astype(int)
    assert good["mean_change"] == pytest.approx(np.abs(after - before).mean(), abs=1e-3)


def test_all_failed(run, folder):
    answer = run("derain", "in/text.jpg")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("drsformer: in/text.jpg: not an image")


def test_quiet_and_verbose(run, image):
    answer = run("derain", image, "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    answer = run("derain", image, "-o", "c.png", "--verbose")
    assert "general.pth, device cpu" in answer.err


def test_dry_run_writes_nothing(run, folder):
    before = files()
    answer = run("derain", "in", "-o", "out", "-r", "--dry-run")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "in/a.png -> out/a.png",
        "in/text.jpg -> out/text.jpg",
        "in/deep/b.jpg -> out/deep/b.jpg",
    ]
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.png"], 2, "none.png: no such file or folder"),
        (["a.png", "-o", "a.png", "--overwrite"], 2, "is an input"),
        (["a.png", "-o", "x.gif"], 2, "unknown ending"),
        (["a.png", "--tile", "7"], 2, "is not auto, none or a number"),
        (["a.png", "--tile", "64", "--overlap", "64"], 2, "overlap must be less than the tile"),
        (["a.png", "--strength", "2"], 2, "--strength"),
        (["a.png", "--quality", "0"], 2, "--quality"),
        (["a.png", "--device", "tpu"], 2, "expected auto, cpu, cuda, cuda:N or mps"),
        (["a.png", "--device", "cpu:1"], 2, "expected auto, cpu, cuda"),
        (["a.png", "--format", "gif"], 2, "gif"),
        (["a.png", "--model", "rain900x"], 2, "no such file, and no model of that name"),
        (["a.png", "--model", "."], 4, "is not a file"),
        (["a.png", "--model", "a.png"], 4, "not a checkpoint"),
        (["a.png", "-o", "-", "--json"], 2, "goes to stdout"),
        (["a.png", "--threads", "99999"], 2, "--threads"),
        (["a.png", "--max-megapixels", "inf"], 2, "--max-megapixels"),
        (["n" * 300 + ".png"], 2, "File name too long"),
        (["a.png", "--model", "n" * 300], 4, "File name too long"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(run, image, arguments, code, message):
    answer = run("derain", *arguments)
    assert answer.code == code
    assert message in " ".join(answer.err.replace("│", " ").split())
    assert files() == ["a.png"]


def test_a_name_that_is_too_long_costs_one_image(run, image):
    long = "n" * 246 + ".png"
    shutil.copy(image, long)
    answer = run("derain", ".")
    assert answer.code == 3
    assert f"{long}: " in answer.err
    assert "File name too long" in answer.err
    assert files() == ["a.png", "a_derained.png", long]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for the message of a machine without CUDA")
def test_no_cuda(run, image):
    answer = run("derain", image, "--device", "cuda")
    assert answer.code == 2
    assert answer.err == "drsformer: --device cuda: this torch was built without CUDA; try --device cpu\n" or (
        "no CUDA device was found" in answer.err
    )


def test_existing_output(run, image):
    Path("b.png").write_bytes(b"precious")
    assert run("derain", image, "-o", "b.png").code == 2
    assert run("derain", image, "-o", "b.png", "--skip-existing").code == 0
    assert Path("b.png").read_bytes() == b"precious"
    assert run("derain", image, "-o", "b.png", "--overwrite").code == 0
    assert opened("b.png")[2].shape == (40, 56, 3)


def test_output_that_appears_during_the_work_is_not_replaced(run, image, monkeypatch):
    encode = images.encode

    def slow(*arguments, **options):
        Path("b.png").write_bytes(b"precious")
        return encode(*arguments, **options)

    monkeypatch.setattr(images, "encode", slow)
    answer = run("derain", image, "-o", "b.png")
    assert answer.code == 1
    assert "exists" in answer.err
    assert Path("b.png").read_bytes() == b"precious"


def test_full_disk(run, folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    answer = run("derain", "in/a.png", "in/deep/b.jpg", "-o", "out")
    assert answer.code == 1
    assert "in/a.png: out/a.png: cannot be written: No space left on device" in answer.err
    assert "in/deep/b.jpg: out/b.jpg: cannot be written: No space left on device" in answer.err
    assert files("out") == []


@pytest.mark.parametrize(("flags", "why"), [(0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")])
def test_unwritable_folder(run, folder, monkeypatch, flags, why):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "deep")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
    answer = run("derain", "in", "-o", "out", "-r")
    assert answer.code == 3
    assert f"in/deep/b.jpg: cannot write into out/deep: {why}" in answer.err
    assert files("out") == ["a.png"]


def test_a_file_where_a_folder_must_be(run, image):
    Path("out").write_text("a file")
    answer = run("derain", image, "-o", "out/b.png")
    assert answer.code == 1
    assert "cannot create the folder out" in answer.err


def test_what_the_format_cannot_hold_costs_no_time_in_the_network(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "restore_image", None)
    Image.new("RGB", (17_000, 1)).save("a.png")
    answer = run("derain", "a.png", "-o", "new/a.webp")
    expected = "drsformer: a.png: cannot be written as WebP, 17000x1: expected at most 16383 pixels a side\n"
    assert (answer.code, answer.err, files()) == (1, expected, ["a.png"])


def test_unreadable_input(run, image, monkeypatch):
    def refuse(source):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(images, "read", refuse)
    answer = run("derain", image)
    assert (answer.code, answer.err) == (1, "drsformer: a.png: Permission denied\n")


def test_comparison(run, image):
    assert run("derain", image, "--compare").code == 0
    both = opened("a_derained_compare.png")[2]
    assert np.array_equal(both[:, :56], photo())
    assert np.array_equal(both[:, 56:], opened("a_derained.png")[2])


@pytest.mark.parametrize(("name", "found"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("avif", "AVIF")])
def test_format(run, image, name, found):
    assert run("derain", image, "--format", name).code == 0
    assert opened(f"a_derained.{name}")[0] == found


def test_what_a_format_loses_is_said(run, image):
    Image.fromarray(photo()).convert("RGBA").save("rgba.png")
    answer = run("derain", "rgba.png", "-o", "b.jpg")
    assert (answer.code, answer.err) == (0, "rgba.png: alpha dropped: JPEG has none\n")


def test_names_that_the_terminal_cannot_show(image, monkeypatch):
    Path("bl\u00fc.png").write_bytes(image.read_bytes())
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    answer = subprocess.run(
        [*COMMAND, "derain", "bl\u00fc.png", "--dry-run"], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "bl\\xfc.png -> bl\\xfc_derained.png\n"


def test_a_group_of_processes_that_is_none(run, image, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = run("derain", image)
    assert answer.code == 2
    assert "not by torchrun" in answer.err


def test_strength_zero_changes_nothing(run, image):
    answer = run("derain", image, "--strength", 0)
    assert (answer.code, answer.err) == (0, "")
    assert np.array_equal(opened("a_derained.png")[2], photo())


def test_one_pixel(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (1, 1), (10, 20, 30)).save("dot.png")
    assert run("derain", "dot.png").code == 0
    assert opened("dot_derained.png")[2].shape == (1, 1, 3)


def test_16_bits_gray_and_alpha_survive(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deep.png").write_bytes(
        images.encode(images.DecodedImage(photo(dtype=np.uint16), photo(dtype=np.uint16)[..., 0]), "PNG")
    )
    Image.fromarray(photo()[..., 0]).save("gray.jpg")
    assert run("derain", "deep.png", "gray.jpg").code == 0
    deep = images.read(Path("deep_derained.png"))
    assert deep.pixels.dtype == np.uint16
    assert np.array_equal(deep.alpha, photo(dtype=np.uint16)[..., 0])
    assert opened("gray_derained.jpg")[1] == "L"


def test_pipe(image, tmp_path):
    answer = subprocess.run([*COMMAND, "derain", "-"], input=image.read_bytes(), capture_output=True, check=True)
    assert opened(io.BytesIO(answer.stdout))[0] == "PNG"
    assert answer.stderr == b""


def test_results_stay_on_stdout_under_a_progress_bar(image):
    terminal, end = pty.openpty()
    answer = subprocess.run([*COMMAND, "derain", image, "--json"], stdout=subprocess.PIPE, stderr=end, check=True)
    os.close(end)
    os.close(terminal)
    assert json.loads(answer.stdout)["output"] == "a_derained.png"


def started(*arguments):
    """The command in a process of its own that works on an image for a minute or more."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (2000, 3000, 3), np.uint8)).save("large.png", compress_level=1)
    return subprocess.Popen(
        [*COMMAND, "derain", "large.png", "-o", "out.png", *arguments], stderr=subprocess.PIPE, text=True
    )


def test_interrupt_stops_soon_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with started("--verbose") as process:
        process.stderr.readline()  # the model is loaded
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
        process.send_signal(signal.SIGTERM)  # as torchrun does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "drsformer: interrupted; 0 of 1 done\n"
    assert files() == ["large.png"]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_image_that_was_finished_before_an_interrupt_is_reported(
    run, folder, tiny_file, monkeypatch, number, code, word
):
    restored = pipeline.restore_image

    def interrupt_at_the_second(rainy, *rest):
        if rainy.format == "JPEG":
            while not Path("out/a.png").exists():
                time.sleep(0.01)
            signal.raise_signal(number)
        return restored(rainy, *rest)

    monkeypatch.setattr(pipeline, "restore_image", interrupt_at_the_second)
    answer = run("derain", "in/a.png", "in/deep/b.jpg", "-o", "out", "-m", tiny_file)
    assert answer.code == code
    assert answer.out.startswith("in/a.png -> out/a.png")
    assert answer.err == f"drsformer: {word}; 1 of 2 done\n"
    assert files("out") == ["a.png"]


def test_two_ranks_share_the_files(folder):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "drsformer_cli", "derain", "in", "-o", "out", "-r", "--json"]
    answer = subprocess.run([*launcher, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode != 0  # one image is bad
    rows = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    assert sorted(row["input"] for row in rows) == ["in/a.png", "in/deep/b.jpg", "in/text.jpg"]
    assert files("out") == ["a.png", "deep/b.jpg"]
    assert answer.stderr.count("1 of 3 inputs failed:") == 1


@pytest.mark.xdist_group("ranks")
def test_two_ranks_say_a_refusal_once(folder):
    ranks = on_two_ranks("derain", "in", "-o", "in")
    assert all(rank.code == 2 for rank in ranks)
    assert "".join(rank.err for rank in ranks).count("is an input") == 1


def test_a_bug_keeps_its_traceback(run, image, monkeypatch):
    def bug(*_):
        raise KeyError("bug")

    monkeypatch.setattr(pipeline, "restore_image", bug)
    with pytest.raises(KeyError):
        run("derain", image)


def test_rain100l(run, shared, tmp_path, general):
    """The command reaches what the network alone reaches, and both take rain out."""

    def psnr(a, b):
        luma = [np.round(16 + x.astype(float) @ [65.481, 128.553, 24.966] / 255) for x in (a, b)]
        return 10 * np.log10(255**2 / np.mean((luma[0] - luma[1]) ** 2))

    middle = (slice(60, 220), slice(80, 240))
    names = [path.name for path in sorted((shared / "data/Rain100L/input").iterdir())[::50]]
    for name in names:
        Image.fromarray(opened(shared / "data/Rain100L/input" / name)[2][middle]).save(tmp_path / name)
    assert run("derain", *(tmp_path / name for name in names), "-o", tmp_path / "out").code == 0
    for name in names:
        rainy = opened(tmp_path / name)[2]
        clean = opened(shared / "data/Rain100L/target" / name)[2][middle]
        restored = opened(tmp_path / "out" / name)[2]
        assert np.array_equal(restored, drsformer.derain(general, rainy, tile=None))
        assert psnr(restored, clean) > psnr(rainy, clean) + 1.5


def test_a_comparison_that_cannot_be_written_leaves_the_result(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9000, 8), "gray").save("wide.webp")
    answer = run("derain", "wide.webp", "-o", "out.webp", "--compare", "--scale", 8, "--json")
    assert answer.code == 3
    assert json.loads(answer.out)["incomplete"].startswith("no comparison: cannot be written as WebP")
    assert answer.err.startswith("drsformer: wide.webp: no comparison: cannot be written as WebP")
    assert files() == ["out.webp", "wide.webp"]


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
def test_an_unreadable_subfolder_is_a_failure(run, folder, monkeypatch, arguments):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    Path("in/text.jpg").unlink()
    answer = run("derain", "in", "-o", "out", "-r", *arguments)
    assert answer.code == 3
    assert "in/a.png -> out/a.png" in answer.out
    assert "drsformer: in/deep: Permission denied\n" in answer.err
