"""Signals that ask a command to stop: the first one in order, a later one at once.

What follows within a second belongs to the first: after Ctrl-C, a launcher such as torchrun sends SIGTERM to processes
that got SIGINT from the terminal already.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from drsformer_cli.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

_SAME_REQUEST = 1.0  # seconds

# Windows has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""The signals."""

STOPPED: dict[object, str] = {ExitCode.INTERRUPTED: "interrupted", ExitCode.TERMINATED: "terminated"}
"""What messages say of a process that ends with these exit codes."""


class StopHandler:
    """A handler of signals.

    Args:
        first: What to do at the first signal, with the exit code that stands for it.
        later: What to do at another one.
    """

    def __init__(self, first: Callable[[ExitCode], None], later: Callable[[ExitCode], None]) -> None:
        self._first, self._later = first, later
        self._since: float | None = None

    def __call__(self, number: int, _frame: object) -> None:
        """Handle a signal."""
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        if self._since is None:
            self._since = time.monotonic()
            self._first(code)
        elif time.monotonic() - self._since > _SAME_REQUEST:
            self._later(code)


def handle(first: Callable[[ExitCode], None], later: Callable[[ExitCode], None]) -> None:
    """Have a `StopHandler` with these arguments handle the signals that are not ignored."""
    handler = StopHandler(first, later)
    for number in SIGNALS:
        current = signal.getsignal(number)
        if current in (signal.SIG_DFL, signal.default_int_handler) or isinstance(current, StopHandler):
            signal.signal(number, handler)  # nohup ignores SIGHUP
