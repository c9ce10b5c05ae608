"""The cache of published files, which are verified when they are added, and again when they seem to have changed."""

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

CacheState = Literal["cached", "unverified", "partial", "absent"]


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file that can be downloaded.

    Attributes:
        name: Name on the command line.
        file: Path in the cache, relative to `home()`.
        size: Smallest and largest valid number of bytes.
        license: License that its publishers state.
        urls: Addresses, in the order in which they are tried.
        page: Page to download it from with a browser.
        sha256: SHA-256; None: unknown.
        variant: Preset of the network that it must hold; None: it is not a checkpoint.
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
        """Path in the cache, whether or not it exists."""
        return home() / self.file

    @property
    def by_hand(self) -> str:
        """Advice in case the download fails."""
        return f"to add it by hand, download {self.page} and run: drsformer download --from FILE {self.name}"


@dataclass(frozen=True)
class Record:
    """Facts about a verified file, saved beside it so that later changes are noticed."""

    size: int
    sha256: str
    source: str
    date: str
    mtime_ns: int


def record(row: PublishedFile) -> Record | None:
    """The record of a cached file; None: there is no valid record."""
    try:
        found = Record(**json.loads(_record_path(row).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(found.sha256, str) else None


def state(row: PublishedFile) -> CacheState:
    """The state of a file in the cache, judged only by its size and date."""
    with _file_errors(row):
        if row.path.is_file():
            known = record(row)
            return "cached" if known is not None and _looks_unchanged(row, known) else "unverified"
        return "partial" if _part(row).size else "absent"


def verified(row: PublishedFile, *, rehash: bool = False) -> Path | None:
    """The cached file, or None. It is hashed again if its size or date changed, or if `rehash` is True.

    A file without a record, copied there by hand, is verified like a download.

    Raises:
        DownloadError: It differs from what was verified before, or cannot be read.
    """
    with _file_errors(row):
        if not row.path.exists():
            return None
        known = record(row)
        if known is not None and _looks_unchanged(row, known) and not rehash:
            return row.path
        try:
            sha256 = _verify(row, row.path) if known is None else _compared(sha256_of(row.path), known)
        except (DownloadError, CheckpointError) as error:
            remedy = f"drsformer download --force {row.name} downloads it again"
            raise DownloadError(f"{row.name}: {row.path}: {error}; {remedy}") from None
        source, date = (known.source, known.date) if known else (str(row.path), _now())
        with contextlib.suppress(OSError):  # a read-only cache is still useful
            _write_record(row, sha256, source, date)
        return row.path


def obtain(row: PublishedFile, *, mirror: str | None = None, force: bool = False, quiet: bool = False) -> Path:
    """The cached file, downloaded first if it is missing. If several processes need it, only one downloads it.

    Args:
        row: The file.
        mirror: Address of the only folder to download from. None: `DRSFORMER_MIRROR`, or the file's own addresses.
        force: Whether to download it even if it is cached, and to accept that it has changed.
        quiet: Whether to hide progress and license.

    Raises:
        DownloadError: The file cannot be downloaded, or its content is wrong; a cached file is kept.
        UsageError: The mirror is not an address.
    """
    if not force and (found := verified(row)) is not None:
        return found
    if os.environ.get("DRSFORMER_OFFLINE", "").lower() not in {"", "0", "false", "no"}:
        raise DownloadError(f"{row.name} is not cached, and DRSFORMER_OFFLINE is set; {row.by_hand}")
    urls = urls_of(row, mirror)
    with _locked(row, quiet=quiet):
        if not force and (found := verified(row)) is not None:  # another process has downloaded it meanwhile
            return found
        problems = []
        for url in urls:
            source = url if url in row.urls else http.without_secrets(url)
            try:
                with _named(row, source):
                    _download(row, url, quiet=quiet)
                    return _admit(row, source, force=force, quiet=quiet)
            except DownloadError as error:
                problems.append(str(error))
        raise DownloadError(f"{'; '.join(problems)}; {row.by_hand}")


def install(row: PublishedFile, file: Path, *, force: bool = False, quiet: bool = False) -> Path:
    """Copy a file that was downloaded by hand into the cache.

    Raises:
        DownloadError: Its content is wrong; a cached file is kept.
    """
    with _locked(row, quiet=quiet), _named(row, str(file)):
        if not file.is_file():
            raise DownloadError("is not a file" if file.exists() else "no such file")
        if not row.size[0] <= file.stat().st_size <= row.size[1]:
            raise DownloadError(http.wrong_size(file.stat().st_size, row.size))
        _copy(file, _part(row))
        return _admit(row, str(file), force=force, quiet=quiet)


def _copy(file: Path, part: http.PartialFile) -> None:
    http.check_free_space(part.path.parent, file.stat().st_size)
    part.version_path.unlink(missing_ok=True)  # a download must not resume from half a copy
    try:
        shutil.copyfile(file, part.path)
    except shutil.SameFileError:
        pass
    except OSError:
        part.discard()
        raise


def remove(row: PublishedFile) -> bool:
    """Remove the file, its record and a partial download; returns whether there was any of these."""
    with _locked(row, quiet=True):
        part = _part(row)
        found = [path for path in (row.path, _record_path(row), part.path, part.version_path) if path.exists()]
        for path in found:
            path.unlink()
    return bool(found)


def urls_of(row: PublishedFile, mirror: str | None) -> tuple[str, ...]:
    """Addresses to download from: that in the mirror if one is given, or the file's own.

    Raises:
        UsageError: The mirror is not an address.
    """
    mirror = mirror or os.environ.get("DRSFORMER_MIRROR")
    if not mirror:
        return row.urls
    with contextlib.suppress(ValueError):
        parts = urlsplit(mirror)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return (parts._replace(path=f"{parts.path.rstrip('/')}/{row.path.name}", fragment="").geturl(),)
    without_password = http.shortened(mirror.rpartition("@")[2].partition("?")[0])
    raise UsageError(f"mirror {without_password}: expected http://HOST/FOLDER or https://HOST/FOLDER")


def _download(row: PublishedFile, url: str, *, quiet: bool) -> None:
    part = _part(row)
    with console.progress_bar(visible=not quiet) as bar:
        task = bar.add_task(row.name, total=row.size[1])
        try:
            http.download(url, part, row.size, lambda done, total: bar.update(task, completed=done, total=total))
        except (KeyboardInterrupt, SystemExit) as stop:
            if kept := part.keep(http.without_secrets(url)):
                stop.add_note(f"{row.name}: {kept} {http.KEPT}")
            raise


def _admit(row: PublishedFile, source: str, *, force: bool, quiet: bool) -> Path:
    """Verify a complete download and move it into the cache, or remove it."""
    part, known = _part(row), record(row)
    try:
        with part.path.open("rb+") as file:
            os.fsync(file.fileno())
        sha256 = _verify(row, part.path)
        if known is not None and not force:
            _compared(sha256, known, "; --force accepts it")
        # In this order, a killed process leaves a file without a record, which is verified before it is used.
        _record_path(row).unlink(missing_ok=True)
        part.path.replace(row.path)
        part.version_path.unlink(missing_ok=True)
        _write_record(row, sha256, source, _now())
    except (DownloadError, CheckpointError, OSError):
        part.discard()
        raise
    if not quiet:
        console.say(f"{row.name}: {console.megabytes(row.path.stat().st_size)}, verified; license: {row.license}")
    return row.path


def _verify(row: PublishedFile, path: Path) -> str:
    """Check that a file is the published one; returns its SHA-256."""
    size = path.stat().st_size
    if not row.size[0] <= size <= row.size[1]:
        raise DownloadError(http.wrong_size(size, row.size))
    sha256 = sha256_of(path)
    if row.sha256 not in {None, sha256}:
        raise DownloadError(f"has sha256 {sha256}, expected {row.sha256}")
    if row.variant is not None:
        from drsformer.checkpoint import check_checkpoint

        check_checkpoint(path, PRESETS[row.variant])
    return sha256


def _compared(sha256: str, known: Record, remedy: str = "") -> str:
    """Check that a SHA-256 is the one that was verified before; returns it."""
    if sha256 != known.sha256:
        difference = f"sha256 {sha256[:12]}..., expected {known.sha256[:12]}..."
        raise DownloadError(f"differs from what was verified on {known.date} ({difference}){remedy}")
    return sha256


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _part(row: PublishedFile) -> http.PartialFile:
    return http.PartialFile(row.path.with_name(f"{row.path.name}.part"))


def _record_path(row: PublishedFile) -> Path:
    return row.path.with_suffix(".json")


def _looks_unchanged(row: PublishedFile, known: Record) -> bool:
    status = row.path.stat()
    return (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)


def _write_record(row: PublishedFile, sha256: str, source: str, date: str) -> None:
    status = row.path.stat()
    facts = Record(status.st_size, sha256, source, date, status.st_mtime_ns)
    with atomic_write(_record_path(row)) as file:
        file.write(json.dumps(asdict(facts), indent=1).encode())


@contextlib.contextmanager
def _locked(row: PublishedFile, *, quiet: bool) -> Iterator[None]:
    """Create the folder of a file, and lock the file against other processes."""

    def on_wait() -> None:
        if not quiet:
            console.say(f"{row.name}: waiting for another process that downloads it")

    with _file_errors(row), locked(home() / "locks" / f"{row.name}.lock", on_wait):
        row.path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextlib.contextmanager
def _named(row: PublishedFile, source: str) -> Iterator[None]:
    """Add the name and the source of the file to errors."""
    try:
        yield
    except (DownloadError, CheckpointError) as error:
        raise DownloadError(f"{row.name}: {source}: {error}") from None


@contextlib.contextmanager
def _file_errors(row: PublishedFile) -> Iterator[None]:
    """Turn an OSError into a DownloadError that says where the cache is."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # from requests, if REQUESTS_CA_BUNDLE does not exist
            raise DownloadError(f"{row.name}: {error}") from None
        where = error.filename or row.path.parent
        hint = f"the cache is {home()}; DRSFORMER_HOME changes that"
        raise DownloadError(f"{row.name}: {where}: {error.strerror} ({hint})") from None
