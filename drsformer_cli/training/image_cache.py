"""Decoded images of a training run, kept in memory while they fit.

Shapes: images (H, W, 3) uint8 RGB; layers (H, W) uint8.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from drsformer.errors import ImageError
from drsformer_cli import console
from drsformer_cli.errors import reason
from drsformer_cli.images import read_rgb8
from drsformer_cli.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer_cli.training.rain import Pixels

T = TypeVar("T")

CleanImage = Path | Pair
"""Location of a clean image: its own file, or the pair that it belongs to."""

MOST_UNREADABLE = 100
"""A run gives up after this many unreadable files in a row."""


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
