"""The network with changed parts, for the ablations of the paper (Sec. 4.3) and similar ones.

They are not in `model.py`, so that it stays as simple as the paper's figure. Unchanged parts have the published keys.

Shapes as in `model.py`: B C H W, N heads, D = C / N, h hidden channels, E experts, T steps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsformer.config import check_keys
from drsformer.errors import ConfigError
from drsformer.model import (
    EXPERTS,
    MEFC,
    STEPS,
    TKSA,
    TOP_K_RATIOS,
    DRSformer,
    Experts,
    ExpertStep,
    Gate,
    SparseTransformerBlock,
    conv,
)

if TYPE_CHECKING:
    from drsformer.config import DRSformerConfig

FeedForwardName = Literal["msfn", "gdfn", "dfn", "fn"]


@dataclass(frozen=True)
class Ablation:
    """Changes of the network; the defaults are the paper's network.

    Attributes:
        top_k: Fraction of a row of the attention map that each sparse map keeps; empty: one dense map.
        experts: Number of experts per step of the MEFC, the first of this order: separable 1x1, 3x3, 5x5, 7x7, dilated
            3x3, 5x5, 7x7, average. 0: no MEFC.
        mefc: Position of the MEFC: before encoder level 1 (early), after decoder level 1 (final), or both.
        feed_forward: MSFN; GDFN of Restormer (Zamir et al., CVPR 2022, Eq. 3); DFN, depth-wise 3x3 between two 1x1;
            FN, two 1x1.

    Raises:
        ConfigError: A value is out of its range.
    """

    top_k: tuple[float, ...] = tuple(numerator / denominator for numerator, denominator in TOP_K_RATIOS)
    experts: int = EXPERTS
    mefc: Literal["both", "early", "final"] = "both"
    feed_forward: FeedForwardName = "msfn"

    def __post_init__(self) -> None:
        object.__setattr__(self, "top_k", tuple(self.top_k))  # a list in checkpoints
        if not all(isinstance(share, int | float) and 0 < share <= 1 for share in self.top_k):
            raise ConfigError(f"top_k must be numbers above 0 and up to 1, not {self.top_k!r}")
        if isinstance(self.experts, bool) or not isinstance(self.experts, int) or not 0 <= self.experts <= EXPERTS:
            raise ConfigError(f"experts must be an integer from 0 to {EXPERTS}, not {self.experts!r}")
        if self.mefc not in ("both", "early", "final"):
            raise ConfigError(f"mefc must be both, early or final, not {self.mefc!r}")
        if self.feed_forward not in ("msfn", *FEED_FORWARDS):
            raise ConfigError(f"feed_forward must be msfn, {', '.join(FEED_FORWARDS)}, not {self.feed_forward!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in our checkpoints."""
        return {**asdict(self), "top_k": list(self.top_k)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Ablation:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: A key is unknown or a value is out of its range.
        """
        check_keys(values, cls, "ablation")
        return cls(**values)


def build(config: DRSformerConfig, ablation: Ablation) -> DRSformer:
    """The network of a configuration, with the changes of an ablation."""
    return DRSformer(config) if ablation == Ablation() else AblatedDRSformer(config, ablation)


class AblatedDRSformer(DRSformer):
    """A DRSformer with changed parts: rainy (B, 3, H, W) -> restored (B, 3, H, W)."""

    def __init__(self, config: DRSformerConfig, ablation: Ablation) -> None:
        super().__init__(config)
        self.ablation = ablation
        for block in [module for module in self.modules() if isinstance(module, SparseTransformerBlock)]:
            channels = block.attn.qkv.in_channels
            if ablation.top_k != Ablation.top_k:
                block.attn = AblatedTKSA(channels, block.attn.num_heads, ablation.top_k, bias=config.bias)
            if ablation.feed_forward != "msfn":
                feed_forward = FEED_FORWARDS[ablation.feed_forward]
                block.ffn = feed_forward(  # type: ignore[assignment]
                    channels, config.hidden_channels(channels), bias=config.bias
                )
        for name, place, channels in (("encoder_level0", "early", config.dim), ("refinement", "final", 2 * config.dim)):
            if not config.mefc or ablation.experts == 0 or ablation.mefc not in ("both", place):
                setattr(self, name, nn.Identity())
            else:
                setattr(self, name, _mefc(channels, ablation.experts))


class AblatedTKSA(TKSA):
    """TKSA with any number of sparse maps, `attn1`, `attn2`, ...; with none, a single dense map without a weight."""

    def __init__(self, channels: int, num_heads: int, top_k: tuple[float, ...], *, bias: bool) -> None:
        super().__init__(channels, num_heads, bias=bias)
        self.shares = [Fraction(share).limit_denominator(1000) for share in top_k]
        for i in range(len(TOP_K_RATIOS)):
            delattr(self, f"attn{i + 1}")
        for i in range(len(top_k)):
            self.register_parameter(f"attn{i + 1}", nn.Parameter(torch.tensor([0.8 / len(top_k)])))

    def sparse_attention(self, scores: Tensor) -> Tensor:
        """Sum of the maps, each the softmax over the k largest scores of a row: (B, N, D, D) -> (B, N, D, D)."""
        if not self.shares:
            return scores.softmax(dim=-1)
        total = torch.zeros_like(scores)
        for i, share in enumerate(self.shares):
            largest, columns = scores.topk(max(1, int(share * scores.shape[-1])), dim=-1)
            weight = getattr(self, f"attn{i + 1}")
            total = total + torch.zeros_like(scores).scatter(-1, columns, weight * largest.softmax(dim=-1))
        return total


class GDFN(nn.Module):
    """Gated depth-wise feed-forward network: 1x1(GELU(a) * b), [a, b] = dw3x3(1x1(x)); (B, C, H, W) both."""

    def __init__(self, channels: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.project_in = conv(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = conv(2 * hidden, 2 * hidden, 3, groups=2 * hidden, bias=bias)
        self.project_out = conv(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        a, b = self.dwconv(self.project_in(x)).chunk(2, dim=1)  # each (B, h, H, W)
        return self.project_out(F.gelu(a) * b)


class DFN(nn.Module):
    """Depth-wise feed-forward network: 1x1(GELU(dw3x3(1x1(x)))); (B, C, H, W) both."""

    def __init__(self, channels: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.project_in = conv(channels, hidden, 1, bias=bias)
        self.dwconv = conv(hidden, hidden, 3, groups=hidden, bias=bias)
        self.project_out = conv(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.project_out(F.gelu(self.dwconv(self.project_in(x))))


class FN(nn.Module):
    """Feed-forward network: 1x1(GELU(1x1(x))); (B, C, H, W) both."""

    def __init__(self, channels: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.project_in = conv(channels, hidden, 1, bias=bias)
        self.project_out = conv(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.project_out(F.gelu(self.project_in(x)))


FEED_FORWARDS: dict[str, type[GDFN | DFN | FN]] = {"gdfn": GDFN, "dfn": DFN, "fn": FN}
"""Modules that can replace the MSFN."""


class AblatedGate(Gate):
    """Weights of fewer experts, (B, C, H, W) -> (B, T, E); the hidden layer keeps its width."""

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__(channels)
        hidden = cast("nn.Linear", self.ca_fc[2]).in_features
        self.ca_fc[2] = nn.Linear(hidden, STEPS * experts)
        self.experts = experts

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, T, E)."""
        return self.ca_fc(x.mean(dim=(2, 3))).view(-1, STEPS, self.experts).softmax(dim=-1)


def _mefc(channels: int, experts: int) -> MEFC:
    """An MEFC with only the first experts."""
    mefc = MEFC(channels)
    if experts < EXPERTS:
        mefc.layers[0] = AblatedGate(channels, experts)
        for step in cast("Experts", mefc.layers[1])._ops:
            step = cast("ExpertStep", step)
            step._ops = step._ops[:experts]
            step._out[0] = conv(experts * channels, channels, 1)
    return mefc
