"""A run of `eval`: load models and metrics, score every set of images, draw the contact sheet."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer.errors import ImageError
from drsformer.files import sha256_of
from drsformer.inference import Restorer
from drsformer_cli import console, sheet
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import UsageError
from drsformer_cli.evaluation import report
from drsformer_cli.evaluation.evaluator import Candidate, Evaluator, SetScores
from drsformer_cli.evaluation.image_sets import training_uses, with_training_warnings
from drsformer_cli.paths import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from drsformer.inference import Precision, Scale, TileSize
    from drsformer_cli.evaluation.evaluator import ImageScores, Scored
    from drsformer_cli.evaluation.image_sets import ImageSet, TrainingUse
    from drsformer_cli.metrics import Scorer
    from drsformer_cli.metrics.full_reference import RGB8
    from drsformer_cli.ranks import Ranks


@dataclass(frozen=True)
class Settings:
    """How the networks run; see `drsformer.derain` and `drsformer_cli.device`."""

    scale: Scale
    tile: TileSize
    overlap: int | None
    precision: Precision
    device: str
    threads: int | None
    tta: bool


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Models by their name in tables and paths: the stem of a file, with its folder if the stem is not unique.

    Raises:
        UsageError: A model is given twice, or two would have the same name.
    """
    if twice := next((model for i, model in enumerate(models) if model in models[:i]), None):
        raise UsageError(f"--model: {twice} is named twice")
    stems = [Path(model).stem for model in models]
    named: dict[str, str] = {}
    for model, stem in zip(models, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{Path(model).resolve().parent.name}-{stem}"
        if name in named:
            raise UsageError(
                f"--model: {named[name]} and {model} are both called {name}; score them one after the other"
            )
        named[name] = model
    return named


def load_models(
    models: Mapping[str, str], settings: Settings, *, quiet: bool
) -> tuple[list[Candidate], dict[str, list[TrainingUse]]]:
    """The networks as candidates, and by name the images that their training used.

    Args:
        models: Model names or checkpoint files, by their name in tables.
        settings: How the networks run.
        quiet: Whether downloads hide their progress.

    Raises:
        CheckpointError: A file is missing, damaged, or not a checkpoint of DRSformer.
        DownloadError: A model cannot be downloaded.
        UsageError: There is no such device.
    """
    for model in models.values():  # download all of them first
        zoo.find_checkpoint(model, quiet=quiet)
    candidates, uses = [], {}
    for name, model in models.items():
        loaded = zoo.load_model(model, device=settings.device, threads=settings.threads)
        restorer = Restorer(
            loaded.network,
            scale=settings.scale,
            tile=settings.tile,
            overlap=settings.overlap,
            precision=settings.precision,
            tta=settings.tta,
        )
        facts: dict[str, object] = {
            "checkpoint": sha256_of(loaded.checkpoint),
            "device": restorer.device.type,
            "precision": restorer.precision,
            "scale": settings.scale,
            "tile": "none" if settings.tile is None else str(settings.tile),
            "overlap": restorer.overlap_of(settings.tile),
            "tta": settings.tta,
        }
        candidates.append(Candidate(name, restorer, facts))
        uses[name] = training_uses(loaded.training)
    return candidates, uses


def load_scorers(image_sets: Sequence[ImageSet], *, quiet: bool) -> dict[str, Scorer]:
    """The metrics of the image sets by name, with their parameters.

    Raises:
        CheckpointError: A parameter file is damaged.
        DownloadError: A parameter file cannot be downloaded.
    """
    needed = {metric.name: metric for image_set in image_sets for metric in image_set.metrics}
    return {name: metric.load(lambda file: zoo.parameter_file(file, quiet=quiet)) for name, metric in needed.items()}


def make_evaluators(
    image_sets: Sequence[ImageSet],
    candidates: Sequence[Candidate],
    uses: Mapping[str, Sequence[TrainingUse]],
    scorers: Mapping[str, Scorer],
    save: Path | None,
    scored: Callable[[Scored], None] | None = None,
) -> list[Evaluator]:
    """An evaluator for each image set, with warnings about images that the training of a model used."""
    evaluators = []
    for image_set in image_sets:
        warned = image_set
        for name, its_uses in uses.items():
            warned = with_training_warnings(warned, name, its_uses)
        evaluators.append(Evaluator(warned, candidates, scorers, save=save, scored=scored))
    return evaluators


def prepare_to_save(save: Path, evaluators: Sequence[Evaluator], *, overwrite: bool) -> None:
    """Create the folder of restored images.

    Raises:
        UsageError: An input would be replaced; or a file that this run did not make, and `overwrite` is False.
        OSError: The folder cannot be created, or a file in it cannot be read.
    """
    save.mkdir(parents=True, exist_ok=True)
    inputs = {identity(file) for evaluator in evaluators for file in evaluator.image_set.files}
    for evaluator in evaluators:
        for file in evaluator.files():
            if identity(file) in inputs:
                raise UsageError(f"--save {save}: {file} would be overwritten, but it is an input")
        if not overwrite and (path := evaluator.foreign()):
            raise UsageError(f"{path} was not made by this run; --overwrite replaces it, or choose another --save")


def score_all(
    evaluators: Sequence[Evaluator], ranks: Ranks, *, bar: bool, scored: Callable[[Candidate, ImageScores], None]
) -> list[SetScores]:
    """Score every candidate on every image set; complete on rank 0, empty on the other ranks.

    Args:
        evaluators: One for each image set.
        ranks: The processes that share the images.
        bar: Whether to show a progress bar.
        scored: Called for each candidate and image of this rank.
    """
    all_scores: list[SetScores] = []
    with console.progress_bar(visible=bar) as progress:
        for evaluator in evaluators:
            cases = evaluator.image_set.cases
            mine = ranks.shard(cases)
            by_name: dict[str, list[ImageScores]] = {}
            with contextlib.closing(evaluator.score(mine)) as scores:
                for of_case in progress.track(scores, total=len(mine), description=evaluator.image_set.name):
                    by_name[of_case[0].name] = of_case
                    for candidate, score in zip(evaluator.candidates, of_case, strict=True):
                        scored(candidate, score)
            gathered = {name: of_case for of_rank in ranks.gather(by_name) for name, of_case in of_rank.items()}
            if ranks.is_rank_0:
                for i, candidate in enumerate(evaluator.candidates):
                    of_set = [gathered[case.name][i] for case in cases]
                    all_scores.append(SetScores(evaluator.image_set, candidate, of_set))
    return all_scores


def draw_sheet(evaluators: Sequence[Evaluator], all_scores: Sequence[SetScores]) -> RGB8:
    """A contact sheet of the worst, median and best image of each candidate and image set.

    Args:
        evaluators: The evaluators of the scores.
        all_scores: The scores.

    Returns:
        (H, W, 3) RGB, uint8.

    Raises:
        ImageError: Nothing was scored, or an image cannot be read or restored again.
        OSError: A file cannot be read.
    """
    rows: list[RGB8] = []
    for scores in all_scores:
        evaluator = next(found for found in evaluators if found.image_set is scores.image_set)
        cases = {case.name: case for case in scores.image_set.cases}
        for kind, score in scores.typical().items():
            case = cases[score.name]
            rainy, clean = case.read()
            shown = [rainy, evaluator.restored(case, scores.candidate, rainy)]
            if clean is not None:
                shown += [clean, sheet.error_map(shown[1], clean)]
            title = f"{scores.image_set.name}, {scores.candidate.name}, {kind}: {report.line(score)}"
            rows.append(sheet.row(title, shown))
    if not rows:
        raise ImageError("nothing was scored")
    return sheet.stack(rows)
