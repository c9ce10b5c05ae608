"""The same network rearranged for training on a CPU: `rearrange(model)`. Differentiable, same parameters, same keys.

The definition to read is `model.py`. Everything becomes channels-last, and MSFN's grouped convolutions of channel
pairs, which are slow both ways, become depth-wise ones followed by adding the two of a pair; bringing weights instead
of activations into order leaves nothing wide to concatenate. The gradient of a 5x5 kernel, which takes ten times as
long as the convolution, is put together from two of 5x3, for which oneDNN has fast code. For inference,
`fast_inference.py` goes further.

Shapes as in `model.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from drsformer.model import MSFN, DRSformer


def rearrange(model: DRSformer) -> None:
    """Make a network train faster on a CPU; outputs and gradients stay the same to rounding."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
    for module in model.modules():
        if type(module) is MSFN:
            module.__class__ = RearrangedMSFN  # another forward over the same parameters


class RearrangedMSFN(MSFN):
    """MSFN with depth-wise convolutions only, (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.dwconv3x3_1.out_channels
        order = torch.cat([torch.arange(0, h, 2), torch.arange(1, h, 2)]).to(x.device)  # even channels, odd channels
        parts = []
        # Output j of the second convolution reads channels 2j and 2j + 1 of [a, b], h channels each.
        for half, second in ((slice(0, h), self.dwconv3x3_1), (slice(h, 2 * h), self.dwconv5x5_1)):
            enter, kernels = self.project_in, second.weight.reshape(2 * h, 1, *second.kernel_size)
            u = F.conv2d(x, enter.weight[half][order], None if enter.bias is None else enter.bias[half][order])
            a = _depthwise(_first(u, self.dwconv3x3, half, order), kernels[:h][order])  # (B, h, H, W)
            b = _depthwise(_first(u, self.dwconv5x5, half, order), kernels[h:][order])
            sums: Tensor = _PairSums.apply(a, b)
            parts.append(F.relu(sums if second.bias is None else sums + second.bias.view(-1, 1, 1)))
        return self.project_out(torch.cat(parts, dim=1))


def _first(u: Tensor, conv: nn.Conv2d, half: slice, order: Tensor) -> Tensor:
    """ReLU of the first depth-wise convolution on these channels."""
    bias = None if conv.bias is None else conv.bias[half][order]
    return F.relu(_depthwise(u, conv.weight[half][order], bias))


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weight: (C, 1, k, k)."""
    if weight.shape[-1] == 5 and not torch.is_autocast_enabled(x.device.type):
        y: Tensor = _Depthwise5x5.apply(x, weight)
        return y if bias is None else y + bias.view(-1, 1, 1)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


class _PairSums(torch.autograd.Function):
    """Sums of the channel pairs of [a, b], even channels before odd ones in each: (B, h, H, W) twice -> (B, h, H, W).

    Where h is odd, the middle sum is of the last even channel of a and the first channel of b.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no type
        h = a.shape[1]
        odds, middle = h // 2, h % 2
        ctx.sizes = odds, middle, odds
        first = a[:, :odds] + a[:, odds + middle :]
        last = b[:, middle : middle + odds] + b[:, middle + odds :]
        return torch.cat([first, a[:, odds : odds + middle] + b[:, :middle], last], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        first, middle, last = gradient.split(ctx.sizes, dim=1)
        return torch.cat([first, middle, first], dim=1), torch.cat([middle, last, last], dim=1)


class _Depthwise5x5(torch.autograd.Function):
    """Depth-wise 5x5 convolution, (B, C, H, W) and (C, 1, 5, 5) -> (B, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no type
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        C = len(weight)
        of_x = F.conv2d(gradient, weight.flip(2, 3), padding=2, groups=C)
        of_weight = torch.empty_like(weight)
        for beside, columns in (((2, 0), slice(0, 3)), ((0, 2), slice(2, 5))):  # the middle one comes twice, alike
            of_weight[..., columns] = conv2d_weight(F.pad(x, beside), (C, 1, 5, 3), gradient, padding=(2, 0), groups=C)
        return of_x, of_weight
