"""The Typer app, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import io
import os
import re
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
from drsformer_cli.signals import STOPPED, handle

app = typer.Typer(
    name="drsformer",
    invoke_without_command=True,
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
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Remove rain from images with DRSformer, the sparse Transformer for image deraining (CVPR 2023)."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.INVALID_USAGE)


def _one_line(error: typer.TyperException) -> str:
    """Typer's message about a wrong option or argument, without the usage lines that it prints above."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    return f"{message[:1].lower()}{message[1:]}{hint}"


def main() -> NoReturn:
    """Run the command line and exit with an `ExitCode`."""
    # Threads that wait for each other soon sleep instead of spinning on: beside other work, spinning makes two threads
    # several times as slow as one. GNU OpenMP reads this when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    handle(sys.exit, os._exit)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may contain characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        if any(re.fullmatch(r"(--[\w-]+=)?", argument) for argument in sys.argv[1:]):  # as a path: the current folder
            raise UsageError("an argument is empty, perhaps because a shell variable is not set; expected a value")
        code = app(prog_name="drsformer", standalone_mode=False)
    except typer.TyperException as error:
        console.error(_one_line(error))
        sys.exit(error.exit_code)
    except DRSformerError as error:
        console.error(reason(error))
        sys.exit(exit_code(error))
    except SystemExit as stop:
        if stop.code in STOPPED:
            console.error("; ".join([STOPPED[stop.code], *getattr(stop, "__notes__", [])]))
        raise
    except OSError as error:  # such as a full disk behind stdout; errors of single images are caught earlier
        console.error(f"{error.filename or 'stdout'}: {reason(error)}")
        sys.stdout = None  # nothing more to flush
        sys.exit(ExitCode.FAILED)
    sys.exit(code or ExitCode.DONE)  # Typer returns the code of typer.Exit, and None from our commands


def run() -> NoReturn:
    """`main`, as the command: without the time that Python would take to free everything, a fifth of a short run."""
    try:
        main()
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except OSError:  # Python tries again, and says it
            raise stop from None
        os._exit(stop.code)
