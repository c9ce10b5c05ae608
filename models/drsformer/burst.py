"""Restore one still scene from several images of it, on a tripod or in the hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from drsformer.alignment import View, Warp, align, estimate_motion, shrunk
from drsformer.errors import ImageError
from drsformer.fusion import Neighbor, at_full_strength, dryness, fuse
from drsformer.images import is_rgb, shape_and_type
from drsformer.temporal import aligned, check_restorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from drsformer.images import ImageArray
    from drsformer.inference import Restorer

    Matrix = NDArray[np.float64]  # (3, 3)

_FEATURES = 2000
_LONGEST_SIDE = 1200  # of the images in which features are found, in pixels
_FAINTEST = 0.01  # contrast of a feature
_CLEARLY_BEST = 0.8  # distance of a match, as a share of that of the second best
_NEAR = 2.0  # distance in pixels of such an image by which a match may miss the homography
_FEWEST_MATCHES = 12
_LEAST_SHARE = 0.3  # of the matches that fit the homography
_ALIKE = 0.9  # correlation of two images of one scene
SMALLEST = 16
"""Side in pixels of the smallest images that can be aligned."""

_LEAST_SHARED = 0.4  # share of the first image that another one must show


def restore_burst(
    images: Sequence[ImageArray],
    restorer: Restorer,
    *,
    scale: float | None = None,
    names: Sequence[str] | None = None,
) -> ImageArray:
    """Restore the first of several images of one still scene with the help of the others.

    The others are aligned by a homography and optical flow. What is bright in one image only is rain. What moves is
    taken from the first image, restored by the network alone.

    Args:
        images: Two or more, (H, W, 3) RGB, uint8 or uint16, all of the same size and type.
        restorer: The network and its settings.
        scale: The scale of all images. None: the one that the restorer chooses for the first.
        names: What errors call the images. None: image 1, image 2, ...

    Returns:
        (H, W, 3) of the type of the images.

    Raises:
        ConfigError: `restorer` is not a `Restorer`.
        ImageError: There are less than two images; one has another shape or type than the first, or cannot be aligned
            with it.
    """
    names = [f"image {i + 1}" for i in range(len(images))] if names is None else names
    check_restorer(restorer)
    _check(images, names)
    first = images[0]
    scale = restorer.choose_scale(first) if scale is None else scale

    def restore(image: ImageArray) -> ImageArray:
        return at_full_strength(image, restorer.restore(image, scale=scale).image, restorer.strength)

    restored = restore(first)
    neighbors = []
    for image, name in zip(images[1:], names[1:], strict=True):
        other = restore(image)
        try:
            homography = _homography(restored, other)
        except _NotAlignedError:
            expected = "expected images of one still scene"
            raise ImageError(f"{name} cannot be aligned with {names[0]}: {expected}") from None
        neighbors.append(_neighbor(restored, image, other, homography))
    return fuse(first, restored, neighbors).blended(first, restorer.strength)


class _NotAlignedError(Exception):
    """Two images do not show the same scene, or too little of it."""


def _check(images: Sequence[ImageArray], names: Sequence[str]) -> None:
    if len(images) < 2:
        raise ImageError(f"a burst has at least 2 images, not {len(images)}")
    first = images[0]
    for image, name in zip(images, names, strict=True):
        if not is_rgb(image):
            raise ImageError(f"{name}: expected (H, W, 3), uint8 or uint16, not {shape_and_type(image)}")
        if min(image.shape[:2]) < SMALLEST:
            raise ImageError(f"{name} is {_described(image)}; expected at least {SMALLEST}x{SMALLEST}")
        if image.shape != first.shape or image.dtype != first.dtype:
            raise ImageError(f"{name} is {_described(image)}, but {names[0]} is {_described(first)}")


def _described(image: ImageArray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} with {8 * image.itemsize} bits"


def _neighbor(restored: ImageArray, rainy: ImageArray, other: ImageArray, homography: Matrix | None) -> Neighbor:
    """Another image, rainy and restored, aligned with the restored first one."""
    H, W = restored.shape[:2]
    seen: Any = np.full((H, W), 255, np.uint8)
    if homography is not None:
        rainy, other = _through(rainy, homography), _through(other, homography)
        seen = cv2.warpPerspective(seen, homography, (W, H), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    view, other_view = View(restored), View(other)
    warp = Warp(align(view, other_view, estimate_motion(view, other_view)), H, W)
    neighbor = aligned(rainy, other, dryness(rainy, other), warp)
    if homography is None:
        return neighbor
    return replace(neighbor, known=neighbor.known * (warp(seen) == 255), interpolated=np.full((H, W), 255, np.uint8))


def _through(image: ImageArray, homography: Matrix) -> ImageArray:
    H, W = image.shape[:2]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(image, homography, (W, H), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _homography(restored: ImageArray, other: ImageArray) -> Matrix | None:
    """From positions in the first image to those in another one; None: nothing moved.

    Raises:
        _NotAlignedError: None is found.
    """
    a, b = _gray(restored), _gray(other)
    if _same_place(a, b):
        return None
    matrix = _by_features(a, b)
    if matrix is None:
        matrix = _by_pixels(a, b)
    if matrix is None:
        raise _NotAlignedError
    enlarge = np.diag([restored.shape[1] / a.shape[1], restored.shape[0] / a.shape[0], 1.0])
    return np.asarray(enlarge @ matrix @ np.linalg.inv(enlarge), np.float64)


def _by_features(a: ImageArray, b: ImageArray) -> Matrix | None:
    finder = cv2.SIFT.create(_FEATURES, contrastThreshold=_FAINTEST)
    (points, features), (other_points, other_features) = (finder.detectAndCompute(gray, None) for gray in (a, b))
    if features is None or other_features is None or len(other_features) < 2:
        return None
    pairs = cv2.BFMatcher().knnMatch(features, other_features, k=2)
    matches = [best for best, second in pairs if best.distance < _CLEARLY_BEST * second.distance]
    if len(matches) < _FEWEST_MATCHES:
        return None
    here = np.array([points[match.queryIdx].pt for match in matches], np.float32)
    there = np.array([other_points[match.trainIdx].pt for match in matches], np.float32)
    found, fits = cv2.findHomography(here, there, cv2.RANSAC, _NEAR)
    if found is None or fits.sum() < max(_FEWEST_MATCHES, _LEAST_SHARE * len(matches)):
        return None
    matrix = np.asarray(found, np.float64)
    return matrix if _is_plausible(matrix, *a.shape) else None


def _by_pixels(a: ImageArray, b: ImageArray) -> Matrix | None:
    """A turn and a shift, for scenes without corners, such as clouds."""
    start: Any = np.eye(2, 3, dtype=np.float32)
    ending = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    blurred = [np.asarray(cv2.GaussianBlur(gray, (0, 0), 2)) for gray in (a, b)]
    try:
        correlation, found = cv2.findTransformECC(*blurred, start, cv2.MOTION_EUCLIDEAN, ending, None, 5)  # type: ignore[call-overload]
    except cv2.error:  # it does not converge
        return None
    matrix = np.vstack([np.asarray(found, np.float64), [0, 0, 1]])
    return matrix if correlation >= _ALIKE and _is_plausible(matrix, *a.shape) else None


def _gray(image: ImageArray) -> ImageArray:
    """Small and 8-bit."""
    return shrunk(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), _LONGEST_SIDE)


def _same_place(a: ImageArray, b: ImageArray) -> bool:
    """Whether a tripod was used: with one exposure, the images agree no better when one is shifted by a pixel."""
    b = np.asarray(cv2.convertScaleAbs(b, alpha=float(np.median(a) / max(np.median(b), 1))))
    differences = {
        (x, y): np.median(cv2.absdiff(a[1:-1, 1:-1], np.roll(b, (y, x), (0, 1))[1:-1, 1:-1]))
        for x in (-1, 0, 1)
        for y in (-1, 0, 1)
    }
    texture = np.median([value for at, value in differences.items() if at != (0, 0)])
    return bool(differences[0, 0] <= 0.9 * texture or not texture)


def _is_plausible(matrix: Matrix, height: int, width: int) -> bool:
    """Whether a homography turns the frame into a convex one of about its size that shares enough with it."""
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    moved = np.asarray(cv2.perspectiveTransform(corners, matrix), np.float32)
    if not np.isfinite(moved).all() or not cv2.isContourConvex(moved[0]):
        return False
    if not 0.5 < cv2.contourArea(moved[0]) / (width * height) < 2:
        return False
    shared, _ = cv2.intersectConvexConvex(corners[0], moved[0])
    return shared >= _LEAST_SHARED * width * height
