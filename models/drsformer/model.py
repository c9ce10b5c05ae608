"""DRSformer, the network as the paper draws it.

Source: Chen, Li, Li, Pan, "Learning A Sparse Transformer Network for Effective Image Deraining", CVPR 2023.
Attribute names are the keys of the published checkpoints.

Shapes: B batch, C channels, H height, W width, N heads, D = C / N channels per head, h MSFN hidden channels,
E experts, T steps of the MEFC, S stem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsformer.config import DRSformerConfig
from drsformer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

TOP_K_RATIOS = ((1, 2), (2, 3), (3, 4), (4, 5))
"""Fractions of a row of the attention map that the four sparse maps keep: k = floor(D * numerator / denominator)."""

EXPERTS = 8
STEPS = 4


class Conv2d(nn.Conv2d):
    """Convolution that is not initialized on the meta device, where that takes most of the time of making a network."""

    def reset_parameters(self) -> None:
        """Initialize the weights at random, if they have values."""
        if not self.weight.is_meta:
            super().reset_parameters()


def conv(in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1, bias: bool = False) -> Conv2d:
    """Convolution of stride 1 that keeps H and W."""
    return Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=bias)


class LayerNorm(nn.Module):
    """Layer normalization over the channels of each pixel, (B, C, H, W) -> (B, C, H, W); eps 1e-5, biased variance.

    Without bias, the mean is not subtracted: x / sqrt(var + eps) * weight.
    """

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.body = nn.ParameterDict({"weight": nn.Parameter(torch.ones(channels))})
        if bias:
            self.body["bias"] = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.body["weight"].to(x.dtype)
        # Without autocast, which would copy x to float32: the statistics are accumulated in float32 anyway.
        with torch.autocast(x.device.type, enabled=False):
            x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
            if "bias" in self.body:
                x = F.layer_norm(x, weight.shape, weight, self.body["bias"].to(x.dtype), eps=1e-5)
            else:
                x = x * torch.rsqrt(x.var(dim=-1, correction=0, keepdim=True) + 1e-5) * weight
        return x.permute(0, 3, 1, 2)  # (B, C, H, W)


class TKSA(nn.Module):
    """Top-k sparse attention between channels (Sec. 3.2, Eq. 2-4), (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = conv(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = conv(3 * channels, 3 * channels, 3, groups=3 * channels, bias=bias)
        self.project_out = conv(channels, channels, 1, bias=bias)
        self.attn1 = nn.Parameter(torch.tensor([0.2]))
        self.attn2 = nn.Parameter(torch.tensor([0.2]))
        self.attn3 = nn.Parameter(torch.tensor([0.2]))
        self.attn4 = nn.Parameter(torch.tensor([0.2]))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        N, D = self.num_heads, C // self.num_heads
        q, k, v = self.qkv_dwconv(self.qkv(x)).view(B, 3, N, D, H * W).unbind(1)  # each (B, N, D, HW)
        # Masks depend on comparisons, so scores, top-k and softmax are never computed in half precision.
        full = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            attention = self.sparse_attention(self.scores(q.to(full), k.to(full)))  # (B, N, D, D)
        return self.project_out((attention.to(v.dtype) @ v).view(B, C, H, W))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Cosine similarity of every two channels times the temperature: (B, N, D, HW) twice -> (B, N, D, D)."""
        # Dividing the product by the norms equals normalizing q and k, without a copy of either.
        q_norm = torch.linalg.vector_norm(q, dim=-1).clamp_min(1e-12)  # (B, N, D)
        k_norm = torch.linalg.vector_norm(k, dim=-1).clamp_min(1e-12)
        return q @ k.transpose(-2, -1) / (q_norm.unsqueeze(-1) * k_norm.unsqueeze(-2)) * self.temperature

    def sparse_attention(self, scores: Tensor) -> Tensor:
        """Sum of the four maps, each the softmax over the k largest scores of a row: (B, N, D, D) -> (B, N, D, D).

        One product of the sum with v equals the sum of four products.
        """
        D = scores.shape[-1]
        kept = [D * numerator // denominator for numerator, denominator in TOP_K_RATIOS]
        largest, columns = scores.topk(kept[-1], dim=-1)  # in falling order, so that each smaller k is a prefix
        total = torch.zeros_like(largest)
        for k, weight in zip(kept, (self.attn1, self.attn2, self.attn3, self.attn4), strict=True):
            total = total + F.pad(weight * largest[..., :k].softmax(dim=-1), (0, kept[-1] - k))
        return torch.zeros_like(scores).scatter(-1, columns, total)


class MSFN(nn.Module):
    """Mixed-scale feed-forward network (Sec. 3.3, Eq. 5), (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.project_in = conv(channels, 2 * hidden, 1, bias=bias)
        self.dwconv3x3 = conv(2 * hidden, 2 * hidden, 3, groups=2 * hidden, bias=bias)
        self.dwconv5x5 = conv(2 * hidden, 2 * hidden, 5, groups=2 * hidden, bias=bias)
        self.dwconv3x3_1 = conv(2 * hidden, hidden, 3, groups=hidden, bias=bias)
        self.dwconv5x5_1 = conv(2 * hidden, hidden, 5, groups=hidden, bias=bias)
        self.project_out = conv(2 * hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)  # (B, 2h, H, W)
        a1, a2 = F.relu(self.dwconv3x3(x)).chunk(2, dim=1)  # each (B, h, H, W)
        b1, b2 = F.relu(self.dwconv5x5(x)).chunk(2, dim=1)
        p = F.relu(self.dwconv3x3_1(torch.cat([a1, b1], dim=1)))  # (B, h, H, W)
        s = F.relu(self.dwconv5x5_1(torch.cat([a2, b2], dim=1)))
        return self.project_out(torch.cat([p, s], dim=1))


class SparseTransformerBlock(nn.Module):
    """Sparse Transformer block (Fig. 2), (B, C, H, W) -> (B, C, H, W): x + TKSA(LN(x)), then x + MSFN(LN(x))."""

    def __init__(self, channels: int, num_heads: int, config: DRSformerConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, bias=config.norm_bias)
        self.attn = TKSA(channels, num_heads, bias=config.bias)
        self.norm2 = LayerNorm(channels, bias=config.norm_bias)
        self.ffn = MSFN(channels, config.hidden_channels(channels), bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Operation(nn.Module):
    """An expert, or the MEFC's first 1x1: the given layers in order, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def separable_expert(channels: int, kernel_size: int) -> Operation:
    """Depth-wise k x k and 1x1, twice, with a ReLU in between."""
    return Operation(
        conv(channels, channels, kernel_size, groups=channels),
        conv(channels, channels, 1),
        nn.ReLU(),
        conv(channels, channels, kernel_size, groups=channels),
        conv(channels, channels, 1),
    )


def dilated_expert(channels: int, kernel_size: int) -> Operation:
    """Depth-wise k x k with dilation 2, then 1x1."""
    dilated = Conv2d(channels, channels, kernel_size, padding=kernel_size - 1, dilation=2, groups=channels, bias=False)
    return Operation(dilated, conv(channels, channels, 1))


def average_expert() -> Operation:
    """3x3 average that does not count the padding."""
    return Operation(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False))


class ExpertStep(nn.Module):
    """One step of the experts: s -> ReLU(1x1(concatenation of the weighted experts of s)), both (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(
            [
                *(separable_expert(channels, kernel_size) for kernel_size in (1, 3, 5, 7)),
                *(dilated_expert(channels, kernel_size) for kernel_size in (3, 5, 7)),
                average_expert(),
            ]
        )
        self._out = nn.Sequential(conv(EXPERTS * channels, channels, 1), nn.ReLU())

    def forward(self, s: Tensor, weights: Tensor) -> Tensor:
        """Weights: (B, E), the gate's softmax for this step."""
        w = weights.to(s.dtype)[:, :, None, None, None]  # (B, E, 1, 1, 1)
        return self._out(torch.cat([w[:, j] * expert(s) for j, expert in enumerate(self._ops)], dim=1))


class Experts(nn.Module):
    """The experts of the MEFC in T steps, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.preprocess = Operation(conv(channels, channels, 1))
        self._ops = nn.ModuleList([ExpertStep(channels) for _ in range(STEPS)])

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Weights: (B, T, E)."""
        s = F.relu(self.preprocess(x))
        for i, step in enumerate(self._ops):
            s = F.relu(step(s, weights[:, i]) + s)
        return s


class Gate(nn.Module):
    """Weights of the experts from the global average of the input (Sec. 3.4), (B, C, H, W) -> (B, T, E)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = STEPS * EXPERTS
        self.ca_fc = nn.Sequential(nn.Linear(channels, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.ca_fc(x.mean(dim=(2, 3)))  # (B, T * E)
        return logits.view(-1, STEPS, EXPERTS).softmax(dim=-1)


class MEFC(nn.Module):
    """Mixture of experts feature compensator (Sec. 3.4), (B, C, H, W) -> (B, C, H, W). One gate serves all steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Gate(channels), Experts(channels)])

    def forward(self, x: Tensor) -> Tensor:
        gate, experts = self.layers
        return experts(x, gate(x))


class PatchEmbed(nn.Module):
    """Overlapped patch embedding, (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = conv(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Downsample(nn.Module):
    """(B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels // 2, 3), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """(B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, 2 * channels, 3), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class DRSformer(nn.Module):
    """The whole network (Fig. 2): rainy (B, 3, H, W) -> restored (B, 3, H, W).

    H and W are multiples of 8 * S (`config.size_multiple`), values are RGB in [0, 1]; the output is not clamped.
    `drsformer.derain` pads, tiles and clamps for images of any size. Level 1 works on H/S x W/S pixels; S = 1 is the
    paper's network.

    Raises:
        ConfigError: H or W is not a positive multiple of 8 * S.
    """

    def __init__(self, config: DRSformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DRSformerConfig()
        C, S = config.dim, config.stem

        def blocks(level: int, channels: int) -> nn.Sequential:
            heads, number = config.num_heads[level], config.num_blocks[level]
            return nn.Sequential(*(SparseTransformerBlock(channels, heads, config) for _ in range(number)))

        def mefc(channels: int) -> nn.Module:
            return MEFC(channels) if config.mefc else nn.Identity()

        self.unshuffle = nn.PixelUnshuffle(S) if S > 1 else nn.Identity()
        self.patch_embed = PatchEmbed(config.image_channels, C)
        self.encoder_level0 = mefc(C)
        self.encoder_level1 = blocks(0, C)
        self.down1_2 = Downsample(C)
        self.encoder_level2 = blocks(1, 2 * C)
        self.down2_3 = Downsample(2 * C)
        self.encoder_level3 = blocks(2, 4 * C)
        self.down3_4 = Downsample(4 * C)
        self.latent = blocks(3, 8 * C)
        self.up4_3 = Upsample(8 * C)
        self.reduce_chan_level3 = conv(8 * C, 4 * C, 1, bias=config.bias)
        self.decoder_level3 = blocks(2, 4 * C)
        self.up3_2 = Upsample(4 * C)
        self.reduce_chan_level2 = conv(4 * C, 2 * C, 1, bias=config.bias)
        self.decoder_level2 = blocks(1, 2 * C)
        self.up2_1 = Upsample(2 * C)
        self.decoder_level1 = blocks(0, 2 * C)
        self.refinement = mefc(2 * C)
        self.output = conv(2 * C, config.image_channels, 3, bias=config.bias)
        self.shuffle = nn.PixelShuffle(S) if S > 1 else nn.Identity()

    if TYPE_CHECKING:
        __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ConfigError(f"expected a tensor of shape (B, 3, H, W), not {tuple(x.shape)}")
        H, W = x.shape[-2:]
        multiple = self.config.size_multiple
        if H % multiple or W % multiple or not H or not W:
            raise ConfigError(f"H and W must be positive multiples of {multiple}, not {H} and {W}")
        # From here on, H and W in the shapes are those of the unshuffled image, (B, 3 S^2, H/S, W/S).
        level1 = self.encoder_level1(self.encoder_level0(self.patch_embed(self.unshuffle(x))))  # (B, C, H, W)
        level2 = self.encoder_level2(self.down1_2(level1))  # (B, 2C, H/2, W/2)
        level3 = self.encoder_level3(self.down2_3(level2))  # (B, 4C, H/4, W/4)
        y = self.latent(self.down3_4(level3))  # (B, 8C, H/8, W/8)
        y = self.reduce_chan_level3(torch.cat([self.up4_3(y), level3], dim=1))
        y = self.decoder_level3(y)  # (B, 4C, H/4, W/4)
        y = self.reduce_chan_level2(torch.cat([self.up3_2(y), level2], dim=1))
        y = self.decoder_level2(y)  # (B, 2C, H/2, W/2)
        y = torch.cat([self.up2_1(y), level1], dim=1)  # (B, 2C, H, W)
        del level1, level2, level3  # in inference, frees memory for the last blocks, which need the most
        y = self.refinement(self.decoder_level1(y))
        return self.shuffle(self.output(y)) + x
