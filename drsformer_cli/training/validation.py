"""How good the network is by now: Y-PSNR and SSIM on the validation images, shared among the processes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drsformer.inference import Restorer
from drsformer_cli import sheet
from drsformer_cli.metrics import psnr, ssim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer.model import DRSformer
    from drsformer_cli.metrics import Protocol
    from drsformer_cli.ranks import Ranks
    from drsformer_cli.training.samples import Pixels
    from drsformer_cli.training.sources import ValidationImage

HIGHEST = 100.0
"""PSNR in dB that stands for equality, so that a mean stays a number."""

SHOWN = 4
"""Images that are shown after a validation."""


@dataclass(frozen=True)
class Score:
    """One image: its group, PSNR in dB and SSIM of the result, PSNR of the rainy input."""

    group: str
    psnr: float
    ssim: float
    psnr_input: float


@dataclass(frozen=True)
class Scores:
    """A validation.

    Attributes:
        scores: Of all images.
        shown: Rainy, restored and clean image of some of them, a row each.
    """

    scores: Sequence[Score]
    shown: Sequence[Pixels]

    def row(self) -> dict[str, float]:
        """Means, over all groups alike; PSNR also by group."""
        groups: dict[str, list[Score]] = {}
        for score in self.scores:
            groups.setdefault(score.group, []).append(score)
        names = ("psnr", "ssim", "psnr_input")
        means = {
            name: _mean([_mean([getattr(score, name) for score in group]) for group in groups.values()])
            for name in names
        }
        return {**means, **{f"psnr {name}": _mean([score.psnr for score in group]) for name, group in groups.items()}}

    def unchanged(self, tolerance: float) -> bool:
        """Whether every result is as far from its clean image as the rainy one was, to so many dB."""
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
) -> Scores | None:
    """Restore the images as `derain` would and measure them; None when it was stopped."""
    restorer = Restorer(model)
    scores: list[Score] = []
    shown: list[Pixels] = []
    for image in ranks.shard(images):
        if stopped():
            break
        rainy, clean = image.read()
        restored = restorer(rainy)
        values = (psnr(restored, clean, protocol), ssim(restored, clean, protocol), psnr(rainy, clean, protocol))
        score = Score(image.group, *(min(value, HIGHEST) for value in values))
        scores.append(score)
        if len(shown) < SHOWN:
            text = f"{image.group}: {score.psnr_input:.2f} to {score.psnr:.2f} dB"
            shown.append(sheet.row(text, [rainy, restored, clean]))
    everyone = ranks.broadcast(list(itertools.chain(*ranks.gather(scores))))
    return Scores(everyone, shown) if len(everyone) == len(images) else None
