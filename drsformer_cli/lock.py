"""A lock between processes, which the system releases even if the process that holds it is killed."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POLL_SECONDS = 0.2
"""Wait between two attempts to get the lock."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # what a file system may say


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file, unless its file system has no locks: then nothing is locked.

    The file is not removed: two processes could then lock two files with the same name.

    Args:
        path: The file; created if it does not exist.
        on_wait: Called once when another process holds the lock.

    Raises:
        OSError: The file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if not _acquired(file):
            on_wait()
            while not _acquired(file):
                time.sleep(POLL_SECONDS)
        yield  # closing the file releases the lock


def _acquired(file: IO[bytes]) -> bool:
    """Whether the lock was taken, or there are no locks."""
    try:
        return _try_lock(file)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        raise


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
