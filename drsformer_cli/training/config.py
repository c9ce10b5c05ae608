"""The configuration of a training run: the sections of its TOML file, and how files and recipes are loaded."""

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
    """Ablations of the network; the defaults are the paper's network. See `drsformer.ablations`."""

    attention: Literal["sparse", "dense"] = "sparse"
    top_k: Annotated[tuple[float, ...], Limits(0, 1)] = Ablation.top_k
    experts: Annotated[int, Limits(0, 8)] = Ablation.experts
    mefc: Literal["both", "early", "final"] = Ablation.mefc
    feed_forward: Literal["msfn", "gdfn", "dfn", "fn"] = Ablation.feed_forward

    def mistakes(self) -> list[str]:
        """Invalid combinations of values."""
        return _raised(self.ablation)

    def ablation(self) -> Ablation:
        """These values as the library's `Ablation`."""
        top_k = () if self.attention == "dense" else self.top_k
        return Ablation(top_k, self.experts, self.mefc, self.feed_forward)


@dataclass(frozen=True)
class ModelSection:
    """The network: a preset, and values that replace those of the preset.

    Attributes:
        preset: Named configuration.
        weights: Model or checkpoint file to start from; empty: random weights.
        grow: Whether the weights may be those of a network with fewer blocks; additional blocks start as the identity.
        ablation: Changes for experiments.
    """

    preset: Literal["half", "small", "plain", "mefc"] = "mefc"
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
        """Values that the network refuses, and invalid combinations."""
        found = _raised(self.network)
        if self.grow and not self.weights:
            found.append("grow: expected weights to grow from")
        return found

    def network(self) -> DRSformerConfig:
        """The configuration of the network."""
        values = PRESETS[self.preset].to_dict()
        changed = {name: getattr(self, name) for name in values if getattr(self, name) is not None}
        return DRSformerConfig.from_dict({**values, **changed})


@dataclass(frozen=True)
class DataSection:
    """The training data. Paths are relative to the folder that the command runs in.

    Attributes:
        sources: Sources by name; each sample comes from one of them, drawn by weight.
        clean: Folders of clean images for the sources without folders of their own.
        camera: Light, noise and compression of clean images and of images with added rain.
        patch: Side of the patches in pixels, a multiple of 8 * model.stem; smaller images are padded by reflection.
        crop: Position of the patches; center: always the middle, to see whether a network can overfit.
        flips: Whether patches are flipped at random, horizontally and vertically.
        turns: Whether patches are rotated at random by multiples of 90 degrees.
        mixup: Probability that a sample is blended with another one.
        workers: Threads that prepare samples ahead; 0: each batch is prepared when it is needed.
        cache: Megabytes of decoded images that are kept in memory.
        decode: Whether all images are decoded at the start, to find damaged ones; otherwise only their headers are
            read, and a damaged image is replaced when it is drawn.
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
        """Invalid values and combinations."""
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
    """Loss, optimizer and schedule.

    Attributes:
        steps: Number of trainer steps.
        batch: Samples per step, over all processes and accumulation: the effective batch size.
        accumulate: Parts that each process splits its share of the batch into, to save memory.
        loss: l1, the mean absolute difference; charbonnier, the mean of sqrt(difference**2 + charbonnier_eps**2); or
            rmse, the mean over samples of sqrt(mean(difference**2) + charbonnier_eps**2), which is closest to PSNR.
        optimizer: AdamW; or Muon for the kernels that mix channels and AdamW for the other parameters.
        lr: Learning rate, constant for `constant` steps, then falling to `final_lr` by a cosine.
        warmup: Steps at the beginning in which the learning rate rises from zero.
        constant: Steps before the learning rate begins to fall, including the warm-up.
        betas: Betas of AdamW.
        weight_decay: Decoupled weight decay.
        clip: Largest norm of the gradients; larger ones are scaled down. 0: they are not clipped.
        ema: Decay of the exponential moving average of the weights, which is validated and saved as best.pth; 0: no
            average.
        precision: Precision of the forward pass; auto: bf16 or fp16 on GPUs that support it, otherwise fp32.
        compile: Whether to use torch.compile, which takes minutes at the start and makes steps faster on GPUs.
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
        """Invalid combinations of values."""
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
        path: Folder of the pairs.
        side_by_side: Which half is the clean image, if each file holds a pair.
        required: Whether a missing folder is an error; otherwise it is skipped.
        images: Largest number of pairs, evenly spread over the folder; 0: all. Default: validation.images.
        crop: Side of the square in the middle of larger images that is used; 0: the whole image. Default:
            validation.crop.
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
    """When and on which images the network is validated, by Y-PSNR and SSIM.

    The best checkpoint is the one with the highest mean PSNR over all sets, held-out sets included.

    Attributes:
        every: Steps between validations; 0: no validation.
        paired: Sets of pairs, by name.
        held_out: Fraction of the clean images, layers and pairs that is not trained on; each source with rain has a
            validation set made of them, always with the same rain.
        images: Largest number of images of a set, evenly spread; 0: all pairs of a folder, 16 held-out images.
        crop: Side of the square in the middle of larger images that is used; 0: the whole image, 256 for held-out
            images.
        protocol: How luma is computed, see `drsformer_cli.metrics`.
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
    """Values that change after a number of steps; values that are omitted do not change.

    Attributes:
        after: Number of steps before the stage.
        patch: New value of data.patch.
        batch: New value of training.batch.
        loss: New value of training.loss.
        weights: New weights of sources, by name.
    """

    after: Positive
    patch: Patch | None = None
    batch: Batch | None = None
    loss: Loss | None = None
    weights: dict[str, Weight] = field(default_factory=dict)

    def mistakes(self) -> list[str]:
        """Invalid values."""
        return _patch_mistakes(self.patch) if self.patch is not None else []


@dataclass(frozen=True)
class OutputSection:
    """The files that the run writes.

    Attributes:
        log_every: Steps between lines of metrics.jsonl.
        save_every: Steps between checkpoints.
        keep: Number of latest checkpoints to keep; the best is kept in addition.
        half: Whether best.pth is stored in float16, half the size.
    """

    log_every: Positive = 50
    save_every: Positive = 1000
    keep: Annotated[int, Limits(1, 10**6)] = 3
    half: bool = False


@dataclass(frozen=True)
class Config:
    """The configuration of a training run.

    Attributes:
        data: Training data.
        seed: Seed of everything random.
        model: The network.
        training: Loss, optimizer and schedule.
        validation: When and on which images the network is validated.
        output: The files that the run writes.
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
        """Invalid combinations of values of different sections."""
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
        if _raised(self.model.network):  # reported by ModelSection
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
        """The configuration at a step, counted from 1, with the changes of the stages."""
        return next(config for after, config in reversed(self._resolved) if step > after)

    def stage_steps(self) -> list[int]:
        """The first step of each stage that is reached, step 1 included."""
        return [after + 1 for after, _ in self._resolved if after < self.training.steps]


def load(name: str, settings: list[str]) -> Config:
    """The configuration of a file or a bundled recipe, with `key=value` settings on top.

    Raises:
        UsageError: There is no such file or recipe, it is not TOML, or files are the base of each other.
        MistakesError: The configuration has mistakes; the error lists all of them.
    """
    table = _with_base(name, f"--config {name}", Path())
    toml_config.override(table, settings)
    return toml_config.parse(Config, table, name)


def _with_base(name: str, key: str, folder: Path, above: tuple[Path, ...] = ()) -> toml_config.Table:
    """The tables of a file or recipe, merged over those of its `base`: a recipe, or a file relative to its folder."""
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
    """The ConfigError that a function raises, as a list of mistakes."""
    try:
        make()
    except ConfigError as error:
        return [str(error)]
    return []
