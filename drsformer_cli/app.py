"""The Typer app, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from drsformer.errors import DRSformerError
from drsformer_cli import console
from drsformer_cli.commands.derain import derain
from drsformer_cli.errors import ExitCode, exit_code, reason

app = typer.Typer(
    name="drsformer",
    help="Take the rain out of photos with DRSformer, the sparse Transformer for image deraining (CVPR 2023).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(derain)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"drsformer {version('drsformer')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the rain out of photos with DRSformer, the sparse Transformer for image deraining (CVPR 2023)."""


def main() -> NoReturn:
    """Run the command line and exit: 0 done, else as `ExitCode` says."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.TERMINATED))
    try:
        app(prog_name="drsformer")
    except DRSformerError as error:
        console.error(reason(error))
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        console.error("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # whoever read our stdout has left
        sys.stdout = None  # nothing more to flush
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.DONE)
