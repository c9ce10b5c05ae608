"""The same network rearranged for training on a CPU: `rearrange(model)`. Differentiable, same parameters, same keys.

The definition to read is `model.py`. Everything becomes channels-last, and MSFN's grouped convolutions of channel
pairs, which are slow both ways, become depth-wise ones followed by adding the two of a pair; bringing weights instead
of activations into order leaves nothing wide to concatenate. For inference, `fast.py` goes further.

Shapes as in `model.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        odds = h // 2
        evens = h - odds
        order = torch.cat([torch.arange(0, h, 2), torch.arange(1, h, 2)]).to(x.device)  # even channels, odd channels
        parts = []
        # Output j of the second convolution reads channels 2j and 2j + 1 of [a, b], h channels each.
        for half, second in ((slice(0, h), self.dwconv3x3_1), (slice(h, 2 * h), self.dwconv5x5_1)):
            enter, kernels = self.project_in, second.weight.reshape(2 * h, 1, *second.kernel_size)
            u = F.conv2d(x, enter.weight[half][order], None if enter.bias is None else enter.bias[half][order])
            a = _depthwise(_first(u, self.dwconv3x3, half, order), kernels[:h][order])  # (B, h, H, W)
            b = _depthwise(_first(u, self.dwconv5x5, half, order), kernels[h:][order])
            sums = [a[:, :odds] + a[:, evens:], b[:, evens - odds : evens] + b[:, evens:]]
            if h % 2:  # one pair is the last of a and the first of b
                sums.insert(1, a[:, odds:evens] + b[:, :1])
            if second.bias is not None:
                biases = second.bias.split([part.shape[1] for part in sums])
                sums = [part + bias.view(-1, 1, 1) for part, bias in zip(sums, biases, strict=True)]
            parts += [F.relu(part) for part in sums]
        return self.project_out(torch.cat(parts, dim=1))


def _first(u: Tensor, conv: nn.Conv2d, half: slice, order: Tensor) -> Tensor:
    """ReLU of the first depth-wise convolution on these channels."""
    bias = None if conv.bias is None else conv.bias[half][order]
    return F.relu(_depthwise(u, conv.weight[half][order], bias))


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weight: (C, 1, k, k)."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
