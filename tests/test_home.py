"""Where downloaded files live."""

from pathlib import Path

import pytest

from drsformer import ConfigError
from drsformer.home import home


def test_the_user_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("DRSFORMER_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("DRSFORMER_HOME", "~/rain")
    assert home() == Path.home() / "rain"


def test_no_such_user(monkeypatch):
    monkeypatch.setenv("DRSFORMER_HOME", "~nobody-of-that-name/rain")
    with pytest.raises(ConfigError, match="there is no such user"):
        home()


def test_else_the_data_folder_of_the_platform(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.delenv("DRSFORMER_HOME", raising=False)
    assert home().name == "drsformer"
    monkeypatch.setenv("DRSFORMER_HOME", "")
    assert home().name == "drsformer"
