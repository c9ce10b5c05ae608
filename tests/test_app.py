"""The application around the commands."""

import os

import pytest

from drsformer_cli import __version__


def test_version(run):
    answer = run("--version")
    assert (answer.code, answer.out) == (0, f"drsformer {__version__}\n")


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(run, monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run("--version")
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(
    "arguments", [["derain", ""], ["derain", "a.png", "-o", ""], ["eval", "--root="], ["train", "-c", ""]]
)
def test_an_empty_argument_is_not_the_current_folder(run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    answer = run(*arguments)
    assert answer.code == 2
    assert answer.err == (
        "drsformer: an argument is empty, perhaps because a shell variable is not set; expected a value\n"
    )
