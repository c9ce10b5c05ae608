"""The report of `eval`: a card for each image and candidate, and tables of the means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from drsformer_cli.evaluation import report
from drsformer_cli.images import DecodedImage
from drsformer_cli.pages.report import Card, Fact, Overview, Sort, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drsformer_cli.evaluation.evaluator import ImageScores, Scored, SetScores
    from drsformer_cli.evaluation.image_sets import ImageSet
    from drsformer_cli.metrics import Metric


def card(scored: Scored) -> Card:
    """The card of an image that a candidate restored."""
    case, scores = scored.case, scored.scores
    pixels = {
        "rainy": scored.rainy if case.has_input else None,
        "clean": scored.clean,
        "restored": scored.restored,
    }
    files = {
        "rainy": case.files[0] if case.has_input else None,
        "clean": case.files[-1] if scored.clean is not None else None,
        "restored": scored.file,
    }
    return Card(
        name=case.name,
        images={kind: DecodedImage(image) for kind, image in pixels.items() if image is not None},
        facts=list(_facts(scored.image_set, scores)),
        files={kind: path for kind, path in files.items() if path is not None},
        group=f"{scored.image_set.name}, {scored.candidate.name}",
        notes=[text for text in (scores.error, scores.not_saved) if text],
    )


def overview(
    image_sets: Sequence[ImageSet], number: int, all_scores: Sequence[SetScores], failures: Sequence[tuple[str, str]]
) -> Overview:
    """The page without its cards.

    Args:
        image_sets: The images.
        number: Number of results.
        all_scores: The scores; empty if the run was interrupted.
        failures: Images that could not be scored or saved, and why.
    """
    metrics = {metric.name: metric for image_set in image_sets for metric in image_set.metrics}
    tables = [
        Table(title, columns[1:], [(row[0], row[1:]) for row in rows]) for title, columns, rows in _means(all_scores)
    ]
    problems = [(image_set.name, problem) for image_set in image_sets for problem in image_set.problems]
    return Overview(
        title=f"{number} result{'s' * (number != 1)} on {', '.join(image_set.name for image_set in image_sets)}",
        subtitle="" if all_scores else "The run was interrupted.",
        sorts=list(_sorts(list(metrics.values()))),
        failures=[*problems, *failures],
        tables=tables,
        notes=report.notes(all_scores),
        choices=("rainy", "clean") if any(image_set.has_clean for image_set in image_sets) else (),
    )


def _means(all_scores: Sequence[SetScores]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    for of_set in report.by_set(all_scores):
        columns, rows, _ = report.as_cells(of_set)
        yield report.title(of_set), columns, rows


def _facts(image_set: ImageSet, scores: ImageScores) -> Iterator[Fact]:
    for metric in image_set.metrics:
        after, before = (scores.values.get(f"{metric.name}{of}", math.nan) for of in ("", "_input"))
        text = _number(after, metric)
        if not math.isnan(before):
            text = f"{_number(before, metric)} \u2192 {text}"
        yield Fact(metric.name, metric.title, text, after)
    if scores.seconds is not None:
        yield Fact("seconds", "Time", f"{scores.seconds:.2f} s", scores.seconds)


def _number(value: float, metric: Metric) -> str:
    if math.isnan(value):
        return "undefined"
    return "\u221e" if math.isinf(value) else f"{value:.{metric.digits}f}"


def _sorts(metrics: Sequence[Metric]) -> Iterator[Sort]:
    yield Sort("Name", "name")
    for metric in metrics:
        yield Sort(f"Worst {metric.title} first", metric.name, descending=not metric.higher_is_better)
        yield Sort(f"Best {metric.title} first", metric.name, descending=metric.higher_is_better)
    yield Sort("Slowest first", "seconds", descending=True)
