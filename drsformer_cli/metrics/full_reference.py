"""PSNR and SSIM on luma, in the two protocols that deraining papers report.

`uint8-Y` rounds the luma to an integer (Rain200L/H, SPA-Data and most others); `float-Y` does not, and shrinks large
images before SSIM (DID-Data, DDN-Data). Both agree with the authors' MATLAB scripts.

Shapes: images (H, W, 3) RGB uint8; luma (H, W) float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, get_args

import cv2
import numpy as np

from drsformer.errors import ConfigError, ImageError
from drsformer_cli.datasets import Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    RGB8 = NDArray[np.uint8]  # (H, W, 3)
    Floats = NDArray[np.float64]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

SMALLEST_SSIM_SIDE = 11
"""Side of SSIM's window in pixels; smaller images have no SSIM."""

_PEAK = 255.0
_SSIM_SIGMA = 1.5
_SSIM_K = (0.01, 0.03)
_ROWS = 256  # rows of the SSIM map computed at a time: they stay in cache, and memory does not grow with the image


def check_image(image: RGB8) -> None:
    """Refuse arrays that are not RGB images of 8 bits.

    Raises:
        ImageError: `image` is not (H, W, 3) uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"metrics take (H, W, 3) uint8, not {image.shape} {image.dtype}")


def luma(image: RGB8, protocol: Protocol) -> Floats:
    """Y of ITU-R BT.601 in its studio range, 16..235: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255.

    Args:
        image: (H, W, 3) RGB, uint8.
        protocol: "uint8-Y" rounds Y to integers (halves are rounded up); "float-Y" does not round.

    Returns:
        (H, W) float64.

    Raises:
        ImageError: `image` has another shape or type.
        ConfigError: The protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    check_image(image)
    red, green, blue = (image[..., channel].astype(np.float64) for channel in range(3))
    y: Floats = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    return np.floor(y + 0.5) if protocol == "uint8-Y" else y


def psnr(restored: RGB8, clean: RGB8, protocol: Protocol = "uint8-Y") -> float:
    """Peak signal-to-noise ratio on luma, in dB: 20 log10(255 / rmse); infinite for equal luma.

    Args:
        restored: (H, W, 3) RGB, uint8.
        clean: The clean image of the same shape.
        protocol: See the module. The authors' script for "float-Y" uses [0, 1] with peak 1, which is equivalent.

    Raises:
        ImageError: The shapes differ, or are not (H, W, 3) uint8.
        ConfigError: The protocol is unknown.
    """
    _check_pair(restored, clean)
    error = float(np.mean(np.square(luma(restored, protocol) - luma(clean, protocol))))
    return 20 * math.log10(_PEAK / math.sqrt(error)) if error else math.inf


def ssim(restored: RGB8, clean: RGB8, protocol: Protocol = "uint8-Y") -> float:
    """Structural similarity on luma, -1..1: the mean of the map, 11x11 Gaussian window, 'valid' (Wang et al., 2004).

    "float-Y" first shrinks images whose shorter side is 384 or more, as the scripts of SSIM's authors suggest.

    Args:
        restored: (H, W, 3) RGB, uint8; H and W at least 11.
        clean: The clean image of the same shape.
        protocol: See the module.

    Raises:
        ImageError: The shapes differ, or are not (H, W, 3) uint8.
        ConfigError: The protocol is unknown.
    """
    _check_pair(restored, clean)
    if min(clean.shape[:2]) < SMALLEST_SSIM_SIDE:
        H, W = clean.shape[:2]
        raise ImageError(f"SSIM needs at least {SMALLEST_SSIM_SIDE}x{SMALLEST_SSIM_SIDE} pixels, not {W}x{H}")
    x, y = luma(restored, protocol), luma(clean, protocol)
    if protocol == "float-Y":
        x, y = _shrink(x), _shrink(y)
    height = len(x) - SMALLEST_SSIM_SIDE + 1  # of the map
    total = 0.0
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height) + SMALLEST_SSIM_SIDE - 1
        total += float(_ssim_map(x[top:bottom], y[top:bottom]).sum())
    width = int(x.shape[1]) - SMALLEST_SSIM_SIDE + 1
    return total / (height * width)


def _check_pair(restored: RGB8, clean: RGB8) -> None:
    if restored.shape != clean.shape:
        raise ImageError(f"sizes differ: {restored.shape[1]}x{restored.shape[0]} and {clean.shape[1]}x{clean.shape[0]}")


def _shrink(y: Floats) -> Floats:
    """Means of f x f pixels, of which every f-th is kept; f = max(1, round(min(H, W) / 256)); borders are mirrored."""
    f = max(1, math.floor(min(y.shape) / 256 + 0.5))
    if f == 1:
        return y
    # The center of an even window is its upper left middle pixel in MATLAB's imfilter, its lower right one in OpenCV.
    center = ((f - 1) // 2, (f - 1) // 2)
    averaged: Any = cv2.blur(y, (f, f), anchor=center, borderType=cv2.BORDER_REFLECT)
    return np.ascontiguousarray(averaged[::f, ::f])


def _ssim_map(x: Floats, y: Floats) -> Floats:
    """SSIM around each pixel: (h, w) twice -> (h - 10, w - 10)."""
    c1, c2 = ((k * _PEAK) ** 2 for k in _SSIM_K)
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    variance_x = _gaussian(x * x) - mean_x**2
    variance_y = _gaussian(y * y) - mean_y**2
    covariance = _gaussian(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    quotient: Floats = numerator / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return quotient


def _gaussian(values: Floats) -> Floats:
    window = cv2.getGaussianKernel(SMALLEST_SSIM_SIDE, _SSIM_SIGMA, cv2.CV_64F)
    filtered: Any = cv2.sepFilter2D(values, cv2.CV_64F, window, window)
    margin = SMALLEST_SSIM_SIDE // 2
    valid: Floats = filtered[margin:-margin, margin:-margin]
    return valid
