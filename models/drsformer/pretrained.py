"""Trained networks by name: the bundled one, and those in the cache. Imports torch only to load a network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer.errors import CheckpointError
from drsformer.home import home

if TYPE_CHECKING:
    from drsformer.model import DRSformer

GENERAL = Path(__file__).with_name("weights") / "general.pth"
"""Checkpoint of the bundled model; its model card is beside it."""


def load_model(model: str | os.PathLike[str] = "general") -> DRSformer:
    """Load a trained network, on the CPU, in float32, in evaluation mode.

    Args:
        model: "general" for the bundled model; the name of a model in the cache, where `drsformer download NAME` puts
            it; or a checkpoint file, see `load_checkpoint`. A `pathlib.Path` is always a file.

    Raises:
        CheckpointError: There is no such model or file, or the file is not a checkpoint of DRSformer.
    """
    from drsformer.checkpoint import load_checkpoint

    path = find_checkpoint(model)
    if path is None:
        raise CheckpointError(
            f"{os.fspath(model)}: no such file, and no model of that name in {cached_checkpoint('NAME').parent}; "
            "`drsformer download --list` shows the published models, `drsformer download NAME` downloads one"
        )
    return load_checkpoint(path)


def find_checkpoint(model: str | os.PathLike[str]) -> Path | None:
    """The checkpoint that `load_model` loads. None: the model is not cached, and there is no such file.

    Raises:
        CheckpointError: The path exists but is not a file.
    """
    if model == "general":
        return GENERAL
    try:
        if isinstance(model, str) and re.fullmatch(r"[\w-]+", model) and (cached := cached_checkpoint(model)).is_file():
            return cached
        path = Path(model).expanduser()
        if not path.exists():
            return None
        if path.is_file():
            return path
    except OSError as error:  # such as a name that is too long, or a folder without permission
        raise CheckpointError(f"{os.fspath(model)}: {error.strerror}") from None
    raise CheckpointError(f"{os.fspath(model)}: is not a file; expected a checkpoint (.pth or .safetensors)")


def cached_checkpoint(name: str) -> Path:
    """Path of the checkpoint of a model in the cache, whether or not it exists."""
    return home() / "weights" / f"{name}.pth"
