"""The network rearranged for speed and memory on a CPU: `optimize_for_inference(model)`. Inference in float32 only.

For the definition of the network, read `model.py`; this file computes the same function from the same weights, up to
rounding.

* Everything is channels-last (NHWC), where depth-wise convolutions run two to four times faster than in NCHW. The
  channels of a pixel are contiguous, so that a 1x1 is a matrix product that can add to an existing tensor.
* Blocks: the residual is added in place, by the last matrix product of TKSA and of each part of MSFN.
* TKSA: q and k are computed for a few rows at a time, in the cache, and reduced to scores and norms. The sparse maps
  and `project_out` become one C x C matrix, which is applied to v once.
* MSFN: each grouped convolution, two channels in and one out, becomes a depth-wise one followed by adding the two; the
  1x1 before it writes the hidden channels in that order, so that nothing is concatenated. Hidden channels are computed
  in blocks that add to the result of the last 1x1, so that the 2h-wide tensors are never stored.
* MEFC: also in place. The last 1x1 of each expert, its gate weight and its part of the 1x1 over the concatenation
  become one matrix; experts are summed, not concatenated.

Shapes as in `model.py`: B C H W, N heads, D = C / N, h hidden channels. Rows are (B, H, W, C), contiguous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard, cast

import torch
from torch import Tensor, nn

from drsformer.model import EXPERTS, MEFC, MSFN, STEPS, TKSA, Conv2d, DRSformer

if TYPE_CHECKING:
    from drsformer.model import Experts, ExpertStep, LayerNorm, Operation, SparseTransformerBlock

SMALLEST_BLOCK = 24
"""Approximate number of channel pairs of MSFN that are computed at once at full resolution; at least a third of C.

Smaller blocks are slower, larger ones need more memory. Lower levels, and all levels of a network with a stem, have
fewer pixels than the image and compute proportionally more pairs at once.
"""

STRIP = 2**20
"""Values per strip of the image, 4 MB: strips that fit in the cache, but not more of them than necessary."""

HALVINGS = {
    "encoder_level1": 0,
    "encoder_level2": 1,
    "encoder_level3": 2,
    "latent": 3,
    "decoder_level3": 2,
    "decoder_level2": 1,
    "decoder_level1": 0,
}
"""How often H and W are halved before each group of blocks, not counting the stem."""


def optimize_for_inference(model: DRSformer) -> DRSformer:
    """A network that computes the same function, up to rounding, from copies of the current weights.

    Args:
        model: A DRSformer on any device; it is not changed.

    Returns:
        A network for inference without autocast: (B, 3, H, W) -> (B, 3, H, W). Its state dict does not have the
        published keys.
    """
    with torch.device("meta"):
        fast = DRSformer(model.config)
    fast.load_state_dict({key: tensor.clone() for key, tensor in model.state_dict().items()}, assign=True)
    for name, halvings in HALVINGS.items():
        shrinkage = (model.config.stem * 2**halvings) ** 2
        blocks = (FastBlock(block, shrinkage) for block in getattr(fast, name))
        setattr(fast, name, nn.Sequential(_ToRows(), *blocks, _FromRows()))
    for name in ("encoder_level0", "refinement"):
        if isinstance(mefc := getattr(fast, name), MEFC):
            setattr(fast, name, FastMEFC(mefc))
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
    return fast.eval().requires_grad_(requires_grad=False)


class _ToRows(nn.Module):
    """(B, C, H, W) -> (B, H, W, C), contiguous; no copy of a channels-last input, which the blocks overwrite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous()


class _FromRows(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return _images(x)


class FastBlock(nn.Module):
    """Sparse Transformer block in place: adds TKSA(LN(x)), then MSFN(LN(x))."""

    def __init__(self, block: SparseTransformerBlock, shrinkage: int) -> None:
        """Initialize from a block; `shrinkage` is the number of pixels of the image per pixel of the block's input."""
        super().__init__()
        self.attn = FastTKSA(block.norm1, block.attn)
        channels = block.ffn.project_in.in_channels
        self.ffn = FastMSFN(block.norm2, block.ffn, shrinkage * max(SMALLEST_BLOCK, channels // 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same tensor."""
        self.attn(x)
        self.ffn(x)
        return x


class FastTKSA(nn.Module):
    """Layer norm and TKSA, in strips of rows and with one C x C matrix instead of five products."""

    def __init__(self, norm: LayerNorm, tksa: TKSA) -> None:
        super().__init__()
        self.norm, self.tksa = norm, tksa

    def forward(self, x: Tensor) -> None:
        """Adds to x, (B, H, W, C)."""
        tksa = self.tksa
        B, H, W, C = x.shape
        N, D = tksa.num_heads, C // tksa.num_heads
        v = torch.empty_like(x)
        products = x.new_zeros(B, N, D, D)  # q k^T
        squares = x.new_zeros(B, 2 * C)  # of the norms of q and k
        height = max(1, STRIP // (3 * C * B * W))
        for top in range(0, H, height):
            bottom = min(top + height, H)
            above, below = min(top, 1), min(H - bottom, 1)  # rows that the 3x3 sees beyond the strip
            rows = self.norm(_images(x[:, top - above : bottom + below]))
            rows = tksa.qkv_dwconv(tksa.qkv(rows))[:, :, above : above + bottom - top]
            qk, v[:, top:bottom] = rows.permute(0, 2, 3, 1).split([2 * C, C], dim=-1)
            qk = qk.reshape(B, -1, 2 * C)
            squares += qk.square().sum(dim=1)
            q, k = qk.view(B, -1, 2, N, D).permute(2, 0, 3, 1, 4)  # each (B, N, pixels, D)
            products += q.transpose(-2, -1) @ k
        q_norm, k_norm = squares.sqrt().clamp_min(1e-12).view(B, 2, N, D).unbind(1)  # each (B, N, D)
        scores = products / (q_norm.unsqueeze(-1) * k_norm.unsqueeze(-2)) * tksa.temperature
        attention = tksa.sparse_attention(scores)  # (B, N, D, D)
        project = tksa.project_out.weight.view(C, N, D)
        matrix = torch.einsum("bnij,cni->bnjc", attention, project).reshape(B, C, C)  # from v's channels to C
        x.view(B, -1, C).baddbmm_(v.view(B, -1, C), matrix)
        if tksa.project_out.bias is not None:
            x += tksa.project_out.bias


class FastMSFN(nn.Module):
    """Layer norm and MSFN, in blocks of hidden channels, without a concatenation."""

    def __init__(self, norm: LayerNorm, ffn: MSFN, pairs: int) -> None:
        super().__init__()
        self.norm = norm
        self.blocks = nn.ModuleList()
        h = ffn.dwconv3x3_1.out_channels
        for half, second in enumerate((ffn.dwconv3x3_1, ffn.dwconv5x5_1)):
            # An odd h makes a block one channel wider; vectors of 16 channels are to stay full.
            starts = [i * (pairs - h % 2) for i in range(max(1, round(h / 2 / pairs)))]
            for start, stop in zip(starts, [*starts[1:], h // 2], strict=True):
                self.blocks.append(_HiddenBlock(ffn, half, second, start, stop))
        self.bias = ffn.project_out.bias

    def forward(self, x: Tensor) -> None:
        """Adds to x, (B, H, W, C)."""
        normalized = self.norm(_images(x))
        for block in self.blocks:
            block(normalized, x)
        if self.bias is not None:
            x += self.bias


class _HiddenBlock(nn.Module):
    """Some of MSFN's hidden channels, from `project_in` to `project_out`.

    Of h hidden channels u, a = ReLU(3x3(u)) and b = ReLU(5x5(u)). Output j of the second convolution reads channels 2j
    and 2j + 1 of [a, b]: neighbors of a, or neighbors of b, or, where h is odd, the last of a and the first of b.
    This block computes the pairs of a that begin at channels 2 start to 2 stop - 2, and the pairs of b that begin there
    or, where h is odd, one further; the last block also the pair of both.
    """

    def __init__(self, ffn: MSFN, half: int, second: nn.Conv2d, start: int, stop: int) -> None:
        super().__init__()
        h, device = second.out_channels, second.weight.device
        self.pairs = stop - start
        self.odd = h % 2
        self.mixed = self.odd == 1 and stop == h // 2
        # u: even channels, where h is odd one more of them, where a and b meet the first one of all, then odd channels.
        channels = torch.arange(2 * start, 2 * stop + self.odd, device=device)
        first = torch.zeros(int(self.mixed), dtype=torch.long, device=device)
        channels = torch.cat([channels[::2], first, channels[1::2]])
        outputs = torch.arange(start, stop, device=device)
        outputs = torch.cat([outputs, outputs + (h + 1) // 2, first + h // 2])

        hidden = half * h + channels  # of the 2h
        self.enter = _with_weight(ffn.project_in.weight[hidden], _taken(ffn.project_in.bias, hidden))
        self.first3x3 = _depthwise(ffn.dwconv3x3.weight[hidden], _taken(ffn.dwconv3x3.bias, hidden))
        self.first5x5 = _depthwise(ffn.dwconv5x5.weight[hidden], _taken(ffn.dwconv5x5.bias, hidden))
        kernels = second.weight.flatten(0, 1).unsqueeze(1)  # (2h, 1, k, k), by channels of [a, b]
        bias = None
        if second.bias is not None:  # added with the first channel of each pair
            bias = torch.stack([second.bias, torch.zeros_like(second.bias)], dim=1).flatten()
        self.second_a = _depthwise(kernels[channels], _taken(bias, channels))
        self.second_b = _depthwise(kernels[h + channels], _taken(bias, h + channels))
        self.leave = nn.Parameter(ffn.project_out.weight[:, half * h + outputs, 0, 0].t().contiguous())

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Adds to y, (B, H, W, C), from x, (B, C, H, W)."""
        n, odd = self.pairs, self.odd
        u = self.enter(x)
        a, b = self.first3x3(u).relu_(), self.first5x5(u).relu_()
        del u  # at most three tensors of this width exist at once
        a = self.second_a(a)
        b = self.second_b(b)
        B, H, W, C = y.shape
        outputs = y.new_empty(B, H, W, len(self.leave))  # of the second convolution, a pixel's side by side
        sums = _images(outputs)
        torch.add(a[:, :n], a[:, a.shape[1] - n :], out=sums[:, :n])
        torch.add(b[:, odd : odd + n], b[:, b.shape[1] - n :], out=sums[:, n : 2 * n])
        if self.mixed:
            torch.add(a[:, n : n + 1], b[:, n + 1 : n + 2], out=sums[:, 2 * n :])
        y.view(-1, C).addmm_(outputs.relu_().view(-1, len(self.leave)), self.leave)


class FastMEFC(nn.Module):
    """MEFC that sums its experts instead of concatenating them, in place."""

    def __init__(self, mefc: MEFC) -> None:
        super().__init__()
        self.gate, experts = mefc.layers
        experts = cast("Experts", experts)
        self.enter = nn.Parameter(_matrix(cast("nn.Conv2d", experts.preprocess.op[0])).t().contiguous())
        # By step, then by expert.
        self.experts = nn.ModuleList(
            expert for step in experts._ops for expert in _folded_experts(cast("ExpertStep", step))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), the same memory."""
        weights = self.gate(x)[..., None, None]  # (B, T, E, 1, 1)
        s = x.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C); no copy of a channels-last input
        C = s.shape[-1]
        for some in s.view(-1, C).split(max(1, STRIP // C)):
            some.copy_((some @ self.enter).relu_())
        for i in range(STEPS):
            y = torch.zeros_like(s)
            for j in range(EXPERTS):
                expert = cast("_FoldedExpert", self.experts[i * EXPERTS + j])
                expert.add_to(y, s, weights[:, i, j])
            s = s.add_(y.relu_()).relu_()
        return _images(s)


class _FoldedExpert(nn.Module):
    """An expert whose last 1x1 and its part of the 1x1 over the concatenation are folded into one C x C matrix."""

    def __init__(self, expert: Operation, part: Tensor) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in [*expert.op, _with_weight(part)]:
            before = layers[-1] if layers else None
            if isinstance(layer, nn.ReLU):
                layers.append(nn.ReLU(inplace=True))
            elif _is_pointwise(layer) and _is_pointwise(before):  # two matrices are one; a depth-wise 1x1 is a diagonal
                layers[-1] = _with_weight((_matrix(layer) @ _matrix(before))[:, :, None, None])
            else:
                layers.append(layer)
        self.layers = nn.Sequential(*layers[:-1])
        self.leave = nn.Parameter(_matrix(cast("nn.Conv2d", layers[-1])).t().contiguous())

    def add_to(self, y: Tensor, s: Tensor, weights: Tensor) -> None:
        """Add the expert's weighted output for s to y, both (B, H, W, C); weights: (B, 1, 1)."""
        B, _, _, C = y.shape
        features = self.layers(_images(s)).permute(0, 2, 3, 1).reshape(B, -1, C)
        y.view(B, -1, C).baddbmm_(features, weights * self.leave)


def _folded_experts(step: ExpertStep) -> list[_FoldedExpert]:
    """The experts of a step."""
    concatenated = cast("nn.Conv2d", step._out[0])
    parts = concatenated.weight.split(concatenated.out_channels, dim=1)
    return [_FoldedExpert(cast("Operation", expert), part) for expert, part in zip(step._ops, parts, strict=True)]


def _images(rows: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), channels-last, the same memory."""
    return rows.permute(0, 3, 1, 2)


def _is_pointwise(layer: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def _matrix(pointwise: nn.Conv2d) -> Tensor:
    """The matrix of a 1x1 convolution, (outputs, inputs)."""
    weight = pointwise.weight.flatten(1)
    return weight if pointwise.groups == 1 else weight.flatten().diag()


def _taken(bias: Tensor | None, channels: Tensor) -> Tensor | None:
    return None if bias is None else bias[channels]


def _depthwise(kernels: Tensor, bias: Tensor | None) -> nn.Conv2d:
    return _with_weight(kernels, bias, groups=len(kernels))


def _with_weight(weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> nn.Conv2d:
    """Convolution of stride 1 with these weights that keeps H and W."""
    out_channels, in_channels, size, _ = weight.shape
    conv = Conv2d(
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
