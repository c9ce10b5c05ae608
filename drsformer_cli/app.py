"""The Typer app, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from typing import Annotated, NoReturn

import typer

from drsformer.errors import DRSformerError
from drsformer_cli import __version__, console
from drsformer_cli.commands.derain import derain
from drsformer_cli.commands.download import download
from drsformer_cli.commands.eval import evaluate
from drsformer_cli.commands.export import export
from drsformer_cli.commands.serve import serve
from drsformer_cli.commands.train import train
from drsformer_cli.errors import ExitCode, UsageError, exit_code, reason

app = typer.Typer(
    name="drsformer",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts three times as fast and reads well in a pipe
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(derain)
app.command("eval")(evaluate)
app.command()(train)
app.command()(download)
app.command()(export)
app.command()(serve)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"drsformer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Remove rain from images with DRSformer, the sparse Transformer for image deraining (CVPR 2023)."""


def main() -> NoReturn:
    """Run the command line and exit with an `ExitCode`."""
    # Threads that wait for each other soon sleep instead of spinning on: beside other work, spinning makes two threads
    # several times as slow as one. GNU OpenMP reads this when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP; nohup ignores it
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda *_: sys.exit(ExitCode.TERMINATED))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may contain characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        if any(re.fullmatch(r"(--[\w-]+=)?", argument) for argument in sys.argv[1:]):  # as a path: the current folder
            raise UsageError("an argument is empty, perhaps because a shell variable is not set; expected a value")
        app(prog_name="drsformer")
    except DRSformerError as error:
        console.error(reason(error))
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        console.error("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except OSError as error:  # such as a full disk behind stdout; errors of single images are caught earlier
        console.error(f"{error.filename or 'stdout'}: {reason(error)}")
        sys.stdout = None  # nothing more to flush
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.DONE)
