"""`drsformer eval`, as a user runs it."""

import contextlib
import csv
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import on_two_ranks, photo
from PIL import Image

from drsformer import Restorer, load_checkpoint
from drsformer.errors import ImageError
from drsformer_cli import console
from drsformer_cli import images as image_files
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import reason
from drsformer_cli.metrics import psnr, ssim


def save(path, pixels):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def data(tmp_path, monkeypatch, tiny_file):
    """Three pairs of a known data set, and a checkpoint, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for i in (1, 2, 3):
        save(f"data/Rain100L/input/rain-{i}.png", photo(seed=i))
        save(f"data/Rain100L/target/norain-{i}.png", photo(seed=i, noise=0.02))
    monkeypatch.setenv("DRSFORMER_DATA", "data")
    Path("tiny.pth").write_bytes(tiny_file.read_bytes())
    return tmp_path


def runs(answer):
    assert answer.out.count("\n") == 1
    return json.loads(answer.out)["runs"]


def test_a_table_for_people(run, data):
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--model", "general")
    assert (answer.code, answer.err) == (0, "")
    lines = [line.split() for line in answer.out.splitlines()]
    assert lines[0] == ["Rain100L:", "3", "of", "100", "images,", "uint8-Y"]
    assert [line[0] for line in lines[2:5]] == ["rainy", "tiny", "general"]
    assert "Rain100L: 3 of 100 pairs found, missing 4, 5, 6 and 94 more" in answer.out
    assert "tiny: checkpoint " in answer.out


def test_json_is_what_the_metrics_say_of_what_derain_writes(run, data):
    (facts,) = runs(run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--json", "--save", "out"))
    assert run("derain", "data/Rain100L/input", "-o", "restored", "--model", "tiny.pth").code == 0
    assert {"dataset": "Rain100L", "model": "tiny", "protocol": "uint8-Y", "count": 3}.items() <= facts.items()
    for image in facts["images"]:
        restored = np.asarray(Image.open(f"restored/{image['name']}.png"))
        clean = np.asarray(Image.open(f"data/Rain100L/target/no{image['name']}.png"))
        assert np.array_equal(restored, np.asarray(Image.open(f"out/Rain100L/tiny/{image['name']}.png")))
        assert image["psnr"] == pytest.approx(psnr(restored, clean), abs=1e-9)
        assert image["ssim"] == pytest.approx(ssim(restored, clean), abs=1e-9)
    assert facts["psnr"] == pytest.approx(np.mean([image["psnr"] for image in facts["images"]]))
    low, high = facts["psnr_interval"]
    assert low <= facts["psnr"] <= high
    assert facts["scale"] == 1


def test_scale(run, data):
    arguments = ["--dataset", "Rain100L", "--model", "tiny.pth", "--json", "--limit", 1, "--save", "out"]
    (facts,) = runs(run("eval", *arguments, "--scale", 2))
    assert facts["scale"] == 2
    restored = np.asarray(Image.open("out/Rain100L/tiny/rain-1.png"))
    assert np.array_equal(restored, Restorer(load_checkpoint("tiny.pth"), scale=2)(photo(seed=1)))


def test_results_of_any_tool(run, data):
    for i in (1, 2, 3):
        save(f"theirs/rain-{i}.png", photo(seed=i))
    (alone,) = runs(run("eval", "--results", "theirs", "--targets", "data/Rain100L/target", "--json"))
    (of_set,) = runs(run("eval", "--results", "theirs", "--dataset", "Rain100L", "--json"))
    assert alone["model"] == of_set["model"] == "theirs"
    assert alone["psnr"] == of_set["psnr"] == of_set["psnr_input"]
    assert alone["psnr_input"] is None
    (perfect,) = runs(run("eval", "--results", "data/Rain100L/target", "--dataset", "Rain100L", "--json"))
    assert (perfect["psnr"], perfect["identical"], perfect["ssim"]) == (None, 3, pytest.approx(1))


def test_folders_limit_protocol_and_csv(run, data):
    arguments = ["--inputs", "data/Rain100L/input", "--targets", "data/Rain100L/target", "--limit", 2]
    answer = run("eval", *arguments, "--protocol", "float-Y", "--csv", "scores.csv", "--model", "tiny.pth", "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    assert [(row["dataset"], row["model"], row["protocol"], row["name"]) for row in rows] == [
        ("Rain100L", "tiny", "float-Y", "rain-1"),
        ("Rain100L", "tiny", "float-Y", "rain-2"),
    ]
    again = run("eval", *arguments, "--csv", "scores.csv")
    assert (again.code, "scores.csv exists" in again.err) == (2, True)


def test_odd_data_is_named_and_the_rest_scored(run, data):
    save("data/Rain100L/input/rain-4.png", photo())
    save("data/Rain100L/input/rain-5.png", photo(56, 40))
    save("data/Rain100L/target/norain-5.png", photo(40, 56))
    save("data/Rain100L/input/rain-6.png", photo())
    save("data/Rain100L/target/norain-6.png", photo())
    os.truncate("data/Rain100L/input/rain-6.png", 2000)
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--json")
    (facts,) = runs(answer)
    assert answer.code == 3
    assert facts["count"] == 3
    assert [failure["name"] for failure in facts["failures"]] == ["rain-6"]
    problems = [
        "rain-4.png: no partner in target",
        "rain-5.png is 40x56, but the clean norain-5.png is 56x40",
        "rain-6: rain-6.png",
    ]
    for text in problems:
        assert text in answer.err


def test_nothing_scored(run, data):
    for i in (1, 2, 3):
        Path(f"data/Rain100L/input/rain-{i}.png").write_bytes(b"text")
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--sheet", "sheet.png")
    assert answer.code == 1
    assert answer.err.count("not an image") == 3
    assert not Path("sheet.png").exists()


@pytest.mark.parametrize("side", [40, 112])
def test_photos_without_ground_truth(run, data, shared, monkeypatch, side):
    monkeypatch.setattr(zoo, "parameter_file", lambda name, quiet: shared / "data" / "iqa" / name)
    save("street/a.jpg", photo(side, 2 * side, noise=0.1))
    save("street/b.jpg", photo(200, 230, seed=1, noise=0.1))
    answer = run("eval", "--real", "street", "--model", "tiny.pth", "--json", "--sheet", "sheet.jpg")
    (facts,) = runs(answer)
    assert answer.code == 0
    assert (facts["dataset"], facts["protocol"], facts["count"]) == ("street", None, 2)
    large = facts["images"][1]
    assert set(large) == {"name", "niqe", "brisque", "niqe_input", "brisque_input", "seconds"}
    assert (facts["images"][0]["niqe"] is None) == (side == 40)
    if side == 40:
        assert facts["niqe"] == large["niqe"]
    with Image.open("sheet.jpg") as sheet:
        assert sheet.width >= 2 * 230 + 4


def test_a_sheet_shows_rainy_restored_clean_and_error(run, data):
    assert run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--sheet", "sheet.png").code == 0
    sheet = np.asarray(Image.open("sheet.png"))
    assert sheet.shape[0] == 3 * (22 + 40 + 4)
    shown = sheet[22:62]
    assert any(np.array_equal(shown[:, :56], photo(seed=i)) for i in (1, 2, 3))


def test_an_interrupted_run_resumes(run, data):
    arguments = ["--dataset", "Rain100L", "--model", "tiny.pth", "--save", "out", "--json"]
    (first,) = runs(run("eval", *arguments))
    Path("out/Rain100L/tiny/rain-2.png").unlink()
    kept = Path("out/Rain100L/tiny/rain-1.png").stat().st_mtime_ns
    (again,) = runs(run("eval", *arguments))
    assert again["psnr"] == first["psnr"]
    assert again["images"][0]["seconds"] == first["images"][0]["seconds"]
    assert Path("out/Rain100L/tiny/rain-1.png").stat().st_mtime_ns == kept
    refused = run("eval", *arguments, "--overlap", 3)
    assert refused.code == 2
    assert "rain-1.png was not made by this run; --overwrite replaces it" in refused.err
    assert run("eval", *arguments, "--overlap", 3, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to score"),
        (["--dataset", "Rain200M"], 2, "did you mean Rain200L"),
        (["--dataset", "Rain200L"], 2, "--dataset Rain200L: not found in data"),
        (["--dataset", "Rain100L", "--model", "none.pth"], 2, "none.pth: no such file"),
        (
            ["--dataset", "Rain100L", "--model", "tiny.pth", "--model", "./tiny.pth"],
            2,
            "--model: tiny.pth and ./tiny.pth are both called",
        ),
        (["--dataset", "Rain100L", "-m", "general", "-m", "tiny.pth", "-m", "general"], 2, "general is named twice"),
        (["--inputs", "empty", "--targets", "data/Rain100L/target"], 2, "empty: no images in it"),
        (["--inputs", "data/Rain100L/input", "--targets", "empty"], 2, "empty: no images in it"),
        (["--results", "empty", "--dataset", "Rain100L"], 2, "empty: no images in it"),
        (["--dataset", "hollow"], 2, "hollow/input: no images in it"),
        (["--results", "data/Rain100L/input", "--dataset", "Rain100L", "--model", "general"], 2, "leave out --model"),
        (["--dataset", "Rain100L", "--sheet", "sheet.gif"], 2, "unknown ending"),
        (["--dataset", "Rain100L", "--csv", "none/scores.csv"], 2, "the folder none does not exist"),
        (["--dataset", "Rain100L", "--csv", "a.png", "--sheet", "a.png"], 2, "are the same file: a.png"),
        (["--dataset", "Rain100L", "--csv", "data", "--overwrite"], 2, "data is a folder"),
        (["--inputs", "tiny.pth", "--targets", "."], 2, "tiny.pth: is a file; expected a folder"),
        (["--dataset", "Rain100L", "--save", "tiny.pth/out"], 2, "tiny.pth/out: Not a directory"),
        (["--dataset", "Rain100L", "--limit", "0"], 2, "--limit"),
        (["--dataset", "Rain100L", "--protocol", "Y"], 2, "'--protocol': 'Y' is not uint8-Y or float-Y"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(run, data, arguments, code, message):
    for name in ("empty", "hollow/input", "hollow/target"):
        Path(name).mkdir(parents=True)
    answer = run("eval", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert message in " ".join(answer.err.replace("│", " ").split())


@pytest.mark.parametrize(
    "output",
    [
        ("--sheet", "data/Rain100L/input/rain-3.png"),  # also those beyond --limit
        ("--csv", "data/Rain100L/target/norain-1.png"),
        ("--csv", "tiny.pth"),
        ("--report", "linked.html"),
    ],
)
def test_inputs_are_never_replaced(run, data, output):
    os.link("data/Rain100L/target/norain-2.png", "linked.html")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    answer = run("eval", "-d", "Rain100L", "-m", "tiny.pth", "--limit", 1, *output, "--overwrite")
    assert (answer.code, answer.out) == (2, "")
    assert f"{' '.join(output)} would be overwritten, but it is an input" in answer.err
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_saving_never_replaces_inputs(run, data):
    save("out/clean/tiny/1.png", photo(seed=1))
    save("clean/1.png", photo(seed=1, noise=0.02))
    before = Path("out/clean/tiny/1.png").read_bytes()
    arguments = ["--inputs", "out/clean/tiny", "--targets", "clean", "--save", "out", "--overwrite"]
    answer = run("eval", *arguments, "-m", "tiny.pth")
    assert (answer.code, answer.out) == (2, "")
    assert "--save out: out/clean/tiny/1.png would be overwritten, but it is an input" in answer.err
    assert Path("out/clean/tiny/1.png").read_bytes() == before


def test_the_advice_for_a_missing_data_set_follows_its_headline(run, data):
    lines = run("eval", "--dataset", "Rain200L").err.splitlines()
    assert lines[0] == "drsformer: --dataset Rain200L: not found in data"
    assert lines[1].startswith("  searched: a folder Rain200L in data")
    assert len(lines) == 6


def test_each_checkpoint_is_read_once(run, data, monkeypatch):
    """However many data sets there are, and although its training is looked up for each of them."""
    read = []
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: read.append(str(path)) or original(path, **options))
    save("mine/input/1.png", photo(seed=1))
    save("mine/target/1.png", photo(seed=1, noise=0.02))
    assert run("eval", "-d", "Rain100L", "-d", "mine", "-m", "tiny.pth", "--quiet").code == 0
    assert read == ["tiny.pth"]


def test_what_cannot_be_written_costs_no_score(run, data, monkeypatch):
    """--csv, --sheet and --save: the results are printed all the same, and the exit code tells."""
    arguments = ["eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--json"]
    (expected,) = runs(run(*arguments))

    @contextlib.contextmanager
    def full(path, **_):
        raise OSError(28, "No space left on device", str(path))
        yield

    monkeypatch.setattr("drsformer_cli.evaluation.evaluator.atomic_write", full)
    answer = run(*arguments, "--save", "out")
    (facts,) = runs(answer)
    assert (answer.code, facts["psnr"], facts["count"]) == (3, expected["psnr"], 3)
    assert answer.err.count("cannot be written: No space left on device") == len(facts["failures"]) == 3
    monkeypatch.setattr("drsformer_cli.commands.eval.atomic_write", full)
    answer = run(*arguments, "--csv", "scores.csv", "--sheet", "sheet.png")
    (facts,) = runs(answer)
    assert (answer.code, facts["psnr"], facts["failures"]) == (3, expected["psnr"], [])
    assert answer.err.splitlines() == [
        f"drsformer: {name}: cannot be written: No space left on device" for name in ("scores.csv", "sheet.png")
    ]


def test_a_sheet_that_cannot_be_drawn_costs_no_score(run, data, monkeypatch):
    def gone(*_):
        raise FileNotFoundError(2, "No such file or directory", "rain-1.png")

    monkeypatch.setattr("drsformer_cli.evaluation.evaluator.Evaluator.restored", gone)
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--sheet", "sheet.png", "--csv", "scores.csv")
    assert (answer.code, Path("scores.csv").exists(), Path("sheet.png").exists()) == (3, True, False)
    assert answer.err == "drsformer: sheet.png: cannot be written: No such file or directory\n"
    assert "tiny" in answer.out


def test_names_of_any_bytes(run, data):
    """Not UTF-8, a line break, markup: in --csv, --json, --sheet and --save."""
    odd = [b"caf\xe9", b"two\nlines", b"[red]", b"e\xcc\x81"]
    for i, name in enumerate(odd):
        save(os.fsdecode(b"in/" + name + b".png"), photo(seed=i))
        save(os.fsdecode(b"dry/" + name + b".png"), photo(seed=i, noise=0.02))
    files = ["--csv", "scores.csv", "--sheet", "sheet.png", "--save", "out"]
    answer = run("eval", "--inputs", "in", "--targets", "dry", "--model", "tiny.pth", "--json", *files)
    (facts,) = runs(answer)
    assert (answer.code, answer.err) == (0, "")
    assert sorted(os.fsencode(image["name"]) for image in facts["images"]) == sorted(odd)
    assert sorted(os.listdir(b"out/dry/tiny")) == sorted(name + b".png" for name in odd)
    rows = csv.DictReader(io.StringIO(Path("scores.csv").read_text(encoding="utf-8"), newline=""))
    assert {row["name"] for row in rows} == {"caf\\udce9", "two\nlines", "[red]", "e\u0301"}
    assert Path("sheet.png").exists()


def test_composed_and_decomposed_names_pair(run, data):
    """macOS writes \u00e9 as e and an accent."""
    save("in/e\u0301te\u0301.png", photo(seed=1))
    save("gt/\u00e9t\u00e9.png", photo(seed=1, noise=0.02))
    (facts,) = runs(run("eval", "--inputs", "in", "--targets", "gt", "--model", "tiny.pth", "--json"))
    assert facts["count"] == 1


@pytest.mark.parametrize("error", [ImageError("damaged"), PermissionError(13, "Permission denied"), MemoryError()])
def test_a_file_that_cannot_be_opened_costs_its_pair(run, data, monkeypatch, error):
    original = image_files.size

    def size(path):
        if path.name == "norain-2.png":
            raise error
        return original(path)

    monkeypatch.setattr(image_files, "size", size)
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--json")
    (facts,) = runs(answer)
    assert (answer.code, facts["count"], len(facts["problems"])) == (3, 2, 1)
    assert facts["problems"][0] == f"norain-2.png: {reason(error)}"


def one_bit_png(path, width, height):
    """A PNG of one color, which takes no memory to make."""
    compress = zlib.compressobj()
    row = bytes(1 + (width + 7) // 8)
    data = b"".join([*(compress.compress(row) for _ in range(height)), compress.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_long_text(path):
    data = Path(path).read_bytes()
    text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2 << 20)))
    Path(path).write_bytes(data[:33] + text + data[33:])


def with_orientation_as_text(path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI", 0x112, 2, 2) + b"6\0\0\0\0\0\0\0"
    with Image.open(path) as opened:
        opened.convert("RGB").save(path, "JPEG", exif=exif)


@pytest.mark.parametrize(
    "change", [with_long_text, with_orientation_as_text, lambda path: one_bit_png(path, 20_000, 10_000)]
)
@pytest.mark.parametrize("folder", ["input/rain-2.png", "target/norain-2.png"])
def test_one_odd_file_costs_one_line_at_most(run, data, change, folder):
    """Files that Pillow answers with a ValueError, a TypeError and a DecompressionBombError."""
    change(f"data/Rain100L/{folder}")
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--json")
    (facts,) = runs(answer)
    missed = facts["problems"] + facts["failures"]
    assert (facts["count"], len(missed), answer.code) in {(3, 0, 0), (2, 1, 3)}
    assert "--max-megapixels" not in answer.err


def test_no_bar_in_a_file(run, data, monkeypatch):
    """FORCE_COLOR asks for colors, not for a bar that is drawn ten times a second."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "stderr", console.stderr.__wrapped__)  # a console that has seen the variable
    answer = run("eval", "--dataset", "Rain100L", "--model", "tiny.pth")
    assert (answer.code, answer.err) == (0, "")


@pytest.mark.xdist_group("ranks")
def test_two_ranks_give_what_one_gives(run, data):
    arguments = ["eval", "--dataset", "Rain100L", "--model", "tiny.pth", "--json", "--threads", "1"]
    (alone,) = runs(run(*arguments))
    ranks = on_two_ranks(*arguments)
    assert [rank.code for rank in ranks] == [0, 0], ranks
    (together,) = json.loads(ranks[0].out)["runs"]
    assert ranks[1].out == ""
    for images in (alone["images"], together["images"]):
        for image in images:
            image.pop("seconds")
    assert together["images"] == alone["images"]
