"""Whether two paths are one file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def identity(path: Path) -> str:
    """A text that is the same for all paths and links of a file."""
    try:
        status = path.stat()
    except OSError:  # it does not exist, or cannot be reached
        real = os.path.normcase(os.path.realpath(path))
        # Names that differ in case are usually one file there.
        return real.casefold() if sys.platform == "darwin" else real
    return f"{status.st_dev}:{status.st_ino}"
