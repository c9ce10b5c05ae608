"""`drsformer derain`: its options, and a run from the plan to the exit code."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path  # noqa: TC003 - Typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from drsformer.files import sha256_of
from drsformer_cli import console, options
from drsformer_cli.deraining.burst import plan_burst
from drsformer_cli.deraining.plan import plan
from drsformer_cli.deraining.report import Page, Reporter, exit_code, follower
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import ExitCode, UsageError
from drsformer_cli.formats import DEFAULT_QUALITY, Feature, FormatName, listed, titles
from drsformer_cli.ranks import Ranks
from drsformer_cli.video.options import (
    CodecOption,
    CrfOption,
    EndOption,
    FpsOption,
    PreviewOption,
    ResumeOption,
    StartOption,
    TemporalOption,
    video_settings,
)

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Generator, Mapping, Sequence
    from concurrent.futures import Future

    from drsformer.inference import Restorer
    from drsformer_cli.deraining.pipeline import Written
    from drsformer_cli.deraining.plan import Job, Plan
    from drsformer_cli.video.options import VideoSettings
    from drsformer_cli.video.pipeline import WrittenVideo


def derain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, videos, folders, globs, or a pattern such as frame_%04d.png; - reads an image from stdin.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder, or - for stdout. Default: NAME_derained beside each input.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Search folders to any depth and mirror their tree.")
    ] = False,
    model: options.ModelOption = zoo.DEFAULT_MODEL,
    scale: options.ScaleOption = "auto",
    tile: options.TileOption = "auto",
    overlap: options.OverlapOption = None,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    threads: options.ThreadsOption = None,
    strength: Annotated[
        float,
        typer.Option(
            parser=options.number(float, 0, 1),
            metavar="0..1",
            help="Blend with the input: 0 keeps it, 1 is the full effect. Default: 1.",
            show_default=False,
        ),
    ] = 1.0,
    tta: options.TtaOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Skip inputs whose output exists.")] = False,
    resume: ResumeOption = False,
    image_format: Annotated[
        FormatName | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            parser=options.one_of(get_args(FormatName)),
            help=f"Format of images: {listed(list(get_args(FormatName)), 'or')}. Default: that of their names.",
        ),
    ] = None,
    quality: Annotated[
        int,
        typer.Option(
            parser=options.number(int, 1, 100),
            metavar="1..100",
            help=f"Quality of {titles(Feature.QUALITY)}; JPEG is always 4:4:4. Default: {DEFAULT_QUALITY}.",
            show_default=False,
        ),
    ] = DEFAULT_QUALITY,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write NAME_compare: input and output side by side.")
    ] = False,
    burst: Annotated[
        bool, typer.Option("--burst", help="Make one image from several of the same still scene; -o names its file.")
    ] = False,
    temporal: TemporalOption = "auto",
    codec: CodecOption = None,
    crf: CrfOption = None,
    start: StartOption = None,
    end: EndOption = None,
    preview: PreviewOption = None,
    fps: FpsOption = None,
    report_page: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE.html", help="Also write a page to look at: every image before and after."
        ),
    ] = None,
    max_megapixels: Annotated[
        float | None,
        typer.Option(
            parser=options.number(float, 0.001, 1_000_000), metavar="N", help="Refuse larger images. Default: 179."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the inputs and outputs, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each input on stdout.")] = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Remove the rain from images and videos.

    Reads and writes the formats of --format; 16 bits, gray, alpha and metadata are kept where the format can hold them.
    Videos (pip install 'drsformer[video]') are read in every format of FFmpeg, and written as MP4, MOV, MKV, WebM, AVI
    or TS, by the ending of the output; sound, subtitles, chapters, metadata, times and colors are kept.
    Existing files are never replaced unless asked, and no output is left half-written.

    Exit codes: 0 all done; 1 failed; 2 invalid usage, nothing was done; 3 some inputs failed or were incomplete, listed
    at the end, or a comparison or the report could not be written; 4 weights unavailable; 130 interrupted.

    Several GPUs: torchrun --standalone --nproc-per-node N -m drsformer_cli derain FOLDER -o OUT
    """
    ranks = Ranks()
    settings = video_settings(
        codec=codec, crf=crf, start=start, end=end, preview=preview, fps=fps, temporal=temporal, resume=resume
    )
    # Planned once, before any rank writes files that another would find.
    todo = ranks.on_rank_0(
        lambda: (plan_burst if burst else partial(plan, recursive=recursive))(
            inputs,
            output,
            image_format=image_format,
            compare=compare,
            report=report_page,
            overwrite=overwrite,
            skip_existing=skip_existing,
            video=settings,
        ),
    )
    _check_streams(todo.jobs, results=as_json or dry_run)
    if ranks.is_rank_0 and not quiet:
        _say_skipped(todo)
    if dry_run:
        raise typer.Exit(_print_plan(todo, as_json=as_json) if ranks.is_rank_0 else ExitCode.DONE)
    single = len(todo.jobs) + len(todo.failures) == 1
    report = Reporter(model, as_json=as_json, quiet=quiet, single=single, expects_change=strength > 0)
    report.fail_all(ranks.shard(todo.failures))
    mine = ranks.shard(todo.jobs)
    page = Page(report_page, todo, model, overwrite=overwrite) if report_page else None
    if mine:
        from drsformer.inference import Restorer
        from drsformer_cli import images

        console.show_log(verbose=verbose, quiet=quiet)
        images.allow_megapixels(max_megapixels, "--max-megapixels raises it for images you trust")
        loaded = zoo.load_model(model, device=device, threads=threads, quiet=quiet)
        restorer = Restorer(
            loaded.network,
            scale=options.parse_scale(scale),
            tile=options.parse_tile(tile),
            overlap=overlap,
            precision=precision,
            strength=strength,
            tta=tta,
        )
        if verbose:
            console.say(f"model {loaded.checkpoint}, device {restorer.device}, rank {ranks.rank} of {ranks.world_size}")
        # What restored frames depend on, besides the video and its options: a resumed run must have the same.
        identity = {
            "--scale": scale,
            "--tile": tile,
            "--overlap": overlap,
            "--strength": strength,
            "--tta": tta,
            "--precision": restorer.precision,
        }
        try:
            with console.progress_bar(visible=ranks.is_rank_0 and not quiet) as bar:
                work = _work(
                    mine,
                    restorer,
                    settings,
                    loaded.checkpoint,
                    identity,
                    quality=quality,
                    overwrite=overwrite,
                    progress=follower(bar, mine),
                    done=page.add if page else None,
                    pending=report.pending,
                )
                with contextlib.closing(work):
                    for job, writing in work:
                        report.add(job, writing)
        except (KeyboardInterrupt, SystemExit) as stop:
            report.interrupted(stop, len(mine))
            if page and ranks.is_rank_0:
                page.write([report.outcome])
            raise
    outcomes = ranks.gather(report.outcome)
    if page:
        page.report.gather(ranks)
    ranks.close()
    if ranks.is_rank_0:
        report.summarize(outcomes)
        complete = page is None or page.write(outcomes)
        raise typer.Exit(exit_code(outcomes, complete=complete))


def _work(
    jobs: Sequence[Job],
    restorer: Restorer,
    settings: VideoSettings,
    checkpoint: Path,
    identity: Mapping[str, Any],
    *,
    quality: int,
    overwrite: bool,
    progress: Callable[[Job, float, str], None],
    done: Callable[[Job, Written | WrittenVideo], None] | None,
    pending: deque[tuple[Job, Future[Written]]],
) -> Generator[tuple[Job, Future[Written] | Future[WrittenVideo]]]:
    """First the images, and then the videos; see the two functions for the arguments."""
    from drsformer_cli.deraining import pipeline

    images_only, videos = ([job for job in jobs if job.is_video is kind] for kind in (False, True))
    yield from pipeline.derain(
        images_only, restorer, quality=quality, overwrite=overwrite, progress=progress, done=done, pending=pending
    )
    if videos:
        from drsformer_cli.video.pipeline import derain_videos

        identity = {**identity, "--model": sha256_of(checkpoint)}
        yield from derain_videos(
            videos, restorer, settings, identity, quality=quality, overwrite=overwrite, progress=progress, done=done
        )


def _say_skipped(todo: Plan) -> None:
    for note in todo.notes:
        console.say(note)
    if todo.skipped:
        console.say(f"{len(todo.skipped)} skipped: their output exists")


def _print_plan(todo: Plan, *, as_json: bool) -> ExitCode:
    for job in todo.jobs:
        console.result(console.json_line(job.paths()) if as_json else f"{job.name} -> {job.target}")
    for name, text in todo.failures:
        console.error(f"{name}: {text}")
    return ExitCode.SOME_FAILED if todo.failures else ExitCode.DONE


def _check_streams(jobs: list[Job], *, results: bool) -> None:
    if any(job.source is None for job in jobs) and sys.stdin is None:
        raise UsageError("'-' reads the image from stdin, which is closed")
    if any(job.target is None for job in jobs) and (results or sys.stdout is None or sys.stdout.isatty()):
        raise UsageError("the image goes to stdout: send it to a file or a pipe, without --json or --dry-run")
