"""Samples for training and images for validation.

Sample i of step s is a function of (seed, s, i) alone. So nothing of the sampling needs saving, a resumed run sees what
an uninterrupted one would have seen, and any number of processes or threads sees the same batches.

Shapes: images (H, W, 3) uint8 RGB; a sample (2, P, P, 3) uint8, rainy first, P the side of the patch.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import cv2
import numpy as np

from drsformer_cli.images import read_rgb8
from drsformer_cli.pairs import Pair
from drsformer_cli.training import rain
from drsformer_cli.training.config import Clean, Layers, Rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from drsformer_cli.training.config import Config, CropRanges

    Pixels = NDArray[np.uint8]

T = TypeVar("T")

Photo = Path | Pair
"""A clean photo: a file, or the clean one of a pair."""

_AHEAD = 4  # batches that are prepared ahead


class Store:
    """Decoded images, kept in memory while they fit; the others are decoded each time. Safe among threads."""

    def __init__(self, megabytes: int) -> None:
        self._free = megabytes * 10**6
        self._kept: dict[object, tuple[Pixels, ...]] = {}
        self._lock = threading.Lock()

    def pair(self, pair: Pair) -> tuple[Pixels, ...]:
        """Rainy and clean image."""
        return self._get(pair, pair.read)

    def photo(self, photo: Photo) -> Pixels:
        """A clean photo."""
        if isinstance(photo, Pair):
            return self.pair(photo)[1]
        return self._get(photo, lambda: (read_rgb8(photo),))[0]

    def layer(self, path: Path) -> Pixels:
        """A gray layer, (H, W)."""
        return self._get(("layer", path), lambda: (_to_gray(read_rgb8(path)),))[0]

    def _get(self, key: object, read: Callable[[], tuple[Pixels, ...]]) -> tuple[Pixels, ...]:
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        arrays = read()
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if size <= self._free and key not in self._kept:
                self._free -= size
                # A copy: a view would keep the whole image that it is a part of.
                self._kept[key] = tuple(array.copy() for array in arrays)
        return arrays


def _to_gray(pixels: Pixels) -> Pixels:
    gray: Any = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(gray, np.uint8)


class Drawer(Protocol):
    """Something that samples are drawn from."""

    def __call__(self, rng: np.random.Generator, side: int, *, center: bool = False) -> tuple[Pixels, Pixels]:
        """Rainy and clean patch of that side, from anywhere or from the center of an image."""


@dataclass(frozen=True)
class PairedDrawer:
    """Pairs as they are."""

    pairs: Sequence[Pair]
    store: Store
    crop: CropRanges

    def __call__(self, rng: np.random.Generator, side: int, *, center: bool = False) -> tuple[Pixels, Pixels]:
        """A part of a random pair."""
        rainy, clean = _crop(self.store.pair(_one(self.pairs, rng)), side, self.crop, rng, center=center)
        return rainy, clean

    def __str__(self) -> str:
        return f"{len(self.pairs)} pairs"


@dataclass(frozen=True)
class RainDrawer:
    """Clean images with layers, with rendered rain, or without any."""

    photos: Sequence[Photo]
    layers: Sequence[Path]
    store: Store
    source: Layers | Rendered | Clean
    camera: rain.CameraRanges

    def __call__(self, rng: np.random.Generator, side: int, *, center: bool = False) -> tuple[Pixels, Pixels]:
        """A part of a random clean image, in the rain and as it is."""
        image = self.store.photo(_one(self.photos, rng))
        (clean,) = _crop((image,), side, self.source.crop, rng, center=center)
        clean = rain.take(clean, self.camera, rng)
        if isinstance(self.source, Clean):
            clean = rain.compress(clean, self.camera, rng)
            return clean, clean
        if isinstance(self.source, Rendered):
            look: rain.Look = self.source.rain
            layer = rain.render(self.source.rain, side, side, rng)
        else:
            look = vary = self.source.vary
            layer = rain.vary(self.store.layer(_one(self.layers, rng)), vary, side, side, rng)
            if rng.random() < vary.second:
                layer += rain.vary(self.store.layer(_one(self.layers, rng)), vary, side, side, rng)
        return rain.compress(rain.composite(clean, layer, look, rng), self.camera, rng), clean

    def __str__(self) -> str:
        return f"{len(self.photos)} clean images" + (f" and {len(self.layers)} layers" if self.layers else "")


def _one(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _crop(
    images: tuple[Pixels, ...], side: int, ranges: CropRanges, rng: np.random.Generator, *, center: bool
) -> tuple[Pixels, ...]:
    """The same square of images of one size, each (side, side, 3), downscaled as drawn.

    What an image lacks at the right and bottom is its reflection.
    """
    H, W = images[0].shape[:2]
    shrink, whole = rain.log_uniform(ranges.shrink, rng), rng.random() < ranges.whole
    most = max(1.0, min(H, W) / side)
    part = round(side * (most if whole else min(shrink, most)))
    top, left = (max(0, size - part) // 2 if center else int(rng.integers(max(1, size - part + 1))) for size in (H, W))
    return tuple(_square(image[top : top + part, left : left + part], side) for image in images)


def _square(part: Pixels, side: int) -> Pixels:
    """Downscaled to the side, or reflected at the right and bottom up to it."""
    H, W = part.shape[:2]
    made: Any = part
    if min(H, W) < side:
        made = cv2.copyMakeBorder(part, 0, max(0, side - H), 0, max(0, side - W), cv2.BORDER_REFLECT_101)
    if max(H, W) > side:
        made = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(made, np.uint8)


class Samples:
    """Every sample of a run.

    Attributes:
        shares: Fractions of the samples at step 1, by source; they add up to 1.
    """

    def __init__(self, drawers: dict[str, Drawer], config: Config) -> None:
        self._config = config
        self._drawers = drawers
        self.shares = self._shares(1)

    def _shares(self, step: int) -> dict[str, float]:
        """Fractions of the samples of a step, by source."""
        sources = self._config.at(step).data.sources
        weights = {name: sources[name].weight for name in self._drawers}
        if not any(weights.values()):  # only what was kept in reserve is there
            weights = dict.fromkeys(weights, 1.0)
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight > 0}

    def sample(self, step: int, index: int) -> Pixels:
        """Sample `index` of the batch of `step`, (2, P, P, 3)."""
        config = self._config.at(step)
        rng = np.random.default_rng((config.seed, step, index))
        pair = self._draw(step, rng)
        if rng.random() < config.data.mixup:
            share = np.float32(rng.beta(1.2, 1.2))  # as Restormer blends
            pair = np.rint(share * pair + (1 - share) * self._draw(step, rng)).astype(np.uint8)
        return pair

    def _draw(self, step: int, rng: np.random.Generator) -> Pixels:
        data, shares = self._config.at(step).data, self._shares(step)
        limits = np.cumsum(list(shares.values()))
        number = int(np.searchsorted(limits[:-1], rng.random(), side="right"))
        drawer = self._drawers[list(shares)[number]]
        pair = np.stack(drawer(rng, data.patch, center=data.crop == "center"))  # (2, P, P, 3)
        if data.flips:
            vertical, horizontal = rng.random(2) < 0.5
            pair = pair[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
        if data.turns:
            pair = np.rot90(pair, int(rng.integers(4)), axes=(1, 2))
        return pair

    def batches(self, steps: Iterable[int], share: Callable[[Sequence[int]], Sequence[int]]) -> Generator[Pixels]:
        """This process's share of the batch of each step, (number, 2, P, P, 3), prepared ahead by threads."""
        workers = self._config.data.workers
        if workers == 0:
            for step in steps:
                yield np.stack([self.sample(step, index) for index in self._indices(step, share)])
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="samples")
        waiting: deque[list[Future[Pixels]]] = deque()
        try:
            for step in steps:
                waiting.append([pool.submit(self.sample, step, index) for index in self._indices(step, share)])
                if len(waiting) > _AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
            while waiting:
                yield np.stack([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def _indices(self, step: int, share: Callable[[Sequence[int]], Sequence[int]]) -> Sequence[int]:
        return share(range(self._config.at(step).training.batch))
