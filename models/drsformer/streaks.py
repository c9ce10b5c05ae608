"""Choose the scale at which an image is restored: a small network estimates how wide its streaks are.

The streaks of benchmarks, which the networks are trained on, are 2 to 4 pixels wide. The estimator looks at square
parts of the image at full size, at 1/2 and at 1/4, and for each gives the odds that there are streaks 0.5, 0.7, ... 5.7
times as wide as those, and that there is no rain. It was trained on rain layers of known width over clean images;
`.github/streaks/train.py` is the program.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from drsformer.images import luma
from drsformer.scale import shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from drsformer.images import ImageArray

WEIGHTS = Path(__file__).with_name("weights") / "streaks.pth"

PART = 160
"""Side of the square parts in pixels, after they are shrunk."""

WIDTHS = np.arange(-1, 3, 0.5)
"""log2 of the widths that the estimator tells apart; the first stands for narrower streaks too, the last for wider."""

_CANDIDATES = np.arange(0, 3.5, 0.5)  # log2 of the widths to choose from

SCALES = np.array([1, 1.2, 1.7, 2.4, 3.4, 4.8, 6.7])
"""The scale for each of them: 0.84 of it, since the best one lies between 0.7 of the width and the width."""

_SHRINKS = (0, 1, 2)  # log2 of the scales of the parts
_MOST_PARTS = 3  # a side, at each scale

_LEAST_LIKELIHOOD = 0.02  # so that no part alone rules a scale out
_LEAST_RAIN = 0.6  # odds of rain in the parts of a scale; below it the image counts as one without rain


class StreakEstimator(nn.Module):
    """Luma of parts, (B, 1, PART, PART) in 0..1, -> logits of the WIDTHS and of no rain, (B, len(WIDTHS) + 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(_block(1, 16, 5, 2), _block(16, 24, 3, 1), _block(24, 32, 3, 2), _block(32, 32, 3, 1)),
            *(_block(32, 48, 3, 2), _block(48, 48, 3, 1), _block(48, 64, 3, 2), _block(64, 64, 3, 1)),
        )
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, len(WIDTHS) + 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - see the class
        y = self.body(4 * (x - x.mean((2, 3), keepdim=True)))
        return cast("Tensor", self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], dim=1)))


def choose_scale(color: ImageArray, peak: float) -> float:
    """The scale at which the streaks of an image have the width of those in benchmarks.

    Args:
        color: (H, W, 3), uint8, uint16 or float32.
        peak: The value that corresponds to 1.

    Returns:
        One of the SCALES, at which the image has at least PART pixels a side; 1 where there is no rain, in doubt,
        and for smaller images.
    """
    log_likelihood = np.zeros(len(_CANDIDATES))
    rain = 0.0
    for shrunk in _SHRINKS:
        parts = list(_parts(color, peak, 2**shrunk))
        if not parts:
            continue
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            odds = _estimator()(torch.from_numpy(np.stack(parts)[:, None])).softmax(dim=1).numpy()
        log_likelihood += np.log(_LEAST_LIKELIHOOD + _likelihood(odds, shrunk)).mean(axis=0)
        rain = max(rain, 1 - float(odds[:, -1].mean()))
    allowed = min(color.shape[:2]) >= SCALES * PART
    return float(SCALES[allowed][log_likelihood[allowed].argmax()]) if rain >= _LEAST_RAIN else 1.0


def _likelihood(odds: NDArray[np.float32], shrunk: int) -> NDArray[np.floating]:
    """Odds of the estimator, (n, len(WIDTHS) + 1), -> likelihood of each of the candidates, (n, len(_CANDIDATES)).

    Where a part shows no rain, every width is as likely.
    """
    nearest = np.abs(WIDTHS - np.clip(_CANDIDATES - shrunk, WIDTHS[0], WIDTHS[-1])[:, None]).argmin(axis=1)
    likelihood = odds[:, nearest]
    likelihood[:, 0] = odds[:, : nearest[0] + 1].sum(axis=1)  # narrower streaks are restored at full size, too
    return likelihood + odds[:, -1:] / len(WIDTHS)


def _parts(color: ImageArray, peak: float, scale: int) -> Iterator[NDArray[np.float32]]:
    """Luma of evenly spread parts at 1/scale of the size, (PART, PART) in 0..1."""
    side = PART * scale
    for top in _starts(color.shape[0], side):
        for left in _starts(color.shape[1], side):
            part = color[top : top + side, left : left + side]
            yield luma(shrink(part, peak, scale))


def _starts(length: int, side: int) -> list[int]:
    number = min(length // side, _MOST_PARTS)
    return [round((i + 0.5) * length / number - side / 2) for i in range(number)]


@functools.cache
def _estimator() -> StreakEstimator:
    with torch.device("cpu"):  # whatever torch's default is
        estimator = StreakEstimator()
    estimator.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return estimator.float().eval()


def _block(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())
