"""Fuse a frame with aligned neighbors: what is bright in it alone is rain.

Rain adds light. So the darkest of the aligned rainy frames is an upper bound of the clean frame, and nearly reaches it
where at least one of them is dry. Where several are equally dark, they are dry. Where only one is, the median of the
restored frames tells whether it is dry or shows something else.

Shapes: (H, W, 3) for all images, uint8 or uint16; masks (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from drsformer.images import ImageArray

    FloatArray = NDArray[np.float32]
    Mask = NDArray[np.uint8]

_ROWS = 64  # rows fused at a time, so that they stay in cache

# In levels of 255; chosen on the sequences of tests/benchmarks/video.py.
_QUIETEST, _NOISIEST = 3.0, 12.0  # limits of the difference that noise makes
_NOISE = 2.5  # that difference, in standard deviations
_BELOW = 20.0  # how far the darkest frame may be below the median of the restored ones if it is alone
_ABOVE = 5.0  # how far the darkest frame may be above that median if few others are as dark
_SHARPNESS = 0.5  # error of the interpolation between pixels, as a share of the local contrast
_AROUND = 15  # pixels in which the alignment is judged
_SHARE = 0.4  # how much a frame may be darker than others and well aligned, as a share of the rain that is removed
_POOR = 16.0  # how much brighter than that a pixel may be and not be rain where the alignment is poor
_ENOUGH = 6  # neighbors that are known from which on the network's answer is not needed


@dataclass(frozen=True)
class Neighbor:
    """A frame near the present one, aligned with it.

    Attributes:
        rainy: The frame.
        restored: What the network made of it; None: it is too far to be asked.
        known: 255 where it shows what the present frame does, 0 elsewhere.
        interpolated: 255 where its pixels had to be interpolated, 0 elsewhere.
    """

    rainy: ImageArray
    restored: ImageArray | None
    known: Mask
    interpolated: Mask

    def __getitem__(self, rows: slice) -> Neighbor:
        restored = None if self.restored is None else self.restored[rows]
        return Neighbor(self.rainy[rows], restored, self.known[rows], self.interpolated[rows])


def fuse(
    rainy: ImageArray,
    restored: ImageArray,
    neighbors: Sequence[Neighbor],
    *,
    strength: float = 1.0,
    pool: Executor | None = None,
) -> ImageArray:
    """The present frame without rain.

    Args:
        rainy: The present frame.
        restored: What the network made of it; it is returned where no neighbor is known.
        neighbors: The aligned frames near it, the nearest ones first.
        strength: That of the restorer: 0 keeps the frame.
        pool: Threads to use. None: this one.
    """
    if not neighbors:
        return restored
    noise = noise_of(restored)
    fused = np.empty_like(restored)

    def fuse_rows(top: int) -> None:
        rows = slice(top, top + _ROWS)
        nearby = [neighbor[rows] for neighbor in neighbors]
        fused[rows] = _fused(rainy[rows], restored[rows], nearby, noise, strength)

    for _ in (map if pool is None else pool.map)(fuse_rows, range(0, len(rainy), _ROWS)):
        pass
    return fused


def noise_of(image: ImageArray) -> float:
    """The standard deviation of the noise in the smoothest third of an image, in levels of 255.

    Immerkaer, "Fast noise variance estimation", Computer Vision and Image Understanding, 1996.
    """
    gray: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(gray[:, :: max(1, gray.shape[1] // 1024)], cv2.CV_32F, mask))
    blocks = np.asarray(cv2.blur(response, (16, 16)))[8::16, 8::16]
    if not blocks.size:
        return 0.0
    return float(np.quantile(blocks, 0.3) * np.sqrt(np.pi / 2) / 6 * 255 / np.iinfo(image.dtype).max)


def _fused(
    rainy: ImageArray,
    restored: ImageArray,
    neighbors: Sequence[Neighbor],
    noise: float,
    strength: float,
) -> ImageArray:
    peak = int(np.iinfo(rainy.dtype).max)
    level = np.float32(peak / 255)
    tolerance = np.float32(min(max(_QUIETEST, _NOISE * noise), _NOISIEST)) * level
    count = np.ones(rainy.shape[:2], np.float32)  # frames that are known, with the present one
    for neighbor in neighbors:
        count += neighbor.known > 0
    floor, alike = _floor([rainy, *(_brightened(n) for n in neighbors)], float(tolerance))
    median = _median(restored, [n for n in neighbors if n.restored is not None][:4])

    # The background: the floor, limited by the median where few frames agree on it.
    agreed_low = np.clip(alike - 1, 0, 1)
    agreed_high = np.clip((alike - 2) / (np.float32(0.4) * count[..., None]), 0, 1) * (floor < np.float32(0.98 * peak))
    low = np.maximum(floor, median - np.float32(_BELOW) * level)
    high = np.minimum(floor, median + np.float32(_ABOVE) * level)
    background = np.where(
        floor < median, low + agreed_low * (floor - low), high + agreed_high * (floor - high)
    )  # (n, W, 3)

    # Rain: what is brighter than the background by more than noise and interpolation make, in all channels.
    present, answer = rainy.astype(np.float32), restored.astype(np.float32)
    excess = present - background
    # Rain does not make a frame darker than those near it. What sways or is poorly aligned makes it darker as often as
    # brighter.
    darker = cv2.blur(np.maximum(median - answer, 0), (_AROUND, _AROUND))
    removed = cv2.blur(np.maximum(present - answer, 0), (_AROUND, _AROUND))
    doubtful = tolerance + np.float32(_POOR) * np.maximum(darker - np.float32(_SHARE) * removed, 0)
    rain = np.clip(excess / doubtful - 1, 0, 1)
    interpolated: Any = neighbors[0].interpolated
    for neighbor in neighbors[1:]:
        interpolated = cv2.bitwise_or(interpolated, neighbor.interpolated)
    if cv2.hasNonZero(interpolated):
        square = np.ones((3, 3), np.uint8)
        contrast = cv2.subtract(cv2.dilate(background, square), cv2.erode(background, square))
        certain = np.clip(excess / (doubtful + np.float32(_SHARPNESS) * contrast) - 1, 0, 1)
        asked = np.clip((present - answer) / doubtful - 1, 0, 1) * rain
        rain = np.where(interpolated[..., None] > 0, np.maximum(certain, asked), rain)
    saturated = rainy >= round(0.98 * peak)
    least = _over_channels(cv2.min, np.where(saturated, np.float32(2 * peak), excess))
    most = _over_channels(cv2.max, np.where(saturated, np.float32(0), excess))
    gray = np.clip((least / np.maximum(most, level) - np.float32(0.1)) / np.float32(0.3), 0, 1)
    rain = (gray * _over_channels(cv2.min, np.where(saturated, np.float32(1), rain)))[..., None]

    fused = present - np.float32(strength) * rain * excess
    trust: Any = cv2.GaussianBlur(np.minimum((count - 1) / np.float32(min(_ENOUGH, len(neighbors))), 1), (0, 0), 1.0)
    fused = answer + trust[..., None] * (fused - answer)
    return np.rint(np.clip(fused, 0, peak)).astype(rainy.dtype)


def _brightened(neighbor: Neighbor) -> ImageArray:
    """The rainy frame, white where it is unknown, so that it never is the darkest."""
    unknown = cv2.bitwise_not(neighbor.known)
    if neighbor.rainy.dtype != np.uint8:
        unknown = unknown.astype(np.uint16) * 257
    return np.asarray(cv2.bitwise_or(neighbor.rainy, cv2.merge([unknown] * 3)))


def _floor(frames: Sequence[ImageArray], tolerance: float) -> tuple[FloatArray, FloatArray]:
    """The mean of the frames that are about as dark as the darkest, and in how many all channels are."""
    darkest: Any = frames[0]
    for frame in frames[1:]:
        darkest = cv2.min(darkest, frame)
    total = np.zeros(darkest.shape, np.float32)
    number = np.zeros(darkest.shape, np.uint8)
    for frame in frames:
        above = cv2.subtract(frame, darkest)
        near = np.asarray(above) <= tolerance
        total += above * near
        number += near
    return darkest + total / number, _over_channels(cv2.min, number).astype(np.float32)[..., None]


def _over_channels(least_or_most: Callable[[Any, Any], Any], color: Any) -> Any:  # noqa: ANN401
    """The smallest or largest channel: (H, W, 3) -> (H, W)."""
    red, green, blue = cv2.split(color)
    return least_or_most(least_or_most(red, green), blue)


def _median(restored: ImageArray, neighbors: Sequence[Neighbor]) -> FloatArray:
    """The median of restored frames, the present one in place of those that are unknown."""
    frames: list[Any] = [restored]
    for neighbor in neighbors:
        frame: Any = restored.copy()
        if neighbor.restored is not None:
            cv2.copyTo(neighbor.restored, neighbor.known, frame)
        frames.append(frame)
    # Exchange neighbors until they are in order: few frames, and whole images at a time.
    for last in range(len(frames) - 1, 0, -1):
        for i in range(last):
            frames[i], frames[i + 1] = cv2.min(frames[i], frames[i + 1]), cv2.max(frames[i], frames[i + 1])
    middle = len(frames) // 2
    if len(frames) % 2:
        return np.asarray(frames[middle], np.float32)
    return (frames[middle - 1].astype(np.float32) + frames[middle]) / 2
