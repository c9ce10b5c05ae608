"""Find the inputs, name the outputs, and refuse every clash before any work."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_cli.errors import UsageError
from drsformer_cli.formats import FORMAT_OF_ENDING, OTHER_IMAGE_ENDINGS
from drsformer_cli.pages import check_report_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIX = "_derained"
COMPARE_SUFFIX = "_compare"
STANDARD_STREAM = "-"


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        source: File to read; None: stdin.
        target: File to write; None: stdout.
        image_format: Pillow's name of the format to write; None: the format of the input.
        comparison: File for the side-by-side image; None: it is not written.
    """

    source: Path | None
    target: Path | None
    image_format: str | None = None
    comparison: Path | None = None

    @property
    def name(self) -> str:
        """The input, as messages name it."""
        return str(self.source) if self.source is not None else STANDARD_STREAM


@dataclass(frozen=True)
class Plan:
    """The work of one command.

    Attributes:
        jobs: Images to process.
        skipped: Images that are skipped because their output exists.
        notes: What else is skipped, one line each.
        failures: Folders that cannot be read, and why.
    """

    jobs: list[Job]
    skipped: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def plan(
    inputs: list[str],
    output: str | None,
    *,
    recursive: bool = False,
    image_format: str | None = None,
    compare: bool = False,
    report: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> Plan:
    """Pair every input with its output.

    Args:
        inputs: Files, folders, globs that the shell did not expand, or only "-" for stdin.
        output: File, folder, "-" for stdout, or None for a name beside the input.
        recursive: Whether folders are searched to any depth; the output has the same subfolders.
        image_format: A FormatName; replaces the ending of every output.
        compare: Whether to write a side-by-side image, too.
        report: File for the report; None: it is not written.
        overwrite: Whether existing outputs may be replaced.
        skip_existing: Whether to skip images whose output exists.

    Raises:
        UsageError: An input is missing; outputs or the report clash with each other, an input or existing files.
    """
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other")
    search = _Search()
    if STANDARD_STREAM in inputs or output == STANDARD_STREAM:
        jobs = [_stream_job(inputs, output, image_format)]
    else:
        found = _file_jobs(inputs, output, search, recursive=recursive, image_format=image_format)
        jobs = list(dict.fromkeys(found))  # an image that is given twice is processed once
        if output is None and (overwrite or skip_existing):
            jobs = _without_results(jobs)
    if compare:
        jobs = [_with_comparison(job) for job in jobs]
    if not jobs:
        seen = "".join(f"; {text}" for text in (*(": ".join(pair) for pair in search.failures), *search.notes))
        raise UsageError(f"no images in {', '.join(inputs)}; expected files ending in {_known_endings()}{seen}")
    _refuse_clashes(jobs)
    if report is not None:
        _check_report(report, jobs, overwrite=overwrite)
    existing: list[Job] = []
    new: list[Job] = []
    for job in jobs:
        (existing if any(os.path.lexists(path) for path in _outputs(job)) else new).append(job)
    if skip_existing:
        return Plan(new, existing, search.notes, search.failures)
    _refuse_special_files(existing)
    if existing and not overwrite:
        first = next(path for path in _outputs(existing[0]) if os.path.lexists(path))
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UsageError(f"output exists: {first}{more}; use --overwrite or --skip-existing")
    return Plan(jobs, [], search.notes, search.failures)


@dataclass
class _Search:
    """What is skipped, and what cannot be read, while folders are searched; see `Plan`."""

    notes: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def _stream_job(inputs: list[str], output: str | None, image_format: str | None) -> Job:
    if len(inputs) != 1:
        raise UsageError(f"'-' is one image from stdin or to stdout, but {len(inputs)} inputs were given")
    source = None if inputs[0] == STANDARD_STREAM else _existing(inputs[0])
    if source is not None and source.is_dir():
        raise UsageError(f"{source} is a folder; only a single image can be written to stdout")
    target = None if output in (None, STANDARD_STREAM) else Path(str(output))
    if target is not None:
        if target.is_dir():
            raise UsageError(f"{target} is a folder; an image from stdin needs a file name")
        _check_ending(target, image_format)
    return _job(source, target, image_format)


def _job(source: Path | None, target: Path | None, image_format: str | None) -> Job:
    ending = f".{image_format}" if image_format else target.suffix.lower() if target is not None else ""
    return Job(source, target, FORMAT_OF_ENDING.get(ending))


def _without_results(jobs: list[Job]) -> list[Job]:
    """The jobs whose input is not the output of another one: a repeated `*.jpg` matches earlier outputs, too."""
    targets = [job.target for job in jobs if job.target is not None]
    results = {_identity(path) for target in targets for path in (target, _comparison_of(target))}
    return [job for job in jobs if job.source is None or _identity(job.source) not in results]


def _file_jobs(
    inputs: list[str], output: str | None, search: _Search, *, recursive: bool, image_format: str | None
) -> Iterator[Job]:
    paths = [path for text in inputs for path in _expanded(text)]
    single = [str(path) for path in paths] == [str(Path(text)) for text in inputs[:1]] and not paths[0].is_dir()
    as_folder = output is not None and (not single or Path(output).is_dir() or output.endswith(("/", os.sep)))
    if output is not None and not as_folder:
        target = Path(output)
        _check_ending(target, image_format)
        yield _job(paths[0], target, image_format)
        return
    folder = Path(output) if output is not None else None
    if folder is not None and not folder.is_dir() and (folder.exists() or _looks_like_an_image(str(output))):
        raise UsageError(f"-o {output}: is a file, but several images need a folder")
    for path in paths:
        if not path.is_dir():
            yield _job(path, _target(path, Path(path.name), folder, image_format), image_format)
            continue
        for found in _images_in(path, search, recursive=recursive, excluded=folder):
            if folder is None and found.stem.endswith((SUFFIX, SUFFIX + COMPARE_SUFFIX)):
                continue  # the result of an earlier run
            yield _job(found, _target(found, found.relative_to(path), folder, image_format), image_format)


def _looks_like_an_image(output: str) -> bool:
    return not output.endswith(("/", os.sep)) and Path(output).suffix.lower() in FORMAT_OF_ENDING


def _expanded(text: str) -> list[Path]:
    """The path itself, or the matches of a glob that the shell did not expand."""
    if not os.path.lexists(text) and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
        folder, name = os.path.split(text)
        if not matches and Path(folder).is_dir():  # brackets in the name of a folder: "trip [2019]/*.jpg"
            matches = sorted(glob.glob(os.path.join(glob.escape(folder), name)))  # noqa: PTH118, PTH207
        if not matches:
            raise UsageError(f"{text}: no matching files")
        return [Path(match) for match in matches]
    return [_existing(text)]


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise UsageError(f"{text}: no such file or folder")
    return path


def _images_in(folder: Path, search: _Search, *, recursive: bool, excluded: Path | None) -> Iterator[Path]:
    """Files with an image's ending, in order; hidden files, linked folders and the output folder are skipped."""
    forbidden = os.path.realpath(excluded) if excluded is not None else None

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise UsageError(f"{error.filename}: {error.strerror}")
        search.failures.append((str(error.filename), str(error.strerror)))

    for directory, subfolders, names in os.walk(folder, onerror=unreadable):
        here = Path(directory)
        subfolders[:] = sorted(
            name
            for name in subfolders
            if recursive and not name.startswith(".") and os.path.realpath(here / name) != forbidden
        )
        search.notes += [f"{here / name}: linked folder skipped" for name in subfolders if (here / name).is_symlink()]
        others = sorted({Path(name).suffix.lower() for name in names} & OTHER_IMAGE_ENDINGS)
        if others:
            number = sum(Path(name).suffix.lower() in others for name in names)
            kinds = ", ".join(others)
            search.notes.append(f"{here}: {number} image{'s' * (number != 1)} skipped that cannot be read: {kinds}")
        for name in sorted(names):
            if (
                not name.startswith(".")
                and Path(name).suffix.lower() in FORMAT_OF_ENDING
                and not _never_ends(here / name)
            ):
                yield here / name


def _never_ends(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device, which reading could wait for forever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # reading it will report the error


def _target(source: Path, relative: Path, folder: Path | None, image_format: str | None) -> Path:
    ending = f".{image_format}" if image_format else source.suffix
    if folder is None:
        return source.with_name(f"{source.stem}{SUFFIX}{ending}")
    return folder / relative.with_name(f"{relative.stem}{ending}")


def _with_comparison(job: Job) -> Job:
    if job.target is None:
        raise UsageError("--compare needs an output file to write its image beside, not stdout")
    return replace(job, comparison=_comparison_of(job.target))


def _comparison_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}{COMPARE_SUFFIX}{target.suffix}")


def _check_ending(target: Path, image_format: str | None) -> None:
    ending = target.suffix.lower()
    if ending and ending not in FORMAT_OF_ENDING:
        raise UsageError(f"-o {target}: unknown ending {target.suffix}; expected one of {_known_endings()}")
    if image_format and ending and FORMAT_OF_ENDING[ending] != FORMAT_OF_ENDING[f".{image_format}"]:
        raise UsageError(f"-o {target} and --format {image_format} contradict each other")


def _refuse_clashes(jobs: list[Job]) -> None:
    by_target: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        for path in _outputs(job):
            by_target[_identity(path)].append(job)
    for clashing in by_target.values():
        if len(clashing) > 1:
            names = " and ".join(job.name for job in clashing[:2])
            raise UsageError(f"{names} would both be written to {clashing[1].target}; use separate output folders")
    sources = {_identity(job.source): job for job in jobs if job.source is not None}
    for job in jobs:
        for path in _outputs(job):
            if (other := sources.get(_identity(path))) is not None:
                raise UsageError(f"{path} would be overwritten, but it is an input ({other.name}); choose another -o")


def _check_report(report: Path, jobs: list[Job], *, overwrite: bool) -> None:
    check_report_name(report)
    here = _identity(report)
    for job in jobs:
        if job.source is not None and _identity(job.source) == here:
            raise UsageError(f"--report {report}: would overwrite an input; choose another name")
        if any(_identity(path) == here for path in _outputs(job)) or (
            job.target is not None and here in map(_identity, job.target.parents)
        ):
            raise UsageError(f"--report {report}: the output of {job.name} is written there; choose another name")
    if report.exists() and not report.is_file():
        raise UsageError(f"--report {report}: is a folder or a device; expected the name of a file")
    if os.path.lexists(report) and not overwrite:
        raise UsageError(f"report exists: {report}; use --overwrite or choose another name")


def _refuse_special_files(existing: list[Job]) -> None:
    for job in existing:
        for path in _outputs(job):
            if path.exists() and not path.is_file():
                raise UsageError(f"{path} is a folder or a device; expected the name of a file")


def _identity(path: Path) -> str:
    """A text that is the same for all paths and links of a file."""
    try:
        status = path.stat()
    except OSError:  # it does not exist, or cannot be reached
        real = os.path.normcase(os.path.realpath(path))
        # Names that differ in case are usually one file there.
        return real.casefold() if sys.platform == "darwin" else real
    return f"{status.st_dev}:{status.st_ino}"


def _outputs(job: Job) -> Iterable[Path]:
    return [path for path in (job.target, job.comparison) if path is not None]


def _known_endings() -> str:
    return ", ".join(sorted(FORMAT_OF_ENDING))
