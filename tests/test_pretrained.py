"""load_model: by name, from the cache, from a file."""

import shutil

import pytest
import torch
from conftest import TINY

import drsformer
from drsformer import CheckpointError, load_model
from drsformer.pretrained import find_checkpoint


def same(one, other):
    return all(torch.equal(one.state_dict()[key], tensor) for key, tensor in other.state_dict().items())


def test_general(general):
    assert same(load_model("general"), general)
    assert same(load_model(), general)
    assert same(load_model(drsformer.GENERAL), general)


def test_files(tiny, tiny_file):
    for model in (tiny_file, str(tiny_file)):
        loaded = load_model(model)
        assert loaded.config == TINY
        assert not loaded.training
        assert same(loaded, tiny)


def test_cached_by_name(home, tiny, tiny_file, monkeypatch, tmp_path):
    (home / "weights").mkdir(parents=True)
    shutil.copyfile(tiny_file, home / "weights/rain200h.pth")
    assert same(load_model("rain200h"), tiny)
    # A file of the same name in the working folder is another matter: a path says so.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rain200h").write_text("not a checkpoint")
    assert same(load_model("rain200h"), tiny)
    for path in ("./rain200h", tmp_path / "rain200h"):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load_model(path)


def test_in_the_users_folder(tiny, tiny_file, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_file.parent))
    monkeypatch.setenv("USERPROFILE", str(tiny_file.parent))
    assert same(load_model(f"~/{tiny_file.name}"), tiny)


def test_a_cache_that_was_never_made(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("rain200h") is None
    with pytest.raises(CheckpointError, match=r"^rain200h: no such file, and no model of that name in .*weights; `drs"):
        load_model("rain200h")
    assert not home.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere/x.pth", r"^nowhere/x.pth: no such file"),
        ("", "is not a file; expected a checkpoint"),
        ("a" * 300, "^aaa.*: File name too long$"),
        ("../general", "no such file"),
    ],
)
def test_what_is_not_a_model(home, tmp_path, monkeypatch, model, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(model)
    assert "\n" not in str(error.value)


def test_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a file; expected a checkpoint \(\.pth or \.safetensors\)"):
        load_model(tmp_path)
