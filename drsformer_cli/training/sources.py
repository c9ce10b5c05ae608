"""Sources of samples: their kinds, finding and checking their files, and the validation images.

Each kind defines its configuration, the files that it needs, and how it makes a sample. To add a kind, write a class
here and add it to `AnySource`.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import numpy as np

from drsformer.errors import ImageError
from drsformer_cli import console, images
from drsformer_cli.datasets import SideBySide  # noqa: TC001 - the schema is read at run time
from drsformer_cli.errors import IMAGE_ERRORS, UsageError
from drsformer_cli.metrics import SMALLEST_SSIM_SIDE
from drsformer_cli.pairs import Pair, find_pairs, image_files, size_problems
from drsformer_cli.training import rain
from drsformer_cli.training.rain import LayerRanges, RainRanges
from drsformer_cli.training.run_folder import METRICS
from drsformer_cli.training.samples import CropRanges, Files, ImageCache, Sampler, Samples, said_of
from drsformer_cli.training.toml_config import Limits, MistakesError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer_cli.training.config import Config
    from drsformer_cli.training.rain import Pixels
    from drsformer_cli.training.samples import CleanImage

T = TypeVar("T")

Paths = tuple[str, ...]
Weight = Annotated[float, Limits(0, 1e9)]

HELD_OUT_IMAGES = 16
"""Default number of held-out images of each source."""

HELD_OUT_SIDE = 256
"""Default side of held-out images in pixels."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Base class of all kinds of source.

    Attributes:
        weight: Share of the samples, relative to the other sources; 0: it is used only if no source with a weight has
            files.
        crop: How crops are taken.
    """

    weight: Weight = 1.0
    crop: CropRanges = field(default_factory=CropRanges)

    makes_rain: ClassVar[bool] = True
    """Whether its clean images and layers can be held out for validation."""

    def find(self, key: str, findings: Findings) -> Files:
        """Find its files; problems with its folders are added to the findings, with `key` as their path."""
        raise NotImplementedError

    def usable(self, files: Files) -> bool:
        """Whether samples can be drawn from the files."""
        return bool(files.images)

    def count(self, files: Files) -> str:
        """A description of the number of files."""
        return f"{len(files.images)} clean images"

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A rainy and a clean patch, (side, side, 3) each."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Paired(Source):
    """Pairs of rainy and clean images, in any layout that `drsformer_cli.pairs` supports.

    Attributes:
        path: Folder of the pairs.
        side_by_side: Which half is the clean image, if each file holds a pair.
        share_clean: Whether the sources that use data.clean also use its clean images.
        required: Whether a missing folder is an error; otherwise the source is skipped.
    """

    kind: Literal["paired"]
    path: str
    side_by_side: SideBySide | None = None
    share_clean: bool = False
    required: bool = True

    makes_rain: ClassVar[bool] = False

    def find(self, key: str, findings: Findings) -> Files:
        """Find its pairs."""
        pairs = findings.pairs(f"{key}.path", self.path, self.side_by_side, required=self.required)
        if self.share_clean:
            findings.shared += pairs
        return Files(pairs)

    def count(self, files: Files) -> str:
        """A description of the number of pairs."""
        return f"{len(files.images)} pairs"

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A crop of a pair, without further changes."""
        return sampler.pair(rng, side)


@dataclass(frozen=True, kw_only=True)
class OnCleanImages(Source):
    """A source that begins with clean images.

    Attributes:
        clean: Folders of clean images. Default: data.clean.
    """

    clean: Paths = ()

    def find(self, key: str, findings: Findings) -> Files:
        """Find its clean images."""
        if self.clean:
            return Files(findings.images(f"{key}.clean", self.clean))
        return Files([*findings.images("data.clean", findings.clean), *findings.shared])


@dataclass(frozen=True, kw_only=True)
class Layers(OnCleanImages):
    """Clean images with gray streak layers added on the fly.

    Attributes:
        layers: Folders of layers.
        required: Whether a missing folder is an error; otherwise it is skipped.
        vary: How layers are varied.
    """

    kind: Literal["layers"]
    layers: Paths
    required: bool = True
    vary: LayerRanges = field(default_factory=LayerRanges)

    def find(self, key: str, findings: Findings) -> Files:
        """Find its clean images and layers."""
        layers = findings.images(f"{key}.layers", self.layers, required=self.required)
        return Files(super().find(key, findings).images, layers)

    def usable(self, files: Files) -> bool:
        """Whether there are clean images and layers."""
        return bool(files.images and files.layers)

    def count(self, files: Files) -> str:
        """A description of the number of clean images and layers."""
        return f"{super().count(files)} and {len(files.layers)} layers"

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A clean patch, and the same patch with one or two layers added, rainy first."""
        clean = sampler.clean(rng, side)
        layer = rain.vary(sampler.layer(rng), self.vary, side, side, rng)
        if rng.random() < self.vary.second:
            layer += rain.vary(sampler.layer(rng), self.vary, side, side, rng)
        return sampler.compressed(rain.composite(clean, layer, self.vary, rng), rng), clean


@dataclass(frozen=True, kw_only=True)
class Rendered(OnCleanImages):
    """Clean images with rain rendered by `drsformer_cli.training.rain`.

    Attributes:
        rain: The ranges that the rain is drawn from.
    """

    kind: Literal["rendered"]
    rain: RainRanges = field(default_factory=RainRanges)

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A clean patch, and the same patch with rain added, rainy first."""
        clean = sampler.clean(rng, side)
        layer = rain.render(self.rain, side, side, rng)
        return sampler.compressed(rain.composite(clean, layer, self.rain, rng), rng), clean


@dataclass(frozen=True, kw_only=True)
class Clean(OnCleanImages):
    """Clean images as both the rainy and the clean image, so that the network learns not to change them."""

    kind: Literal["clean"]

    makes_rain: ClassVar[bool] = False

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A clean patch, twice."""
        clean = sampler.compressed(sampler.clean(rng, side), rng)
        return clean, clean


AnySource = Paired | Layers | Rendered | Clean


@dataclass(frozen=True)
class ValidationImage:
    """A validation image.

    Attributes:
        group: Name of its set, or of the source that it was held out of.
        read: Function that returns the rainy and the clean image, (H, W, 3) uint8 each.
    """

    group: str
    read: Callable[[], tuple[Pixels, Pixels]]


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        samples: Training samples.
        validation: Validation images.
        notes: What was found and what was skipped, one line each.
        problems: Files that cannot be used and why, one line each.
    """

    samples: Samples
    validation: list[ValidationImage]
    notes: list[str]
    problems: list[str]


@dataclass
class Findings:
    """Searches folders, and collects notes and problems.

    Attributes:
        clean: Folders of clean images for the sources without folders of their own.
        shared: Pairs whose clean images those sources use, too.
        mistakes: Mistakes in the configuration, one line each.
        notes, problems: See `Data`.
    """

    clean: Paths
    shared: list[Pair] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def pairs(self, key: str, folder: str, side_by_side: SideBySide | None, *, required: bool) -> list[Pair]:
        """The pairs in a folder."""
        place = Path(folder).expanduser()
        if not required and not place.exists():
            self.notes.append(f"{key}: left out, no such folder: {folder}")
            return []
        try:
            result = find_pairs(place, side_by_side=side_by_side)
        except UsageError as error:
            self.mistakes.append(f"{key}: {error}")
            return []
        if not result.pairs:
            self.mistakes.append(f"{key}: no pairs in {folder}")
        self.problems += [f"{folder}: {problem}" for problem in result.problems]
        if result.unused:
            names = console.some([path.name for path in result.unused])
            self.notes.append(f"{key}: clean images without a rainy one: {names}")
        return result.pairs

    def images(self, key: str, folders: Sequence[str], *, required: bool = True) -> list[Path]:
        """The images in folders, at any depth."""
        files = []
        for folder in folders:
            root = Path(folder).expanduser()
            if not root.is_dir():
                if required:
                    hint = "; --set data.clean=FOLDER names your clean images" * (key == "data.clean")
                    self.mistakes.append(f"{key}: no such folder: {folder}{hint}")
                else:
                    self.notes.append(f"{key}: left out, no such folder: {folder}")
                continue
            inside = _images_below(root)
            if not inside:
                self.mistakes.append(f"{key}: no images in {folder}")
            files += inside
        return files


def _images_below(root: Path) -> list[Path]:
    """Images in a folder at any depth; hidden folders and the folders of training runs are skipped."""
    below = sorted(inner for inner in root.rglob("*") if inner.is_dir())
    shown = [inner for inner in below if not any(part.startswith(".") for part in inner.relative_to(root).parts)]
    of_runs = [place for place in (root, *below) if (place / METRICS).exists()]
    places = [place for place in (root, *shown) if not any(place.is_relative_to(run) for run in of_runs)]
    return [file for place in places for file in image_files(place)]


@dataclass(frozen=True)
class Found:
    """The files of a run by the name of their source or validation set."""

    sources: dict[str, Files]
    validation: dict[str, Files]
    findings: Findings


def find(config: Config) -> Found:
    """Find the files of a configuration; missing and empty folders are added to the mistakes."""
    findings = Findings(config.data.clean)
    sources = config.data.sources
    # Pairs first: the other sources may share their clean images.
    files = {
        name: sources[name].find(f"data.sources.{name}", findings)
        for name in sorted(sources, key=lambda name: isinstance(sources[name], OnCleanImages))
    }
    validation = {}
    for name, measured in config.validation.paired.items() if config.validation.every else ():
        key = f"validation.paired.{name}.path"
        pairs = findings.pairs(key, measured.path, measured.side_by_side, required=measured.required)
        most = config.validation.images if measured.images is None else measured.images
        validation[name] = Files(_spread(pairs, most))
    findings.mistakes[:] = dict.fromkeys(findings.mistakes)  # several sources may use the same folder
    findings.notes[:] = dict.fromkeys(findings.notes)
    return Found({name: files[name] for name in sources}, validation, findings)


def load(config: Config, name: str, progress: Callable[[int, int], None]) -> Data:
    """Find and check all images, and decode as many as fit; `progress(done, total)` is called after each.

    Raises:
        MistakesError: Folders are missing or empty (the error lists all of them), or have no usable images.
    """
    found = find(config)
    findings = found.findings
    if findings.mistakes:
        raise MistakesError(name, findings.mistakes)
    cache = ImageCache(config.data.cache)
    unusable = _unusable(found, config, cache, progress)
    files = {source: some.only(lambda file: file not in unusable) for source, some in found.sources.items()}
    held_out = _held_out(files, config)
    training = {source: some.only(lambda file: file not in held_out) for source, some in files.items()}
    samplers = _samplers(training, config, cache)
    if not samplers:
        raise MistakesError(name, ["data.sources: none of them has an image that can be used", *findings.problems])
    samples = Samples(samplers, config)
    for source, share in samples.shares.items():
        count = config.data.sources[source].count(training[source])
        findings.notes.append(f"{source}: {share:.0%} of the samples, from {count}")

    validation = []
    for group, some in found.validation.items():
        crop = config.validation.paired[group].crop
        side = config.validation.crop if crop is None else crop
        pairs = [pair for pair in some.images if pair not in unusable]
        validation += [ValidationImage(group, partial(_middle, cache, pair, side)) for pair in pairs]
    held_files = {source: some.only(lambda file: file in held_out) for source, some in files.items()}
    for source, sampler in _samplers(held_files, config, cache).items():
        if source in samples.shares and sampler.source.makes_rain:
            validation += _held_out_images(source, sampler, config)
    return Data(samples, validation, findings.notes, findings.problems)


def _samplers(files: dict[str, Files], config: Config, cache: ImageCache) -> dict[str, Sampler]:
    """A sampler for each source that has the files that it needs."""
    sources = config.data.sources
    return {
        name: Sampler(sources[name], some, cache, config.data)
        for name, some in files.items()
        if sources[name].usable(some)
    }


def _unusable(found: Found, config: Config, cache: ImageCache, progress: Callable[[int, int], None]) -> set[CleanImage]:
    """Check each file once; returns those that cannot be used, and adds the reasons to the problems."""
    checks: dict[CleanImage, Callable[[], object]] = {}
    for files in found.sources.values():
        for layer in files.layers:
            checks[layer] = partial(cache.layer if config.data.decode else _check_header, layer)
        for image in files.images:
            checks[image] = partial(_decode, cache, image) if config.data.decode else partial(_check_header, image)
    for files in found.validation.values():  # few enough to decode them all
        for image in files.images:
            checks[image] = partial(_decode, cache, image)
    unusable = set()
    with ThreadPoolExecutor(max(1, config.data.workers)) as pool:
        failures = pool.map(_failure, checks.values())
        for number, (file, failure) in enumerate(zip(checks, failures, strict=True), 1):
            progress(number, len(checks))
            if failure is not None:
                unusable.add(file)
                found.findings.problems.append(said_of(file, failure))
    return unusable


def _decode(cache: ImageCache, image: CleanImage) -> None:
    H, W = cache.clean(image).shape[:2]
    if min(H, W) < SMALLEST_SSIM_SIDE:
        name = image.rainy.name if isinstance(image, Pair) else image.name
        raise ImageError(f"{name}: {W}x{H} pixels; expected at least {SMALLEST_SSIM_SIDE} a side")


def _check_header(image: CleanImage) -> None:
    """Check only the header of a file."""
    if isinstance(image, Pair):
        for problem in size_problems([image]).values():
            raise ImageError(problem)
        image = image.rainy
    try:
        images.size(image)
    except ImageError as error:
        raise ImageError(f"{image.name}: {error}") from None


def _failure(check: Callable[[], object]) -> Exception | None:
    try:
        check()
    except IMAGE_ERRORS as error:
        return error
    return None


def _held_out(files: dict[str, Files], config: Config) -> set[CleanImage]:
    """Clean images and layers that no source trains on; pairs are never held out."""
    fraction = config.validation.held_out if config.validation.every else 0.0
    clean = itertools.chain(*(some.images for some in files.values()))
    held_out: set[CleanImage] = {
        *_evenly([image for image in dict.fromkeys(clean) if not isinstance(image, Pair)], fraction)
    }
    for some in files.values():
        held_out.update(_evenly(some.layers, fraction))
    return held_out


def _evenly(items: Sequence[T], fraction: float) -> Sequence[T]:
    """A fraction of the items, evenly spread; an empty list if there is only one item."""
    if fraction == 0 or len(items) < 2:
        return []
    stride = max(2, round(1 / fraction))
    return items[min(stride, len(items)) // 2 :: stride]


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly spread; 0: all."""
    if most == 0 or len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _middle(cache: ImageCache, pair: CleanImage, side: int) -> tuple[Pixels, Pixels]:
    """A pair, cropped to the middle if it is larger than `side`; 0: not cropped."""
    rainy, clean = cache.pair(pair)
    H, W = clean.shape[:2]
    top, left = (max(0, (size - side) // 2) if side else 0 for size in (H, W))
    bottom, right = H - top, W - left
    return rainy[top:bottom, left:right], clean[top:bottom, left:right]


def _held_out_images(source: str, sampler: Sampler, config: Config) -> list[ValidationImage]:
    """Validation images made from the held-out files of a source; they are always the same."""
    side = config.validation.crop or HELD_OUT_SIDE

    def make(i: int) -> tuple[Pixels, Pixels]:
        return sampler(np.random.default_rng((config.seed, i)), side)

    number = config.validation.images or HELD_OUT_IMAGES
    return [ValidationImage(f"held out {source}", partial(make, i)) for i in range(number)]
