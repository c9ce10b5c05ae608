"""Validation during training: Y-PSNR and SSIM on the validation images, which are split among the processes.

Images are restored as in `derain`, and scored as in `eval` (`drsformer_cli.metrics`). The evaluator of `eval` works on
files, whose results it can save, reuse and compare with published ones; these images are crops in memory.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drsformer.inference import Restorer
from drsformer_cli import console, sheet
from drsformer_cli.errors import IMAGE_ERRORS, reason
from drsformer_cli.metrics import psnr, ssim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer.model import DRSformer
    from drsformer_cli.metrics import Protocol
    from drsformer_cli.ranks import Ranks
    from drsformer_cli.training.rain import Pixels
    from drsformer_cli.training.run_data import ValidationImage

HIGHEST = 100.0
"""PSNR in dB that replaces higher and infinite values, so that means are finite."""

SHOWN = 4
"""Number of images to write after a validation."""


@dataclass(frozen=True)
class ValidationScore:
    """The scores of one image.

    Attributes:
        group: Name of its set.
        psnr: PSNR of the restored image, in dB.
        ssim: SSIM of the restored image.
        psnr_input: PSNR of the rainy image, in dB.
    """

    group: str
    psnr: float
    ssim: float
    psnr_input: float


@dataclass(frozen=True)
class Validation:
    """The results of a validation.

    Attributes:
        scores: Scores of all images.
        shown: Rainy, restored and clean image of some of them, one row each.
    """

    scores: Sequence[ValidationScore]
    shown: Sequence[Pixels]

    def row(self) -> dict[str, float]:
        """Means over all sets, in which each set has the same weight, and the PSNR of each set."""
        groups: dict[str, list[ValidationScore]] = {}
        for score in self.scores:
            groups.setdefault(score.group, []).append(score)
        names = ("psnr", "ssim", "psnr_input")
        means = {
            name: _mean([_mean([getattr(score, name) for score in group]) for group in groups.values()])
            for name in names
        }
        return {**means, **{f"psnr {name}": _mean([score.psnr for score in group]) for name, group in groups.items()}}

    def unchanged(self, tolerance: float) -> bool:
        """Whether all restored images have the PSNR of their rainy image, within a tolerance in dB."""
        rainy = [score for score in self.scores if score.psnr_input < HIGHEST]
        return bool(rainy) and all(abs(score.psnr - score.psnr_input) < tolerance for score in rainy)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def validate(
    model: DRSformer,
    images: Sequence[ValidationImage],
    protocol: Protocol,
    ranks: Ranks,
    stopped: Callable[[], bool],
) -> Validation | None:
    """Restore and score the images; None if it was stopped, or if no image can be read any more."""
    restorer = Restorer(model, scale=1)
    scores: list[ValidationScore] = []
    shown: list[Pixels] = []
    for image in ranks.shard(images):
        if stopped():
            break
        try:
            rainy, clean = image.read()
        except IMAGE_ERRORS as error:  # changed since the run began
            console.error(f"{image.group}: not scored: {reason(error)}")
            continue
        restored = restorer(rainy)
        values = (psnr(restored, clean, protocol), ssim(restored, clean, protocol), psnr(rainy, clean, protocol))
        score = ValidationScore(image.group, *(min(value, HIGHEST) for value in values))
        scores.append(score)
        if len(shown) < SHOWN:
            text = f"{image.group}: {score.psnr_input:.2f} to {score.psnr:.2f} dB"
            shown.append(sheet.row(text, [rainy, restored, clean]))
    everyone = ranks.broadcast(list(itertools.chain(*ranks.gather(scores))))
    return Validation(everyone, shown) if everyone and not ranks.all_reduce([stopped()])[0] else None
