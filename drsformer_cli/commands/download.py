"""`drsformer download`: download published checkpoints and metric parameters, and manage their cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drsformer.errors import DRSformerError
from drsformer_cli import console, options
from drsformer_cli.downloads import cache, http, zoo
from drsformer_cli.downloads.zoo import PublishedModel
from drsformer_cli.errors import DownloadError, ExitCode, UsageError, reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from drsformer_cli.downloads.cache import PublishedFile

    Facts = dict[str, object]


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"{', '.join(zoo.MODELS)}, or {zoo.ALL_METRICS}: the parameter files of NIQE and BRISQUE.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Use all names.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List all names, and which of them are cached.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Verify cached files by their hashes.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove files from the cache.")] = False,
    file: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="Use this file, downloaded by hand, as NAME.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Download files even if they are cached, and accept that they have changed.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror", metavar="URL", help="Download from URL/NAME.pth. Default: DRSFORMER_MIRROR, or the publishers."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each name on stdout.")] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Download published checkpoints, verify them and keep them in a cache.

    `derain --model NAME` downloads a missing model, too. Interrupted downloads are resumed. Files enter the cache only
    if they hold the published network, and are refused if they change later.

    Exit codes: 0 all done; 2 invalid usage, nothing was done; 4 weights unavailable; 130 interrupted, 143 terminated.

    DRSFORMER_HOME: folder of the cache. DRSFORMER_MIRROR: default of --mirror. DRSFORMER_OFFLINE=1: no connections.
    """
    if sum((listing, verify, remove, file is not None)) > 1:
        raise UsageError("--list, --verify, --remove and --from: expected one of them")
    every = zoo.rows([*zoo.MODELS, zoo.ALL_METRICS])
    if listing:
        _list(zoo.rows(names) if names else every, as_json=as_json)
        return
    foreign = [row for row in every if not _bundled(row)]
    chosen = foreign if everything else zoo.rows(names or [])
    if verify and not chosen:
        chosen = [row for row in foreign if _present(row)]
        if not chosen and not quiet:
            console.say("nothing is cached: nothing to verify")
    elif not chosen:
        raise UsageError("expected a NAME or --all; --list shows the names")
    task = _Task(verify, remove, Path(file) if file is not None else None, force, mirror, dry_run, quiet)
    task.check(chosen)
    raise typer.Exit(_run_all(chosen, task.run, as_json=as_json, quiet=quiet))


@dataclass(frozen=True)
class _Task:
    """What to do with each name."""

    verify: bool
    remove: bool
    file: Path | None
    force: bool
    mirror: str | None
    dry_run: bool
    quiet: bool

    def check(self, rows: list[PublishedFile]) -> None:
        """Refuse invalid usage before anything is done."""
        bundled = [row.name for row in rows if _bundled(row)]
        if bundled and (self.remove or self.file is not None):
            raise UsageError(f"{bundled[0]} is part of the package; only downloaded files can be removed or replaced")
        if self.file is not None and len(rows) > 1:
            raise UsageError(f"--from takes a single file; expected one of {', '.join(row.name for row in rows)}")

    def run(self, row: PublishedFile) -> str:
        """Do it; returns what was done, or what would be done."""
        if _bundled(row):
            return "bundled"
        if self.verify:
            return self._verified(row)
        if self.remove:
            return self._removed(row)
        if self.file is not None:
            return self._installed(row, self.file)
        return self._downloaded(row)

    def _verified(self, row: PublishedFile) -> str:
        if cache.verified(row, rehash=True) is None:
            raise DownloadError(f"{row.name} is not cached")
        return "verified"

    def _removed(self, row: PublishedFile) -> str:
        if self.dry_run:
            return "would be removed" if cache.state(row) != "absent" else "not cached"
        return "removed" if cache.remove(row) else "not cached"

    def _installed(self, row: PublishedFile, file: Path) -> str:
        if self.dry_run:
            return f"would be installed from {file}"
        cache.install(row, file, force=self.force, quiet=self.quiet)
        return "installed"

    def _downloaded(self, row: PublishedFile) -> str:
        status = "cached" if _present(row) and not self.force else "downloaded"
        if self.dry_run:
            urls = ", ".join(map(http.without_secrets, cache.urls_of(row, self.mirror)))
            return status if status == "cached" else f"would be downloaded from {urls}"
        cache.obtain(row, mirror=self.mirror, force=self.force, quiet=self.quiet)
        return status


_PRESENT = ("cached", "unverified")


def _bundled(row: PublishedFile) -> bool:
    return isinstance(row, PublishedModel) and row.bundled is not None


def _present(row: PublishedFile) -> bool:
    return cache.state(row) in _PRESENT


def _run_all(rows: list[PublishedFile], run: Callable[[PublishedFile], str], *, as_json: bool, quiet: bool) -> ExitCode:
    """Run for each name, and report; if one fails, the others are still run."""
    code = ExitCode.DONE
    for row in rows:
        try:
            status = run(row)
        except UsageError:
            raise
        except DRSformerError as error:
            code = ExitCode.WEIGHTS_UNAVAILABLE
            console.error(reason(error))
            if as_json:
                console.result(console.json_line({"name": row.name, "error": reason(error)}))
            continue
        if as_json:
            console.result(console.json_line({"name": row.name, "status": status, **_file_facts(row)}))
        elif not quiet:
            console.result(f"{row.name}: {status}, {row.path}")
    return code


def _file_facts(row: PublishedFile) -> Facts:
    known = cache.record(row)
    return {
        "path": str(row.path),
        "size": _size(row),
        "sha256": known.sha256 if known else row.sha256,
        "source": known.source if known else None,
        "date": known.date if known else None,
    }


def _size(row: PublishedFile) -> int:
    """Bytes of the file; if it is not cached, the approximate size of the published one."""
    if row.path.is_file():
        return row.path.stat().st_size
    return 4 * row.parameters if isinstance(row, PublishedModel) else row.size[0]


def _state(row: PublishedFile) -> str:
    return "bundled" if _bundled(row) else cache.state(row)


_FACTS = ("license", "variant", "parameters", "trained_on", "tested_on", "psnr", "ssim", "protocol", "paper")


def _list(rows: list[PublishedFile], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            state = _state(row)
            cache = {"cached": state in {"bundled", *_PRESENT}, "state": state, **_file_facts(row)}
            facts = {name: getattr(row, name, None) for name in _FACTS}
            console.result(console.json_line({"name": row.name, **cache, **facts}))
        return
    lines = [("name", "trained on", "variant", "size", "cached", "PSNR / SSIM", "license")]
    for row in rows:
        size = console.megabytes(_size(row))
        if isinstance(row, PublishedModel):
            score = f"{row.psnr:.2f} / {row.ssim:.4f} on {row.tested_on}, {row.protocol}"
            lines.append((row.name, row.trained_on, row.variant or "", size, _state(row), score, row.license))
        else:
            lines.append((row.name, "", "", size, _state(row), "", row.license))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        console.result("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
