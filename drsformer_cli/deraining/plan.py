"""Find the inputs, name the outputs, and refuse every clash before any work."""

from __future__ import annotations

import glob
import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer.signatures import LONGEST_START, is_heic
from drsformer_cli.errors import UsageError
from drsformer_cli.formats import FORMAT_OF_ENDING, FORMATS, missing_extra, skipped_images
from drsformer_cli.pages import check_report_name
from drsformer_cli.paths import identity
from drsformer_cli.video.formats import (
    INSTALL,
    VIDEO_ENDINGS,
    is_installed,
    is_pattern,
    kind_by_content,
    may_be_a_video,
    numbered,
    numbers,
)
from drsformer_cli.video.options import VideoSettings
from drsformer_cli.video.planning import (
    IMAGE_NAMED_AS_VIDEO,
    PREVIEW_SUFFIX,
    VIDEO_NAMED_AS_IMAGE,
    check_output,
    is_video,
    output_ending,
    was_begun,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIX = "_derained"
COMPARE_SUFFIX = "_compare"
STANDARD_STREAM = "-"


@dataclass(frozen=True)
class Job:
    """One image or video.

    Attributes:
        source: File to read; None: stdin.
        target: File to write; None: stdout.
        image_format: Pillow's name of the format to write; None: the format of the input.
        comparison: File for the side-by-side image or video; None: it is not written.
        is_video: Whether the input is a video.
        others: Further images of the same scene, for a burst.
    """

    source: Path | None
    target: Path | None
    image_format: str | None = None
    comparison: Path | None = None
    is_video: bool = False
    others: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The input, as messages name it."""
        return str(self.source) if self.source is not None else STANDARD_STREAM

    def paths(self) -> dict[str, object]:
        """What is read and written, for JSON."""
        others = {"others": [str(path) for path in self.others]} if self.others else {}
        return {"input": self.name, **others, "output": str(self.target)}


@dataclass(frozen=True)
class Plan:
    """The work of one command.

    Attributes:
        jobs: Images and videos to process.
        skipped: Those that are skipped because their output exists.
        notes: What else is skipped, one line each.
        failures: Folders that cannot be read, and why.
    """

    jobs: list[Job]
    skipped: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


_NO_SETTINGS = VideoSettings()


def plan(
    inputs: list[str],
    output: str | None,
    *,
    others: tuple[Path, ...] = (),
    recursive: bool = False,
    image_format: str | None = None,
    compare: bool = False,
    report: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    video: VideoSettings = _NO_SETTINGS,
) -> Plan:
    """Pair every input with its output.

    Args:
        inputs: Files, folders, globs that the shell did not expand, or only "-" for stdin.
        output: File, folder, "-" for stdout, or None for a name beside the input.
        others: Further images of a burst, whose only input is the first.
        recursive: Whether folders are searched to any depth; the output has the same subfolders.
        image_format: A FormatName; replaces the ending of every image.
        compare: Whether to write a side-by-side image or video, too.
        report: File for the report; None: it is not written.
        overwrite: Whether existing outputs may be replaced.
        skip_existing: Whether to skip inputs whose output exists.
        video: The options for videos.

    Raises:
        UsageError: An input is missing; outputs or the report clash with each other, an input or existing files.
    """
    if overwrite and (skip_existing or video.resume):
        other = "--skip-existing" if skip_existing else "--resume"
        raise UsageError(f"--overwrite and {other} exclude each other")
    if compare and video.preview:
        raise UsageError("--compare and --preview exclude each other: a preview is a comparison")
    found = Plan([])
    if STANDARD_STREAM in inputs or output == STANDARD_STREAM:
        jobs = [_stream_job(inputs, output, image_format)]
    else:
        each = _file_jobs(inputs, output, found, video, recursive=recursive, image_format=image_format)
        jobs = _without_results(_once(each), found)
    jobs = _checked_for_videos(jobs, found, video)
    if others:
        jobs = [replace(job, others=others) for job in jobs]
    if compare:
        jobs = [_with_comparison(job) for job in jobs]
    if not jobs:
        seen = "".join(f"; {text}" for text in (*(": ".join(pair) for pair in found.failures), *found.notes))
        names, endings = ", ".join(inputs), _known_endings(video=True)
        raise UsageError(f"no images or videos in {names}; expected files ending in {endings}{seen}")
    _refuse_missing_extra(jobs)
    _refuse_clashes(jobs)
    if report is not None:
        _check_report(report, jobs, overwrite=overwrite)
    if skip_existing or video.resume:
        return _without_finished(jobs, found, resume=video.resume)
    if not overwrite:
        _refuse_existing(jobs)
    _refuse_special_files(jobs)
    return replace(found, jobs=jobs)


def _without_finished(jobs: list[Job], found: Plan, *, resume: bool) -> Plan:
    """A plan that skips what exists; an output that is to be resumed does not count."""
    existing = [job for job in jobs if _existing_outputs(job) and not (resume and _was_begun(job))]
    new = [job for job in jobs if job not in set(existing)]
    if not resume:
        _refuse_begun(new)
    return replace(found, jobs=new, skipped=existing)


def _refuse_existing(jobs: list[Job]) -> None:
    existing = [job for job in jobs if _existing_outputs(job)]
    _refuse_special_files(existing)
    if existing:
        first = _existing_outputs(existing[0])[0]
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UsageError(f"output exists: {first}{more}; use --overwrite or --skip-existing")
    _refuse_begun(jobs)


def _refuse_begun(jobs: list[Job]) -> None:
    begun = next((job for job in jobs if _was_begun(job)), None)
    if begun is not None:
        raise UsageError(f"{begun.target} was begun by an earlier run: --resume continues it, --overwrite starts again")


def _existing_outputs(job: Job) -> list[Path]:
    return [
        path
        for path in _outputs(job)
        if os.path.lexists(path) or (is_pattern(path) and path.parent.is_dir() and numbers(path))
    ]


def _was_begun(job: Job) -> bool:
    """Whether an earlier run left finished parts of a video."""
    return job.is_video and job.target is not None and was_begun(job.target)


def _checked_for_videos(jobs: list[Job], found: Plan, video: VideoSettings) -> list[Job]:
    """The jobs, without images if a preview is wanted; options for videos need one."""
    videos = [job for job in jobs if job.is_video]
    if video.given and jobs and not videos:
        raise UsageError(f"{video.given[0]} is for videos, but there are none among the inputs")
    if "--fps" in video.given and not any(job.source is not None and is_pattern(job.source) for job in videos):
        raise UsageError("--fps is for a pattern such as frame_%04d.png; a video has times of its own")
    for job in videos:
        if job.source is not None and job.target is not None:
            check_output(job.source, job.target, video)
    if not video.preview:
        return jobs
    if len(videos) < len(jobs):
        found.notes.append(f"{len(jobs) - len(videos)} images skipped: --preview is for videos")
    return videos


def _stream_job(inputs: list[str], output: str | None, image_format: str | None) -> Job:
    if len(inputs) != 1:
        raise UsageError(f"'-' is one image from stdin or to stdout, but {len(inputs)} inputs were given")
    source = None if inputs[0] == STANDARD_STREAM else _existing(inputs[0])
    if source is not None and not source.is_dir() and is_video(source):
        raise UsageError(f"{source} is a video, which cannot be written to stdout; name a file with -o")
    if source is not None and source.is_dir():
        raise UsageError(f"{source} is a folder; only a single image can be written to stdout")
    target = None if output in (None, STANDARD_STREAM) else Path(str(output))
    if target is not None:
        if target.is_dir():
            raise UsageError(f"{target} is a folder; an image from stdin needs a file name")
        _check_ending(target, image_format)
    return _job(source, target, image_format)


def _job(source: Path | None, target: Path | None, image_format: str | None, *, video: bool = False) -> Job:
    if video:
        return Job(source, target, is_video=True)
    ending = f".{image_format}" if image_format else target.suffix.lower() if target is not None else ""
    return Job(source, target, FORMAT_OF_ENDING.get(ending))


def _refuse_missing_extra(jobs: list[Job]) -> None:
    """Refuse a run of which every image needs an extra; otherwise each of these images is a failure of its own."""
    missing = [_missing_extra(job) for job in jobs]
    if missing[0] is not None and all(missing):
        raise UsageError(missing[0])


def _missing_extra(job: Job) -> str | None:
    """What to install before the image can be read or written; None: nothing."""
    if job.image_format is not None and (missing := FORMATS[job.image_format].missing()):
        return missing
    if job.source is None or _is_special(job.source) or not (missing := missing_extra(job.source.suffix.lower())):
        return None
    try:
        with job.source.open("rb") as file:  # its content counts, not its ending
            return missing if is_heic(file.read(LONGEST_START)) else None
    except OSError:
        return None  # reading it will report the error


def _once(jobs: Iterable[Job]) -> list[Job]:
    """The jobs without those that repeat an earlier one: a file that is given twice, in any spelling."""
    first: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        paths = [path for path in (job.source, job.target) if path is not None]
        first.setdefault(tuple(map(identity, paths)), job)
    return list(first.values())


def _without_results(jobs: list[Job], found: Plan) -> list[Job]:
    """The jobs without NAME_derained where NAME is an input, too: a repeated `*.jpg` matches earlier results."""
    names = {job.source.with_suffix("") for job in jobs if job.source is not None}
    results = [job for job in jobs if job.source is not None and not names.isdisjoint(_originals(job.source))]
    if results:
        found.notes.append(
            f"{len(results)} skipped: results of an earlier run, such as {results[0].name}; "
            "to restore one of them, name it without its original"
        )
    return [job for job in jobs if job not in results]


def _originals(path: Path) -> Iterator[Path]:
    """The inputs, without their endings, that a result, comparison or preview with this name could be made from."""
    for suffix in (SUFFIX, COMPARE_SUFFIX, SUFFIX + COMPARE_SUFFIX, PREVIEW_SUFFIX):
        if (name := path.stem.removesuffix(suffix)) not in ("", path.stem):
            yield path.with_name(name)


def _file_jobs(
    inputs: list[str],
    output: str | None,
    found: Plan,
    video: VideoSettings,
    *,
    recursive: bool,
    image_format: str | None,
) -> Iterator[Job]:
    paths = [path for text in inputs for path in expanded(text)]
    single = [str(path) for path in paths] == [str(Path(text)) for text in inputs[:1]] and not paths[0].is_dir()
    as_folder = output is not None and (not single or _is_folder(output))
    if output is not None and not as_folder:
        target, of_video = Path(output), is_video(paths[0])
        if not of_video:
            _check_ending(target, image_format)
        yield _job(paths[0], target, image_format, video=of_video)
        return
    folder = Path(output) if output is not None else None
    if folder is not None and not folder.is_dir() and (folder.exists() or _looks_like_a_file(str(output))):
        raise UsageError(f"-o {output}: is a file, but several inputs need a folder")
    for path in paths:
        for source, relative, of_video in _sources(path, found, recursive=recursive, excluded=folder):
            if of_video:
                target = _video_target(source, relative, folder, video)
            else:
                target = _target(source, relative, folder, image_format)
            yield _job(source, target, image_format, video=of_video)


def _sources(path: Path, found: Plan, *, recursive: bool, excluded: Path | None) -> Iterator[tuple[Path, Path, bool]]:
    """A file, or the files of a folder: path, path in the folder, and whether it is a video."""
    if not path.is_dir():
        of_video = is_video(path)
        if not of_video and path.suffix.lower() in VIDEO_ENDINGS:
            raise UsageError(f"{path}: {IMAGE_NAMED_AS_VIDEO}")
        if of_video and path.suffix.lower() in FORMAT_OF_ENDING and not is_pattern(path):
            raise UsageError(f"{path}: {VIDEO_NAMED_AS_IMAGE}")
        yield path, Path(path.name), of_video
        return
    for file in _files_in(path, found, recursive=recursive, excluded=excluded):
        yield file, file.relative_to(path), file.suffix.lower() in VIDEO_ENDINGS


def _is_folder(output: str) -> bool:
    """Whether an output is a folder: it is one, ends in a slash, or is new and has no ending."""
    path = Path(output)
    return path.is_dir() or output.endswith(("/", os.sep)) or not (path.suffix or os.path.lexists(path))


def _looks_like_a_file(output: str) -> bool:
    return not output.endswith(("/", os.sep)) and Path(output).suffix.lower() in {*FORMAT_OF_ENDING, *VIDEO_ENDINGS}


def expanded(text: str) -> list[Path]:
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
    if is_pattern(path) and path.parent.is_dir() and numbers(path):
        return path
    if not path.exists():
        raise UsageError(f"{text}: no such file or folder")
    return path


def _files_in(folder: Path, found: Plan, *, recursive: bool, excluded: Path | None) -> Iterator[Path]:
    """Images and videos by their endings, in order; hidden files, linked folders and the output folder are skipped."""
    forbidden = os.path.realpath(excluded) if excluded is not None else None

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise UsageError(f"{error.filename}: {error.strerror}")
        found.failures.append((str(error.filename), str(error.strerror)))

    for directory, subfolders, names in os.walk(folder, onerror=unreadable):
        here = Path(directory)
        subfolders[:] = sorted(
            name
            for name in subfolders
            if recursive and not name.startswith(".") and os.path.realpath(here / name) != forbidden
        )
        found.notes.extend(
            [f"{here / name}: linked folder skipped" for name in subfolders if (here / name).is_symlink()]
        )
        endings = {Path(name).suffix.lower() for name in names}
        if note := skipped_images(names):
            found.notes.append(f"{here}: {note}")
        missing = {ending: text for ending in sorted(endings) if (text := missing_extra(ending))}
        found.notes.extend([f"{here}: {ending} skipped: {text}" for ending, text in missing.items()])
        shown = [here / name for name in sorted(names) if not name.startswith(".")]
        videos = _videos_among(shown, here, found)
        for path in shown:
            is_image = path.suffix.lower() in FORMAT_OF_ENDING.keys() - missing.keys()
            if not (is_image or path in videos) or _is_special(path):
                continue
            if is_image and kind_by_content(path) == "video":
                found.failures.append((str(path), VIDEO_NAMED_AS_IMAGE))
                continue
            yield path


def _videos_among(paths: list[Path], folder: Path, found: Plan) -> set[Path]:
    """The videos; without PyAV none, and a note."""
    videos = {path for path in paths if may_be_a_video(path)}
    if videos and not is_installed():
        found.notes.append(f"{folder}: {len(videos)} video{'s' * (len(videos) != 1)} skipped: {INSTALL}")
        return set()
    misnamed = {path for path in videos if kind_by_content(path) == "image"}
    found.failures.extend([(str(path), IMAGE_NAMED_AS_VIDEO) for path in sorted(misnamed)])
    return videos - misnamed


def _is_special(path: Path) -> bool:
    """Whether it is a folder, or a pipe, a socket or a device, which reading could wait for forever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # there is nothing, or using it will report the error


def _target(source: Path, relative: Path, folder: Path | None, image_format: str | None) -> Path:
    ending = f".{image_format}" if image_format else source.suffix
    if folder is None:
        return source.with_name(f"{source.stem}{SUFFIX}{ending}")
    return folder / relative.with_name(f"{relative.stem}{ending}")


def _video_target(source: Path, relative: Path, folder: Path | None, video: VideoSettings) -> Path:
    suffix = PREVIEW_SUFFIX if video.preview else SUFFIX if folder is None else ""
    parent = source.parent if folder is None else folder / relative.parent
    return parent / f"{relative.stem}{suffix}{output_ending(source, video.codec)}"


def _with_comparison(job: Job) -> Job:
    if job.target is None:
        raise UsageError("--compare needs an output file to write its image beside, not stdout")
    return replace(job, comparison=_comparison_of(job.target))


def _comparison_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}{COMPARE_SUFFIX}{target.suffix}")


def _check_ending(target: Path, image_format: str | None) -> None:
    ending = target.suffix.lower()
    if ending in VIDEO_ENDINGS:
        raise UsageError(f"-o {target}: an image cannot become a video; expected one of {_known_endings()}")
    if ending and ending not in FORMAT_OF_ENDING:
        raise UsageError(f"-o {target}: unknown ending {target.suffix}; expected one of {_known_endings()}")
    if image_format and ending and FORMAT_OF_ENDING[ending] != FORMAT_OF_ENDING[f".{image_format}"]:
        raise UsageError(f"-o {target} and --format {image_format} contradict each other")


def _refuse_clashes(jobs: list[Job]) -> None:
    by_target: dict[str, list[tuple[Job, Path]]] = defaultdict(list)
    for job in jobs:
        for path in _each(_outputs(job), job):
            by_target[identity(path)].append((job, path))
    for clashing in by_target.values():
        if len(clashing) > 1:
            names = " and ".join(job.name for job, _ in clashing[:2])
            raise UsageError(f"{names} would both be written to {clashing[1][1]}; use separate output folders")
    sources = {identity(path): path for job in jobs for path in _each(_inputs(job), job)}
    for job in jobs:
        for path in _each(_outputs(job), job):
            if (other := sources.get(identity(path))) is not None:
                raise UsageError(f"{path} would be overwritten, but it is an input ({other}); choose another -o")


def _check_report(report: Path, jobs: list[Job], *, overwrite: bool) -> None:
    check_report_name(report)
    here = identity(report)
    for job in jobs:
        if here in map(identity, _inputs(job)):
            raise UsageError(f"--report {report}: would overwrite an input; choose another name")
        if any(identity(path) == here for path in _outputs(job)) or (
            job.target is not None and here in map(identity, job.target.parents)
        ):
            raise UsageError(f"--report {report}: the output of {job.name} is written there; choose another name")
    if report.exists() and not report.is_file():
        raise UsageError(f"--report {report}: is a folder or a device; expected the name of a file")
    if os.path.lexists(report) and not overwrite:
        raise UsageError(f"report exists: {report}; use --overwrite or choose another name")


def _refuse_special_files(existing: list[Job]) -> None:
    for job in existing:
        for path in _outputs(job):
            if _is_special(path):
                raise UsageError(f"{path} is a folder or a device; expected the name of a file")


def _inputs(job: Job) -> Iterable[Path]:
    return [path for path in (job.source, *job.others) if path is not None]


def _outputs(job: Job) -> Iterable[Path]:
    return [path for path in (job.target, job.comparison) if path is not None]


def _each(paths: Iterable[Path], job: Job) -> Iterator[Path]:
    """The paths; instead of a pattern its files, which have the numbers of the images that the job reads."""
    for path in paths:
        if is_pattern(path) and job.source is not None and is_pattern(job.source):
            yield from (numbered(path, number) for number in numbers(job.source))
        else:
            yield path


def _known_endings(*, video: bool = False) -> str:
    return ", ".join(sorted({*FORMAT_OF_ENDING, *(VIDEO_ENDINGS if video and is_installed() else ())}))
