"""The same network rearranged for speed and memory on a CPU: `accelerate(model)`. Inference only.

The definition to read is `model.py`; this file computes the same function from the same weights, to rounding.

* Everything is channels-last (NHWC), where depth-wise convolutions run two to four times faster than in NCHW.
* MSFN: each grouped convolution, two channels in and one out, is a depth-wise one followed by adding the two; the
  hidden channels are brought into that order once, in the 1x1 before, so that nothing is concatenated. They are worked
  off in blocks that sum into the last 1x1, so that the 2h-wide tensors never exist.
* TKSA: the sparse maps and `project_out` become one C x C matrix, applied to v once.
* MEFC: the last 1x1 of each expert and its part of the 1x1 over the concatenation become one matrix; experts are
  summed, not concatenated.

Shapes as in `model.py`: B C H W, N heads, D = C / N, h hidden channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsformer.model import EXPERTS, MEFC, MSFN, STEPS, TKSA, DRSformer

if TYPE_CHECKING:
    from drsformer.model import Experts, ExpertStep, Operation

BLOCK = 32
"""Output channels of MSFN's second convolutions that are computed at once at full resolution, where memory counts.

Twice as many enter them. Lower levels have fewer pixels and take proportionally more.
"""

HALVINGS = {
    "encoder_level1": 0,
    "encoder_level2": 1,
    "encoder_level3": 2,
    "latent": 3,
    "decoder_level3": 2,
    "decoder_level2": 1,
    "decoder_level1": 0,
}
"""Halvings of H and W where each group of blocks works."""


def accelerate(model: DRSformer) -> DRSformer:
    """A network that computes the same function, to rounding, from copies of the weights as they are now.

    Args:
        model: Any DRSformer, on any device; it is left as it is.

    Returns:
        A network for inference: (B, 3, H, W) -> (B, 3, H, W). It has no state dict of the published form.
    """
    with torch.device("meta"):
        fast = DRSformer(model.config)
    fast.load_state_dict({key: tensor.clone() for key, tensor in model.state_dict().items()}, assign=True)
    for name, halvings in HALVINGS.items():
        for block in getattr(fast, name):
            block.attn = FastTKSA(block.attn)
            block.ffn = FastMSFN(block.ffn, BLOCK * 4**halvings)
    for name in ("encoder_level0", "refinement"):
        if isinstance(mefc := getattr(fast, name), MEFC):
            setattr(fast, name, FastMEFC(mefc))
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
    return fast.eval().requires_grad_(requires_grad=False)


class FastTKSA(nn.Module):
    """TKSA with one C x C matrix in place of four products with v and `project_out`."""

    def __init__(self, tksa: TKSA) -> None:
        super().__init__()
        self.tksa = tksa

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tksa = self.tksa
        B, C, H, W = x.shape
        N, D = tksa.num_heads, C // tksa.num_heads
        qkv = tksa.qkv_dwconv(tksa.qkv(x)).permute(0, 2, 3, 1).reshape(B, H * W, 3 * C)  # a view: (B, HW, 3C)
        q, k, v = qkv.chunk(3, dim=-1)  # each (B, HW, C)
        with torch.autocast(x.device.type, enabled=False):
            full = torch.promote_types(x.dtype, torch.float32)
            q, k = (part.to(full).view(B, H * W, N, D).permute(0, 2, 3, 1) for part in (q, k))  # each (B, N, D, HW)
            attention = tksa.sparse_attention(tksa.scores(q, k))  # (B, N, D, D)
            project = tksa.project_out.weight.to(full).view(C, N, D)
            matrix = torch.einsum("bnij,cni->bnjc", attention, project).reshape(B, C, C)  # from v's channels to C
        y = v @ matrix.to(v.dtype)  # (B, HW, C)
        if tksa.project_out.bias is not None:
            y = y + tksa.project_out.bias
        return y.view(B, H, W, C).permute(0, 3, 1, 2)


class FastMSFN(nn.Module):
    """MSFN in blocks of hidden channels, without a concatenation."""

    def __init__(self, ffn: MSFN, block: int) -> None:
        super().__init__()
        h = ffn.dwconv3x3_1.out_channels
        # The 3x3 kernels in the middle of 5x5 ones: one convolution serves both scales, at the cost of memory traffic
        # that is spent anyway.
        kernels3, kernels5 = F.pad(ffn.dwconv3x3.weight, (1, 1, 1, 1)), ffn.dwconv5x5.weight  # (2h, 1, 5, 5)
        biases3, biases5 = ffn.dwconv3x3.bias, ffn.dwconv5x5.bias
        self.blocks = nn.ModuleList()
        for half, second in ((slice(0, h), ffn.dwconv3x3_1), (slice(h, 2 * h), ffn.dwconv5x5_1)):
            # Channel c of p = [a1, b1] (s = [a2, b2]) comes from this hidden channel, by this kernel.
            sources = torch.arange(2 * h, device=kernels5.device)[half].repeat(2)
            kernels = torch.cat([kernels3[half], kernels5[half]])
            biases = None if biases3 is None or biases5 is None else torch.cat([biases3[half], biases5[half]])
            for start in range(0, h, block):
                outputs = torch.arange(start, min(start + block, h), device=kernels5.device)
                pairs = torch.cat([2 * outputs, 2 * outputs + 1])  # all firsts, then all seconds
                self.blocks.append(
                    _HiddenBlock(
                        enter=_conv(ffn.project_in, sources[pairs]),
                        first=_depthwise(kernels[pairs], None if biases is None else biases[pairs]),
                        second=_pairwise(second, outputs),
                        leave=ffn.project_out.weight[:, half][:, outputs],
                    )
                )
        self.bias = ffn.project_out.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        blocks = iter(self.blocks)
        y: Tensor = next(blocks)(x)
        for block in blocks:
            y += block(x)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


class _HiddenBlock(nn.Module):
    """The way of some hidden channels through MSFN."""

    def __init__(self, enter: nn.Conv2d, first: nn.Conv2d, second: nn.Conv2d, leave: Tensor) -> None:
        super().__init__()
        self.enter, self.first, self.second = enter, first, second
        self.leave = nn.Parameter(leave.clone())

    def forward(self, x: Tensor) -> Tensor:
        n = self.leave.shape[1]
        y = self.second(self.first(self.enter(x)).relu_())  # (B, 2n, H, W)
        y = (y[:, :n] + y[:, n:]).relu_()  # what the grouped convolution gives, (B, n, H, W)
        return F.conv2d(y, self.leave)


class FastMEFC(nn.Module):
    """MEFC that sums its experts instead of concatenating them."""

    def __init__(self, mefc: MEFC) -> None:
        super().__init__()
        self.gate, experts = mefc.layers
        experts = cast("Experts", experts)
        self.preprocess = experts.preprocess
        # Step after step, expert after expert.
        self.experts = nn.ModuleList(
            expert for step in experts._ops for expert in _folded_experts(cast("ExpertStep", step))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        weights = self.gate(x).to(x.dtype)[..., None, None, None]  # (B, T, E, 1, 1, 1)
        s = self.preprocess(x).relu_()
        for i in range(STEPS):
            y = torch.zeros_like(s)
            for j in range(EXPERTS):
                y += self.experts[i * EXPERTS + j](s) * weights[:, i, j]
            s = (y.relu_() + s).relu_()
        return s


def _folded_experts(step: ExpertStep) -> list[nn.Module]:
    """The experts of a step, each ending in its part of the 1x1 that the plain network applies to them all."""
    folded: list[nn.Module] = []
    concatenated = cast("nn.Conv2d", step._out[0])
    parts = concatenated.weight.split(concatenated.out_channels, dim=1)
    for expert, part in zip(step._ops, parts, strict=True):
        *layers, last = cast("Operation", expert).op
        matrix = part[:, :, 0, 0]
        if isinstance(last, nn.Conv2d):
            matrix = matrix @ last.weight[:, :, 0, 0]
        else:  # the average has no 1x1 of its own
            layers.append(last)
        folded.append(nn.Sequential(*layers, _with_weight(matrix[:, :, None, None])))
    return folded


def _conv(conv: nn.Conv2d, outputs: Tensor) -> nn.Conv2d:
    """The given outputs of a 1x1 convolution."""
    return _with_weight(conv.weight[outputs], None if conv.bias is None else conv.bias[outputs])


def _depthwise(kernels: Tensor, bias: Tensor | None) -> nn.Conv2d:
    return _with_weight(kernels, bias, groups=len(kernels))


def _pairwise(conv: nn.Conv2d, outputs: Tensor) -> nn.Conv2d:
    """Outputs of a grouped convolution of pairs, as a depth-wise one: all firsts, then all seconds; to be added."""
    kernels = conv.weight[outputs]  # (n, 2, k, k)
    bias = None
    if conv.bias is not None:
        bias = torch.cat([conv.bias[outputs], torch.zeros_like(conv.bias[outputs])])
    return _depthwise(kernels.transpose(0, 1).flatten(0, 1).unsqueeze(1), bias)


def _with_weight(weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> nn.Conv2d:
    """Convolution of stride 1 that keeps H and W, with these weights."""
    out_channels, in_channels, size, _ = weight.shape
    conv = nn.Conv2d(
        in_channels * groups,
        out_channels,
        size,
        padding=size // 2,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
