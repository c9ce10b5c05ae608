"""Where downloaded weights, metric parameters and data sets live on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of everything that is downloaded: `DRSFORMER_HOME`, else the user's data folder. It may not exist."""
    if chosen := os.environ.get("DRSFORMER_HOME"):
        return Path(chosen).expanduser()
    import platformdirs  # noqa: PLC0415 - only who looks for a file needs it

    return platformdirs.user_data_path("drsformer", appauthor=False)
