"""Models and parameter files by name."""

import hashlib
import shutil

import pytest
import torch
from conftest import TINY

import drsformer
from drsformer import PRESETS, DRSformer
from drsformer_cli.downloads import http, zoo
from drsformer_cli.errors import DownloadError, UsageError


def test_the_table_holds_what_is_published():
    assert list(zoo.MODELS) == ["general", "rain200l", "rain200h", "did", "ddn", "spa"]
    for name, row in list(zoo.MODELS.items())[1:]:
        with torch.device("meta"):
            parameters = sum(p.nelement() for p in DRSformer(PRESETS[row.variant]).parameters())
        assert row.parameters == parameters
        assert row.size[0] < 4 * parameters < row.size[1] < 1.12 * row.size[0]
        assert row.urls[0].startswith(f"{http.DRIVE}?id=1")
        assert row.urls[0].split("=")[1].split("&")[0] in row.page
        assert row.path.name == f"{name}.pth"
        assert "research use" in row.license
    variants = [row.variant for row in zoo.MODELS.values()]
    assert variants == ["half", "plain", "mefc", "mefc", "mefc", "plain"]
    assert zoo.MODELS["ddn"].trained_on == "DDN-Data"


def test_bundled_and_files(tiny_file):
    assert zoo.find_checkpoint("general") == drsformer.GENERAL
    assert zoo.find_checkpoint(str(tiny_file)) == tiny_file
    loaded = zoo.load_model(str(tiny_file), device="cpu", threads=1)
    assert (loaded.network.config, loaded.checkpoint) == (TINY, tiny_file)


def test_another_checkpoint_in_the_cache(home, tiny_file):
    (home / "weights").mkdir(parents=True)
    shutil.copyfile(tiny_file, home / "weights/mine.pth")
    assert zoo.load_model("mine").checkpoint == home / "weights/mine.pth"


def test_published_is_downloaded_once(home, published, server, monkeypatch):
    monkeypatch.setenv("DRSFORMER_MIRROR", server.url)
    path = zoo.load_model("rain200h", quiet=True).checkpoint
    assert zoo.find_checkpoint("rain200h") == path == home / "weights/rain200h.pth"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("rain200", "rain200l"),
        ("Rain200H", "rain200h"),
        ("weights/rain200h.pth", "rain200h"),
        ("generel", "general"),
        ("DID-Data", None),
    ],
)
def test_unknown_names(name, guess):
    known = "known: general, rain200l, rain200h, did, ddn, spa"
    with pytest.raises(UsageError, match="no such file, and no model of that name") as error:
        zoo.load_model(name)
    assert str(error.value).endswith(f"did you mean {guess}? {known}" if guess else f"; {known}")
    with pytest.raises(UsageError, match="no model of that name"):
        zoo.rows([name])


def test_rows():
    assert [row.name for row in zoo.rows(["spa", "metrics", "spa"])] == ["spa", *zoo.PARAMETER_FILES]
    assert [row.name for row in zoo.rows(["niqe_pris_params.npz"])] == ["niqe_pris_params.npz"]


@pytest.mark.parametrize("name", zoo.PARAMETER_FILES)
def test_parameter_files_are_those_of_the_reference(shared, home, server, monkeypatch, name):
    server.body = (shared / "data/iqa" / name).read_bytes()
    monkeypatch.setenv("DRSFORMER_MIRROR", f"{server.url}/iqa")
    path = zoo.parameter_file(name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == zoo.PARAMETER_FILES[name].sha256
    assert zoo.parameter_file(name) == path == home / "metrics" / name
    assert [path for path, _ in server.asked] == [f"/iqa/{name}"]


def test_wrong_parameter_file(home, server, monkeypatch):
    server.body = b"\0" * 1356
    monkeypatch.setenv("DRSFORMER_MIRROR", server.url)
    with pytest.raises(DownloadError, match=r"brisque_range_live.yml: http.*has sha256 .*, expected a18427"):
        zoo.parameter_file("brisque_range_live.yml")
    assert not list((home / "metrics").iterdir())
