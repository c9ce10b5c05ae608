"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drsformer_cli.training.config import TrainingSection


def learning_rate(step: int, training: TrainingSection) -> float:
    """Learning rate at a step, counted from 1: linear warm-up, constant, then a cosine down to `final_lr`."""
    if step <= training.warmup:
        return training.lr * step / training.warmup
    if step <= training.constant:
        return training.lr
    falling = max(1, training.steps - training.constant)
    done = min(1.0, (step - training.constant) / falling)  # 0..1
    return training.final_lr + (training.lr - training.final_lr) * (1 + math.cos(math.pi * done)) / 2
