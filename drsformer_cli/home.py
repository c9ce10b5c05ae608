"""Where downloaded weights, metric parameters and data sets live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from drsformer_cli.errors import UsageError


def home() -> Path:
    """The folder of everything that is downloaded: `DRSFORMER_HOME`, else the user's data folder. It may not exist.

    Raises:
        UsageError: `DRSFORMER_HOME` begins with the name of no user.
    """
    if chosen := os.environ.get("DRSFORMER_HOME"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError:
            raise UsageError(f"DRSFORMER_HOME={chosen}: no such user, expected a folder") from None
    import platformdirs  # noqa: PLC0415 - only who looks for a file needs it

    return platformdirs.user_data_path("drsformer", appauthor=False)
