"""The report of `derain`: a card for each restored image or video."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from drsformer_cli.deraining.pipeline import Written
from drsformer_cli.pages.report import Card, Fact, Overview, Sort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drsformer_cli.deraining.plan import Job
    from drsformer_cli.video.pipeline import WrittenVideo

_FACTS = {
    "mean_change": ("Mean change", "{:.2f} of 255"),
    "seconds": ("Time", "{:.2f} s"),
    "megapixels": ("Size", "{:.2f} megapixels"),
    "scale": ("Scale", "{:g}"),
    "tile": ("Tile", "{} pixels"),
    "frames": ("Length", "{} frames"),
    "frames_per_second": ("Speed", "{:.1f} frames a second"),
}
"""The facts of the JSON output that the report shows: title and format."""

_SORTS = (
    Sort("Name", "name"),
    Sort("Most changed first", "mean_change", descending=True),
    Sort("Least changed first", "mean_change"),
    Sort("Slowest first", "seconds", descending=True),
    Sort("Largest first", "megapixels", descending=True),
)


def card(job: Job, written: Written | WrittenVideo, facts: Mapping[str, object]) -> Card:
    """The card of an image, or of a video, which is not shown.

    Args:
        job: The input and the output.
        written: The images.
        facts: The facts of the JSON output.
    """
    restored = written.restored if isinstance(written, Written) else None
    files = {"rainy": job.source, "restored": job.target}
    return Card(
        name=job.name,
        images={"rainy": restored.rainy, "restored": restored.image} if restored else {},
        facts=[_fact(key, facts[key]) for key in _FACTS if key in facts],
        files={kind: path for kind, path in files.items() if path is not None},
        notes=[*written.notes, *([written.problem] if written.problem else [])],
    )


def overview(done: int, total: int, failures: Sequence[tuple[str, str]], model: str) -> Overview:
    """The page without its cards.

    Args:
        done: Number of restored images and videos.
        total: Number of inputs.
        failures: Inputs without an output, and why.
        model: The model, as the user named it.
    """
    number = f"{done}" if done == total else f"{done} of {total}"
    title = f"{number} file{'s' * (total != 1)} derained"
    return Overview(title, f"Model: {model}", _SORTS, failures)


def _fact(key: str, value: object) -> Fact:
    title, template = _FACTS[key]
    if isinstance(value, int | float):
        return Fact(key, title, template.format(value), value)
    return Fact(key, title, "none" if value is None else str(value), math.nan)
