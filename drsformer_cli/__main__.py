"""Entry point of the command, and of `python -m drsformer_cli`, which torchrun needs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from drsformer_cli.signals import STOPPED, handle

if TYPE_CHECKING:
    from drsformer_cli.errors import ExitCode


def run() -> NoReturn:
    """Run the command line; signals are handled before the imports, which take most of the time of a short run."""
    handle(_stop, _stop)
    from drsformer_cli import app

    app.run()


def _stop(code: ExitCode) -> None:
    if sys.stderr is not None:
        print(f"drsformer: {STOPPED[code]}", file=sys.stderr, flush=True)  # noqa: T201 - the console is not imported yet
    os._exit(code)


if __name__ == "__main__":
    run()
