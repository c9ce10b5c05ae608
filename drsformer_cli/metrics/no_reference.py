"""NIQE and BRISQUE: how natural an image looks, measured without a clean image. Lower is better.

Both describe an image by the statistics of its locally normalized luminance and of the products of neighboring pixels,
each fitted by an asymmetric generalized Gaussian (AGGD), at full and at half size: 36 features. NIQE compares them with
the features of undistorted images; BRISQUE feeds them to a support vector machine trained on human ratings. The
parameters are their authors' files, under Apache-2.0; `drsformer download metrics` downloads them.

Everything is computed in float64, and local means are rounded to multiples of 2^-32. Without rounding, flat areas of an
image would become rounding errors instead of zeros, and a score would depend on the processor. The reference
implementations (BasicSR for NIQE, OpenCV for BRISQUE) use float32: these scores agree with theirs to 0.003 and 0.01.

Shapes: images (H, W, 3) RGB uint8; luminance (H, W) float64, 0..255.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from drsformer.errors import CheckpointError, ImageError
from drsformer_cli.metrics.full_reference import check_image, luma

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from drsformer_cli.metrics.full_reference import RGB8

    Floats = NDArray[np.float64]

NIQE_FILE = "niqe_pris_params.npz"
BRISQUE_FILES = ("brisque_model_live.yml", "brisque_range_live.yml")

_FEATURES = 36
_BLOCK = 96  # side of NIQE's blocks at full size
_SMALLEST_BRISQUE_SIDE = 8
_STEP = 2.0**-32  # far above the rounding errors of float64, far below any feature


class Niqe:
    """Natural image quality evaluator (Mittal et al., "Making a 'completely blind' image quality analyzer", 2013).

    As MATLAB defines it: on the rounded luma Y, in blocks of 96x96, without cropping a border.

    Args:
        parameters: The file `niqe_pris_params.npz`: mean and covariance of the features of undistorted images.

    Raises:
        CheckpointError: The file is missing or damaged.
    """

    def __init__(self, parameters: Path) -> None:
        try:
            with np.load(parameters, allow_pickle=False) as file:
                self._mean = np.asarray(file["mu_pris_param"], np.float64).reshape(_FEATURES)
                self._covariance = np.asarray(file["cov_pris_param"], np.float64).reshape(_FEATURES, _FEATURES)
                self._window = np.asarray(file["gaussian_window"], np.float64)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(f"{parameters}: not the parameters of NIQE ({error})") from None

    def __call__(self, image: RGB8) -> float:
        """Score of an image, at least 0; lower is more natural.

        Args:
            image: (H, W, 3) RGB, uint8; at least two blocks of 96x96.

        Raises:
            ImageError: The image is too small, has no texture at all, or has another shape or type.
        """
        y = np.rint((luma(image, "float-Y") / 255).astype(np.float32) * np.float32(255)).astype(np.float64)
        rows, columns = y.shape[0] // _BLOCK, y.shape[1] // _BLOCK
        if rows * columns < 2:
            raise ImageError(f"NIQE needs two blocks of {_BLOCK}x{_BLOCK} pixels, not {y.shape[1]}x{y.shape[0]}")
        y = y[: rows * _BLOCK, : columns * _BLOCK]
        features = np.hstack([self._features(y, _BLOCK), self._features(_half_size(y), _BLOCK // 2)])
        complete = features[np.isfinite(features).all(axis=1)]  # blocks of one color have no distribution
        if len(complete) < 2:
            raise ImageError("NIQE needs two blocks that are not of one color")
        difference = self._mean - np.nanmean(features, axis=0)
        spread = np.linalg.pinv((self._covariance + np.cov(complete, rowvar=False)) / 2)
        return math.sqrt(max(0.0, float(difference @ spread @ difference)))

    def _features(self, y: Floats, block: int) -> Floats:
        """(H, W) -> (blocks, 18)."""
        normalized = _normalized(
            y, lambda values: cv2.filter2D(values, cv2.CV_64F, self._window, borderType=cv2.BORDER_REPLICATE)
        )
        return np.array(
            [
                _block_features(normalized[top : top + block, left : left + block])
                for top in range(0, y.shape[0], block)
                for left in range(0, y.shape[1], block)
            ]
        )


class Brisque:
    """Blind/referenceless image spatial quality evaluator (Mittal et al., 2012), as in OpenCV's quality module.

    Args:
        model: The file `brisque_model_live.yml`: a support vector machine trained on the LIVE database.
        scaling: The file `brisque_range_live.yml`: minimum and maximum of each feature over its training images.

    Raises:
        CheckpointError: A file is missing or damaged.
    """

    def __init__(self, model: Path, scaling: Path) -> None:
        try:
            self._read_model(cv2.FileStorage(str(model), cv2.FILE_STORAGE_READ))
            ranges = cv2.FileStorage(str(scaling), cv2.FILE_STORAGE_READ)
            self._least, self._largest = np.asarray(ranges.getNode("range").mat(), np.float64).reshape(2, _FEATURES)
        except (cv2.error, ValueError, TypeError, AttributeError, SystemError):
            raise CheckpointError(f"{model}, {scaling}: not the parameters of BRISQUE") from None

    def _read_model(self, file: cv2.FileStorage) -> None:
        """Parsed by hand, because OpenCV 5 no longer has support vector machines."""
        svm: Any = file.getNode("opencv_ml_svm")
        self._gamma = float(svm.getNode("kernel").getNode("gamma").real())
        vectors, function = svm.getNode("support_vectors"), svm.getNode("decision_functions").at(0)
        self._vectors = np.array([_numbers(vectors.at(i)) for i in range(vectors.size())])
        self._weights = np.array(_numbers(function.getNode("alpha")))
        self._offset = float(function.getNode("rho").real())
        if self._vectors.shape != (len(self._weights), _FEATURES):
            raise ValueError(self._vectors.shape)

    def __call__(self, image: RGB8) -> float:
        """Score of an image, 0..100; lower is more natural.

        Args:
            image: (H, W, 3) RGB, uint8.

        Raises:
            ImageError: The image is too small or of one color, or has another shape or type.
        """
        check_image(image)
        H, W = image.shape[:2]
        if min(H, W) < _SMALLEST_BRISQUE_SIDE:
            raise ImageError(f"BRISQUE needs {_SMALLEST_BRISQUE_SIDE}x{_SMALLEST_BRISQUE_SIDE} pixels, not {W}x{H}")
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
        half = _rounded(cv2.resize(gray, (W // 2, H // 2), interpolation=cv2.INTER_CUBIC))
        features = np.array([*_image_features(gray), *_image_features(half)])
        if not np.isfinite(features).all():
            raise ImageError("BRISQUE needs an image with some texture")
        scaled = 2 * (features - self._least) / (self._largest - self._least) - 1
        kernel = np.exp(-self._gamma * np.square(self._vectors - scaled).sum(axis=1))
        return float(np.clip(self._weights @ kernel - self._offset, 0, 100))


def _rounded(values: Any) -> Floats:  # noqa: ANN401 - OpenCV's arrays have no element type
    """Round to multiples of 2^-32, so that sums that differ only in their order become equal."""
    rounded: Floats = np.rint(values / _STEP) * _STEP
    return rounded


def _normalized(y: Floats, blur: Callable[[Floats], Any]) -> Floats:
    """(y - mean) / (deviation + 1), with the mean and deviation around each pixel; exactly 0 in flat areas."""
    mean, mean_of_squares = _rounded(blur(y)), _rounded(blur(y * y))
    normalized: Floats = (y - mean) / (np.sqrt(np.maximum(mean_of_squares - mean**2, 0)) + 1)
    return normalized


def _block_features(normalized: Floats) -> list[float]:
    """Features of NIQE: shape and mean width of a block, then shape, mean and widths of four products of neighbors."""
    shape, left, right = _fit_aggd(normalized)
    features = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit_aggd(normalized * np.roll(normalized, (down, across), (0, 1)))
        mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
        features += [shape, mean, left, right]
    return features


def _image_features(gray: Floats) -> list[float]:
    """Features of BRISQUE: as those of NIQE, but for the whole image and with variances instead of widths."""
    normalized = _normalized(
        gray, lambda values: cv2.GaussianBlur(values, (7, 7), 7 / 6, borderType=cv2.BORDER_REPLICATE)
    )
    shape, left, right = _fit_aggd(normalized)
    to_width = _width_of_deviation(shape)
    left, right = left / to_width, right / to_width
    features = [shape, (left**2 + right**2) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        neighbor = np.roll(normalized, (down, across), (0, 1))
        neighbor[: max(down, 0)] = 0  # beyond the image
        neighbor[neighbor.shape[0] + min(down, 0) :] = 0
        neighbor[:, :across] = 0
        shape, left, right = _fit_aggd(normalized * neighbor)
        to_width = _width_of_deviation(shape)
        mean_of_fit = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
        features += [shape, mean_of_fit, (left / to_width) ** 2, (right / to_width) ** 2]
    return features


def _fit_aggd(values: Floats) -> tuple[float, float, float]:
    """Shape, left width and right width (alpha, beta_l, beta_r) of an asymmetric generalized Gaussian.

    Matched by moments (Lasmar et al., 2009); the shape is searched in 0.2..10 in steps of 0.001. Where one side is
    empty, its width is NaN and the shape 0.2, as in MATLAB.
    """
    values = values.ravel()
    left, right = (
        np.sqrt(np.mean(side**2)) if side.size else math.nan for side in (values[values < 0], values[values > 0])
    )
    with np.errstate(invalid="ignore"):
        ratio = left / right
        r = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
        r *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, ratios = _moment_ratios()
    shape = float(shapes[np.argmin(np.square(ratios - r))])
    to_width = _width_of_deviation(shape)
    return shape, float(left * to_width), float(right * to_width)


@cache
def _moment_ratios() -> tuple[Floats, Floats]:
    """Shapes, and for each shape (E|x|)^2 / E x^2 of a generalized Gaussian."""
    shapes = np.arange(0.2, 10.001, 0.001)
    gamma = math.gamma
    return shapes, np.array([gamma(2 / shape) ** 2 / (gamma(1 / shape) * gamma(3 / shape)) for shape in shapes])


def _width_of_deviation(shape: float) -> float:
    """Width (beta) of a generalized Gaussian with standard deviation 1."""
    return math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))


def _half_size(y: Floats) -> Floats:
    """(H, W), both even -> (H/2, W/2) as MATLAB's imresize: bicubic, widened against aliasing, borders mirrored.

    Exact for integers: the weights are multiples of 2^-8, so that no sum is rounded.
    """
    distances = np.abs(np.arange(-3.5, 4)) / 2
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    weights = np.where(distances <= 1, near, far) / 2  # their sum is 1
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (3, 4)
        padded = np.moveaxis(np.pad(y, padding, "symmetric"), axis, 0)
        shrunk = sum(weight * padded[i : i + y.shape[axis] : 2] for i, weight in enumerate(weights))
        y = np.moveaxis(np.asarray(shrunk), 0, axis)
    return y


def _numbers(sequence: Any) -> list[float]:  # noqa: ANN401 - OpenCV's annotations do not know its nodes
    return [float(sequence.at(i).real()) for i in range(sequence.size())]
