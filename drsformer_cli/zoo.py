"""Models by name, and what `--model` stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import drsformer
from drsformer.errors import CheckpointError

BUNDLED = {"general": drsformer.GENERAL}
"""Models that come inside the package."""

DEFAULT = "general"


def resolve(model: str) -> Path:
    """Weight file of a model's name, or of a path.

    Raises:
        CheckpointError: It is neither a name nor an existing file.
    """
    if model in BUNDLED:
        return BUNDLED[model]
    path = Path(model)
    try:
        if path.is_file():
            return path
        if path.exists():
            raise CheckpointError(f"--model {model}: is not a file; expected a weight file (.pth)")
    except OSError as error:
        raise CheckpointError(f"--model {model}: {error.strerror}") from None
    names = ", ".join(BUNDLED)
    raise CheckpointError(f"--model {model}: no such file, and no model of that name; bundled: {names}")


MODELS: dict[str, Any] = {}


def parameter_file(name: str) -> Path:
    """Stand-in."""
    from drsformer_cli.home import home  # noqa: PLC0415

    return home() / "metrics" / name
