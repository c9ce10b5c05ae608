"""What a training run is made of: the sections of its TOML file, and the bundled recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from drsformer.ablations import Ablation
from drsformer.config import PRESETS, DRSformerConfig
from drsformer.errors import ConfigError
from drsformer_cli.datasets import SideBySide  # noqa: TC001 - the schema is read at run time
from drsformer_cli.errors import UsageError
from drsformer_cli.training import toml_config
from drsformer_cli.training.rain import LayerRanges, RainRanges
from drsformer_cli.training.toml_config import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

Share = Annotated[float, Limits(0, 1)]
Positive = Annotated[int, Limits(1, 10**9)]
Count = Annotated[int, Limits(0, 10**9)]
Weight = Annotated[float, Limits(0, 1e9)]
Paths = tuple[str, ...]


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
        grow: Whether the weights may be of a network with fewer blocks; those that it lacks begin by changing nothing.
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
class Paired:
    """Pairs of rainy and clean images, in any layout that `drsformer_cli.datasets` knows.

    Attributes:
        path: Folder.
        weight: Share of the samples, relative to the other sources; 0 keeps it in reserve: it is used where no source
            with a weight was found.
        side_by_side: Which half is the clean one, where one file holds both.
        share_clean: Whether its clean images also serve the sources that make their own rain.
        required: Whether the run is refused when the folder does not exist; else the source is left out.
    """

    kind: Literal["paired"]
    path: str
    weight: Weight = 1.0
    side_by_side: SideBySide | None = None
    share_clean: bool = False
    required: bool = True


@dataclass(frozen=True)
class Layers:
    """Clean photos with gray streak layers added on the fly.

    Attributes:
        layers: Folders of layers.
        weight: As for pairs.
        clean: Folders of photos; empty: those of [data].
        required: As for pairs.
        vary: How a layer is varied.
    """

    kind: Literal["layers"]
    layers: Paths
    weight: Weight = 1.0
    clean: Paths = ()
    required: bool = True
    vary: LayerRanges = field(default_factory=LayerRanges)


@dataclass(frozen=True)
class Rendered:
    """Clean photos with rain drawn by `drsformer_cli.training.rain`.

    Attributes:
        weight: As for pairs.
        clean: Folders of photos; empty: those of [data].
        rain: What the rain is drawn from.
    """

    kind: Literal["rendered"]
    weight: Weight = 1.0
    clean: Paths = ()
    rain: RainRanges = field(default_factory=RainRanges)


@dataclass(frozen=True)
class Clean:
    """Clean photos as both input and target, so that the network learns to leave them alone.

    Attributes:
        weight: As for pairs.
        clean: Folders of photos; empty: those of [data].
    """

    kind: Literal["clean"]
    weight: Weight = 1.0
    clean: Paths = ()


Source = Paired | Layers | Rendered | Clean


@dataclass(frozen=True)
class DataSection:
    """What is trained on. Paths are relative to the folder that the command runs in.

    Attributes:
        sources: By name; each sample comes from one of them, drawn by weight.
        clean: Folders of clean photos for the sources that make their own rain.
        patch: Side of the crops in pixels, a multiple of 8 * model.stem; smaller images are padded by reflection.
        crop: Where they are taken; center: always the middle, to see whether a network can overfit.
        flips: Whether crops are mirrored at random, both ways.
        turns: Whether they are turned by quarters at random.
        mixup: Probability that a sample is blended with another one.
        workers: Threads that prepare samples ahead; 0: none, each batch is made when it is wanted.
        cache: Megabytes of decoded images that are kept in memory.
        decode: Whether every image is decoded at the start, to find damaged ones; else only its head is read.
    """

    sources: dict[str, Source]
    clean: Paths = ()
    patch: Annotated[int, Limits(8, 4096)] = 128
    crop: Literal["random", "center"] = "random"
    flips: bool = True
    turns: bool = True
    mixup: Share = 0.0
    workers: Annotated[int, Limits(0, 256)] = 2
    cache: Count = 2048
    decode: bool = True

    def mistakes(self) -> list[str]:
        """What does not go together."""
        found = [] if self.patch % 8 == 0 else [f"patch: expected a multiple of 8, not {self.patch}"]
        if not self.sources:
            found.append('sources: expected at least one, such as [data.sources.rendered] with kind = "rendered"')
        lending = any(isinstance(source, Paired) and source.share_clean for source in self.sources.values())
        for name, source in self.sources.items():
            if not isinstance(source, Paired) and not (source.clean or self.clean or lending):
                found.append(f'sources.{name}: no photos; expected data.clean = ["FOLDER"]')
        return found


@dataclass(frozen=True)
class TrainingSection:
    """How it is trained.

    Attributes:
        steps: Steps of the optimizer.
        batch: Samples a step, over all processes and accumulation: the effective batch size.
        accumulate: Parts that each process works off its share of the batch in.
        loss: The mean over all values of L1 or of Charbonnier's sqrt(difference**2 + charbonnier_eps**2); or rmse, the
            mean over samples of sqrt(mean(difference**2) + charbonnier_eps**2), which is nearer to what PSNR measures.
        optimizer: AdamW, or Muon for the kernels that mix channels beside AdamW for the rest.
        lr: Learning rate, constant for `constant` steps, then falling to `final_lr` by a cosine.
        warmup: Steps in which it rises from zero first.
        constant: Steps before it begins to fall, warm-up included.
        betas: Of AdamW.
        weight_decay: Decoupled from the gradient.
        clip: Norm that gradients are clipped to; 0: not at all.
        ema: Decay of the averaged weights, which are validated and saved as the best; 0: none.
        precision: Of the forward pass; auto: bf16 or fp16 on GPUs that have it, else fp32.
        compile: Whether torch.compile prepares the network; minutes at the start, faster afterwards on GPUs.
        tf32: Whether GPUs may round float32 products to TF32.
    """

    steps: Positive = 300_000
    batch: Annotated[int, Limits(1, 65536)] = 8
    accumulate: Annotated[int, Limits(1, 65536)] = 1
    loss: Literal["l1", "charbonnier", "rmse"] = "l1"
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
class ValidationSection:
    """When and on what it is measured, by Y-PSNR and SSIM.

    Attributes:
        every: Steps between validations; 0: none.
        paired: Folders of pairs.
        side_by_side: Which half is the clean one, where one file of those folders holds both.
        held_out: Share of the photos and layers that is kept from training and validated on, with rain drawn once.
        images: Most images a folder, evenly spread; 0: all. Also how many held-out ones are made.
        crop: Side of the part in the middle of larger images that is used; 0: the whole.
        protocol: How luma is rounded, see `drsformer_cli.metrics`.
        required: Whether the run is refused when a folder does not exist; else the folder is left out.
    """

    every: Count = 1000
    paired: Paths = ()
    side_by_side: SideBySide | None = None
    held_out: Annotated[float, Limits(0, 0.9)] = 0.0
    images: Count = 0
    crop: Count = 0
    protocol: Literal["uint8-Y", "float-Y"] = "uint8-Y"
    required: bool = True

    def mistakes(self) -> list[str]:
        """What does not go together."""
        return ["crop: expected 0 or at least 16"] if 0 < self.crop < 16 else []


@dataclass(frozen=True)
class OutputSection:
    """What the run leaves behind.

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
    """A training run."""

    data: DataSection
    seed: Count = 0
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    output: OutputSection = field(default_factory=OutputSection)

    def mistakes(self) -> list[str]:
        """What does not go together."""
        multiple = self.model.network().size_multiple
        if self.data.patch % 8 == 0 and self.data.patch % multiple:
            return [f"data.patch: expected a multiple of {multiple}, 8 * model.stem, not {self.data.patch}"]
        return []


def recipes() -> list[str]:
    """Names of the bundled recipes."""
    files = resources.files("drsformer_cli").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load(name: str, settings: list[str]) -> Config:
    """The configuration of a file or a bundled recipe, with `key=value` settings on top.

    Raises:
        UsageError: There is no such file or recipe, or it is no TOML.
        MistakesError: It has mistakes; all of them are in it.
    """
    names = ", ".join(recipes())
    with resources.as_file(resources.files("drsformer_cli").joinpath("recipes", f"{name}.toml")) as bundled:
        path = bundled if name in recipes() else Path(name)
        if path is not bundled and not path.exists():
            raise UsageError(f"--config {name}: no such file, and no recipe of that name; recipes: {names}")
        table = toml_config.read(path)
    toml_config.override(table, settings)
    return toml_config.parse(Config, table, name)


def _raised(make: Callable[[], object]) -> list[str]:
    """What making it raises, as mistakes."""
    try:
        make()
    except ConfigError as error:
        return [str(error)]
    return []
