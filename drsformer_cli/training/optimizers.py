"""Optimizers of training: AdamW; or Muon for the kernels that mix channels and AdamW for the other parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW, Optimizer

from drsformer.model import TKSA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from drsformer_cli.training.config import TrainingSection

MOMENTUM = 0.95
"""Decay of Muon's momentum."""

ADAMW_RMS = 0.2
"""Approximate root mean square of AdamW's steps at learning rate 1; Muon's are scaled to it (Liu et al. 2025)."""

FEWEST_CHANNELS = 4
"""Fewest input and output channels of a kernel for Muon: excludes three colors, channel pairs, depth-wise kernels."""

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_WIDE = 2  # ratio of columns to rows from which iterating on the n x n Gram matrix is faster


def make_optimizers(model: nn.Module, training: TrainingSection) -> tuple[Optimizer, ...]:
    """The optimizers of `training.optimizer`; each parameter of the model is in exactly one of them."""
    kernels: dict[int, list[nn.Parameter]] = {3: [], 1: []}  # for Muon, by the number of stacked matrices
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
    """Momentum with orthogonalized steps, which change a kernel by about the same amount in all directions.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scaled as by Liu et al., "Muon is
    scalable for LLM training", arXiv 2502.16982, so that learning rates for AdamW can be used. `torch.optim.Muon`
    accepts only parameters of two dimensions, orthogonalizes each as one matrix and always in bfloat16; kernels of
    convolutions have four dimensions, and q, k and v are three matrices in one kernel.

    Args:
        groups: Kernels (C_out, C_in, k, k); each group has `matrices`, the number of matrices stacked along C_out.
        lr: Learning rate.
        weight_decay: Decoupled weight decay, as in AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the kernels; the closure is ignored."""
        del closure
        kernels, matrices = [], []
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
                ahead = kernel.grad.lerp(momentum, MOMENTUM)  # Nesterov's
                kernels.append((kernel, group))
                matrices.append(ahead.flatten(1).chunk(group["matrices"]))
        for (kernel, group), steps in zip(kernels, _orthogonalized(matrices), strict=True):
            kernel.mul_(1 - group["lr"] * group["weight_decay"])
            size = ADAMW_RMS * max(steps[0].shape) ** 0.5
            kernel.sub_(torch.cat(steps).view(kernel.shape), alpha=group["lr"] * size)


def _orthogonalized(kernels: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The matrices of each kernel, orthogonalized; on CPUs each rank does its share of the kernels."""
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if ranks == 1 or not kernels or kernels[0][0].device.type != "cpu":
        return [[_orthogonal(matrix) for matrix in matrices] for matrices in kernels]
    results = [[torch.zeros_like(matrix) for matrix in matrices] for matrices in kernels]
    costly = sorted(range(len(kernels)), key=lambda i: -kernels[i][0].numel())
    for i in costly[dist.get_rank() :: ranks]:
        results[i] = [_orthogonal(matrix) for matrix in kernels[i]]
    flat = torch.cat([matrix.flatten() for matrices in results for matrix in matrices])
    dist.all_reduce(flat)  # all but one are 0
    pieces = iter(torch.split(flat, [matrix.numel() for matrices in kernels for matrix in matrices]))
    return [[next(pieces).view(matrix.shape) for matrix in matrices] for matrices in kernels]


def _orthogonal(matrix: Tensor) -> Tensor:
    """Approximately U V^T of the matrix U S V^T, with singular values of 0.7 to 1.2, by Newton-Schulz iterations."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix  # (n, m), n <= m
    x = x / torch.linalg.vector_norm(x).clamp_min(1e-7)
    if x.shape[1] < _WIDE * x.shape[0]:
        for _ in range(_ITERATIONS):
            x = _polynomial(x @ x.T) @ x
    else:
        # The same iterations without x: all matrices are polynomials in the first gram, so they commute.
        gram = x @ x.T  # (n, n)
        product = polynomial = _polynomial(gram)
        for _ in range(_ITERATIONS - 1):
            gram = polynomial @ (polynomial @ gram)
            polynomial = _polynomial(gram)
            product = polynomial @ product
        x = product @ x
    return x.T if tall else x


def _polynomial(gram: Tensor) -> Tensor:
    """The polynomial a I + b G + c G^2 of the symmetric (n, n) matrix G."""
    a, b, c = _NEWTON_SCHULZ
    polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal().add_(a)
    return polynomial
