"""Whether two paths are one file, and whether a folder can be written into."""

from __future__ import annotations

import errno
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


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written into.

    Raises:
        OSError: It is such a folder; says so as writing into it would.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        is_read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY  # such as a locked card
        number = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(number, os.strerror(number))
