"""Fuse a frame with aligned neighbors: what is bright in it alone is rain.

The fused frame is a mean of the aligned restored frames. A frame counts the more the less the network removed from it
there, since what was removed tells where the rain was. Rain adds light: where several of the rainy frames are equally
dark and none is darker, that is the background. What the mean has beyond it is rain that the network left. What the
mean lacks was no rain and is put back, but for large smooth changes: those are haze. Nor is the fused frame brighter
than the rainy one.

Shapes: (H, W, 3) for all images, uint8 or uint16; masks and weights (H, W), uint8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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

_ROWS = 64  # rows fused at a time, so that they stay in cache; only pixel by pixel, so that no seams appear

SATURATED = 0.98
"""Share of the largest value above which values are equal whatever a frame shows."""

# In levels of 255; chosen on the sequences of tests/benchmarks/video.py.
_LITTLE_RAIN = 4.0  # a removal at which a frame counts half
_UNLIKE = 8.0  # a difference from the present frame, beyond the rain removed from that, at which a frame counts half
_MUCH_RAIN = 16.0  # a removal at which an interpolated fused frame counts half
_UNSTEADY = 4.0  # a difference of fused frames, beyond ...
_UNCERTAIN = 0.5  # ... this share of the rain removed, at which the neighbor counts half
_DOUBT = np.float32(24)  # weight, of 255, that the present frame gains for each unknown neighbor beyond half of them
_QUIETEST, _NOISIEST = 3.0, 12.0  # limits of the difference that noise makes
_NOISE = 2.5  # that difference, in standard deviations
_SHARPNESS = 0.5  # error of the interpolation between pixels, as a share of the local contrast
_AGREED = 0.3  # share of the frames that are not equally dark by chance
_DRY, _WET = 0.5, 1.5  # mean removal in an area up to which it is dry, and from which on it is not
_AREA = 8  # such areas are means of so many pixels a side, blurred by ...
_BLUR = 2.0  # ... so many of them


@dataclass(frozen=True)
class Neighbor:
    """A frame near the present one, aligned with it.

    Attributes:
        rainy: The frame.
        restored: What the network made of it.
        dryness: What `dryness` says about the two.
        known: 255 where it shows what the present frame does, 0 elsewhere.
        interpolated: 255 where its pixels had to be interpolated, 0 elsewhere.
    """

    rainy: ImageArray
    restored: ImageArray
    dryness: Mask
    known: Mask
    interpolated: Mask


@dataclass(frozen=True)
class Fused:
    """A frame without rain.

    Attributes:
        image: The frame.
        removed: How much darker the network made the frame, in levels of 255, uint8.
        share: How much of it replaces the rainy frame: 1, or 0 where it is dry all around, (H, W).
    """

    image: ImageArray
    removed: Mask
    share: FloatArray

    def blended(self, rainy: ImageArray, strength: float, pool: Executor | None = None) -> ImageArray:
        """The frame with what stays of the rainy one; `strength`: of the effect, from 0 to 1."""
        share = np.float32(strength) * self.share[..., None]
        if share.min() == 1:
            return self.image
        blended = np.empty_like(rainy)

        def blend_rows(rows: slice) -> None:
            blended[rows] = _blend(rainy[rows], self.image[rows], share[rows])

        _over_rows(blend_rows, len(rainy), pool)
        return blended


def fuse(
    rainy: ImageArray, restored: ImageArray, neighbors: Sequence[Neighbor], *, pool: Executor | None = None
) -> Fused:
    """The present frame without rain.

    Args:
        rainy: The present frame.
        restored: What the network made of it, at full strength; this is returned where no neighbor is known.
        neighbors: The aligned frames near it, at full strength; one at least.
        pool: Threads to use. None: this one.
    """
    map_ = map if pool is None else pool.map
    peak = np.iinfo(rainy.dtype).max
    removed = _removed(rainy, restored)
    weights = list(map_(lambda neighbor: _weight(neighbor, restored, removed), neighbors))
    tolerance = min(max(_QUIETEST, _NOISE * noise_of(restored)), _NOISIEST)
    mean, floor, agreed = np.empty_like(restored), np.empty_like(rainy), np.empty_like(removed)

    def fuse_rows(rows: slice) -> None:
        count = np.ones(removed[rows].shape, np.float32)  # frames that are known, with the present one
        for neighbor in neighbors:
            count += neighbor.known[rows] > 0
        doubt = _DOUBT * np.maximum((len(neighbors) + 1) / 2 - count, 0)
        own = np.minimum(_dryness(removed[rows]) + doubt, 255).astype(np.uint8)
        images = [restored[rows], *(neighbor.restored[rows] for neighbor in neighbors)]
        mean[rows] = _mean(images, [own, *(weight[rows] for weight in weights)])
        frames = [rainy[rows], *(_brightened(neighbor.rainy[rows], neighbor.known[rows]) for neighbor in neighbors)]
        floor[rows], alike = _floor(frames, tolerance * peak / 255)
        saturated = _over_channels(cv2.max, floor[rows]) >= SATURATED * peak
        agreed[rows] = np.clip((alike.astype(np.float32) - 1) / (_AGREED * count), 0, 1) * 255 * ~saturated

    _over_rows(fuse_rows, len(rainy), pool)
    taken = _taken_for_rain(cv2.subtract(floor, mean), agreed)
    left = cv2.subtract(cv2.subtract(mean, floor), np.full(4, tolerance * peak / 255))
    left = cv2.multiply(left, _spread(agreed, mean), scale=1 / peak)
    fused: Any = cv2.subtract(cv2.add(mean, taken), left)
    fused = cv2.min(fused, cv2.max(rainy, restored))
    return Fused(np.asarray(fused), removed, _share(rainy, fused, neighbors, removed, tolerance))


def steadied(
    fused: Fused, neighbors: Sequence[tuple[ImageArray, Mask, Mask]], *, pool: Executor | None = None
) -> Fused:
    """The mean of a fused frame and its neighbors where they are alike, so that what is left of rain flickers less.

    Args:
        fused: The present frame.
        neighbors: The fused frames near it, aligned; where each of them is known, and where it had to be interpolated:
            there it is less sharp, and counts only where there was rain.
        pool: Threads to use. None: this one.
    """
    map_ = map if pool is None else pool.map

    def weight(neighbor: tuple[ImageArray, Mask, Mask]) -> Mask:
        image, known, interpolated = neighbor
        alike = cv2.bitwise_and(_agreement(image, fused.image, uncertain, _UNSTEADY), known)
        return np.asarray(cv2.subtract(alike, cv2.bitwise_and(interpolated, dry)))

    dry = cv2.LUT(fused.removed, _falling(_MUCH_RAIN, 3))
    uncertain = cv2.convertScaleAbs(fused.removed, alpha=_UNCERTAIN)
    weights = [np.full(fused.removed.shape, 255, np.uint8), *map_(weight, neighbors)]
    images = [fused.image, *(image for image, _, _ in neighbors)]
    mean = np.empty_like(fused.image)

    def mean_of_rows(rows: slice) -> None:
        mean[rows] = _mean([image[rows] for image in images], [weight[rows] for weight in weights])

    _over_rows(mean_of_rows, len(mean), pool)
    return replace(fused, image=mean)


def at_full_strength(rainy: ImageArray, restored: ImageArray, strength: float) -> ImageArray:
    """What the network made of an image, from a blend of this and the image; see `Restorer`."""
    return restored if strength in (0, 1) else _blend(rainy, restored, np.float32(1 / strength))


def dryness(rainy: ImageArray, restored: ImageArray) -> Mask:
    """How dry a frame is, by what the network removed: 255 where that is nothing, near 0 where it is much."""
    return _dryness(_removed(rainy, restored))


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


def _removed(rainy: ImageArray, restored: ImageArray) -> Mask:
    """How much darker the network made a frame, in levels of 255."""
    return np.asarray(cv2.GaussianBlur(_largest(cv2.subtract(rainy, restored)), (0, 0), 1.0))


def _dryness(removed: Mask) -> Mask:
    return np.asarray(cv2.LUT(removed, _falling(_LITTLE_RAIN, 2)))


def _falling(half: float, power: float) -> Mask:
    """A table of weights for differences from 0 to 255; 255 at 0, half of it at `half`."""
    return np.rint(255 / (1 + (np.arange(256) / half) ** power)).astype(np.uint8)


def _weight(neighbor: Neighbor, restored: ImageArray, removed: Mask) -> Mask:
    """How much a neighbor counts. Where the present frame is dry, it must show the same."""
    agreement = _agreement(neighbor.restored, restored, removed, _UNLIKE)
    return np.asarray(cv2.bitwise_and(cv2.multiply(agreement, neighbor.dryness, scale=1 / 255), neighbor.known))


def _agreement(image: ImageArray, other: ImageArray, allowed: Any, half: float) -> Any:  # noqa: ANN401
    """255 where two images differ by no more than is allowed, half of it where they do by `half` levels more."""
    difference: Any = cv2.blur(_largest(cv2.absdiff(image, other)), (3, 3))
    return cv2.LUT(cv2.subtract(difference, allowed), _falling(half, 3))


def _over_rows(work: Callable[[slice], None], height: int, pool: Executor | None) -> None:
    """Do the work for some rows after the other; pool: threads to use, or None."""
    rows = [slice(top, top + _ROWS) for top in range(0, height, _ROWS)]
    for _ in map(work, rows) if pool is None else pool.map(work, rows):
        pass


def _mean(images: Sequence[ImageArray], weights: Sequence[Mask]) -> ImageArray:
    """The weighted mean of images; the first one where all weights are 0."""
    total = np.zeros(images[0].shape, np.float32)
    weight_of_all = np.full(images[0].shape[:2], 0.1, np.float32)
    cv2.accumulate(images[0], total)
    total *= np.float32(0.1)
    for image, weight in zip(images, weights, strict=True):
        cv2.accumulateProduct(image, cv2.merge([weight.astype(image.dtype)] * 3), total)
        cv2.accumulate(weight, weight_of_all)
    return np.rint(total / weight_of_all[..., None]).astype(images[0].dtype)


def _brightened(rainy: ImageArray, known: Mask) -> ImageArray:
    """A rainy frame, white where it is unknown, so that it never is the darkest."""
    return np.asarray(cv2.bitwise_or(rainy, _spread(cv2.bitwise_not(known), rainy)))


def _floor(frames: Sequence[ImageArray], tolerance: float) -> tuple[ImageArray, Mask]:
    """The mean of the frames that are about as dark as the darkest, and in how many all channels are."""
    darkest: Any = frames[0]
    for frame in frames[1:]:
        darkest = cv2.min(darkest, frame)
    limit = int(tolerance)
    total = np.zeros(darkest.shape, np.float32)
    number = np.zeros(darkest.shape, np.uint8)
    for frame in frames:
        above: Any = cv2.subtract(frame, darkest)
        number += above <= limit
        cv2.accumulate(cv2.threshold(above, limit, 0, cv2.THRESH_TOZERO_INV)[1], total)
    return np.rint(darkest + total / number).astype(darkest.dtype), _over_channels(cv2.min, number)


def _taken_for_rain(missing: Any, agreed: Mask) -> Any:  # noqa: ANN401
    """What the network took for rain although the rainy frames agree on it, without haze.

    Args:
        missing: How much brighter the rainy frames are than the restored ones.
        agreed: 255 where they agree.
    """
    missing = cv2.multiply(missing, _spread(agreed, missing), scale=1 / np.iinfo(missing.dtype).max)
    H, W = agreed.shape
    share = _areas(agreed.astype(np.float32) / 255)
    haze = _areas(missing.astype(np.float32)) / (share + np.float32(1e-3))[..., None]
    smooth = cv2.resize(haze, (W, H), interpolation=cv2.INTER_LINEAR)
    return cv2.subtract(missing, smooth, dtype=cv2.CV_8U if missing.dtype == np.uint8 else cv2.CV_16U)


def _share(
    rainy: ImageArray, fused: ImageArray, neighbors: Sequence[Neighbor], removed: Mask, tolerance: float
) -> FloatArray:
    """The share of the fused frame: 1, or 0 where it is dry all around, so that noise and detail stay; (H, W)."""
    H, W = removed.shape
    wet = np.clip((_areas(removed.astype(np.float32)) - _DRY) / (_WET - _DRY), 0, 1)
    if wet.min() == 1:
        return np.ones((H, W), np.float32)
    limit = np.full((H, W), tolerance, np.float32)
    interpolated: Any = neighbors[0].interpolated
    for neighbor in neighbors[1:]:
        interpolated = cv2.bitwise_or(interpolated, neighbor.interpolated)
    if cv2.hasNonZero(interpolated):
        contrast = _largest(cv2.morphologyEx(fused, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
        limit += _SHARPNESS * (contrast & interpolated)
    share = np.clip(_largest(cv2.absdiff(fused, rainy)) / limit - 1, 0, 1)
    surely = np.clip(removed / np.float32(2 * tolerance) - 1, 0, 1)
    return np.maximum(np.maximum(share, surely), cv2.resize(wet, (W, H), interpolation=cv2.INTER_LINEAR))


def _blend(image: ImageArray, other: ImageArray, share: Any) -> ImageArray:  # noqa: ANN401
    blend = image + share * (other.astype(np.float32) - image)
    return np.rint(np.clip(blend, 0, np.iinfo(image.dtype).max)).astype(image.dtype)


def _areas(image: Any) -> FloatArray:  # noqa: ANN401
    """Means of areas, blurred: (H, W, ...) -> (h, w, ...)."""
    H, W = image.shape[:2]
    small = cv2.resize(image, (max(1, W // _AREA), max(1, H // _AREA)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), _BLUR), np.float32)


def _spread(mask: Any, image: ImageArray) -> Any:  # noqa: ANN401
    """A mask for each channel of an image, of its type."""
    if image.dtype != np.uint8:
        mask = mask.astype(np.uint16) * 257
    return cv2.merge([mask] * 3)


def _largest(difference: Any) -> Any:  # noqa: ANN401
    """The largest channel in levels of 255, uint8."""
    largest = _over_channels(cv2.max, difference)
    return largest if largest.dtype == np.uint8 else cv2.convertScaleAbs(largest, alpha=255 / 65535)


def _over_channels(least_or_most: Callable[[Any, Any], Any], color: Any) -> Any:  # noqa: ANN401
    """The smallest or largest channel: (H, W, 3) -> (H, W)."""
    red, green, blue = cv2.split(color)
    return least_or_most(least_or_most(red, green), blue)
