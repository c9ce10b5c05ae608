"""HTML pages that are complete in one file: the report of a run, and the page of `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def check_report_name(path: Path) -> None:
    """Refuse names that a browser would not open as a page.

    Raises:
        UsageError: The name ends neither in .html nor in .htm.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {path}: expected a name that ends in .html")
