"""The exposure of a frame against that of another one: by how much its channels must be multiplied.

Rain and haze that the network left make a frame brighter, too, but by a sum. Views are compared; see
`drsformer.alignment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from drsformer.fusion import SATURATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from drsformer.images import ImageArray

    FloatArray = NDArray[np.float32]
    Mask = NDArray[np.uint8]
    Gains = tuple[float, float, float]  # of red, green and blue

# In levels of 255; chosen on the sequences of tests/benchmarks/video.py with changed exposures.
_EACH = 3  # one pixel in so many rows and columns is compared
_DARKEST, _BRIGHTEST = 8, 247  # of the values that tell the exposure
_FAIR = 0.75  # share of the largest of them, up to which rain hardly saturates the brighter frame
_FEWEST_VALUES = 64
_SAME_DARKNESS = 1.0  # difference of the means of frames that are too dark for it
_MOST_LEFT = 24.0  # levels by which the rain that the network left may make a frame brighter than another one
_LARGE_GAIN = 1.25  # beyond which the rain that is left must not ...
_ROUGH = 18.0  # ... make a difference of more, summed over the channels, as the gain is too inexact then
_ALIKE = 8.0  # values that differ by no more tell it, too
_BETTER = 0.94  # share of the difference that is left at most, if the exposure has changed
_MUCH_BETTER = 0.7  # the same, if it has changed by more than a gain
_CAP = 24  # the largest difference of a pixel that counts


class Exposure(NamedTuple):
    """The exposure of a frame against that of another one.

    Attributes:
        gains: By how much the other one must be multiplied; None: by nothing.
        is_alike: Whether the two are alike after that, as far as that can be told.
    """

    gains: Gains | None
    is_alike: bool


def compare(color: ImageArray, other: ImageArray) -> Exposure:
    """The exposure of a view against that of another one that is aligned with it, (h, w, 3) each, uint8."""
    color, other = (image[::_EACH, ::_EACH].copy() for image in (color, other))
    values = [_telling(color[..., channel], other[..., channel]) for channel in range(3)]
    if min(len(here) for here, _ in values) < _FEWEST_VALUES:
        return Exposure(None, abs(float(color.mean()) - float(other.mean())) <= _SAME_DARKNESS)
    red, green, blue = (_gain(here, there) for here, there in values)
    offsets = [float(np.median(here - there)) for here, there in values]
    brightened: Any = cv2.add(other, (*offsets, 0.0), dtype=cv2.CV_8U)  # type: ignore[call-overload]
    left = difference(color, exposed(other, (red, green, blue)))
    if left >= _BETTER * min(difference(color, other), difference(color, brightened)):
        return Exposure(None, abs(float(np.median(offsets))) <= _MOST_LEFT)
    gain, offset = _gain_and_offset(*map(np.concatenate, zip(*values, strict=True)))
    both: Any = np.rint(np.clip(gain * other.astype(np.float32) + offset, 0, 255)).astype(np.uint8)
    needs_both = max(abs(offset), abs(offset) / gain) > _MOST_LEFT and difference(color, both) < _MUCH_BETTER * left
    is_rough = max(green, 1 / green) > _LARGE_GAIN and left > _ROUGH
    return Exposure((red, green, blue), not (needs_both or is_rough))


def exposed(image: Any, gains: Sequence[float]) -> Any:  # noqa: ANN401 - of the type of the image
    """An image whose channels are multiplied, (H, W, 3); what is saturated stays so, since nobody knows its value."""
    of_channels: Any = (*gains, 0.0)
    result = cv2.multiply(image, of_channels, dtype=cv2.CV_8U if image.dtype == np.uint8 else cv2.CV_16U)
    if min(gains) < 1:
        peak = np.iinfo(image.dtype).max
        result = cv2.max(result, cv2.threshold(image, int(SATURATED * peak), peak, cv2.THRESH_BINARY)[1])
    return result


def difference(image: ImageArray, other: Any, mask: Mask | None = None) -> float:  # noqa: ANN401
    """The mean difference of two images, large ones capped; summed over the channels."""
    return sum(cv2.mean(np.minimum(cv2.absdiff(image, other), _CAP), mask))


def _telling(channel: ImageArray, other: ImageArray) -> tuple[FloatArray, FloatArray]:
    """The values of a channel that tell the exposure, and those of the other one; (N,) each."""
    here, there = channel.astype(np.float32), other.astype(np.float32)
    told = (np.minimum(here, there) >= _DARKEST) & (np.maximum(here, there) <= _BRIGHTEST)
    here, there = here[told], there[told]
    if len(here) < _FEWEST_VALUES:
        return here, there
    # Not near saturation, where the rain that is left would decide which values are told.
    root = float(np.sqrt(np.median(here / there)))
    fair = (here / root + there * root) / 2 * max(root, 1 / root) <= _FAIR * _BRIGHTEST
    return (here[fair], there[fair]) if np.count_nonzero(fair) >= _FEWEST_VALUES else (here, there)


def _gain(here: FloatArray, there: FloatArray) -> float:
    """What the other values must be multiplied by: the median is robust, and the mean of what agrees with it exact."""
    alike = np.abs(here - np.median(here / there) * there) <= _ALIKE
    return float(here[alike].sum() / max(there[alike].sum(), 1))


def _gain_and_offset(here: FloatArray, there: FloatArray) -> tuple[float, float]:
    """What makes the values of a view those of an aligned one, by the medians of the darker and the brighter half."""
    is_bright = there > np.median(there)
    if not is_bright.any():
        return 1.0, 0.0
    (dark, bright), (other_dark, other_bright) = (
        (float(np.median(values[~is_bright])), float(np.median(values[is_bright]))) for values in (here, there)
    )
    gain = max(bright - dark, 1.0) / max(other_bright - other_dark, 1.0)
    return gain, dark - gain * other_dark
