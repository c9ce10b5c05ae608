"""Write files completely or not at all, and hash them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


_WRITE_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, overwrite: bool = True, folder: Path | None = None
) -> Iterator[IO[bytes]]:
    """Open a temporary binary file, and rename it to `path` when the block ends without an exception.

    If the block raises, KeyboardInterrupt included, the temporary file is removed, and an existing `path` is kept.

    Args:
        path: Final path.
        overwrite: Whether to replace an existing file.
        folder: Folder of the temporary file, on the same file system. None: that of `path`.

    Raises:
        FileExistsError: `path` exists when the block ends, and `overwrite` is False.
        OSError: The file cannot be created or written; names `path`.
    """
    target = Path(path)
    # Short, because `path` may already have the longest valid name; hidden, so that scans of the folder skip it.
    temporary = (target.parent if folder is None else folder) / f".{secrets.token_hex(8)}.part"
    with _naming(target, temporary):
        file = temporary.open("x+b")
        try:
            with file:
                yield file
                file.flush()
                _fsync(file.fileno())
            if overwrite:
                temporary.replace(target)
            else:
                _rename_to_new(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Have errors of the temporary file name the target; those of writing name no file themselves."""
    try:
        yield
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _WRITE_ERRORS):
            error.filename, error.filename2 = str(target), None
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(descriptor: int) -> None:
    """Have the system write the file to the disk, if the file system supports that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _rename_to_new(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)  # atomic: fails when the target exists
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(17, os.strerror(17), str(target)) from None
        temporary.rename(target)
