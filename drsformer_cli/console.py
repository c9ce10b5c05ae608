"""Output of the command line: notes, errors and the progress bar on stderr, results on stdout."""

from __future__ import annotations

import logging
import sys
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.progress import Progress, Task
    from rich.table import Table


def printable(text: str) -> str:
    """The text on one line: control characters, line separators and other invisible marks are escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of other scripts
        else character.encode("unicode_escape").decode()
        for character in text
    )


@cache
def stderr() -> Console:
    """The console of stderr; it uses colors only on a terminal and without NO_COLOR."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if console.width < 1:  # COLUMNS=0 would swallow every line
        console.width = 80
    return console


def say(message: str, style: str | None = None) -> None:
    """Print one line on stderr, above the progress bar if there is one."""
    stderr().print(printable(message), style=style)


def error(message: str) -> None:
    """Print an error, one line on stderr."""
    say(f"drsformer: {message}", style="red")


def errors(where: str, problems: Sequence[str], most: int) -> None:
    """Print the first `most` problems, one line each, and the number of the others."""
    for problem in problems[:most]:
        error(f"{where}: {problem}")
    if len(problems) > most:
        error(f"{where}: {len(problems) - most} more")


def first_three(names: Sequence[str]) -> str:
    """The first three names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def megabytes(size: int) -> str:
    """A number of bytes in MB, or in kB below 1 MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def result(text: str) -> None:
    """Print one line on stdout, without buffering."""
    print(printable(text), flush=True)  # noqa: T201 - stdout is for results


def table(rows: Table) -> None:
    """Print a table on stdout, never narrower than its columns' minimum widths, even if the terminal is.

    Its cells must be `printable`.
    """
    from rich.console import Console
    from rich.measure import Measurement

    to_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(highlight=False, markup=False, emoji=False, width=None if to_terminal else 200)
    unlimited = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, unlimited, rows).minimum)
    console.print(rows)


def json_line(facts: Mapping[str, object]) -> str:
    """A JSON object on one line."""
    import json

    return json.dumps(facts)


def progress_bar(*, visible: bool) -> Progress:
    """A progress bar with percentage and remaining time on stderr, drawn on a terminal only."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Description(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    return Progress(
        Description(""),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=stderr(),
        transient=True,
        # On a terminal, results are printed above the bar; in a pipe or file, they must stay on stdout.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        disable=not (
            visible and stderr().is_terminal and stderr().file.isatty()
        ),  # FORCE_COLOR alone makes is_terminal true
    )


class _SayHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"drsformer: {record.getMessage()}")


def show_log(*, verbose: bool, quiet: bool) -> None:
    """Show the library's log on stderr: warnings; with `verbose`, every message; with `quiet`, errors only."""
    logger = logging.getLogger("drsformer")
    logger.handlers = [_SayHandler()]
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
