"""`drsformer derain`: images in, images without rain out."""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from drsformer_cli import console, options
from drsformer_cli.deraining.plan import Job, plan
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import IMAGE_ERRORS, ExitCode, UsageError, reason
from drsformer_cli.formats import DEFAULT_QUALITY, FORMAT_OF_ENDING, FormatName
from drsformer_cli.ranks import Ranks

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from drsformer.inference import Restorer
    from drsformer_cli.images import DecodedImage

HARDLY_CHANGED = 0.2
"""Mean change, of 255, under which the user is told that the model may not suit the rain."""


def derain(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders or globs; - reads one from stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder, or - for stdout; else NAME_derained beside each input.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Search folders to any depth and mirror their tree.")
    ] = False,
    model: options.Model = zoo.DEFAULT,
    tile: options.Tile = "auto",
    overlap: options.Overlap = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    strength: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="0..1", help="Blend with the input: 0 keeps it, 1 is the full effect."),
    ] = 1.0,
    tta: options.Tta = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave images alone whose output exists.")
    ] = False,
    image_format: Annotated[
        FormatName | None,
        typer.Option(
            "--format", metavar="FORMAT", help="Of the outputs, as an ending (png): else that of their names."
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, metavar="1..100", help="Of JPEG (always 4:4:4), WebP and AVIF.")
    ] = DEFAULT_QUALITY,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write NAME_compare: input and output side by side.")
    ] = False,
    max_megapixels: Annotated[
        float | None, typer.Option(min=0.001, max=1e6, metavar="N", help="Refuse larger images; else 179.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object an image on stdout.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove the rain from images.

    JPEG, PNG, TIFF, WebP, BMP and AVIF; 16 bits, gray, alpha, EXIF, ICC profile and resolution are kept. Existing files
    are never replaced unless asked, and no output is left half-written.

    Exit codes: 0 all done; 1 failed; 2 wrong usage, nothing was done; 3 some images failed, listed at the end;
    4 weights unavailable; 130 interrupted.

    Several GPUs: torchrun --nproc-per-node N -m drsformer_cli derain FOLDER -o OUT
    """
    ranks = Ranks()
    # Before any rank writes what another would find.
    todo = ranks.agree(
        lambda: plan(
            inputs,
            output,
            recursive=recursive,
            image_format=image_format,
            compare=compare,
            overwrite=overwrite,
            skip_existing=skip_existing,
        ),
    )
    _check_streams(todo.jobs, results=as_json or dry_run)
    if ranks.first and todo.skipped and not quiet:
        console.say(f"{len(todo.skipped)} skipped: their output exists")
    if dry_run:
        for job in todo.jobs if ranks.first else []:
            paths = {"input": job.name, "output": str(job.target)}
            console.result(console.json_line(paths) if as_json else f"{job.name} -> {job.target}")
        return
    report = _Report(model, as_json=as_json, quiet=quiet, single=len(todo.jobs) == 1)
    weights = zoo.resolve(model, quiet=quiet)
    mine = ranks.share(todo.jobs)
    if mine:
        from drsformer.inference import Restorer  # noqa: PLC0415 - slow imports wait until there is work
        from drsformer_cli import images  # noqa: PLC0415
        from drsformer_cli.device import load_network  # noqa: PLC0415

        console.show_log(verbose=verbose, quiet=quiet)
        images.allow_megapixels(max_megapixels)
        restorer = Restorer(
            load_network(weights, device, threads),
            tile=options.parse_tile(tile),
            overlap=overlap,
            precision=precision,
            strength=strength,
            tta=tta,
        )
        if verbose:
            console.say(f"model {weights}, device {restorer.device}, rank {ranks.rank} of {ranks.size}")
        encoding = _Encoding(image_format, quality, overwrite)
        try:
            _restore_all(mine, restorer, encoding, report, bar=ranks.first and not quiet)
        except (KeyboardInterrupt, SystemExit):
            report.summarize([report.outcome])
            raise
    outcomes = ranks.gather(report.outcome)
    ranks.close()
    if ranks.first:
        report.summarize(outcomes)
        raise typer.Exit(_exit_code(outcomes))


def _check_streams(jobs: list[Job], *, results: bool) -> None:
    if any(job.source is None for job in jobs) and sys.stdin is None:
        raise UsageError("'-' reads the image from stdin, which is closed")
    if any(job.target is None for job in jobs) and (results or sys.stdout is None or sys.stdout.isatty()):
        raise UsageError("the image goes to stdout: send it to a file or a pipe, without --json or --dry-run")


@dataclass
class _Outcome:
    """What became of the images of one rank."""

    done: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    hardly_changed: list[str] = field(default_factory=list)


def _exit_code(outcomes: list[_Outcome]) -> ExitCode:
    done, failed = sum(outcome.done for outcome in outcomes), sum(len(outcome.failures) for outcome in outcomes)
    if not failed:
        return ExitCode.DONE
    return ExitCode.SOME_FAILED if done else ExitCode.FAILED


class _Report:
    """Says what happened: results on stdout, everything else on stderr."""

    def __init__(self, model: str, *, as_json: bool, quiet: bool, single: bool) -> None:
        self.model = model
        self.as_json = as_json
        self.quiet = quiet
        self.single = single
        self.outcome = _Outcome()

    def note(self, job: Job, notes: list[str]) -> None:
        """What reading or writing had to change."""
        for text in notes if not self.quiet else []:
            console.say(f"{job.name}: {text}")

    def success(self, job: Job, result: _Restored) -> None:
        self.outcome.done += 1
        if result.mean_change < HARDLY_CHANGED:
            self.outcome.hardly_changed.append(job.name)
        H, W = result.image.pixels.shape[:2]
        if job.target is None:
            return
        if self.as_json:
            facts = {
                "input": job.name,
                "output": str(job.target),
                "seconds": round(result.seconds, 3),
                "megapixels": round(H * W / 1e6, 3),
                "tile": result.tile,
                "model": self.model,
                "mean_change": round(result.mean_change, 3),
            }
            console.result(console.json_line(facts))
        elif not self.quiet:
            console.result(f"{job.name} -> {job.target}  {H * W / 1e6:.2f} megapixels in {result.seconds:.1f} s")

    def failure(self, job: Job, error: BaseException) -> None:
        self.outcome.failures.append((job.name, reason(error)))
        if self.as_json:
            console.result(console.json_line({"input": job.name, "error": reason(error)}))

    def summarize(self, outcomes: list[_Outcome]) -> None:
        """The failures of all ranks, and what a user may want to try next."""
        failures = [failure for outcome in outcomes for failure in outcome.failures]
        unchanged = [name for outcome in outcomes for name in outcome.hardly_changed]
        if failures and not self.single:
            console.error(f"{len(failures)} of {len(failures) + sum(o.done for o in outcomes)} images failed:")
        for name, text in failures:
            console.error(f"{name}: {text}")
        if unchanged and not self.quiet:
            console.say(
                f"hardly changed (less than {HARDLY_CHANGED} of 255 on average): {console.some(unchanged)}. "
                f"No rain, or a kind that the model {self.model!r} does not know: another --model may do better."
            )


@dataclass(frozen=True)
class _Encoding:
    """How results are written."""

    image_format: str | None
    quality: int
    overwrite: bool

    def format_for(self, target: Path | None, image: DecodedImage) -> str:
        """--format, else the output's ending, else the input's format."""
        if self.image_format:
            return FORMAT_OF_ENDING[f".{self.image_format}"]
        ending = target.suffix.lower() if target is not None else ""
        return FORMAT_OF_ENDING.get(ending, image.format)


@dataclass(frozen=True)
class _Restored:
    """A result that waits to be written."""

    original: DecodedImage
    image: DecodedImage
    seconds: float
    tile: int | None
    mean_change: float


def _restore_all(jobs: list[Job], restorer: Restorer, encoding: _Encoding, report: _Report, *, bar: bool) -> None:
    """Restore one image after the other; the next one is read and the previous one written meanwhile."""
    import threading  # noqa: PLC0415 - `--help` is quicker without
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    stop = threading.Event()
    reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    writing: tuple[Job, _Restored, Future[None]] | None = None

    def finish_writing() -> None:
        if writing is None:
            return
        job, result, future = writing
        try:
            future.result()
        except IMAGE_ERRORS as error:
            report.failure(job, error)
        else:
            report.success(job, result)

    try:
        with console.progress_bar(visible=bar) as progress:
            task = progress.add_task("", total=len(jobs))

            def tiles_of(i: int) -> Callable[[int, int], None]:
                return lambda done, total: progress.update(task, completed=i + done / total)

            for i, (job, image) in enumerate(_read_ahead(jobs, reader)):
                progress.update(task, description=job.name, completed=i)
                try:
                    result = _restore(image.result(), restorer, tiles_of(i))
                except IMAGE_ERRORS as error:
                    report.failure(job, error)
                    continue
                image_format = encoding.format_for(job.target, result.image)
                report.note(job, _notes(result.original, image_format))
                finish_writing()
                writing = job, result, writer.submit(_write, job, result, image_format, encoding, stop)
            finish_writing()
    except BaseException:
        stop.set()  # nothing that is not yet complete gets its name
        raise
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)


def _read_ahead(jobs: list[Job], reader: ThreadPoolExecutor) -> Iterator[tuple[Job, Future[DecodedImage]]]:
    """Each job with its image, the next one being read while the caller works."""
    from concurrent.futures import Future  # noqa: PLC0415

    # The first is read on this thread: a stdin that never ends can then be interrupted.
    following: Future[DecodedImage] = Future()
    try:
        following.set_result(_read(jobs[0]))
    except IMAGE_ERRORS as error:
        following.set_exception(error)
    for i, job in enumerate(jobs):
        current = following
        if i + 1 < len(jobs):
            following = reader.submit(_read, jobs[i + 1])
        yield job, current


def _read(job: Job) -> DecodedImage:
    """Decode the input, once it is clear that the output has somewhere to go."""
    from drsformer_cli import images  # noqa: PLC0415

    image = images.read(job.source if job.source is not None else sys.stdin.buffer.read())
    if job.target is not None:
        folder = job.target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot create the folder {folder}: {error.strerror}") from None
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, f"cannot write into {folder}: {os.strerror(errno.EACCES)}")
    return image


def _restore(image: DecodedImage, restorer: Restorer, progress: Callable[[int, int], None]) -> _Restored:
    start = time.perf_counter()
    pixels = restorer(image.pixels, progress)
    seconds = time.perf_counter() - start
    restored = replace(image, pixels=pixels)
    return _Restored(image, restored, seconds, restorer.tile_used, _mean_change(image, restored))


def _mean_change(before: DecodedImage, after: DecodedImage) -> float:
    """Mean absolute difference of all values, of 255."""
    import numpy as np  # noqa: PLC0415

    rows, total = 256, 0.0  # a few rows at a time keep large images out of memory
    for top in range(0, len(before.pixels), rows):
        difference = after.pixels[top : top + rows].astype(np.int32) - before.pixels[top : top + rows]
        total += float(np.abs(difference).sum(dtype=np.int64))
    return total / before.pixels.size * 255 / float(np.iinfo(before.pixels.dtype).max)


def _notes(image: DecodedImage, image_format: str) -> list[str]:
    from drsformer_cli import images  # noqa: PLC0415

    return [*image.notes, *images.losses(image, image_format)]


def _write(job: Job, result: _Restored, image_format: str, encoding: _Encoding, stop: threading.Event) -> None:
    from drsformer.files import atomic_write  # noqa: PLC0415
    from drsformer_cli import images  # noqa: PLC0415

    outputs = [(job.target, result.image)]
    if job.compare is not None:
        outputs.append((job.compare, images.side_by_side(result.original, result.image)))
    for target, image in outputs:
        data = images.encode(image, image_format, quality=encoding.quality)
        if stop.is_set():
            return
        if target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            continue
        with atomic_write(target, overwrite=encoding.overwrite) as file:
            file.write(data)
