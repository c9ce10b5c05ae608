"""The network written literally from its description: the reference for parity and for measurements of speed.

NCHW, no rearrangement: four attention products with v, layer norm on a reshaped copy, grouped convolutions, experts one
by one and concatenated. Functions over a state dict with the published keys; `drsformer.model` shares no code with it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def forward(w: State, x: Tensor, heads: tuple[int, ...] = (1, 2, 4, 8)) -> Tensor:
    """Restore x (B, 3, H, W) with the weights w."""
    stem = math.isqrt(w["patch_embed.proj.weight"].shape[1] // 3)
    level1 = conv(w, "patch_embed.proj", F.pixel_unshuffle(x, stem))
    if any(key.startswith("encoder_level0.") for key in w):
        level1 = mefc(w, "encoder_level0", level1)
    level1 = blocks(w, "encoder_level1", level1, heads[0])
    level2 = blocks(w, "encoder_level2", down(w, "down1_2", level1), heads[1])
    level3 = blocks(w, "encoder_level3", down(w, "down2_3", level2), heads[2])
    y = blocks(w, "latent", down(w, "down3_4", level3), heads[3])
    y = conv(w, "reduce_chan_level3", torch.cat([up(w, "up4_3", y), level3], 1))
    y = blocks(w, "decoder_level3", y, heads[2])
    y = conv(w, "reduce_chan_level2", torch.cat([up(w, "up3_2", y), level2], 1))
    y = blocks(w, "decoder_level2", y, heads[1])
    y = blocks(w, "decoder_level1", torch.cat([up(w, "up2_1", y), level1], 1), heads[0])
    if any(key.startswith("refinement.") for key in w):
        y = mefc(w, "refinement", y)
    return F.pixel_shuffle(conv(w, "output", y), stem) + x


def conv(w: State, key: str, x: Tensor, groups: int = 1, dilation: int = 1) -> Tensor:
    weight = w[f"{key}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, w.get(f"{key}.bias"), padding=padding, groups=groups, dilation=dilation)


def down(w: State, key: str, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(conv(w, f"{key}.body.0", x), 2)


def up(w: State, key: str, x: Tensor) -> Tensor:
    return F.pixel_shuffle(conv(w, f"{key}.body.0", x), 2)


def blocks(w: State, key: str, x: Tensor, heads: int) -> Tensor:
    i = 0
    while f"{key}.{i}.attn.temperature" in w:
        x = x + tksa(w, f"{key}.{i}.attn", layer_norm(w, f"{key}.{i}.norm1", x), heads)
        x = x + msfn(w, f"{key}.{i}.ffn", layer_norm(w, f"{key}.{i}.norm2", x))
        i += 1
    return x


def layer_norm(w: State, key: str, x: Tensor) -> Tensor:
    B, C, H, W = x.shape
    flat = x.reshape(B, C, H * W).transpose(1, 2)  # (B, HW, C)
    variance = flat.var(-1, keepdim=True, correction=0)
    weight, bias = w[f"{key}.body.weight"], w.get(f"{key}.body.bias")
    if bias is None:
        flat = flat / torch.sqrt(variance + 1e-5) * weight
    else:
        flat = (flat - flat.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5) * weight + bias
    return flat.transpose(1, 2).reshape(B, C, H, W)


def tksa(w: State, key: str, x: Tensor, heads: int) -> Tensor:
    B, C, H, W = x.shape
    qkv = conv(w, f"{key}.qkv_dwconv", conv(w, f"{key}.qkv", x), groups=3 * C)
    q, k, v = (part.reshape(B, heads, C // heads, H * W) for part in qkv.chunk(3, 1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    scores = q @ k.transpose(-2, -1) * w[f"{key}.temperature"]
    d = C // heads
    out = torch.zeros_like(v)
    for i, keep in enumerate((d // 2, d * 2 // 3, d * 3 // 4, d * 4 // 5), start=1):
        kept = torch.zeros_like(scores).scatter(-1, scores.topk(keep, -1).indices, 1.0)
        attention = scores.masked_fill(kept == 0, float("-inf")).softmax(-1)
        out = out + attention @ v * w[f"{key}.attn{i}"]
    return conv(w, f"{key}.project_out", out.reshape(B, C, H, W))


def msfn(w: State, key: str, x: Tensor) -> Tensor:
    x = conv(w, f"{key}.project_in", x)
    h = x.shape[1] // 2
    a1, a2 = F.relu(conv(w, f"{key}.dwconv3x3", x, groups=2 * h)).chunk(2, 1)
    b1, b2 = F.relu(conv(w, f"{key}.dwconv5x5", x, groups=2 * h)).chunk(2, 1)
    p = F.relu(conv(w, f"{key}.dwconv3x3_1", torch.cat([a1, b1], 1), groups=h))
    s = F.relu(conv(w, f"{key}.dwconv5x5_1", torch.cat([a2, b2], 1), groups=h))
    return conv(w, f"{key}.project_out", torch.cat([p, s], 1))


def mefc(w: State, key: str, x: Tensor) -> Tensor:
    gate = f"{key}.layers.0.ca_fc"
    hidden = F.relu(F.linear(x.mean((2, 3)), w[f"{gate}.0.weight"], w[f"{gate}.0.bias"]))
    weights = F.linear(hidden, w[f"{gate}.2.weight"], w[f"{gate}.2.bias"]).view(-1, 4, 8).softmax(-1)
    experts = f"{key}.layers.1"
    s = F.relu(conv(w, f"{experts}.preprocess.op.0", x))
    for i in range(4):
        step = f"{experts}._ops.{i}"
        outputs = [expert(w, f"{step}._ops.{j}.op", s, j) * weights[:, i, j, None, None, None] for j in range(8)]
        s = F.relu(F.relu(conv(w, f"{step}._out.0", torch.cat(outputs, 1))) + s)
    return s


def expert(w: State, key: str, s: Tensor, j: int) -> Tensor:
    C = s.shape[1]
    if j < 4:
        s = F.relu(conv(w, f"{key}.1", conv(w, f"{key}.0", s, groups=C)))
        return conv(w, f"{key}.4", conv(w, f"{key}.3", s, groups=C))
    if j < 7:
        return conv(w, f"{key}.1", conv(w, f"{key}.0", s, groups=C, dilation=2))
    return F.avg_pool2d(s, 3, stride=1, padding=1, count_include_pad=False)
