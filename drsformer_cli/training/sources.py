"""From the [data] and [validation] sections to images: find them, check them, and say what is wrong with them."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from drsformer.errors import ImageError
from drsformer_cli import console, images
from drsformer_cli.errors import IMAGE_ERRORS, UsageError, reason
from drsformer_cli.metrics import SMALLEST_SSIM_SIDE
from drsformer_cli.pairs import Pair, find_pairs, image_files, size_problems
from drsformer_cli.training.config import Clean, Layers, Paired
from drsformer_cli.training.run_folder import METRICS
from drsformer_cli.training.samples import PairedDrawer, RainDrawer, Samples, Store
from drsformer_cli.training.toml_config import MistakesError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer_cli.datasets import SideBySide
    from drsformer_cli.training.config import Config
    from drsformer_cli.training.samples import Drawer, Photo, Pixels

T = TypeVar("T")

HELD_OUT_IMAGES = 16
"""Held-out images that are made of each source unless the configuration says how many."""

HELD_OUT_SIDE = 256
"""Their side in pixels unless the configuration says otherwise."""


@dataclass(frozen=True)
class ValidationImage:
    """An image to measure on.

    Attributes:
        group: The name of its set, or of the source that it was held out of.
        read: Gives the rainy and the clean image, (H, W, 3) uint8 each.
    """

    group: str
    read: Callable[[], tuple[Pixels, Pixels]]


@dataclass(frozen=True)
class Data:
    """Everything that a run reads.

    Attributes:
        samples: For training.
        validation: Images to measure on.
        notes: What was found and what was left out on purpose, a line each.
        problems: Files that cannot be used and why, a line each.
    """

    samples: Samples
    validation: list[ValidationImage]
    notes: list[str]
    problems: list[str]


@dataclass
class _Found:
    """What the folders of a configuration hold.

    Attributes:
        pairs, photos, layers: Files by the name of their source.
        measured: Pairs to validate on, by set.
        mistakes: What is wrong with the configuration.
        notes, problems: As in `Data`.
    """

    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    photos: dict[str, list[Photo]] = field(default_factory=dict)
    layers: dict[str, list[Path]] = field(default_factory=dict)
    measured: dict[str, list[Pair]] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def load(config: Config, name: str, progress: Callable[[int, int], None]) -> Data:
    """Find and check all images, and decode as many as fit; `progress(done, total)` counts them.

    Raises:
        MistakesError: Folders are missing or empty, all of them are named; or nothing in them can be used.
    """
    found = _find(config)
    if found.mistakes:
        raise MistakesError(name, list(dict.fromkeys(found.mistakes)))
    store = Store(config.data.cache)
    _leave_out_unusable(found, config, store, progress)
    drawers, held_out = _drawers(found, config, store)
    if not drawers:
        raise MistakesError(name, ["data.sources: none of them has an image that can be used", *found.problems])
    samples = Samples(drawers, config)
    for source, share in samples.shares.items():
        found.notes.append(f"{source}: {share:.0%} of the samples, from {drawers[source]}")
    validation = []
    for group, pairs in found.measured.items():
        crop = config.validation.paired[group].crop
        side = config.validation.crop if crop is None else crop
        validation += [ValidationImage(group, partial(_middle, store, pair, side)) for pair in pairs]
    for source in samples.shares:
        if source in held_out:
            validation += _held_out_images(source, held_out[source], config)
    return Data(samples, validation, found.notes, found.problems)


def _find(config: Config) -> _Found:
    found = _Found()
    sources, validation = config.data.sources, config.validation
    for name, source in sources.items():
        if isinstance(source, Paired):
            key = f"data.sources.{name}.path"
            found.pairs[name] = _pairs(found, key, source.path, source.side_by_side, required=source.required)
    lent = [
        pair
        for name, source in sources.items()
        if isinstance(source, Paired) and source.share_clean
        for pair in found.pairs[name]
    ]
    for name, source in sources.items():
        if isinstance(source, Layers):
            key = f"data.sources.{name}.layers"
            found.layers[name] = _files(found, key, source.layers, required=source.required)
        if not isinstance(source, Paired):
            key = f"data.sources.{name}.clean" if source.clean else "data.clean"
            own = _files(found, key, source.clean or config.data.clean, required=True)
            found.photos[name] = [*own, *([] if source.clean else lent)]
    for name, measured in validation.paired.items() if validation.every else ():
        key = f"validation.paired.{name}.path"
        pairs = _pairs(found, key, measured.path, measured.side_by_side, required=measured.required)
        found.measured[name] = _spread(pairs, validation.images if measured.images is None else measured.images)
    return found


def _pairs(found: _Found, key: str, folder: str, side_by_side: SideBySide | None, *, required: bool) -> list[Pair]:
    place = Path(folder).expanduser()
    if not required and not place.exists():
        found.notes.append(f"{key}: left out, no such folder: {folder}")
        return []
    try:
        result = find_pairs(place, side_by_side=side_by_side)
    except UsageError as error:
        found.mistakes.append(f"{key}: {error}")
        return []
    if not result.pairs:
        found.mistakes.append(f"{key}: no pairs in {folder}")
    found.problems += [f"{folder}: {problem}" for problem in result.problems]
    if result.unused:
        names = console.some([path.name for path in result.unused])
        found.notes.append(f"{key}: clean images without a rainy one: {names}")
    return result.pairs


def _files(found: _Found, key: str, folders: Sequence[str], *, required: bool) -> list[Path]:
    """The images in the folders, at any depth."""
    files = []
    for folder in folders:
        root = Path(folder).expanduser()
        if not root.is_dir():
            if required:
                hint = "; --set data.clean=FOLDER names your clean photos" * (key == "data.clean")
                found.mistakes.append(f"{key}: no such folder: {folder}{hint}")
            else:
                found.notes.append(f"{key}: left out, no such folder: {folder}")
            continue
        below = sorted(inner for inner in root.rglob("*") if inner.is_dir())
        shown = [inner for inner in below if not any(part.startswith(".") for part in inner.relative_to(root).parts)]
        of_runs = [place for place in (root, *below) if (place / METRICS).exists()]  # with images of our making
        places = [place for place in (root, *shown) if not any(place.is_relative_to(run) for run in of_runs)]
        inside = [file for place in places for file in image_files(place)]
        if not inside:
            found.mistakes.append(f"{key}: no images in {folder}")
        files += inside
    return files


def _leave_out_unusable(found: _Found, config: Config, store: Store, progress: Callable[[int, int], None]) -> None:
    """Check every file once, and take those that cannot be used out of the lists."""
    lists: list[list[Any]] = [*found.pairs.values(), *found.photos.values(), *found.measured.values()]
    checks: dict[Photo, Callable[[], object]] = {}
    for photo in itertools.chain(*lists):
        checks[photo] = partial(_decode, store, photo) if config.data.decode else partial(_look, photo)
    for layer in itertools.chain(*found.layers.values()):
        checks[layer] = partial(store.layer if config.data.decode else _look, layer)
    unusable = set()
    with ThreadPoolExecutor(max(1, config.data.workers)) as pool:
        failures = pool.map(_failure, checks.values())
        for number, (file, failure) in enumerate(zip(checks, failures, strict=True), 1):
            progress(number, len(checks))
            if failure is not None:
                unusable.add(file)
                path = file.rainy if isinstance(file, Pair) else file
                # What was wrong with an image begins with its name.
                told = isinstance(failure, ImageError)
                found.problems.append(f"{path.parent}/{failure}" if told else f"{path}: {reason(failure)}")
    for files in [*lists, *found.layers.values()]:
        files[:] = [file for file in files if file not in unusable]


def _decode(store: Store, photo: Photo) -> None:
    H, W = store.photo(photo).shape[:2]
    if min(H, W) < SMALLEST_SSIM_SIDE:
        name = photo.rainy.name if isinstance(photo, Pair) else photo.name
        raise ImageError(f"{name}: {W}x{H} pixels; expected at least {SMALLEST_SSIM_SIDE} a side")


def _look(photo: Photo) -> None:
    """Check the head of the file only."""
    if isinstance(photo, Pair):
        for problem in size_problems([photo]).values():
            raise ImageError(problem)
        photo = photo.rainy
    try:
        images.size(photo)
    except ImageError as error:
        raise ImageError(f"{photo.name}: {error}") from None


def _failure(check: Callable[[], object]) -> Exception | None:
    try:
        check()
    except IMAGE_ERRORS as error:
        return error
    return None


def _drawers(found: _Found, config: Config, store: Store) -> tuple[dict[str, Drawer], dict[str, Drawer]]:
    """By source: what training draws from, and what is held out of it."""
    share = config.validation.held_out if config.validation.every else 0.0
    # What one source holds out no other trains on; pairs, which are trained on as they are, are never held out.
    photos = dict.fromkeys(photo for photos in found.photos.values() for photo in photos if isinstance(photo, Path))
    kept: set[Photo] = {*_one_in_so_many(list(photos), share)}
    for layers in found.layers.values():
        kept.update(_one_in_so_many(layers, share))
    training: dict[str, Drawer] = {}
    held_out: dict[str, Drawer] = {}
    for name, source in config.data.sources.items():
        if isinstance(source, Paired):
            if found.pairs[name]:
                training[name] = PairedDrawer(found.pairs[name], store, source.crop)
            continue
        for drawers, held in ((training, False), (held_out, True)):
            some_photos = [photo for photo in found.photos[name] if (photo in kept) == held]
            some_layers = [layer for layer in found.layers.get(name, []) if (layer in kept) == held]
            # Photos that only come back as they are would measure nothing.
            useless = not some_layers if isinstance(source, Layers) else held and isinstance(source, Clean)
            if some_photos and not useless:
                drawers[name] = RainDrawer(some_photos, some_layers, store, source, config.data.camera)
    return training, held_out


def _one_in_so_many(items: Sequence[T], share: float) -> Sequence[T]:
    """That share of the items, evenly spread; none where there is but one."""
    if share == 0 or len(items) < 2:
        return []
    stride = max(2, round(1 / share))
    return items[min(stride, len(items)) // 2 :: stride]


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly spread; 0: all."""
    if most == 0 or len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _middle(store: Store, pair: Pair, side: int) -> tuple[Pixels, Pixels]:
    """A pair, or its middle where it is larger than `side`."""
    rainy, clean = store.pair(pair)
    H, W = clean.shape[:2]
    top, left = (max(0, (size - side) // 2) if side else 0 for size in (H, W))
    bottom, right = H - top, W - left
    return rainy[top:bottom, left:right], clean[top:bottom, left:right]


def _held_out_images(source: str, drawer: Drawer, config: Config) -> list[ValidationImage]:
    """Images made of what is held out of a source, always the same."""
    side = config.validation.crop or HELD_OUT_SIDE

    def draw(i: int) -> tuple[Pixels, Pixels]:
        return drawer(np.random.default_rng((config.seed, i)), side)

    number = config.validation.images or HELD_OUT_IMAGES
    return [ValidationImage(f"held out {source}", partial(draw, i)) for i in range(number)]
