"""What a training run is made of: the sections of its TOML file, and the bundled recipes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from drsformer.ablations import Ablation
from drsformer.config import PRESETS, DRSformerConfig
from drsformer.errors import ConfigError
from drsformer_cli import recipes
from drsformer_cli.datasets import SideBySide  # noqa: TC001 - the schema is read at run time
from drsformer_cli.errors import UsageError
from drsformer_cli.training import toml_config
from drsformer_cli.training.rain import CameraRanges, Probability
from drsformer_cli.training.sources import AnySource, OnCleanImages, Paired, Paths, Weight
from drsformer_cli.training.toml_config import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

Positive = Annotated[int, Limits(1, 10**9)]
Count = Annotated[int, Limits(0, 10**9)]
Patch = Annotated[int, Limits(8, 4096)]
Batch = Annotated[int, Limits(1, 65536)]
Loss = Literal["l1", "charbonnier", "rmse"]


@dataclass(frozen=True)
class AblationSection:
    """The paper's ablations; what is left out is as in the paper's network. See `drsformer.ablations`."""

    attention: Literal["sparse", "dense"] = "sparse"
    top_k: Annotated[tuple[float, ...], Limits(0, 1)] = Ablation.top_k
    experts: Annotated[int, Limits(0, 8)] = Ablation.experts
    mefc: Literal["both", "early", "final"] = Ablation.mefc
    feed_forward: Literal["msfn", "gdfn", "dfn", "fn"] = Ablation.feed_forward

    def mistakes(self) -> list[str]:
        """What does not go together."""
        return _raised(self.ablation)

    def ablation(self) -> Ablation:
        """The same for the library."""
        top_k = () if self.attention == "dense" else self.top_k
        return Ablation(top_k, self.experts, self.mefc, self.feed_forward)


@dataclass(frozen=True)
class ModelSection:
    """The network: a preset, and what differs from it.

    Attributes:
        preset: Named configuration that the other values replace.
        weights: Bundled model or checkpoint file to start from; empty: random weights.
        grow: Whether the weights may be those of a network with fewer blocks; additional blocks start as the identity.
        ablation: Changes for experiments.
    """

    preset: Literal["small", "plain", "mefc"] = "mefc"
    dim: int | None = None
    num_blocks: tuple[int, int, int, int] | None = None
    num_heads: tuple[int, int, int, int] | None = None
    ffn_expansion_factor: float | None = None
    bias: bool | None = None
    norm_bias: bool | None = None
    mefc: bool | None = None
    stem: int | None = None
    weights: str = ""
    grow: bool = False
    ablation: AblationSection = field(default_factory=AblationSection)

    def mistakes(self) -> list[str]:
        """What the network refuses, or what does not go together."""
        found = _raised(self.network)
        if self.grow and not self.weights:
            found.append("grow: expected weights to grow from")
        return found

    def network(self) -> DRSformerConfig:
        """Configuration of the network."""
        values = PRESETS[self.preset].to_dict()
        changed = {name: getattr(self, name) for name in values if getattr(self, name) is not None}
        return DRSformerConfig.from_dict({**values, **changed})


@dataclass(frozen=True)
class DataSection:
    """What is trained on. Paths are relative to the folder that the command runs in.

    Attributes:
        sources: By name; each sample comes from one of them, drawn by weight.
        clean: Folders of clean images for the sources that name none.
        camera: Light, noise and compression of their images.
        patch: Side of the crops in pixels, a multiple of 8 * model.stem; smaller images are padded by reflection.
        crop: Where they are taken; center: always the middle, to see whether a network can overfit.
        flips: Whether crops are mirrored at random, both ways.
        turns: Whether they are turned by quarters at random.
        mixup: Probability that a sample is blended with another one.
        workers: Threads that prepare samples ahead; 0: none, each batch is made when it is wanted.
        cache: Megabytes of decoded images that are kept in memory.
        decode: Whether every image is decoded at the start, to find damaged ones; otherwise its header is read, and
            a damaged one is replaced when it is drawn.
    """

    sources: dict[str, AnySource]
    clean: Paths = ()
    camera: CameraRanges = field(default_factory=CameraRanges)
    patch: Patch = 128
    crop: Literal["random", "center"] = "random"
    flips: bool = True
    turns: bool = True
    mixup: Probability = 0.0
    workers: Annotated[int, Limits(0, 256)] = 2
    cache: Count = 2048
    decode: bool = True

    def mistakes(self) -> list[str]:
        """What does not go together."""
        found = _patch_mistakes(self.patch)
        if not self.sources:
            found.append('sources: expected at least one, such as [data.sources.rendered] with kind = "rendered"')
        shared = any(isinstance(source, Paired) and source.share_clean for source in self.sources.values())
        for name, source in self.sources.items():
            if isinstance(source, OnCleanImages) and not (source.clean or self.clean or shared):
                found.append(f'sources.{name}: no clean images; expected data.clean = ["FOLDER"]')
        return found


def _patch_mistakes(patch: int) -> list[str]:
    return [f"patch: expected a multiple of 8, not {patch}"] if patch % 8 else []


@dataclass(frozen=True)
class TrainingSection:
    """How it is trained.

    Attributes:
        steps: Steps of the optimizer.
        batch: Samples a step, over all processes and accumulation: the effective batch size.
        accumulate: Parts that each process splits its share of the batch into, to save memory.
        loss: The mean over all values of L1 or of Charbonnier's sqrt(difference**2 + charbonnier_eps**2); or rmse, the
            mean over samples of sqrt(mean(difference**2) + charbonnier_eps**2), which is nearer to what PSNR measures.
        optimizer: AdamW, or Muon for the kernels that mix channels beside AdamW for the rest.
        lr: Learning rate, constant for `constant` steps, then falling to `final_lr` by a cosine.
        warmup: Steps in which it rises from zero first.
        constant: Steps before it begins to fall, warm-up included.
        betas: Coefficients of AdamW.
        weight_decay: Decoupled from the gradient.
        clip: Norm that gradients are clipped to; 0: not at all.
        ema: Decay of the averaged weights, which are validated and saved as the best; 0: none.
        precision: Precision of the forward pass; auto: bf16 or fp16 on GPUs that support it, otherwise fp32.
        compile: Whether torch.compile prepares the network; minutes at the start, faster afterwards on GPUs.
        tf32: Whether GPUs may round float32 products to TF32.
    """

    steps: Positive = 300_000
    batch: Batch = 8
    accumulate: Annotated[int, Limits(1, 65536)] = 1
    loss: Loss = "l1"
    charbonnier_eps: Annotated[float, Limits(1e-9, 1)] = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Limits(1e-12, 10)] = 3e-4
    final_lr: Annotated[float, Limits(0, 10)] = 1e-6
    warmup: Count = 0
    constant: Count = 92_000
    betas: Annotated[tuple[float, float], Limits(0, 0.999999)] = (0.9, 0.999)
    weight_decay: Annotated[float, Limits(0, 10)] = 1e-4
    clip: Annotated[float, Limits(0, 1e6)] = 0.01
    ema: Annotated[float, Limits(0, 0.999999)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    tf32: bool = True

    def mistakes(self) -> list[str]:
        """What does not go together."""
        found = []
        if self.final_lr > self.lr:
            found.append(f"final_lr: expected at most lr ({self.lr:g}), not {self.final_lr:g}")
        if self.batch % self.accumulate:
            found.append(f"accumulate: expected a divisor of batch ({self.batch}), not {self.accumulate}")
        return found


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs to validate on.

    Attributes:
        path: Folder.
        side_by_side: Which half is the clean one, where one file holds both.
        required: Whether the run is refused when the folder does not exist; else it is left out.
        images: Most images of the folder, evenly spread; 0: all. Default: that of [validation].
        crop: Side of the part in the middle of larger images that is used; 0: the whole. Default: that of [validation].
    """

    path: str
    side_by_side: SideBySide | None = None
    required: bool = True
    images: Count | None = None
    crop: Count | None = None

    def mistakes(self) -> list[str]:
        """What is out of range."""
        return _crop_mistakes(self.crop or 0)


@dataclass(frozen=True)
class ValidationSection:
    """When and on what it is measured, by Y-PSNR and SSIM.

    The best checkpoint is that of the highest mean over all sets, those that are held out included.

    Attributes:
        every: Steps between validations; 0: none.
        paired: Sets of pairs, by name.
        held_out: Fraction of the clean images and layers that is kept from training; each source that makes rain has a
            set of them, with rain drawn once.
        images: Most images of a set, evenly spread; 0: all of a folder, 16 that are held out.
        crop: Side of the part in the middle of larger images that is used; 0: the whole, 256 where it is held out.
        protocol: How luma is rounded, see `drsformer_cli.metrics`.
    """

    every: Count = 1000
    paired: dict[str, ValidationPairs] = field(default_factory=dict)
    held_out: Annotated[float, Limits(0, 0.9)] = 0.0
    images: Count = 0
    crop: Count = 0
    protocol: Literal["uint8-Y", "float-Y"] = "uint8-Y"

    def mistakes(self) -> list[str]:
        """What is out of range."""
        return _crop_mistakes(self.crop)


def _crop_mistakes(crop: int) -> list[str]:
    return [f"crop: expected 0 or at least 16, not {crop}"] if 0 < crop < 16 else []


@dataclass(frozen=True)
class Stage:
    """Values that change after a number of steps; values that are omitted stay as they are.

    Attributes:
        after: Steps before the stage.
        patch: As in [data].
        batch: As in [training].
        loss: As in [training].
        weights: Weights of sources, by name.
    """

    after: Positive
    patch: Patch | None = None
    batch: Batch | None = None
    loss: Loss | None = None
    weights: dict[str, Weight] = field(default_factory=dict)

    def mistakes(self) -> list[str]:
        """What does not go together."""
        return _patch_mistakes(self.patch) if self.patch is not None else []


@dataclass(frozen=True)
class OutputSection:
    """What the run writes.

    Attributes:
        log_every: Steps between lines of metrics.jsonl.
        save_every: Steps between checkpoints.
        keep: How many of the latest checkpoints are kept; the best is kept besides.
        half: Whether best.pth is stored in float16, half the size.
    """

    log_every: Positive = 50
    save_every: Positive = 1000
    keep: Annotated[int, Limits(1, 10**6)] = 3
    half: bool = False


@dataclass(frozen=True)
class Config:
    """A training run.

    Attributes:
        stages: Changes during the run, in the order of their steps.
    """

    data: DataSection
    seed: Count = 0
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    output: OutputSection = field(default_factory=OutputSection)
    stages: tuple[Stage, ...] = ()

    def mistakes(self) -> list[str]:
        """What does not go together."""
        found = self._patch_mistakes()
        last = 0
        for number, stage in enumerate(self.stages):
            if stage.after <= last:
                found.append(f"stages.{number}.after: expected more than {last}, not {stage.after}")
            last = stage.after
            found += [
                f"stages.{number}.weights.{name}: not in data.sources; expected one of {', '.join(self.data.sources)}"
                for name in stage.weights
                if name not in self.data.sources
            ]
            if stage.batch is not None and stage.batch % self.training.accumulate:
                found.append(
                    f"stages.{number}.batch: expected a multiple of training.accumulate "
                    f"({self.training.accumulate}), not {stage.batch}"
                )
        return found

    def _patch_mistakes(self) -> list[str]:
        if _raised(self.model.network):  # which is a mistake of its own
            return []
        multiple = self.model.network().size_multiple
        patches = {"data.patch": self.data.patch}
        patches |= {f"stages.{number}.patch": stage.patch or multiple for number, stage in enumerate(self.stages)}
        return [
            f"{key}: expected a multiple of {multiple}, 8 * model.stem, not {patch}"
            for key, patch in patches.items()
            if patch % 8 == 0 and patch % multiple
        ]

    @cached_property
    def _resolved(self) -> list[tuple[int, Config]]:
        """The configuration of each stage, with the number of steps before it."""
        config = self
        resolved = [(0, config)]
        for stage in self.stages:
            sources = {
                name: replace(source, weight=stage.weights.get(name, source.weight))
                for name, source in config.data.sources.items()
            }
            data = replace(config.data, sources=sources, patch=stage.patch or config.data.patch)
            training = replace(
                config.training, batch=stage.batch or config.training.batch, loss=stage.loss or config.training.loss
            )
            config = replace(config, data=data, training=training)
            resolved.append((stage.after, config))
        return resolved

    def at(self, step: int) -> Config:
        """The configuration of a step, from 1, with what the stages change."""
        return next(config for after, config in reversed(self._resolved) if step > after)

    def stage_steps(self) -> list[int]:
        """The first step of each stage that is reached, step 1 included."""
        return [after + 1 for after, _ in self._resolved if after < self.training.steps]


def load(name: str, settings: list[str]) -> Config:
    """The configuration of a file or a bundled recipe, with `key=value` settings on top.

    Raises:
        UsageError: There is no such file or recipe, it is not TOML, or files are the base of each other.
        MistakesError: It has mistakes; all of them are in it.
    """
    table = _with_base(name, f"--config {name}", Path())
    toml_config.override(table, settings)
    return toml_config.parse(Config, table, name)


def _with_base(name: str, key: str, folder: Path, above: tuple[Path, ...] = ()) -> toml_config.Table:
    """The tables of a file or recipe, over those of its `base`: a recipe, or a file relative to its own folder."""
    path = recipes.path(name) if name in recipes.NAMES else folder / name
    if not path.exists():
        names = ", ".join(recipes.NAMES)
        raise UsageError(f"{key}: no such file, and no recipe of that name; recipes: {names}")
    if path.resolve() in above:
        raise UsageError(f"{key}: a base of itself")
    table = toml_config.read(path)
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise UsageError(f"{path}: base: expected a recipe or a file, not {base!r}")
    below = _with_base(base, f"{path}: base {base}", path.parent, (*above, path.resolve()))
    return toml_config.merge(below, table)


def _raised(make: Callable[[], object]) -> list[str]:
    """What making it raises, as mistakes."""
    try:
        make()
    except ConfigError as error:
        return [str(error)]
    return []
