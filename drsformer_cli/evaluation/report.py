"""Evaluation runs as a table for people, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from itertools import groupby
from typing import TYPE_CHECKING

from drsformer_cli import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.table import Table

    from drsformer_cli.evaluation.evaluator import Run, Score

_DIGITS = {"psnr": 2, "ssim": 4, "niqe": 3, "brisque": 2}
_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "niqe": "NIQE", "brisque": "BRISQUE"}


def tables(runs: Sequence[Run]) -> Iterator[tuple[str, Table]]:
    """A title and a table for each image set: the rainy input, every method, and what papers report."""
    for _, group in groupby(runs, key=lambda run: run.image_set.name):
        of_set = list(group)
        yield _title(of_set), _table(of_set)


def notes(runs: Sequence[Run]) -> list[str]:
    """What a reader needs to repeat the numbers, and to doubt them where they should be doubted."""
    lines = []
    for _, group in groupby(runs, key=lambda run: run.image_set.name):
        of_set = list(group)
        image_set = of_set[0].image_set
        lines += [f"{image_set.name}: {text}" for text in image_set.warnings]
        lines += [f"{image_set.name}: {text}" for text in _exceptions(of_set)]
    for name, settings in {run.method.name: run.method.settings for run in runs}.items():
        if settings:
            facts = ", ".join(f"{key} {_setting(value)}" for key, value in settings.items())
            lines.append(f"{name}: {facts}")
    if any(run.interval(metric) for run in runs for metric in run.image_set.metrics):
        lines.append("\u00b1: half of the 95 % interval of the mean, by bootstrap over scenes")
    return lines


def line(score: Score) -> str:
    """The numbers of one image."""
    if score.error:
        return f"{score.name}: {score.error}"
    numbers = (f"{name} {_number(value, name.removesuffix('_input'))}" for name, value in score.values.items())
    return f"{score.name}: {', '.join(numbers)}"


def as_dict(run: Run) -> dict[str, object]:
    """A run as plain values; a number that does not exist or is infinite is None."""
    first, second = run.image_set.metrics
    facts: dict[str, object] = {
        "dataset": run.image_set.name,
        "model": run.method.name,
        "protocol": run.image_set.protocol,
        "count": len(run.scored),
        "expected": run.image_set.total,
    }
    for metric in (first, second):
        facts[metric] = run.mean(metric)
        facts[f"{metric}_interval"] = run.interval(metric)
        facts[f"{metric}_input"] = run.mean(f"{metric}_input")
        facts[f"{metric}_{_change(run)}"] = run.gain(metric)
    if run.image_set.protocol:
        facts["identical"] = run.identical()
        facts["identical_input"] = run.identical("_input")
        facts["reported"] = [
            {"method": method, "psnr": psnr, "ssim": ssim}
            for method, psnr, ssim in (run.image_set.dataset.reported if run.image_set.dataset else ())
        ]
        facts["to_paper"] = _to_paper(run)
    facts["seconds"] = run.seconds
    facts |= run.method.settings
    facts["warnings"] = [*run.image_set.warnings]
    facts["problems"] = [*run.image_set.problems]
    facts["failures"] = [{"name": score.name, "error": score.error} for score in run.scores if score.error]
    facts["images"] = [
        {
            "name": score.name,
            **{metric: value if math.isfinite(value) else None for metric, value in score.values.items()},
            **({"identical": True} if math.isinf(score.values.get("psnr", 0.0)) else {}),
            "seconds": score.seconds,
        }
        for score in run.scored
    ]
    return facts


def as_csv(runs: Iterable[Run]) -> str:
    """One row an image and method. Infinite values are `inf`, undefined ones empty."""
    numbers = [f"{metric}{of}" for metric in _TITLES for of in ("", "_input")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "model", "protocol", "name", *numbers, "seconds", "error"])
    for run in runs:
        for score in run.scores:
            values = [_csv_number(score.values.get(number)) for number in numbers]
            seconds = _csv_number(score.seconds)
            writer.writerow(
                [run.image_set.name, run.method.name, run.image_set.protocol, score.name, *values, seconds, score.error]
            )
    return text.getvalue()


def _table(runs: Sequence[Run]) -> Table:
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    image_set = runs[0].image_set
    first = image_set.metrics[0]
    reported = image_set.dataset.reported if image_set.dataset else ()
    to_paper = [_signed(_to_paper(run), first) for run in runs]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    titles = [*(_TITLES[metric] for metric in image_set.metrics), f"{_TITLES[first]} {_change(runs[0])}", "s/image"]
    if any(to_paper):
        titles.append("to paper")
    for title in titles:
        table.add_column(title, justify="right")
    if any(runs[0].mean(f"{metric}_input") is not None for metric in image_set.metrics):
        table.add_row("rainy input", *_cells(runs[0], "_input"))
    for run, difference in zip(runs, to_paper, strict=True):
        seconds = "" if run.seconds is None else f"{run.seconds:.2f}"
        cells = [run.method.name, *_cells(run, ""), _signed(run.gain(first), first), seconds]
        table.add_row(*cells, *([difference] if any(to_paper) else []))
    for method, psnr, ssim in reported:
        text = method if all(run.comparable for run in runs) else f"{method}, not comparable"
        table.add_row(text, _number(psnr, "psnr"), _number(ssim, "ssim"), style="dim")
    return table


def _title(runs: Sequence[Run]) -> str:
    image_set = runs[0].image_set
    scored = min(len(run.scored) for run in runs)
    kind = image_set.protocol or "no ground truth (lower is better)"
    return f"{image_set.name}: {scored} of {image_set.total} images, {kind}"


def _change(run: Run) -> str:
    """PSNR and SSIM gain; NIQE and BRISQUE, where lower is better, change."""
    return "gain" if run.image_set.protocol else "change"


def _cells(run: Run, of: str) -> list[str]:
    """Mean and half of the 95 % interval, of both metrics."""
    cells = []
    for metric in run.image_set.metrics:
        interval = run.interval(metric + of)
        plus_minus = "" if interval is None else f" \u00b1 {_number((interval[1] - interval[0]) / 2, metric)}"
        cells.append(_number(run.mean(metric + of), metric) + plus_minus)
    return cells


def _exceptions(runs: Sequence[Run]) -> Iterator[str]:
    """What the means leave out."""
    if number := runs[0].identical("_input"):
        yield f"rainy input: {number} identical to the clean image, not in its mean PSNR; gains are over the others"
    for run in runs:
        if number := run.identical():
            yield f"{run.method.name}: {number} identical to the clean image, not in the mean PSNR"
        for metric in run.image_set.metrics:
            undefined = [score.name for score in run.scored if math.isnan(score.values.get(metric, 0.0))]
            if undefined:
                names = console.some(undefined)
                yield f"{run.method.name}: no {_TITLES[metric]} for {names} (too small, or of one color)"


def _to_paper(run: Run) -> float | None:
    """PSNR above what this network's paper reports, where the two may be compared."""
    mean, dataset = run.mean("psnr"), run.image_set.dataset
    if mean is None or dataset is None or not run.comparable:
        return None
    paper = next((psnr for method, psnr, _ in dataset.reported if method.startswith("DRSformer")), None)
    return None if paper is None else mean - paper


def _signed(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:+.{_DIGITS[metric]}f}"


def _number(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.{_DIGITS[metric]}f}"


def _csv_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else str(value)


def _setting(value: object) -> str:
    """Hashes are shown by their beginning."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
