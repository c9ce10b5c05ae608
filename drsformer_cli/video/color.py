"""Between the planes of a frame and RGB.

A restored frame is the planes of the input plus the change that the network made, so that what did not change stays
what it was, to the bit: values outside of the RGB cube, and color at its own resolution.

Shapes: planes Y (H, W), Cb and Cr (h, w); RGB (H, W, 3). The equations are those of ITU-R BT.601, BT.709 and BT.2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[Any]  # uint8, or uint16 for more than 8 bits
    Planes = tuple[Plane, ...]
    Rgb = NDArray[Any]  # uint8 or uint16, all values used
    FloatArray = NDArray[Any]  # float32

# Shares of red and blue in brightness, by FFmpeg's number of the matrix (AVColorSpace).
_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
UNSPECIFIED = 2


@dataclass(frozen=True)
class Coding:
    """How colors are coded.

    Attributes:
        matrix: FFmpeg's number of the matrix.
        full_range: Whether all values are used, instead of 16 to 235 (240) of 255.
        bits: Bits of a sample.
    """

    matrix: int
    full_range: bool
    bits: int

    @property
    def weights(self) -> tuple[float, float, float]:
        """Shares of red, green and blue in brightness."""
        red, blue = _WEIGHTS[self.matrix]
        return red, 1 - red - blue, blue

    @property
    def ranges(self) -> tuple[float, float, float, float]:
        """Black, the range of Y, the middle and the range of Cb and Cr, in values of a sample."""
        middle, peak = float(1 << (self.bits - 1)), float((1 << self.bits) - 1)
        unit = float(1 << (self.bits - 8))
        return (0.0, peak, middle, peak) if self.full_range else (16 * unit, 219 * unit, middle, 224 * unit)


def matrix_of(number: int, width: int, height: int) -> int:
    """The matrix to use where a video names an unknown one or none: by convention BT.709 for HD, BT.601 below."""
    if number in _WEIGHTS:
        return number
    if number == 10:  # BT.2020 with constant luminance: nearly the same for a change
        return 9
    return 1 if width >= 1280 or height > 576 else 6


def to_rgb(planes: Planes, coding: Coding) -> Rgb:
    """RGB of the planes: uint8 for 8 bits, uint16 for more."""
    black, luma_range, middle, chroma_range = coding.ranges
    shape = planes[0].shape
    kr, kg, kb = coding.weights
    y = (planes[0].astype(np.float32) - black) / luma_range
    if len(planes) == 1:
        rgb = np.repeat(y[..., None], 3, axis=2)
    else:
        cb, cr = ((_enlarged(plane, shape) - middle) / chroma_range for plane in planes[1:3])
        matrix = np.array(
            [[1, 0, 2 * (1 - kr)], [1, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg], [1, 2 * (1 - kb), 0]],
            np.float32,
        )
        rgb = cv2.transform(cv2.merge([y, cb, cr]), matrix)
    peak, kind = (255, np.uint8) if coding.bits == 8 else (65535, np.uint16)
    rgb *= peak
    np.rint(rgb, out=rgb)
    return np.clip(rgb, 0, peak, out=rgb).astype(kind)


def changed(planes: Planes, before: Rgb, after: Rgb, coding: Coding) -> Planes:
    """The planes, changed by what was changed between two RGB images."""
    _, luma_range, _, chroma_range = coding.ranges
    kr, kg, kb = coding.weights
    change = cv2.subtract(after, before, dtype=cv2.CV_32F) / np.float32(np.iinfo(before.dtype).max)
    to_planes = np.array(
        [
            [kr * luma_range, kg * luma_range, kb * luma_range],
            [-kr / (1 - kb) / 2 * chroma_range, -kg / (1 - kb) / 2 * chroma_range, chroma_range / 2],
            [chroma_range / 2, -kg / (1 - kr) / 2 * chroma_range, -kb / (1 - kr) / 2 * chroma_range],
        ],
        np.float32,
    )
    changes = cv2.split(cv2.transform(change, to_planes))
    return tuple(
        _added(plane, _reduced(difference, plane.shape), coding.bits)
        for plane, difference in zip(planes, changes, strict=False)
    )


def side_by_side(left: Planes, right: Planes) -> Planes:
    """Two frames next to each other; a last odd column is left out where color has half of the width."""
    half = len(left) > 1 and left[1].shape[1] < left[0].shape[1]
    width = left[0].shape[1] // 2 * 2 if half else left[0].shape[1]
    widths = [width, *[width // 2 if half else width] * 2]
    return tuple(
        np.hstack([a[:, :columns], b[:, :columns]]) for a, b, columns in zip(left, right, widths, strict=False)
    )


def _enlarged(plane: Plane, shape: tuple[int, ...]) -> FloatArray:
    """Samples of color for each pixel: they are beside every second pixel of a row, and between two rows."""
    height, width = shape[:2]
    values: FloatArray = plane.astype(np.float32)
    if values.shape[0] < height:
        rows = values.shape[0]
        values = cv2.resize(values, (values.shape[1], 2 * rows), interpolation=cv2.INTER_LINEAR)[:height]
    if values.shape[1] < width:
        following = np.concatenate([values[:, 1:], values[:, -1:]], axis=1)
        wide = np.empty((height, 2 * values.shape[1]), np.float32)
        wide[:, 0::2], wide[:, 1::2] = values, (values + following) / 2
        values = wide[:, :width]
    return values


def _reduced(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The transposed weights of `_enlarged`, normalized: (H, W) -> the size of a plane."""
    height, width = shape[:2]
    if width < values.shape[1]:
        padded = np.pad(values, ((0, 0), (1, 2)), mode="edge")
        count = 2 * width
        left, center, right = (padded[:, at : at + count : 2] for at in (0, 1, 2))
        values = (left + 2 * center + right) / 4
    if height < values.shape[0]:
        if values.shape[0] % 2:
            values = np.concatenate([values, values[-1:]])
        values = (values[0::2] + values[1::2]) / 2
    return values


def _added(plane: Plane, change: FloatArray, bits: int) -> Plane:
    values = np.rint(plane + change)
    added: Plane = np.clip(values, 0, (1 << bits) - 1, out=values).astype(plane.dtype)
    return added
