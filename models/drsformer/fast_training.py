"""The network rearranged for training on a CPU: `optimize_for_training(model)`. Same function, parameters and keys.

For the definition of the network, read `model.py`. Here everything is channels-last, and:

* MSFN's grouped convolutions of channel pairs, whose forward and backward passes are slow, become depth-wise ones
  followed by adding the two channels of a pair; weights are reordered instead of activations, so that no wide tensors
  are concatenated.
* The input's gradient of a depth-wise convolution is computed as a convolution with the flipped kernel, which is
  somewhat faster than oneDNN's code for it.
* The gradient of a 5x5 depth-wise kernel, which takes ten times as long as the convolution, is assembled from two of
  5x3, for which oneDNN has fast code.

For inference, `fast_inference.py` goes further. Shapes as in `model.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from drsformer.model import MSFN, Conv2d, DRSformer


def optimize_for_training(model: DRSformer) -> None:
    """Make a network train faster on a CPU; outputs and gradients stay the same up to rounding."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
    for module in model.modules():
        # The new class has another forward method for the same parameters.
        if type(module) is MSFN:
            module.__class__ = RearrangedMSFN
        elif type(module) is Conv2d and _is_depthwise(module):
            module.__class__ = DepthwiseConv2d


def _is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it is depth-wise with an odd kernel, stride 1 and dilation 1, and keeps H and W."""
    size, _ = conv.kernel_size
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and size % 2 == 1
        and conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and conv.stride == conv.dilation == (1, 1)
    )


class DepthwiseConv2d(Conv2d):
    """Depth-wise convolution with faster gradients, (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return _depthwise(x, self.weight, self.bias)


class RearrangedMSFN(MSFN):
    """MSFN with depth-wise convolutions only, (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        first, second = self._halves(x.device)
        y = first(x) + second(x)
        return y if self.project_out.bias is None else y + self.project_out.bias.view(-1, 1, 1)

    def _halves(self, device: torch.device) -> list[_Half]:
        h = self.dwconv3x3_1.out_channels
        order = torch.cat([torch.arange(0, h, 2), torch.arange(1, h, 2)]).to(device)  # even channels, odd channels
        halves = []
        for half, second in ((slice(0, h), self.dwconv3x3_1), (slice(h, 2 * h), self.dwconv5x5_1)):
            enter, first3x3, first5x5 = (
                (conv.weight[half][order], None if conv.bias is None else conv.bias[half][order])
                for conv in (self.project_in, self.dwconv3x3, self.dwconv5x5)
            )
            # Output j reads channels 2j and 2j + 1 of [a, b], h channels each.
            second_a, second_b = second.weight.reshape(2, h, 1, *second.kernel_size)
            leave = self.project_out.weight[:, half]
            halves.append(_Half(enter, first3x3, first5x5, second_a[order], second_b[order], second.bias, leave))
        return halves


class _Half(NamedTuple):
    """Weights of one half of MSFN's hidden channels, even channels before odd ones."""

    enter: tuple[Tensor, Tensor | None]
    first3x3: tuple[Tensor, Tensor | None]
    first5x5: tuple[Tensor, Tensor | None]
    second_a: Tensor
    second_b: Tensor
    bias: Tensor | None
    leave: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Compute this half of MSFN, (B, C, H, W) -> (B, C, H, W)."""
        u = F.conv2d(x, *self.enter)  # (B, h, H, W)
        a = _depthwise(_depthwise(u, *self.first3x3).relu_(), self.second_a)
        b = _depthwise(_depthwise(u, *self.first5x5).relu_(), self.second_b)
        sums: Tensor = _PairSums.apply(a, b)
        return F.conv2d((sums if self.bias is None else sums + self.bias.view(-1, 1, 1)).relu_(), self.leave)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depth-wise convolution that keeps H and W; weight: (C, 1, k, k)."""
    size = weight.shape[-1]
    if size == 1 or torch.is_autocast_enabled(x.device.type):
        return F.conv2d(x, weight, bias, padding=size // 2, groups=len(weight))
    y: Tensor = _Depthwise.apply(x, weight)
    return y if bias is None else y + bias.view(-1, 1, 1)


class _PairSums(torch.autograd.Function):
    """Sums of the channel pairs of [a, b], even channels before odd ones in each: (B, h, H, W) twice -> (B, h, H, W).

    Where h is odd, the middle sum is of the last even channel of a and the first channel of b.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no type
        h = a.shape[1]
        odds, middle = h // 2, h % 2
        ctx.sizes = odds, middle, odds
        sums = torch.empty_like(a)
        torch.add(a[:, :odds], a[:, odds + middle :], out=sums[:, :odds])
        torch.add(a[:, odds : odds + middle], b[:, :middle], out=sums[:, odds : odds + middle])
        torch.add(b[:, middle : middle + odds], b[:, middle + odds :], out=sums[:, odds + middle :])
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        first, middle, last = gradient.split(ctx.sizes, dim=1)
        return torch.cat([first, middle, first], dim=1), torch.cat([middle, last, last], dim=1)


class _Depthwise(torch.autograd.Function):
    """Depth-wise convolution of odd kernel size k, (B, C, H, W) and (C, 1, k, k) -> (B, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no type
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        C, _, size, _ = weight.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = F.conv2d(gradient, weight.flip(2, 3), padding=size // 2, groups=C)
        if size != 5:
            return of_x, conv2d_weight(x, weight.shape, gradient, padding=size // 2, groups=C)
        of_weight = torch.empty_like(weight)
        for padded, columns in zip(_padded_on_one_side(x), (slice(0, 3), slice(2, 5)), strict=True):
            # The middle column comes twice, with the same values.
            of_weight[..., columns] = conv2d_weight(padded, (C, 1, 5, 3), gradient, padding=(2, 0), groups=C)
        return of_x, of_weight


def _padded_on_one_side(x: Tensor) -> tuple[Tensor, Tensor]:
    """X (B, C, H, W) with two columns of zeros on its left and on its right, each (B, C, H, W + 2), channels-last.

    Both are views of the same memory, in which the zeros on the right of a row are those on the left of the next one.
    """
    B, C, H, W = x.shape
    memory = x.new_empty(B * H * (W + 2) * C + 2 * C)
    memory[-2 * C :] = 0
    shape, strides = (B, H, W + 2, C), (H * (W + 2) * C, (W + 2) * C, C, 1)
    left, right = (memory.as_strided(shape, strides, start).permute(0, 3, 1, 2) for start in (0, 2 * C))
    left[..., :2] = 0
    left[..., 2:] = x
    return left, right
