"""Options that several commands share, and names that would confuse a terminal."""

import re
from pathlib import Path

import pytest

from drsformer_cli import console


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--format", "JPG"], ["--precision", "FP32"], ["--tile", "AUTO"], ["--tile", "None"], ["--scale", "Auto"]),
        *(["--device", "CPU"], ["-q"], ["-v"]),
    ],
)
def test_choices_in_any_case(run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    answer = run("derain", "a.png", "--dry-run", *arguments)
    target = "a_derained.jpg" if "JPG" in arguments else "a_derained.png"
    assert (answer.code, answer.out) == (0, f"a.png -> {target}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "gif"], "invalid value for '--format': 'gif' is not jpg, jpeg, png, tif, tiff, webp, bmp, avif"),
        (["--precision", "x"], "invalid value for '--precision': 'x' is not auto, fp32, bf16 or fp16"),
        (["--quality", "300"], "invalid value for '--quality': '300' is not a whole number from 1 to 100"),
        (["--threads", "1.5"], "'1.5' is not a whole number from 1 to 1024"),
        (["--overlap", "-1"], "'-1' is not a whole number of at least 0"),
        (["--strength", "nan"], "'nan' is not a number from 0 to 1"),
        (["--preview", "0"], "'0' is not a number from 0.001 to 1000000"),
        (["--bogus"], "no such option: --bogus"),
        (["--tile", "3"], "'3' is not auto, none or a number of at least 8"),
        (["-q", "-v"], "--quiet and --verbose exclude each other"),
        (["--verbose", "--quiet"], "--quiet and --verbose exclude each other"),
    ],
)
def test_values_that_are_refused(run, arguments, message):
    answer = run("derain", "a.png", *arguments)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert message in line
    assert line.endswith("; see drsformer derain --help")


@pytest.mark.parametrize("command", ["derain", "eval", "train", "download", "export", "serve"])
def test_defaults_are_printed_in_one_way(run, command):
    text = run(command, "--help").out
    assert "default:" not in text
    assert command in ("download", "export") or "Default: auto." in re.sub(r"\s+", " ", text)


def test_control_characters_in_names_are_escaped(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "a\n\x1b[2J\x9b\u202e雨.png"
    Path(name).write_bytes(b"text")
    escaped = r"a\n\x1b[2J\x9b\u202e雨.png"
    answer = run("derain", name, "--dry-run")
    assert answer.out == f"{escaped} -> {escaped.removesuffix('.png')}_derained.png\n"
    answer = run("derain", "none\x1b.png")
    assert answer.err == "drsformer: none\\x1b.png: no such file or folder\n"
    assert [console.megabytes(size) for size in (900, 11_850, 1_300_000)] == ["0.9 kB", "11.8 kB", "1.3 MB"]
    assert console.printable("plain text, 雨") == "plain text, 雨"
