"""The cache of published files: how one gets in, and why it is trusted afterwards."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from drsformer.config import PRESETS
from drsformer.errors import CheckpointError
from drsformer.files import atomic_write, sha256_of
from drsformer.home import home
from drsformer_cli import console
from drsformer_cli.downloads import http
from drsformer_cli.errors import DownloadError, UsageError
from drsformer_cli.lock import locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

State = Literal["cached", "unverified", "partial", "absent"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file that others publish.

    Attributes:
        name: What the user calls it.
        file: Its place below the home of downloads.
        size: The fewest and the most bytes that it may have.
        license: As its publishers state it.
        urls: Where it is, in the order to try.
        page: Where a person fetches it with a browser.
        sha256: Where one is known.
        variant: The preset of the network that it must hold; None: it is no checkpoint.
    """

    name: str
    file: str
    size: tuple[int, int]
    license: str
    urls: tuple[str, ...]
    page: str
    sha256: str | None = None
    variant: str | None = None

    @property
    def path(self) -> Path:
        """Where it lies in the cache, or would."""
        return home() / self.file

    @property
    def by_hand(self) -> str:
        """What a person can do without this program's connection."""
        return f"to place it by hand, fetch {self.page} and run: drsformer download --from FILE {self.name}"


@dataclass(frozen=True)
class Record:
    """What was verified, written beside the file: a later change of the file shows."""

    size: int
    sha256: str
    source: str
    date: str
    mtime_ns: int


def record(row: Published) -> Record | None:
    """The record of a cached file; None where there is none that can be read."""
    try:
        found = Record(**json.loads(_record_path(row).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(found.sha256, str) else None


def state(row: Published) -> State:
    """What the cache holds, at a glance: nothing is read but sizes and dates."""
    with _file_errors(row):
        if row.path.is_file():
            known = record(row)
            return "cached" if known is not None and _looks_unchanged(row, known) else "unverified"
        return "partial" if _part(row).size else "absent"


def verified(row: Published, *, rehash: bool = False) -> Path | None:
    """The cached file, None where there is none. It is hashed again when its size or date changed, or on demand.

    A file without a record, as a person may copy it there, is checked like one that was fetched.

    Raises:
        DownloadError: It is not what was verified before, or cannot be read.
    """
    with _file_errors(row):
        if not row.path.exists():
            return None
        known = record(row)
        if known is not None and _looks_unchanged(row, known) and not rehash:
            return row.path
        try:
            sha256 = _check(row, row.path) if known is None else _compared(sha256_of(row.path), known)
        except (DownloadError, CheckpointError) as error:
            remedy = f"drsformer download --force {row.name} fetches it anew"
            raise DownloadError(f"{row.name}: {row.path}: {error}; {remedy}") from None
        source, date = (known.source, known.date) if known else (str(row.path), _now())
        with contextlib.suppress(OSError):  # a cache that cannot be written serves as well
            _write_record(row, sha256, source, date)
        return row.path


def obtain(row: Published, *, mirror: str | None = None, force: bool = False, quiet: bool = False) -> Path:
    """The cached file, fetched first where it is missing; several processes that need it fetch it once.

    Args:
        row: The file.
        mirror: Folder to fetch from, and from nowhere else; None: `DRSFORMER_MIRROR`, else the row's addresses.
        force: Whether to fetch it though it is there, and to accept that it differs from what was verified before.
        quiet: Whether to show neither progress nor license.

    Raises:
        DownloadError: It cannot be fetched, or what came is not this file; an old one stays.
        UsageError: The mirror is no address.
    """
    if not force and (found := verified(row)) is not None:
        return found
    if os.environ.get("DRSFORMER_OFFLINE", "").lower() not in {"", "0", "false", "no"}:
        raise DownloadError(f"{row.name} is missing and DRSFORMER_OFFLINE forbids to fetch it; {row.by_hand}")
    urls = urls_of(row, mirror)
    with _alone(row, quiet=quiet):
        if not force and (found := verified(row)) is not None:  # by another process meanwhile
            return found
        problems = []
        for url in urls:
            source = url if url in row.urls else http.shown(url)
            try:
                with _named(row, source):
                    _fetch(row, url, quiet=quiet)
                    return _admit(row, source, force=force, quiet=quiet)
            except DownloadError as error:
                problems.append(str(error))
        raise DownloadError(f"{'; '.join(problems)}; {row.by_hand}")


def install(row: Published, file: Path, *, force: bool = False, quiet: bool = False) -> Path:
    """Take a file into the cache that a person fetched.

    Raises:
        DownloadError: It is not what it should be; an old one stays.
    """
    with _alone(row, quiet=quiet), _named(row, str(file)):
        if not file.is_file():
            raise DownloadError("is not a file" if file.exists() else "no such file")
        if not row.size[0] <= file.stat().st_size <= row.size[1]:
            raise DownloadError(http.wrong_size(file.stat().st_size, row.size))
        _copy(file, _part(row))
        return _admit(row, str(file), force=force, quiet=quiet)


def _copy(file: Path, part: http.Part) -> None:
    http.check_free_space(part.path.parent, file.stat().st_size)
    part.note.unlink(missing_ok=True)  # nothing goes on from half a copy
    try:
        shutil.copyfile(file, part.path)
    except shutil.SameFileError:
        pass
    except OSError:
        part.discard()
        raise


def remove(row: Published) -> bool:
    """Remove everything that belongs to the file; whether there was anything."""
    with _alone(row, quiet=True):
        part = _part(row)
        found = [path for path in (row.path, _record_path(row), part.path, part.note) if path.exists()]
        for path in found:
            path.unlink()
    return bool(found)


def urls_of(row: Published, mirror: str | None) -> tuple[str, ...]:
    """Where to fetch from: the mirror that the user names, else the row's addresses.

    Raises:
        UsageError: The mirror is no address.
    """
    mirror = mirror or os.environ.get("DRSFORMER_MIRROR")
    if not mirror:
        return row.urls
    with contextlib.suppress(ValueError):
        parts = urlsplit(mirror)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return (parts._replace(path=f"{parts.path.rstrip('/')}/{row.path.name}", fragment="").geturl(),)
    without_password = http.printable(mirror.rpartition("@")[2].partition("?")[0])
    raise UsageError(f"mirror {without_password}: expected http://HOST/FOLDER or https://HOST/FOLDER")


def _fetch(row: Published, url: str, *, quiet: bool) -> None:
    part = _part(row)
    with console.progress_bar(visible=not quiet) as bar:
        task = bar.add_task(row.name, total=row.size[1])
        try:
            http.fetch(url, part, row.size, lambda done, total: bar.update(task, completed=done, total=total))
        except KeyboardInterrupt:
            if kept := part.keep(http.shown(url)):
                console.say(f"{row.name}: {kept} {http.KEPT}")
            raise


def _admit(row: Published, source: str, *, force: bool, quiet: bool) -> Path:
    """Verify what is complete and let it take the place of the cached file, or remove it."""
    part, known = _part(row), record(row)
    try:
        with part.path.open("rb+") as file:
            os.fsync(file.fileno())
        sha256 = _check(row, part.path)
        if known is not None and not force:
            _compared(sha256, known, "; --force accepts it")
        # In this order a process that is killed leaves a file without a record, which is checked before it is used.
        _record_path(row).unlink(missing_ok=True)
        part.path.replace(row.path)
        part.note.unlink(missing_ok=True)
        _write_record(row, sha256, source, _now())
    except (DownloadError, CheckpointError, OSError):
        part.discard()
        raise
    if not quiet:
        console.say(f"{row.name}: {row.path.stat().st_size / 1e6:.1f} MB, verified; license: {row.license}")
    return row.path


def _check(row: Published, path: Path) -> str:
    """The file's sha256, once it is clear that it is what the row says."""
    size = path.stat().st_size
    if not row.size[0] <= size <= row.size[1]:
        raise DownloadError(http.wrong_size(size, row.size))
    sha256 = sha256_of(path)
    if row.sha256 not in {None, sha256}:
        raise DownloadError(f"has sha256 {sha256}, expected {row.sha256}")
    if row.variant is not None:
        from drsformer.checkpoint import check_checkpoint  # noqa: PLC0415 - torch is slow to import

        check_checkpoint(path, PRESETS[row.variant])
    return sha256


def _compared(sha256: str, known: Record, remedy: str = "") -> str:
    """The hash, if it is the one that was verified before."""
    if sha256 != known.sha256:
        difference = f"sha256 {sha256[:12]}..., expected {known.sha256[:12]}..."
        raise DownloadError(f"differs from what was verified on {known.date} ({difference}){remedy}")
    return sha256


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _part(row: Published) -> http.Part:
    return http.Part(row.path.with_name(f"{row.path.name}.part"))


def _record_path(row: Published) -> Path:
    return row.path.with_suffix(".json")


def _looks_unchanged(row: Published, known: Record) -> bool:
    status = row.path.stat()
    return (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)


def _write_record(row: Published, sha256: str, source: str, date: str) -> None:
    status = row.path.stat()
    facts = Record(status.st_size, sha256, source, date, status.st_mtime_ns)
    with atomic_write(_record_path(row)) as file:
        file.write(json.dumps(asdict(facts), indent=1).encode())


@contextlib.contextmanager
def _alone(row: Published, *, quiet: bool) -> Iterator[None]:
    """The folder of a file exists and no other process changes it."""

    def on_wait() -> None:
        if not quiet:
            console.say(f"{row.name}: another process is at it, waiting")

    with _file_errors(row), locked(home() / "locks" / f"{row.name}.lock", on_wait):
        row.path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextlib.contextmanager
def _named(row: Published, source: str) -> Iterator[None]:
    """Errors say which file from where."""
    try:
        yield
    except (DownloadError, CheckpointError) as error:
        raise DownloadError(f"{row.name}: {source}: {error}") from None


@contextlib.contextmanager
def _file_errors(row: Published) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # as requests puts it when the certificates of the environment are missing
            raise DownloadError(f"{row.name}: {error}") from None
        where = error.filename or row.path.parent
        hint = f"the cache is {home()}, DRSFORMER_HOME moves it"
        raise DownloadError(f"{row.name}: {where}: {error.strerror} ({hint})") from None
