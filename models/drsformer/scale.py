"""Restore an image at a fraction of its size: shrink it, and add the enlarged change to the full-size image.

Cameras make images whose streaks are several times as wide as those that the networks are trained on. At 1/scale of the
size they have the width that the network knows; everything finer than the rain stays as it is.

Shapes: H, W of the image; h, w at 1/scale of it; C color channels, 1 or 3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from drsformer.images import ImageArray

    FloatArray = NDArray[np.float32]

_ROWS = 64  # of the image that are processed at once, to bound the memory

# Changes of less than one level of 8 bits are not rain. They are left out, so that what was not rainy stays as it is.
_LEAST_CHANGE = 1 / 255


def shrink(color: ImageArray, peak: float, scale: float) -> FloatArray:
    """Average the pixels of areas of scale x scale.

    Args:
        color: (H, W, 3), uint8, uint16 or float32.
        peak: The value that corresponds to 1.
        scale: At least 1.

    Returns:
        (h, w, 3), where h = round(H / scale) and w = round(W / scale), at least 1; 0..1.
    """
    H, W = color.shape[:2]
    h, w = max(1, round(H / scale)), max(1, round(W / scale))
    small = np.empty((h, w, 3), np.float32)
    for y in range(h):
        top, bottom = y * H / h, (y + 1) * H / h
        first, last = math.floor(top), min(math.ceil(bottom), H)
        edges = np.clip(np.arange(first, last + 1), top, bottom)
        weights = np.diff(edges).astype(np.float32) / np.float32((bottom - top) * peak)
        rows = weights @ color[first:last].reshape(last - first, -1).astype(np.float32)  # (W * 3,)
        small[y] = cv2.resize(rows.reshape(1, W, 3), (w, 1), interpolation=cv2.INTER_AREA)[0]
    return small.clip(0, 1, out=small)


def add_enlarged(color: ImageArray, change: FloatArray, peak: float, into: ImageArray) -> None:
    """Enlarge a change with cubic interpolation, and add it to an image.

    Args:
        color: (H, W, C), uint8, uint16 or float32.
        change: (h, w, C), -1..1. Changes of less than 1/255 are not added, those of less than 2/255 in part.
        peak: The value of the image that corresponds to 1.
        into: Receives the sum, clipped to 0..peak and rounded; (H, W, C) of the type of `color`. Where nothing is
            added, it is exactly `color`.
    """
    H, W, C = color.shape
    h = len(change)
    change = change * np.clip(np.abs(change) / _LEAST_CHANGE - 1, 0, 1) * np.float32(peak)
    for top in range(0, H, _ROWS):
        bottom = min(top + _ROWS, H)
        first, weights = _cubic_weights(np.arange(top, bottom), h / H, h)
        rows = change[first : first + weights.shape[1]]
        wide = cv2.resize(rows, (W, len(rows)), interpolation=cv2.INTER_CUBIC)
        band = (weights @ wide.reshape(len(rows), -1)).reshape(bottom - top, W, C)
        band += color[top:bottom]
        np.clip(band, 0, peak, out=band)
        if color.dtype != np.float32:
            np.rint(band, out=band)
        into[top:bottom] = band


def _cubic_weights(rows: NDArray[np.int64], ratio: float, h: int) -> tuple[int, FloatArray]:
    """Weights of Keys' cubic interpolation with a = -0.75, as cv2.INTER_CUBIC has them, for rows of the large image.

    Args:
        rows: Rows of the large image, ascending.
        ratio: Rows of the small image for one row of the large one.
        h: Number of rows of the small image; rows beyond its edges repeat the first or last one.

    Returns:
        The first row of the small image that is needed, and the weights, (len(rows), needed rows).
    """
    position = (rows + 0.5) * ratio - 0.5
    base = np.floor(position).astype(np.int64)
    t = position - base
    taps = np.stack([_keys(t + 1), _keys(t), _keys(1 - t), _keys(2 - t)], axis=1)
    index = np.clip(base[:, None] + np.arange(-1, 3), 0, h - 1)
    first = int(index.min())
    weights = np.zeros((len(rows), int(index.max()) - first + 1), np.float32)
    np.add.at(weights, (np.arange(len(rows))[:, None], index - first), taps)
    return first, weights


def _keys(x: NDArray[np.float64], a: float = -0.75) -> NDArray[np.float64]:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, far)
