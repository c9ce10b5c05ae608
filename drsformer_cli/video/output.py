"""Open a file to be written by FFmpeg."""

from __future__ import annotations

import errno
from typing import IO, TYPE_CHECKING

import av

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.container import OutputContainer


def open_output(file: IO[bytes], container_format: str, options: Mapping[str, str] | None = None) -> OutputContainer:
    """Open a binary file to be written by FFmpeg.

    Args:
        file: The file, which stays open when the container is closed.
        container_format: FFmpeg's name of the muxer.
        options: Options of the muxer.
    """
    return av.open(_Output(file), "w", format=container_format, options=dict(options or {}))


class _Output:
    """A file whose errors are returned as FFmpeg's: PyAV prints the traceback if a second one is raised."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            return -(error.errno or errno.EIO)
