"""Scores as tables, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table

from drsformer_cli import console
from drsformer_cli.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from drsformer_cli.evaluation.evaluator import ImageScores, SetScores
    from drsformer_cli.evaluation.image_sets import ImageSet
    from drsformer_cli.metrics import Metric


def tables(all_scores: Sequence[SetScores]) -> Iterator[tuple[str, Table]]:
    """A title and a table for each image set: the rainy input, every candidate, and what papers report."""
    for of_set in by_set(all_scores):
        yield title(of_set), _table(of_set)


def notes(all_scores: Sequence[SetScores]) -> list[str]:
    """Warnings about the scores, and the settings that reproduce them."""
    lines = []
    for of_set in by_set(all_scores):
        image_set = of_set[0].image_set
        lines += [f"{image_set.name}: {text}" for text in image_set.warnings]
        lines += [f"{image_set.name}: {text}" for text in _exceptions(of_set)]
    for name, settings in {scores.candidate.name: scores.candidate.settings for scores in all_scores}.items():
        if settings:
            facts = ", ".join(f"{key} {_setting(value)}" for key, value in settings.items())
            lines.append(f"{name}: {facts}")
    if any(scores.interval(metric.name) for scores in all_scores for metric in scores.image_set.metrics):
        lines.append("\u00b1: half of the 95 % interval of the mean, by bootstrap over scenes")
    return lines


def failures(scores: SetScores) -> list[tuple[str, str]]:
    """The images that could not be scored or saved, as (name, reason)."""
    return [
        (score.name, reason)
        for score in scores.scores
        for reason in (score.error, score.not_saved)
        if reason is not None
    ]


def line(score: ImageScores) -> str:
    """The scores of one image."""
    if score.error:
        return f"{score.name}: {score.error}"
    numbers = (f"{name} {_number(value, METRICS[name.removesuffix('_input')])}" for name, value in score.values.items())
    return f"{score.name}: {', '.join(numbers)}"


def as_dict(scores: SetScores) -> dict[str, object]:
    """Scores as plain values; numbers that are missing or infinite are None."""
    image_set = scores.image_set
    facts: dict[str, object] = {
        "dataset": image_set.name,
        "model": scores.candidate.name,
        "protocol": image_set.protocol,
        "count": len(scores.scored),
        "expected": image_set.total,
    }
    for metric in image_set.metrics:
        name = metric.name
        facts[name] = scores.mean(name)
        facts[f"{name}_interval"] = scores.interval(name)
        facts[f"{name}_input"] = scores.mean(f"{name}_input")
        facts[f"{name}_{_change(metric)}"] = scores.gain(name)
    if image_set.has_clean:
        facts["identical"] = scores.identical()
        facts["identical_input"] = scores.identical("_input")
        facts["reported"] = [{"method": method, **values} for method, values in _reported(image_set)]
        facts["to_paper"] = _to_paper(scores)
    facts["seconds"] = scores.seconds
    facts |= scores.candidate.settings
    facts["warnings"] = [*image_set.warnings]
    facts["problems"] = [*image_set.problems]
    facts["failures"] = [{"name": name, "error": error} for name, error in failures(scores)]
    facts["images"] = [
        {
            "name": score.name,
            **{metric: value if math.isfinite(value) else None for metric, value in score.values.items()},
            **({"identical": True} if math.isinf(score.values.get("psnr", 0.0)) else {}),
            "seconds": score.seconds,
        }
        for score in scores.scored
    ]
    return facts


def as_csv(all_scores: Iterable[SetScores]) -> bytes:
    """One row for each image and candidate, in UTF-8. Infinite values are `inf`, undefined ones empty.

    Bytes of a name that are not UTF-8 are escaped with backslashes.
    """
    numbers = [f"{metric}{of}" for metric in METRICS for of in ("", "_input")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "model", "protocol", "name", *numbers, "seconds", "error"])
    for scores in all_scores:
        for score in scores.scores:
            about = [scores.image_set.name, scores.candidate.name, scores.image_set.protocol, score.name]
            values = [_csv_number(score.values.get(number)) for number in numbers]
            writer.writerow([*about, *values, _csv_number(score.seconds), score.error or score.not_saved])
    return text.getvalue().encode(errors="backslashreplace")


def by_set(all_scores: Sequence[SetScores]) -> Iterator[list[SetScores]]:
    """The scores of each image set."""
    for _, group in groupby(all_scores, key=lambda scores: scores.image_set.name):
        yield list(group)


def as_cells(of_set: Sequence[SetScores]) -> tuple[list[str], list[list[str]], int]:
    """The table of an image set: titles of the columns, rows, and the number of rows that are not published results."""
    image_set = of_set[0].image_set
    metrics = image_set.metrics
    to_paper = [_signed(_to_paper(scores), metrics[0]) for scores in of_set]
    titles = ["", *(metric.title for metric in metrics), f"{metrics[0].title} {_change(metrics[0])}", "s/image"]
    rows = []
    if any(of_set[0].mean(f"{metric.name}_input") is not None for metric in metrics):
        rows.append(["rainy input", *_cells(of_set[0], "_input"), "", "", ""])
    for scores, difference in zip(of_set, to_paper, strict=True):
        seconds = "" if scores.seconds is None else f"{scores.seconds:.2f}"
        gain = _signed(scores.gain(metrics[0].name), metrics[0])
        rows.append([console.printable(scores.candidate.name), *_cells(scores, ""), gain, seconds, difference])
    own = len(rows)
    comparable = all(scores.comparable for scores in of_set)
    for method, values in _reported(image_set):
        numbers = [_number(values.get(metric.name), metric) for metric in metrics]
        rows.append([method if comparable else f"{method}, not comparable", *numbers, "", "", ""])
    if any(to_paper):
        titles.append("to paper")
    return titles, [row[: len(titles)] for row in rows], own


def _table(of_set: Sequence[SetScores]) -> Table:
    titles, rows, own = as_cells(of_set)
    table = Table(box=None, pad_edge=False)
    table.add_column(titles[0])
    for i, column in enumerate(titles[1:], 1):  # on a narrow terminal only names may be folded
        widest = max(len(text) for text in (column, *(row[i] for row in rows)))
        table.add_column(column, justify="right", no_wrap=True, min_width=widest)
    for i, row in enumerate(rows):
        table.add_row(*row, style="dim" if i >= own else None)
    return table


def title(of_set: Sequence[SetScores]) -> str:
    """The title of the table of an image set."""
    image_set = of_set[0].image_set
    scored = min(len(scores.scored) for scores in of_set)
    kind = image_set.protocol or "no clean images"
    lower = [metric.title for metric in image_set.metrics if not metric.higher_is_better]
    better = f" (lower {' and '.join(lower)} are better)" if lower else ""
    return f"{image_set.name}: {scored} of {image_set.total} images, {kind}{better}"


def _change(metric: Metric) -> str:
    """The word for a difference: gain if higher is better, otherwise change."""
    return "gain" if metric.higher_is_better else "change"


def _cells(scores: SetScores, of: str) -> list[str]:
    """Mean and half of the 95 % interval, for each metric."""
    cells = []
    for metric in scores.image_set.metrics:
        interval = scores.interval(metric.name + of)
        plus_minus = "" if interval is None else f" \u00b1 {_number((interval[1] - interval[0]) / 2, metric)}"
        cells.append(_number(scores.mean(metric.name + of), metric) + plus_minus)
    return cells


def _exceptions(of_set: Sequence[SetScores]) -> Iterator[str]:
    """Notes about images that a mean leaves out."""
    if number := of_set[0].identical("_input"):
        yield f"rainy input: {number} identical to the clean image, not in its mean PSNR; gains are over the others"
    for scores in of_set:
        name = scores.candidate.name
        if number := scores.identical():
            yield f"{name}: {number} identical to the clean image, not in the mean PSNR"
        for metric in scores.image_set.metrics:
            undefined = [score.name for score in scores.scored if math.isnan(score.values.get(metric.name, 0.0))]
            if undefined:
                yield f"{name}: no {metric.title} for {console.first_three(undefined)} (too small, or of one color)"


def _reported(image_set: ImageSet) -> list[tuple[str, dict[str, float | None]]]:
    """Published results of the data set: method, and values by metric."""
    reported = image_set.dataset.reported if image_set.dataset else ()
    return [(method, {"psnr": psnr, "ssim": ssim}) for method, psnr, ssim in reported]


def _to_paper(scores: SetScores) -> float | None:
    """Difference between the PSNR and that in DRSformer's paper; None if the two are not comparable."""
    mean = scores.mean("psnr")
    if mean is None or not scores.comparable:
        return None
    own = (values["psnr"] for method, values in _reported(scores.image_set) if method.startswith("DRSformer"))
    paper = next(own, None)
    return None if paper is None else mean - paper


def _signed(value: float | None, metric: Metric) -> str:
    return "" if value is None else f"{value:+.{metric.digits}f}"


def _number(value: float | None, metric: Metric) -> str:
    return "" if value is None else f"{value:.{metric.digits}f}"


def _csv_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else str(value)


def _setting(value: object) -> str:
    """A setting as text; hashes are shortened."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
