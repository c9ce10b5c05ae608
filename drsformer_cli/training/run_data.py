"""The data of a run: find and check its files, hold out images for validation, and make the validation images."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from drsformer.errors import ImageError
from drsformer_cli import console, images
from drsformer_cli.errors import IMAGE_ERRORS
from drsformer_cli.metrics import SMALLEST_SSIM_SIDE
from drsformer_cli.pairs import Pair, size_problems
from drsformer_cli.training.image_cache import ImageCache, said_of
from drsformer_cli.training.samples import Samples
from drsformer_cli.training.sources import Files, Findings, OnCleanImages, Paired, Sampler
from drsformer_cli.training.toml_config import MistakesError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer_cli.training.config import Config
    from drsformer_cli.training.image_cache import CleanImage
    from drsformer_cli.training.rain import Pixels

T = TypeVar("T")

HELD_OUT_IMAGES = 16
"""Default number of held-out images of each source."""

HELD_OUT_SIDE = 256
"""Default side of held-out images in pixels."""


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


@dataclass(frozen=True)
class RunFiles:
    """The files of a run by the name of their source or validation set."""

    sources: dict[str, Files]
    validation: dict[str, Files]
    findings: Findings


def find(config: Config) -> RunFiles:
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
    if absent := list(dict.fromkeys(findings.absent)):
        findings.notes.append(f"left out, since these folders do not exist: {console.first_three(absent)}")
    return RunFiles({name: files[name] for name in sources}, validation, findings)


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
        name: Sampler(sources[name], some, cache, config.data.camera, config.data.crop)
        for name, some in files.items()
        if sources[name].usable(some)
    }


def _unusable(
    found: RunFiles, config: Config, cache: ImageCache, progress: Callable[[int, int], None]
) -> set[CleanImage]:
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
    """Clean images, layers and pairs that no source trains on."""
    fraction = config.validation.held_out if config.validation.every else 0.0
    images = dict.fromkeys(itertools.chain(*(some.images for some in files.values())))
    held_out: set[CleanImage] = {*_evenly([image for image in images if not isinstance(image, Pair)], fraction)}
    for name, some in files.items():
        held_out.update(_evenly(some.layers, fraction))
        if isinstance(config.data.sources[name], Paired):
            held_out.update(_evenly(some.images, fraction))
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
