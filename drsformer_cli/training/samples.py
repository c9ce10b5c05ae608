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

from drsformer_cli.datasets import Pair, read_rgb8
from drsformer_cli.training import rain
from drsformer_cli.training.config import Clean, Layers, Rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from drsformer_cli.training.config import DataSection

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

    def __call__(self, rng: np.random.Generator, side: int, *, center: bool = False) -> tuple[Pixels, Pixels]:
        """A part of a random pair."""
        rainy, clean = self.store.pair(_one(self.pairs, rng))
        top, left = _corner(clean, side, rng, center=center)
        return _crop(rainy, top, left, side), _crop(clean, top, left, side)

    def __str__(self) -> str:
        return f"{len(self.pairs)} pairs"


@dataclass(frozen=True)
class RainDrawer:
    """Photos with layers, with rendered rain, or without any."""

    photos: Sequence[Photo]
    layers: Sequence[Path]
    store: Store
    source: Layers | Rendered | Clean

    def __call__(self, rng: np.random.Generator, side: int, *, center: bool = False) -> tuple[Pixels, Pixels]:
        """A part of a random photo, in the rain and as it is."""
        photo = self.store.photo(_one(self.photos, rng))
        clean = _crop(photo, *_corner(photo, side, rng, center=center), side)
        if isinstance(self.source, Clean):
            return clean, clean
        if isinstance(self.source, Rendered):
            ranges = self.source.rain
            return rain.composite(clean, rain.render(ranges, side, side, rng), ranges.veil, rng), clean
        vary = self.source.vary
        layer = rain.vary(self.store.layer(_one(self.layers, rng)), vary, side, side, rng)
        if rng.random() < vary.second:
            layer += rain.vary(self.store.layer(_one(self.layers, rng)), vary, side, side, rng)
        return rain.composite(clean, layer, vary.veil, rng), clean

    def __str__(self) -> str:
        return f"{len(self.photos)} photos" + (f" and {len(self.layers)} layers" if self.layers else "")


def _one(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _corner(image: Pixels, side: int, rng: np.random.Generator, *, center: bool) -> tuple[int, int]:
    """Top and left of a crop; 0 where the image is smaller."""
    H, W = image.shape[:2]
    if center:
        return max(0, H - side) // 2, max(0, W - side) // 2
    return int(rng.integers(max(1, H - side + 1))), int(rng.integers(max(1, W - side + 1)))


def _crop(image: Pixels, top: int, left: int, side: int) -> Pixels:
    """(side, side, 3); what the image lacks at the right and bottom is its reflection."""
    part = image[top : top + side, left : left + side]
    H, W = part.shape[:2]
    if min(H, W) < side:
        padded: Any = cv2.copyMakeBorder(part, 0, side - H, 0, side - W, cv2.BORDER_REFLECT_101)
        return np.asarray(padded, np.uint8)
    return part


class Samples:
    """Every sample of a run.

    Attributes:
        shares: Of the samples, by source; they add up to 1.
    """

    def __init__(self, drawers: dict[str, Drawer], weights: dict[str, float], data: DataSection, seed: int) -> None:
        self.shares = {name: weights[name] / sum(weights.values()) for name in drawers}
        self._drawers = list(drawers.values())
        self._limits = np.cumsum(list(self.shares.values()))
        self._data = data
        self._seed = seed

    def sample(self, step: int, index: int) -> Pixels:
        """Sample `index` of the batch of `step`, (2, P, P, 3)."""
        rng = np.random.default_rng((self._seed, step, index))
        pair = self._draw(rng)
        if rng.random() < self._data.mixup:
            share = np.float32(rng.beta(1.2, 1.2))  # as Restormer blends
            pair = np.rint(share * pair + (1 - share) * self._draw(rng)).astype(np.uint8)
        return pair

    def _draw(self, rng: np.random.Generator) -> Pixels:
        number = int(np.searchsorted(self._limits[:-1], rng.random(), side="right"))
        drawer = self._drawers[number]
        pair = np.stack(drawer(rng, self._data.patch, center=self._data.crop == "center"))  # (2, P, P, 3)
        if self._data.flips:
            vertical, horizontal = rng.random(2) < 0.5
            pair = pair[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
        if self._data.turns:
            pair = np.rot90(pair, int(rng.integers(4)), axes=(1, 2))
        return pair

    def batches(self, steps: Iterable[int], indices: Sequence[int]) -> Generator[Pixels]:
        """The samples `indices` of each step, (number, 2, P, P, 3), prepared ahead by the configured threads."""
        workers = self._data.workers
        if workers == 0:
            for step in steps:
                yield np.stack([self.sample(step, index) for index in indices])
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="samples")
        waiting: deque[list[Future[Pixels]]] = deque()
        try:
            for step in steps:
                waiting.append([pool.submit(self.sample, step, index) for index in indices])
                if len(waiting) > _AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
            while waiting:
                yield np.stack([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)
