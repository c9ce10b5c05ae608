"""The first cases of each script in tests/fuzz, the same in each run; by hand, more of them and other seeds."""

import importlib
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parent / "fuzz"
CASES = {"images": 2500, "checkpoints": 40, "configurations": 400, "folders": 120, "downloads": 60}


@pytest.mark.parametrize("name", CASES)
def test_random_damage(name, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.chdir(tmp_path)
    from drsformer_cli.downloads import http

    for setting in ("BACK_OFF_SECONDS", "LONGEST_WAIT_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(http, setting, getattr(http, setting))
    harness, target = importlib.import_module("harness"), importlib.import_module(name)
    count, _ = harness.fuzz(target.case, seed=0, seconds=math.inf, count=CASES[name])
    assert count == CASES[name]


def test_every_script_has_its_cases():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"harness", *CASES}
