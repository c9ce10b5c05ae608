"""Exit codes, and the errors of the command line."""

from __future__ import annotations

from enum import IntEnum

from drsformer.errors import CheckpointError, ConfigError, DRSformerError


class ExitCode(IntEnum):
    """Exit codes of the process; part of the documented interface."""

    DONE = 0
    FAILED = 1
    INVALID_USAGE = 2
    SOME_FAILED = 3
    WEIGHTS_UNAVAILABLE = 4
    INTERRUPTED = 130
    TERMINATED = 143


# Errors of one image that do not stop the others; any other exception is a bug and keeps its traceback.
IMAGE_ERRORS = (DRSformerError, OSError, MemoryError)


class UsageError(DRSformerError):
    """The command line asks for something impossible or unsafe; nothing was done."""


class ExportError(DRSformerError):
    """An exported network differs from the original; nothing was written."""


class VideoError(DRSformerError):
    """A video cannot be read or written."""


class DownloadError(DRSformerError):
    """A published file cannot be downloaded, or its content is wrong."""


def exit_code(error: DRSformerError) -> ExitCode:
    """The exit code of the process for an error."""
    if isinstance(error, UsageError | ConfigError):
        return ExitCode.INVALID_USAGE
    if isinstance(error, CheckpointError | DownloadError):
        return ExitCode.WEIGHTS_UNAVAILABLE
    return ExitCode.FAILED


def reason(error: BaseException) -> str:
    """The message of an error, on one line."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
