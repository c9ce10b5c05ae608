"""A few seconds of each script in tests/fuzz; they run longer by hand, with other seeds."""

import importlib
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parent / "fuzz"
SECONDS = {"images": 5, "checkpoints": 1.5, "configurations": 1, "folders": 1, "downloads": 1.5}


@pytest.mark.parametrize("name", SECONDS)
def test_random_damage(name, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.chdir(tmp_path)
    from drsformer_cli.downloads import http

    for setting in ("BACK_OFF_SECONDS", "LONGEST_WAIT_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(http, setting, getattr(http, setting))
    harness, target = importlib.import_module("harness"), importlib.import_module(name)
    count, _ = harness.fuzz(target.case, seed=0, seconds=SECONDS[name])
    assert count > 0


def test_every_script_has_its_seconds():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"harness", *SECONDS}
