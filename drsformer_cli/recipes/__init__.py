"""Bundled configurations of `drsformer train`."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

NAMES = sorted(file.stem for file in _FOLDER.glob("*.toml"))


def path(name: str) -> Path:
    """The file of a recipe."""
    return _FOLDER / f"{name}.toml"
