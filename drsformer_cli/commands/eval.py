"""`drsformer eval`: PSNR and SSIM against clean images, NIQE and BRISQUE without them."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from drsformer.files import atomic_write
from drsformer.home import home
from drsformer_cli import console, options
from drsformer_cli.datasets import DATASETS, Protocol
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import IMAGE_ERRORS, ExitCode, UsageError, reason
from drsformer_cli.evaluation.image_sets import MissingDatasetError, Request
from drsformer_cli.formats import FORMAT_OF_ENDING, missing_extra
from drsformer_cli.pages import check_report_name
from drsformer_cli.paths import identity
from drsformer_cli.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from drsformer_cli.evaluation.evaluator import Candidate, ImageScores, Scored, SetScores
    from drsformer_cli.evaluation.image_sets import ImageSet
    from drsformer_cli.metrics.full_reference import RGB8
    from drsformer_cli.pages.report import Report

_MOST_PROBLEMS_SHOWN = 10


def evaluate(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|FOLDER",
            help="Data set, or a folder with a rainy and a clean folder in it. Repeat for several. "
            f"Data sets: {', '.join(DATASETS)}.",
        ),
    ] = None,
    model: options.ModelsOption = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the data sets. Default: $DRSFORMER_DATA, or the user's data folder."
        ),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Rainy images to restore and score, with --targets.")
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Clean images that --inputs or --results are compared with.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Existing results of any tool to score, with --targets or one --dataset."),
    ] = None,
    real: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Rainy images without clean ones, scored by NIQE and BRISQUE before and after. Repeat for several.",
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            metavar="|".join(get_args(Protocol)),
            parser=options.one_of(get_args(Protocol)),
            help="How PSNR and SSIM are computed. Default: as papers do on the data set, or uint8-Y.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", parser=options.number(int, 1), help="Score only the first N images of each set. Default: all."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Save restored images as FOLDER/SET/MODEL/NAME.png. An interrupted run resumes from them.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write an image of the worst, median and best cases: rainy, restored, clean, error."
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a table with one row per image and model.")
    ] = None,
    report_page: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE.html", help="Also write a page to look at: every image before and after."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace existing --csv, --sheet and --report files, and any images in the way of --save.",
        ),
    ] = False,
    scale: options.BenchmarkScaleOption = "1",
    tile: options.TileOption = "auto",
    overlap: options.OverlapOption = None,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    threads: options.ThreadsOption = None,
    tta: options.TtaOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")] = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Measure how well rain is removed: PSNR and SSIM against clean images, NIQE and BRISQUE without them.

    Images are never resized or rotated to make a pair fit; those that cannot be scored are listed.

    Exit codes: 0 all scored; 1 nothing scored; 2 invalid usage or missing data; 3 some images could not be scored, or
    something could not be saved; 4 weights or metric parameters unavailable; 130 interrupted, 143 terminated.

    Several GPUs: torchrun --standalone --nproc-per-node N -m drsformer_cli eval --dataset NAME
    """
    if results and model:
        raise UsageError("--results: scores existing images; leave out --model")
    models = [] if results else model or [zoo.DEFAULT_MODEL]
    request = Request(
        datasets=dataset or [],
        real=real or [],
        root=root or Path(os.environ.get("DRSFORMER_DATA") or home() / "datasets"),
        inputs=inputs,
        targets=targets,
        results=results,
        protocol=protocol,
        limit=limit,
        models=models,
    )
    given = {"--sheet": sheet, "--csv": csv, "--report": report_page}
    outputs = {option: path for option, path in given.items() if path is not None}
    _check_outputs(outputs, overwrite=overwrite)
    ranks = Ranks()
    image_sets = _gather(request, ranks)
    ranks.on_rank_0(lambda: _refuse_inputs(outputs, image_sets, models))
    console.show_log(verbose=verbose, quiet=quiet)

    from drsformer_cli.evaluation import report, run  # torch is imported when there is work
    from drsformer_cli.evaluation.evaluator import Candidate

    page = _Page(report_page, image_sets, len(models) or 1, overwrite=overwrite)

    def say(candidate: Candidate, score: ImageScores) -> None:
        page.note(score)
        if verbose:
            console.say(f"{candidate.name}: {report.line(score)}")

    settings = run.Settings(
        options.parse_scale(scale), options.parse_tile(tile), overlap, precision, device, threads, tta
    )
    candidates, uses = run.load_models(run.name_models(models), settings, quiet=quiet)
    scorers = run.load_scorers(image_sets, quiet=quiet)
    evaluators = run.make_evaluators(image_sets, candidates or [Candidate(str(results))], uses, scorers, save, page.add)
    if save:
        ranks.on_rank_0(lambda: run.prepare_to_save(save, evaluators, overwrite=overwrite))
    try:
        all_scores = run.score_all(evaluators, ranks, bar=ranks.is_rank_0 and not quiet, scored=say)
    except (KeyboardInterrupt, SystemExit) as stop:
        if save and ranks.is_rank_0:
            stop.add_note(f"images in {save} are kept: run the same command again to resume")
        page.interrupt(ranks)
        raise
    page.gather(ranks)
    ranks.close()
    if not ranks.is_rank_0:
        return
    _print(all_scores, as_json=as_json, quiet=quiet)
    written = True
    if csv:
        written = _write(csv, lambda: report.as_csv(all_scores), overwrite=overwrite)
    if sheet:
        written &= _write(sheet, lambda: _encoded(run.draw_sheet(evaluators, all_scores), sheet), overwrite=overwrite)
    written &= page.write(all_scores)
    raise typer.Exit(_exit_code(all_scores, written=written))


def _check_outputs(outputs: Mapping[str, Path], *, overwrite: bool) -> None:
    """Refuse outputs, by their options, that could not be written, before any work is done."""
    for path in outputs.values():
        _check_output(path, overwrite=overwrite)
    for (option, path), (other_option, other) in combinations(outputs.items(), 2):
        if identity(path) == identity(other):
            raise UsageError(f"{option} and {other_option} are the same file: {path}")
    report, sheet = outputs.get("--report"), outputs.get("--sheet")
    if report is not None:
        check_report_name(report)
    if sheet is not None and sheet.suffix.lower() not in FORMAT_OF_ENDING:
        raise UsageError(f"--sheet {sheet}: unknown ending; expected .png or .jpg, for example")
    if sheet is not None and (missing := missing_extra(sheet.suffix.lower())):
        raise UsageError(missing)


def _refuse_inputs(outputs: Mapping[str, Path], image_sets: Sequence[ImageSet], models: Sequence[str]) -> None:
    """Refuse outputs, by their options, that would replace an image of the folders, scored or not, or a model."""
    inputs = [
        *(file for image_set in image_sets for file in image_set.files),
        *(Path(model) for model in models if model not in zoo.MODELS),
    ]
    taken = {identity(file) for file in inputs}
    for option, path in outputs.items():
        if identity(path) in taken:
            raise UsageError(f"{option} {path} would be overwritten, but it is an input; choose another name")


def _check_output(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; expected the name of a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; --overwrite replaces it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: the folder {path.parent} is not writable")


def _gather(request: Request, ranks: Ranks) -> list[ImageSet]:
    """The image sets; files that cannot be scored are reported."""
    from drsformer_cli.images import allow_megapixels

    allow_megapixels(None)
    try:
        image_sets = ranks.on_rank_0(request.gather)
    except MissingDatasetError as error:
        if not ranks.is_rank_0:
            raise
        console.error(reason(error))
        for line in error.advice.splitlines():
            console.say(line)
        raise typer.Exit(ExitCode.INVALID_USAGE) from None
    for image_set in image_sets if ranks.is_rank_0 else []:
        console.errors(image_set.name, image_set.problems, _MOST_PROBLEMS_SHOWN)
    return image_sets


def _write(path: Path, make: Callable[[], bytes], *, overwrite: bool) -> bool:
    """Make and write a file; returns whether that worked, and prints the reason if it did not."""
    try:
        data = make()
        with atomic_write(path, overwrite=overwrite) as file:
            file.write(data)
    except IMAGE_ERRORS as error:
        console.error(f"{path}: cannot be written: {reason(error)}")
        return False
    return True


class _Page:
    """The page of --report; does nothing without that option."""

    def __init__(self, path: Path | None, image_sets: Sequence[ImageSet], candidates: int, *, overwrite: bool) -> None:
        self.report: Report | None = None
        if path is not None:
            from drsformer_cli.pages.report import Report

            self.report = Report(path, sum(len(image_set.cases) for image_set in image_sets) * candidates)
        self.image_sets = image_sets
        self.overwrite = overwrite
        self.failures: list[tuple[str, str]] = []

    def note(self, scores: ImageScores) -> None:
        """Keep the failures of this rank, for the page of an interrupted run."""
        self.failures += [(scores.name, text) for text in (scores.error, scores.not_saved) if text]

    def add(self, scored: Scored) -> None:
        """Add an image."""
        if self.report is not None:
            from drsformer_cli.evaluation import report_page

            self.report.add(report_page.card(scored))

    def gather(self, ranks: Ranks) -> None:
        """Collect the images of all ranks on rank 0."""
        if self.report is not None:
            self.report.gather(ranks)

    def interrupt(self, ranks: Ranks) -> None:
        """Write what rank 0 has so far."""
        if ranks.is_rank_0:
            self.write([])

    def write(self, all_scores: Sequence[SetScores]) -> bool:
        """Write the page; returns whether that worked, and prints the reason if it did not.

        Args:
            all_scores: The scores of all ranks; empty after an interrupt.
        """
        if self.report is None:
            return True
        from drsformer_cli.evaluation import report, report_page

        failures = [failure for scores in all_scores for failure in report.failures(scores)] or self.failures
        overview = report_page.overview(self.image_sets, len(self.report), all_scores, failures)
        return self.report.save(overview, overwrite=self.overwrite)


def _encoded(pixels: RGB8, path: Path) -> bytes:
    from drsformer_cli import images

    return images.encode(images.DecodedImage(pixels), FORMAT_OF_ENDING[path.suffix.lower()])


def _print(all_scores: Sequence[SetScores], *, as_json: bool, quiet: bool) -> None:
    from drsformer_cli.evaluation import report

    for scores in all_scores:
        failures = [f"{name}: {why}" for name, why in report.failures(scores)]
        console.errors(f"{scores.image_set.name}, {scores.candidate.name}", failures, _MOST_PROBLEMS_SHOWN)
    if as_json:
        console.result(console.json_line({"runs": [report.as_dict(scores) for scores in all_scores]}))
    elif not quiet:
        for title, table in report.tables(all_scores):
            console.result(title)
            console.table(table)
        for note in report.notes(all_scores):
            console.result(note)


def _exit_code(all_scores: Sequence[SetScores], *, written: bool) -> ExitCode:
    from drsformer_cli.evaluation import report

    if not any(scores.scored for scores in all_scores):
        return ExitCode.FAILED
    failed = any(scores.image_set.problems or report.failures(scores) for scores in all_scores)
    return ExitCode.SOME_FAILED if failed or not written else ExitCode.DONE
