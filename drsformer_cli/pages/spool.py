"""A list of bytes in a temporary file."""

from __future__ import annotations

import tempfile
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Spool:
    """A list of bytes that is kept in a temporary file, since it may not fit into memory.

    Args:
        folder: Folder of the file: that of the final one, since the system's temporary files may lie in memory.

    Raises:
        OSError: The file cannot be created; from `append`, it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".part")  # noqa: SIM115 - closed by `close`
        self._sizes: list[int] = []
        self.close = weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[bytes]:
        """The items in order; meanwhile nothing may be appended."""
        self._file.seek(0)
        for size in self._sizes:
            yield self._file.read(size)

    def append(self, data: bytes) -> None:
        """Add an item; none is added if writing fails."""
        self._file.seek(sum(self._sizes))
        self._file.write(data)
        self._file.flush()
        self._sizes.append(len(data))
