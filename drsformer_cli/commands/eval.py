"""`drsformer eval`: PSNR and SSIM against clean images, NIQE and BRISQUE without them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drsformer.errors import ImageError
from drsformer.files import atomic_write, sha256_of
from drsformer_cli import console, options
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import ExitCode, UsageError, reason
from drsformer_cli.evaluation import report
from drsformer_cli.evaluation.image_sets import Request, doubt_training
from drsformer_cli.formats import FORMAT_OF_ENDING
from drsformer_cli.home import home
from drsformer_cli.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from drsformer_cli.evaluation.evaluator import Evaluator, Method, Run, Scorer

_MOST_PROBLEMS_SHOWN = 10


def evaluate(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|FOLDER",
            help="Data set, or a folder with a rainy and a clean one in it; repeat for several.",
        ),
    ] = None,
    model: options.Models = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where data sets lie; else DRSFORMER_DATA, else the user's data folder."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Rainy images of any pair of folders, with --targets.")
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Clean images to --inputs or --results.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Score these results of any tool, with --targets or one --dataset."),
    ] = None,
    real: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Images without ground truth: NIQE and BRISQUE, before and after."),
    ] = None,
    protocol: Annotated[
        Literal["uint8-Y", "float-Y"] | None,
        typer.Option(metavar="uint8-Y|float-Y", help="Of PSNR and SSIM; else that of the data set, else uint8-Y."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N images of a set.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep restored images as FOLDER/SET/MODEL/NAME.png; a run that was cut off goes on from them.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Image of worst, median and best cases: rainy, restored, clean, error."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one row an image and model.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing --csv and --sheet, and others' images in --save.")
    ] = False,
    tile: options.Tile = "auto",
    overlap: options.Overlap = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    tta: options.Tta = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure how well rain is removed: PSNR and SSIM, or NIQE and BRISQUE where there is no ground truth.

    Data sets: Rain200L, Rain200H, DID-Data, DDN-Data, SPA-Data, Rain100L, Rain100H, Rain800, Test100, Test1200,
    Test2800. Nothing is resized or turned to make a pair fit; what cannot be scored is named.

    Exit codes: 0 all scored; 1 nothing scored; 2 wrong usage or no such data; 3 some images could not be scored;
    4 weights or metric parameters unavailable; 130 interrupted, 143 terminated.

    Several GPUs: torchrun --nproc-per-node N -m drsformer_cli eval --dataset NAME
    """
    if results and model:
        raise UsageError("--results: scores images that exist; leave out --model")
    models = model or [zoo.DEFAULT]
    request = Request(
        datasets=dataset or [],
        real=real or [],
        root=root or Path(os.environ.get("DRSFORMER_DATA") or home() / "datasets"),
        inputs=inputs,
        targets=targets,
        results=results,
        protocol=protocol,
        limit=limit,
        models=[] if results else models,
    )
    _check_outputs(sheet, csv, overwrite=overwrite)
    ranks = Ranks()
    found = ranks.agree(request.gather)
    for image_set in found if ranks.first else []:
        console.errors(image_set.name, image_set.problems, _MOST_PROBLEMS_SHOWN)
    console.show_log(verbose=verbose, quiet=quiet)
    from drsformer_cli.evaluation.evaluator import Evaluator, Method  # noqa: PLC0415 - slow imports wait until there is work

    restoring = _Restoring(tile, overlap, precision, device, threads, tta)
    weights = {name: zoo.resolve(given, quiet=quiet) for name, given in _named(request.models).items()}
    methods = [restoring.method(*named) for named in weights.items()] or [Method(str(results))]
    found = [doubt_training(image_set, weights) for image_set in found]
    no_reference = _no_reference(quiet=quiet) if real else {}
    evaluators = [Evaluator(image_set, methods, save=save, no_reference=no_reference) for image_set in found]
    if save:
        ranks.agree(lambda: _prepare(save, evaluators, overwrite=overwrite))
    try:
        runs = _score_all(evaluators, ranks, bar=ranks.first and not quiet, verbose=verbose)
    except (KeyboardInterrupt, SystemExit):
        if save and ranks.first:
            console.say(f"what is in {save} stays: the same command goes on from there")
        raise
    ranks.close()
    if not ranks.first:
        return
    _print(runs, as_json=as_json, quiet=quiet)
    if csv:
        _write(csv, report.as_csv(runs).encode(), overwrite=overwrite)
    if sheet:
        _write(sheet, _sheet(sheet, evaluators, runs), overwrite=overwrite)
    raise typer.Exit(_exit_code(runs))


def _named(models: Sequence[str]) -> dict[str, str]:
    """Models by their name in tables and paths; files of one name, such as best.pth, by their folder too."""
    stems = [Path(model).stem for model in models]
    named: dict[str, str] = {}
    for model, stem in zip(models, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{Path(model).resolve().parent.name}-{stem}"
        if name in named:
            raise UsageError(f"--model: two are called {name}; score them one after the other")
        named[name] = model
    return named


def _check_outputs(sheet: Path | None, csv: Path | None, *, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it."""
    for path in (sheet, csv):
        if path is not None and path.exists() and not overwrite:
            raise UsageError(f"{path} exists; --overwrite replaces it")
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")
        if path is not None and not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path}: the folder {path.parent} cannot be written into")
    if sheet is not None and sheet == csv:
        raise UsageError(f"--sheet and --csv are one file: {sheet}")
    if sheet is not None and sheet.suffix.lower() not in FORMAT_OF_ENDING:
        raise UsageError(f"--sheet {sheet}: unknown ending; expected .png or .jpg, for example")


@dataclass(frozen=True)
class _Restoring:
    """How the networks run."""

    tile: str
    overlap: int | None
    precision: options.PrecisionName
    device: str
    threads: int | None
    tta: bool

    def method(self, name: str, weights: Path) -> Method:
        from drsformer.inference import Restorer  # noqa: PLC0415
        from drsformer_cli.device import load_network  # noqa: PLC0415
        from drsformer_cli.evaluation.evaluator import Method  # noqa: PLC0415

        network = load_network(weights, self.device, self.threads)
        tile = options.parse_tile(self.tile)
        restorer = Restorer(network, tile=tile, overlap=self.overlap, precision=self.precision, tta=self.tta)
        settings: dict[str, object] = {
            "checkpoint": sha256_of(weights),
            "device": restorer.device.type,
            "precision": restorer.precision,
            "tile": self.tile,
            "overlap": "auto" if self.overlap is None else self.overlap,
            "tta": self.tta,
        }
        return Method(name, restorer, settings)


def _no_reference(*, quiet: bool) -> dict[str, Scorer]:
    """NIQE and BRISQUE with their parameters."""
    from drsformer_cli.metrics import BRISQUE_FILES, NIQE_FILE, Brisque, Niqe  # noqa: PLC0415

    parameters, *of_brisque = (zoo.parameter_file(name, quiet=quiet) for name in (NIQE_FILE, *BRISQUE_FILES))
    return {"niqe": Niqe(parameters), "brisque": Brisque(*of_brisque)}


def _prepare(save: Path, evaluators: Sequence[Evaluator], *, overwrite: bool) -> None:
    """Refuse before the work what would replace others' files or could not be saved."""
    save.mkdir(parents=True, exist_ok=True)
    for evaluator in evaluators:
        if not overwrite and (path := evaluator.foreign()):
            raise UsageError(f"{path} was not made by this run; --overwrite replaces it, or choose another --save")


def _score_all(evaluators: Sequence[Evaluator], ranks: Ranks, *, bar: bool, verbose: bool) -> list[Run]:
    """Every method on every set of images; complete on the first rank, empty on the others."""
    from drsformer_cli.evaluation.evaluator import Run  # noqa: PLC0415

    runs: list[Run] = []
    with console.progress_bar(visible=bar) as progress:
        for evaluator in evaluators:
            samples = evaluator.image_set.samples
            mine = ranks.share(samples)
            scores = {}
            for sample in progress.track(mine, description=evaluator.image_set.name):
                scores[sample.name] = evaluator.score(sample)
                for method, score in zip(evaluator.methods, scores[sample.name], strict=True):
                    if verbose:
                        console.say(f"{method.name}: {report.line(score)}")
            gathered = {name: row for of_rank in ranks.gather(scores) for name, row in of_rank.items()}
            if ranks.first:
                for i, method in enumerate(evaluator.methods):
                    runs.append(Run(evaluator.image_set, method, [gathered[sample.name][i] for sample in samples]))
    return runs


def _sheet(path: Path, evaluators: Sequence[Evaluator], runs: Sequence[Run]) -> bytes:
    """The worst, median and best case of each run, by PSNR or by how much NIQE fell."""
    from drsformer_cli import images, sheet  # noqa: PLC0415

    rows: list[NDArray[np.uint8]] = []
    for run in runs:
        evaluator = next(e for e in evaluators if e.image_set is run.image_set)
        samples = {sample.name: sample for sample in run.image_set.samples}
        for kind, score in run.typical().items():
            sample = samples[score.name]
            rainy, clean = sample.read()
            restored, _ = evaluator.restored(sample, run.method)
            shown = [rainy, restored] if clean is None else [rainy, restored, clean, sheet.error_map(restored, clean)]
            rows.append(sheet.row(f"{run.image_set.name}, {run.method.name}, {kind}: {report.line(score)}", shown))
    if not rows:
        raise ImageError("nothing was scored: there is nothing to show on a sheet")
    return images.encode(images.DecodedImage(sheet.stack(rows)), FORMAT_OF_ENDING[path.suffix.lower()])


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    try:
        with atomic_write(path, overwrite=overwrite) as file:
            file.write(data)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {reason(error)}") from None


def _print(runs: Sequence[Run], *, as_json: bool, quiet: bool) -> None:
    for run in runs:
        failures = [f"{score.name}: {score.error}" for score in run.scores if score.error]
        console.errors(f"{run.image_set.name}, {run.method.name}", failures, _MOST_PROBLEMS_SHOWN)
    if as_json:
        console.result(console.json_line({"runs": [report.as_dict(run) for run in runs]}))
    elif not quiet:
        for title, table in report.tables(runs):
            console.result(title)
            console.table(table)
        for note in report.notes(runs):
            console.result(note)


def _exit_code(runs: Sequence[Run]) -> ExitCode:
    if not any(run.scored for run in runs):
        return ExitCode.FAILED
    missed = any(run.image_set.problems or len(run.scored) < len(run.scores) for run in runs)
    return ExitCode.SOME_FAILED if missed else ExitCode.DONE
