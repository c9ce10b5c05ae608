"""Samples of a training run: choose a source, read its images, and crop them.

Sample i of step s depends only on (seed, s, i). Therefore sampling has no state to save, a resumed run sees the same
samples as an uninterrupted one, and batches do not depend on the number of processes or threads.

Shapes: images (H, W, 3) uint8 RGB; a sample (2, P, P, 3) uint8, rainy first, P the side of the patch.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import cv2
import numpy as np

from drsformer.errors import ImageError
from drsformer_cli import console
from drsformer_cli.errors import reason
from drsformer_cli.images import read_rgb8
from drsformer_cli.pairs import Pair
from drsformer_cli.training import rain
from drsformer_cli.training.toml_config import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from drsformer_cli.training.config import Config, DataSection
    from drsformer_cli.training.rain import Pixels
    from drsformer_cli.training.sources import Source

T = TypeVar("T")

CleanImage = Path | Pair
"""Location of a clean image: its own file, or the pair that it belongs to."""

MOST_UNREADABLE = 100
"""A run gives up after this many unreadable files in a row."""

_AHEAD = 4  # batches to prepare ahead


@dataclass(frozen=True)
class CropRanges:
    """How a crop is taken from an image, or from a pair.

    Attributes:
        shrink: Factor by which the image is downscaled first, drawn evenly on a logarithmic scale; the image stays at
            least as large as the crop.
        whole: Probability that it is downscaled until it is as high or as wide as the crop.
    """

    shrink: Annotated[tuple[float, float], Limits(1, 100, ordered=True)] = (1.0, 1.0)
    whole: rain.Probability = 0.0


@dataclass(frozen=True)
class Files:
    """The files of a source.

    Attributes:
        images: Clean images, or pairs.
        layers: Layers of streaks.
    """

    images: Sequence[CleanImage]
    layers: Sequence[Path] = ()

    def only(self, wanted: Callable[[CleanImage], bool]) -> Files:
        """The files for which `wanted` returns True."""
        return Files([image for image in self.images if wanted(image)], [path for path in self.layers if wanted(path)])


class ImageCache:
    """Keeps decoded images in memory while they fit; the others are decoded each time. Thread-safe."""

    def __init__(self, megabytes: int) -> None:
        self._free = megabytes * 10**6
        self._kept: dict[object, tuple[Pixels, ...]] = {}
        self._unreadable: set[object] = set()
        self._lock = threading.Lock()

    def pair(self, pair: CleanImage) -> tuple[Pixels, ...]:
        """The rainy and the clean image of a pair, or only the clean image of a file."""
        if isinstance(pair, Pair):
            return self._get(pair, pair.read)
        return self._get(pair, lambda: (read_rgb8(pair),))

    def clean(self, image: CleanImage) -> Pixels:
        """A clean image."""
        return self.pair(image)[-1]

    def layer(self, path: Path) -> Pixels:
        """A gray layer, (H, W)."""
        return self._get(("layer", path), lambda: (_to_gray(read_rgb8(path)),))[0]

    def one_of(self, items: Sequence[T], read: Callable[[T], Any], rng: np.random.Generator) -> Any:  # noqa: ANN401
        """Read a random item. If it cannot be read, it is reported once, and another one is drawn.

        Raises:
            ImageError: MOST_UNREADABLE items in a row cannot be read.
        """
        for _ in range(MOST_UNREADABLE):
            item = items[int(rng.integers(len(items)))]
            try:
                return read(item)
            except (ImageError, OSError) as error:
                text = said_of(item, error)
                with self._lock:
                    known = item in self._unreadable
                    self._unreadable.add(item)
                if not known:
                    console.error(f"left out: {text}")
        raise ImageError(f"{MOST_UNREADABLE} images in a row cannot be read; the last one: {text}")

    def _get(self, key: object, read: Callable[[], tuple[Pixels, ...]]) -> tuple[Pixels, ...]:
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        arrays = read()
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if size <= self._free and key not in self._kept:
                self._free -= size
                # A view would keep the whole image in memory.
                self._kept[key] = tuple(array.copy() for array in arrays)
        return arrays


def said_of(item: object, error: Exception) -> str:
    """One line about a file that cannot be used, and why."""
    path = item.rainy if isinstance(item, Pair) else item
    if isinstance(error, ImageError) and isinstance(path, Path):  # the message begins with the file name
        return f"{path.parent}/{error}"
    return f"{path}: {reason(error)}"


def _to_gray(image: Pixels) -> Pixels:
    gray: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(gray, np.uint8)


@dataclass(frozen=True)
class Sampler:
    """Draws samples from the files of a source.

    Attributes:
        source: The source.
        files: Its files.
        cache: The cache that decodes them.
        data: Configuration of the training data.
    """

    source: Source
    files: Files
    cache: ImageCache
    data: DataSection

    def __call__(self, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A rainy and a clean patch, (side, side, 3) each."""
        return self.source.sample(self, rng, side)

    def pair(self, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A crop of a random pair."""
        rainy, clean = self._crop(self.cache.one_of(self.files.images, self.cache.pair, rng), rng, side)
        return rainy, clean

    def clean(self, rng: np.random.Generator, side: int) -> Pixels:
        """A crop of a random clean image, with the camera's light and noise."""
        image = self.cache.one_of(self.files.images, self.cache.clean, rng)
        (clean,) = self._crop((image,), rng, side)
        return rain.expose(clean, self.data.camera, rng)

    def layer(self, rng: np.random.Generator) -> Pixels:
        """A random gray layer, (H, W)."""
        layer: Pixels = self.cache.one_of(self.files.layers, self.cache.layer, rng)
        return layer

    def compressed(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """The image with the camera's JPEG compression."""
        return rain.compress(image, self.data.camera, rng)

    def _crop(self, images: tuple[Pixels, ...], rng: np.random.Generator, side: int) -> tuple[Pixels, ...]:
        """Crop the same random square from images of one size and downscale it: (side, side, 3)."""
        H, W = images[0].shape[:2]
        ranges = self.source.crop
        shrink, whole = rain.log_uniform(ranges.shrink, rng), rng.random() < ranges.whole
        most = max(1.0, min(H, W) / side)
        part = round(side * (most if whole else min(shrink, most)))
        if self.data.crop == "center":
            top, left = (max(0, size - part) // 2 for size in (H, W))
        else:
            top, left = (int(rng.integers(max(1, size - part + 1))) for size in (H, W))
        return tuple(_square(image[top : top + part, left : left + part], side) for image in images)


def _square(part: Pixels, side: int) -> Pixels:
    """Make a part of an image (side, side, 3): downscale it, or reflect it at the right and bottom."""
    H, W = part.shape[:2]
    made: Any = part
    if max(H, W) > side:
        made = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    elif min(H, W) < side:
        made = cv2.copyMakeBorder(part, 0, side - H, 0, side - W, cv2.BORDER_REFLECT_101)
    return np.asarray(made, np.uint8)


class Samples:
    """The samples of a run.

    Attributes:
        shares: Fraction of the samples at step 1 by source; they add up to 1.
    """

    def __init__(self, samplers: dict[str, Sampler], config: Config) -> None:
        self._config = config
        self._samplers = samplers
        self.shares = self._shares(1)

    def _shares(self, step: int) -> dict[str, float]:
        """Fraction of the samples of a step by source."""
        sources = self._config.at(step).data.sources
        weights = {name: sources[name].weight for name in self._samplers}
        if not any(weights.values()):  # only sources of weight 0 have files
            weights = dict.fromkeys(weights, 1.0)
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight > 0}

    def sample(self, step: int, index: int) -> Pixels:
        """Sample `index` of the batch of `step`, (2, P, P, 3)."""
        config = self._config.at(step)
        rng = np.random.default_rng((config.seed, step, index))
        pair = self._draw(step, rng)
        if rng.random() < config.data.mixup:
            share = np.float32(rng.beta(1.2, 1.2))  # as in Restormer
            pair = np.rint(share * pair + (1 - share) * self._draw(step, rng)).astype(np.uint8)
        return pair

    def _draw(self, step: int, rng: np.random.Generator) -> Pixels:
        data, shares = self._config.at(step).data, self._shares(step)
        limits = np.cumsum(list(shares.values()))
        number = int(np.searchsorted(limits[:-1], rng.random(), side="right"))
        pair = np.stack(self._samplers[list(shares)[number]](rng, data.patch))  # (2, P, P, 3)
        if data.flips:
            vertical, horizontal = rng.random(2) < 0.5
            pair = pair[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
        if data.turns:
            pair = np.rot90(pair, int(rng.integers(4)), axes=(1, 2))
        return pair

    def batches(self, steps: Iterable[int], share: Callable[[Sequence[int]], Sequence[int]]) -> Generator[Pixels]:
        """This process's share of the batch of each step, (B, 2, P, P, 3); threads prepare batches ahead."""
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
