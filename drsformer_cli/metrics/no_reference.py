"""NIQE and BRISQUE: how natural an image looks, without a clean one beside it. Lower is better.

Both describe an image by the statistics of its locally normalized luminance and of the products of neighbors in it,
each fitted by an asymmetric generalized Gaussian (AGGD), at full and at half size: 36 numbers. NIQE compares them with
those of undistorted photos, BRISQUE has a support vector machine that learnt people's opinions. Their parameters are
files of their authors, under Apache-2.0; `drsformer download metrics` fetches them.

NIQE is computed in float32, as the implementation that the field compares with: in flat parts of an image it hangs
on rounding, and float64 would move it by up to 0.004. BRISQUE is float64.

Shapes: images (H, W, 3) RGB uint8; luminance (H, W).
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from drsformer.errors import CheckpointError, ImageError
from drsformer_cli.metrics.full_reference import check_image, luma

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.floating[Any]]

NIQE_FILE = "niqe_pris_params.npz"
BRISQUE_FILES = ("brisque_model_live.yml", "brisque_range_live.yml")

_FEATURES = 36
_BLOCK = 96  # side of NIQE's blocks at full size
_SMALLEST_BRISQUE_SIDE = 8


class Niqe:
    """Natural image quality evaluator (Mittal et al., "Making a 'completely blind' image quality analyzer", 2013).

    As MATLAB defines it: on the rounded luma Y, in blocks of 96x96, without cropping a border.

    Args:
        parameters: The file `niqe_pris_params.npz`: mean and covariance of the features of undistorted photos.

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

    def __call__(self, image: Pixels) -> float:
        """Score of one image, 0 upwards, lower is more natural.

        Args:
            image: (H, W, 3) RGB, uint8; at least two blocks of 96x96 large.

        Raises:
            ImageError: The image is too small, has no texture at all, or has another shape or type.
        """
        y = np.rint((luma(image, "float-Y") / 255).astype(np.float32) * np.float32(255))
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
        """18 numbers of each block."""
        mean = _filtered(y, self._window)
        deviation = np.sqrt(np.abs(_filtered(y * y, self._window) - mean**2))
        normalized = (y - mean) / (deviation + 1)
        return np.array(
            [
                _block_features(normalized[top : top + block, left : left + block])
                for top in range(0, y.shape[0], block)
                for left in range(0, y.shape[1], block)
            ]
        )


class Brisque:
    """Blind/referenceless image spatial quality evaluator (Mittal et al., 2012), as OpenCV's quality module has it.

    Args:
        model: The file `brisque_model_live.yml`: a support vector machine trained on the LIVE data base.
        scaling: The file `brisque_range_live.yml`: least and largest value of each feature in its training.

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
        """By hand: OpenCV 5 has no support vector machines any more."""
        svm: Any = file.getNode("opencv_ml_svm")
        self._gamma = float(svm.getNode("kernel").getNode("gamma").real())
        vectors, function = svm.getNode("support_vectors"), svm.getNode("decision_functions").at(0)
        self._vectors = np.array([_numbers(vectors.at(i)) for i in range(vectors.size())])
        self._weights = np.array(_numbers(function.getNode("alpha")))
        self._offset = float(function.getNode("rho").real())
        if self._vectors.shape != (len(self._weights), _FEATURES):
            raise ValueError(self._vectors.shape)

    def __call__(self, image: Pixels) -> float:
        """Score of one image, 0..100, lower is more natural.

        Args:
            image: (H, W, 3) RGB, uint8.

        Raises:
            ImageError: The image is too small or of one color, or has another shape or type.
        """
        check_image(image)
        H, W = image.shape[:2]
        if min(H, W) < _SMALLEST_BRISQUE_SIDE:
            raise ImageError(f"BRISQUE needs {_SMALLEST_BRISQUE_SIDE}x{_SMALLEST_BRISQUE_SIDE} pixels, not {W}x{H}")
        gray: Floats = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) / 255
        half = np.asarray(cv2.resize(gray, (W // 2, H // 2), interpolation=cv2.INTER_CUBIC), np.float64)
        features = np.array([*_image_features(gray), *_image_features(half)])
        if not np.isfinite(features).all():
            raise ImageError("BRISQUE needs an image with some texture")
        scaled = 2 * (features - self._least) / (self._largest - self._least) - 1
        kernel = np.exp(-self._gamma * np.square(self._vectors - scaled).sum(axis=1))
        return float(np.clip(self._weights @ kernel - self._offset, 0, 100))


def _block_features(normalized: Floats) -> list[float]:
    """NIQE: shape and mean width of a block, then shape, mean and widths of the products with four neighbors."""
    shape, left, right = _fit_aggd(normalized)
    features = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit_aggd(normalized * np.roll(normalized, (down, across), (0, 1)))
        mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
        features += [shape, mean, left, right]
    return features


def _image_features(gray: Floats) -> list[float]:
    """BRISQUE: as NIQE's for the whole image, with standard deviations in place of widths."""
    mean, mean_of_squares = (
        np.asarray(cv2.GaussianBlur(values, (7, 7), 7 / 6, borderType=cv2.BORDER_REPLICATE), np.float64)
        for values in (gray, gray * gray)
    )
    normalized = (gray - mean) / (np.sqrt(np.maximum(mean_of_squares - mean**2, 0)) + 1 / 255)
    shape, left, right = _fit_aggd(normalized)
    to_width = _width_of_deviation(shape)
    left, right = left / to_width, right / to_width
    features = [shape, (left**2 + right**2) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        neighbour = np.roll(normalized, (down, across), (0, 1))
        neighbour[: max(down, 0)] = 0  # beyond the image
        neighbour[neighbour.shape[0] + min(down, 0) :] = 0
        neighbour[:, :across] = 0
        shape, left, right = _fit_aggd(normalized * neighbour)
        to_width = _width_of_deviation(shape)
        mean_of_fit = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
        features += [shape, mean_of_fit, (left / to_width) ** 2, (right / to_width) ** 2]
    return features


def _fit_aggd(values: Floats) -> tuple[float, float, float]:
    """Shape and left and right width (alpha, beta_l, beta_r) of an asymmetric generalized Gaussian.

    By moments (Lasmar et al., 2009), the shape searched in 0.2..10 by steps of 0.001. Where one side is empty, its
    width is NaN and the shape 0.2, as MATLAB has it.
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
    """Shapes, and E|x|^2 / E x^2 of a generalized Gaussian of each."""
    shapes = np.arange(0.2, 10.001, 0.001)
    gamma = math.gamma
    return shapes, np.array([gamma(2 / shape) ** 2 / (gamma(1 / shape) * gamma(3 / shape)) for shape in shapes])


def _width_of_deviation(shape: float) -> float:
    """Beta of a generalized Gaussian of standard deviation 1."""
    return math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))


def _filtered(values: Floats, window: Floats) -> Floats:
    """Summed in float64, rounded to float32."""
    filtered: Any = cv2.filter2D(values.astype(np.float64), cv2.CV_64F, window, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(filtered, np.float32)


def _half_size(y: Floats) -> Floats:
    """Even H and W halved as MATLAB's imresize does: bicubic, widened against aliasing, borders mirrored."""
    distances = np.abs(np.arange(-3.5, 4)) / 2
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    taps = torch.tensor(np.where(distances <= 1, near, far) / 2, dtype=torch.float32)  # they sum to 1
    size, before_and_after = taps.numel(), (3, 4)
    padded = torch.from_numpy(np.pad(y / np.float32(255), (before_and_after, (0, 0)), "symmetric"))
    # One product a row, then a column: the order of the reference's sums, and so its rounding.
    shorter = torch.stack([padded[top : top + size].t().mv(taps) for top in range(0, y.shape[0], 2)]).numpy()
    padded = torch.from_numpy(np.pad(shorter, ((0, 0), before_and_after), "symmetric"))
    half = torch.stack([padded[:, left : left + size].mv(taps) for left in range(0, y.shape[1], 2)], 1)
    halved: Floats = half.numpy() * np.float32(255)
    return halved


def _numbers(sequence: Any) -> list[float]:  # noqa: ANN401 - OpenCV's annotations do not know its nodes
    return [float(sequence.at(i).real()) for i in range(sequence.size())]
