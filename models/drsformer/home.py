"""The folder of downloaded checkpoints, metric parameters and data sets. Does not import torch."""

from __future__ import annotations

import os
from pathlib import Path

from drsformer.errors import ConfigError


def home() -> Path:
    """The folder for all downloads: `DRSFORMER_HOME`, or the user's data folder. It may not exist.

    Raises:
        ConfigError: `DRSFORMER_HOME` begins with ~NAME, and there is no user NAME.
    """
    if chosen := os.environ.get("DRSFORMER_HOME"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError:
            raise ConfigError(f"DRSFORMER_HOME={chosen}: there is no such user; expected a folder") from None
    import platformdirs

    return platformdirs.user_data_path("drsformer", appauthor=False)
