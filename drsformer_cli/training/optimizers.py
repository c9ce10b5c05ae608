"""Optimizers of training: AdamW, or Muon for the kernels that mix channels beside AdamW for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from drsformer.model import TKSA

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from drsformer_cli.training.config import TrainingSection

MOMENTUM = 0.95
"""Of Muon."""

ADAMW_RMS = 0.2
"""Root mean square of an AdamW step at learning rate 1, about, which Muon's steps are scaled to (Liu et al. 2025)."""

FEWEST_CHANNELS = 4
"""On either side of a kernel for Muon: not the image's three colors, not depth-wise kernels nor channel pairs."""

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def make_optimizers(model: nn.Module, training: TrainingSection) -> tuple[Optimizer, ...]:
    """What steps the parameters of a model, each of them in one of the optimizers."""
    kernels: dict[int, list[nn.Parameter]] = {3: [], 1: []}  # for Muon, by the matrices that they stack
    others = []
    queries_keys_values = {module.qkv.weight for module in model.modules() if isinstance(module, TKSA)}
    for parameter in model.parameters():
        if training.optimizer == "muon" and parameter.ndim == 4 and min(parameter.shape[:2]) >= FEWEST_CHANNELS:
            kernels[3 if parameter in queries_keys_values else 1].append(parameter)
        else:
            others.append(parameter)
    adamw = AdamW(others, lr=training.lr, betas=training.betas, weight_decay=training.weight_decay)
    if training.optimizer == "adamw":
        return (adamw,)
    groups = [{"params": some, "matrices": number} for number, some in kernels.items()]
    return adamw, Muon(groups, lr=training.lr, weight_decay=training.weight_decay)


class Muon(Optimizer):
    """Momentum whose steps are orthogonalised: kernels change along all directions alike.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scaled as by Liu et al., "Muon is
    scalable for LLM training", arXiv 2502.16982, so that a learning rate for AdamW fits.

    Args:
        groups: Kernels (C_out, C_in, k, k); in each group `matrices`: how many matrices are stacked along C_out.
        lr: Learning rate.
        weight_decay: Decoupled, as of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        del closure
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
                ahead = kernel.grad.lerp(momentum, MOMENTUM)  # Nesterov's
                steps = [_orthogonal(part.flatten(1)) for part in ahead.chunk(group["matrices"])]
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                size = ADAMW_RMS * max(steps[0].shape) ** 0.5
                kernel.sub_(torch.cat(steps).view(kernel.shape), alpha=group["lr"] * size)


def _orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of the matrix U S V^T, roughly: singular values of 0.7 to 1.2; Newton-Schulz iterations."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
