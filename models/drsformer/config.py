"""The configuration of a DRSformer, and presets. Does not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from drsformer.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LEVELS = 4
"""Resolution levels: H, H/2, H/4, H/8."""

STEMS = (1, 2, 4)
"""Possible factors of the PixelUnshuffle before the network."""

MAX_EXPANSION_FACTOR = 64
"""Far larger than useful values; a limit for untrusted files."""

SIZE_MULTIPLE = 2 ** (LEVELS - 1)
"""H and W of the input must be multiples of this; with a stem S, of S times this."""

MOST_NEIGHBORS = 8
"""Most frames of a video on each side that help to restore a frame."""


@dataclass(frozen=True)
class DRSformerConfig:
    """Architecture of a DRSformer (Chen et al., CVPR 2023, Sec. 3 and 4.1); the defaults are the paper's.

    Attributes:
        dim: Channels C after the patch embedding; level i works at C * 2**i.
        num_blocks: Sparse Transformer blocks at encoder levels 1 to 3 and in the latent; the decoder mirrors it.
        num_heads: Attention heads per level; each must divide its level's width into at least 2 channels per head.
        ffn_expansion_factor: MSFN hidden width h = floor(channels * factor).
        bias: Whether the convolutions of TKSA and MSFN, the channel reductions and the output carry a bias.
        norm_bias: Whether layer norm subtracts the mean and adds a bias; False is the bias-free form.
        mefc: Whether there is an MEFC before encoder level 1 and after decoder level 1 (preset "mefc", not "plain").
        stem: Factor S by which the resolution is reduced, with PixelUnshuffle(S) before the network and
            PixelShuffle(S) after it: 3 * S**2 channels in and out, level 1 at H/S x W/S. 1: the paper's network.

    Raises:
        ConfigError: A value has the wrong type or is out of its range.
    """

    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    num_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    norm_bias: bool = True
    mefc: bool = True
    stem: int = 1

    def __post_init__(self) -> None:
        for name in ("num_blocks", "num_heads"):
            value = getattr(self, name)
            if isinstance(value, list):  # lists come from TOML and checkpoints, but are not hashable
                object.__setattr__(self, name, tuple(value))
        if not _is_int(self.dim) or self.dim < 2 or self.dim % 2:
            raise ConfigError(f"dim must be an even integer of at least 2, not {self.dim!r}")
        for name in ("num_blocks", "num_heads"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != LEVELS or not all(_is_int(n) and n >= 1 for n in value):
                raise ConfigError(f"{name} must be {LEVELS} integers of at least 1, not {value!r}")
        self._check_heads()
        self._check_factor()
        for name in ("bias", "norm_bias", "mefc"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be true or false, not {value!r}")
        if not _is_int(self.stem) or self.stem not in STEMS:
            raise ConfigError(f"stem must be one of {', '.join(map(str, STEMS))}, not {self.stem!r}")

    def _check_heads(self) -> None:
        for level, heads in enumerate(self.num_heads):
            width = self.dim * 2**level
            if width % heads or width // heads < 2:
                raise ConfigError(
                    f"num_heads[{level}] must split {width} channels into equal heads of at least 2, not {heads}"
                )

    def _check_factor(self) -> None:
        factor: object = self.ffn_expansion_factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= MAX_EXPANSION_FACTOR:
            raise ConfigError(f"ffn_expansion_factor must be a number up to {MAX_EXPANSION_FACTOR}, not {factor!r:.30}")
        if self.hidden_channels(self.dim) < 1:
            raise ConfigError(f"ffn_expansion_factor must give at least one hidden channel, not {factor!r}")

    @property
    def image_channels(self) -> int:
        """Channels that the first convolution reads and the last one writes: 3 * stem**2."""
        return 3 * self.stem**2

    @property
    def size_multiple(self) -> int:
        """H and W of the input must be multiples of this: 8 * stem."""
        return SIZE_MULTIPLE * self.stem

    def hidden_channels(self, channels: int) -> int:
        """MSFN hidden width h of a block with `channels` channels: floor(channels * ffn_expansion_factor)."""
        return int(channels * self.ffn_expansion_factor)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, as stored in our checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DRSformerConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: A key is unknown or a value is out of its range.
        """
        check_keys(values, cls, "configuration key")
        return cls(**values)


def check_keys(values: dict[str, Any], kind: type[DataclassInstance], what: str) -> None:
    """Refuse keys that are not fields of a dataclass; `what` is the word for a key in the message.

    Raises:
        ConfigError: A key is unknown.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise ConfigError(f"unknown {what} {unknown[0]!r}; expected some of {', '.join(known)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


PRESETS = {
    # The two published variants: 33.7 M and 32.6 M parameters.
    "mefc": DRSformerConfig(),
    "plain": DRSformerConfig(mefc=False),
    # The bundled model `general`, at half of the resolution: 4.80 M parameters, 5.9 GMACs on 256x256.
    "half": DRSformerConfig(stem=2, dim=24, num_blocks=(2, 2, 3, 4), mefc=False),
    # 1.72 M parameters, 7.1 GMACs on 256x256.
    "small": DRSformerConfig(dim=16, num_blocks=(1, 1, 2, 3), mefc=False),
}
"""Named configurations."""
