"""Align frames with each other: the motion of the camera, that of everything else, and where neither is known.

Motion is estimated on small 8-bit views of restored frames, since rain would be taken for motion. Shapes: H, W of the
frames; h, w of the views. A motion of one frame to another tells, for each pixel of the one, where it is in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from drsformer.images import ImageArray

    Flow = NDArray[np.float32]  # (h, w, 2), in pixels of the views
    Mask = NDArray[np.uint8]  # (h, w)
    Matrix = NDArray[np.float64]  # (2, 3)

LONGEST_SIDE = 512
"""Longest side of a view in pixels."""

# In levels of 255 and pixels of the views; chosen on the sequences of tests/benchmarks/video.py.
_DIFFERENT = 12.0  # a difference by which a pixel may belong to something that moves
_SHIFTED = 6.0  # a mean difference over _AREA by which it does
_UNUSUAL = 8.0  # both at least this many times the median, which grows with the rain that the network leaves
_ALWAYS = 64.0  # a difference by which it always does
_WIDEST_STREAK = (7, 3)  # differences that are narrower or lower are rain that the network left
_AREA = (21, 9)  # streaks are higher than wide, so that they hardly change the mean
_MARGIN = 9
_RETURNS = 0.7  # how far from itself a pixel may be after the motion to the other frame and back


def shrunk(image: Any, longest_side: int) -> ImageArray:  # noqa: ANN401 - for OpenCV
    """An image with 8 bits and no side longer than this: (H, W) or (H, W, 3) -> (h, w) or (h, w, 3)."""
    H, W = image.shape[:2]
    factor = max(H, W) / longest_side
    if factor > 1:
        image = cv2.resize(image, (max(1, round(W / factor)), max(1, round(H / factor))), interpolation=cv2.INTER_AREA)
    if image.dtype != np.uint8:
        image = cv2.convertScaleAbs(image, alpha=255 / np.iinfo(image.dtype).max)
    return np.asarray(image)


class View:
    """A small 8-bit copy of a restored frame.

    Args:
        restored: (H, W, 3), uint8 or uint16.
    """

    def __init__(self, restored: ImageArray) -> None:
        self.factor = max(1.0, max(restored.shape[:2]) / LONGEST_SIDE)
        small: Any = shrunk(restored, LONGEST_SIDE)
        self.color: ImageArray = np.asarray(cv2.GaussianBlur(small, (0, 0), 0.8))
        self.gray: ImageArray = np.asarray(cv2.cvtColor(self.color, cv2.COLOR_RGB2GRAY))

    @cached_property
    def means(self) -> NDArray[np.float32]:
        """The mean colors of the areas around all pixels, (h, w, 3)."""
        return np.asarray(cv2.boxFilter(self.color, cv2.CV_32F, _AREA), np.float32)

    @cached_property
    def textured(self) -> Mask:
        """255 at the half of the pixels around which there is more to see, 0 elsewhere."""
        edges = np.abs(cv2.Sobel(self.gray, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(self.gray, cv2.CV_32F, 0, 1))
        texture = np.asarray(cv2.blur(edges, (9, 9)))
        return _as_mask(texture >= np.median(texture[::2, ::2]))


@dataclass(frozen=True)
class Motion:
    """The motion of one frame to another.

    Attributes:
        camera: That of the whole scene; None: it stands still.
        forth: That of each pixel.
        back: That of each pixel of the other frame to this one.
    """

    camera: Matrix | None
    forth: Flow
    back: Flow

    def reversed(self) -> Motion:
        """The motion of the other frame to this one."""
        camera = None if self.camera is None else np.asarray(cv2.invertAffineTransform(self.camera), np.float64)
        return Motion(camera, self.back, self.forth)


@dataclass(frozen=True)
class Alignment:
    """Where the pixels of a frame are in another one.

    Attributes:
        motion: (h, w, 2); None: all are at the same place.
        known: 255 where that is known and the other frame shows the same thing, 0 elsewhere.
        factor: Size of a pixel of the views, in pixels of the frames.
    """

    motion: Flow | None
    known: Mask
    factor: float

    def map_to(self, height: int, width: int) -> Flow | None:
        """Positions in the other frame for all pixels of a frame, (H, W, 2); None: their own."""
        if self.motion is None:
            return None
        motion = np.asarray(cv2.resize(self.motion, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        return _moved(motion * np.float32(self.factor))

    def moved_in(self, height: int, width: int) -> Mask:
        """255 for each pixel of a frame of this size that is elsewhere in the other one, 0 for the rest."""
        if self.motion is None:
            return np.zeros((height, width), np.uint8)
        moved: Any = _as_mask((self.motion[..., 0] != 0) | (self.motion[..., 1] != 0))
        return _as_mask(np.asarray(cv2.resize(moved, (width, height), interpolation=cv2.INTER_LINEAR)) > 0)

    def known_in(self, height: int, width: int) -> Mask:
        """`known` for a frame of this size; what is near something unknown is unknown."""
        enlarged: Any = cv2.resize(self.known, (width, height), interpolation=cv2.INTER_LINEAR)
        return _as_mask(np.asarray(enlarged) == 255)


def estimate_motion(view: View, other: View) -> Motion:
    """The motion of a frame to another one of the same size.

    The camera's is the simplest of none, a translation and an affine transformation that explains the frames about as
    well as the best of them.
    """
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    forth, back = _flow(dense, view, other), _flow(dense, other, view)
    step = max(4, min(view.gray.shape) // 24)
    sampled = (slice(step // 2, None, step),) * 2
    chosen = view.textured[sampled] > 0
    there = _moved(forth)[sampled][chosen]
    here = _moved(np.zeros_like(forth))[sampled][chosen]
    candidates: list[Matrix | None] = [None]
    if len(here) >= 12:
        x, y = np.median(there - here, axis=0)
        candidates.append(np.array([[1, 0, x], [0, 1, y]], np.float64))
        affine, _ = cv2.estimateAffine2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=0.7, maxIters=500)
        if affine is not None and np.isfinite(affine).all():
            candidates.append(np.asarray(affine, np.float64))
    costs = [_cost(view, other, camera) for camera in candidates]
    simplest = next(i for i, cost in enumerate(costs) if cost <= 1.02 * min(costs) + 0.05)
    return Motion(candidates[simplest], forth, back)


def align(view: View, other: View, motion: Motion) -> Alignment:
    """Where the pixels of a frame are in another one: by the camera's motion where that fits, else by the flow."""
    h, w = view.gray.shape
    flowing = cv2.absdiff(view.gray, _warped(other.gray, _moved(motion.forth)))
    following = cv2.absdiff(view.gray, _shifted(other.gray, motion.camera))
    usual = float(np.median(flowing[::2, ::2]))
    # Pixels that move otherwise than the camera makes them: they look different, or the flow is much better.
    limit = cv2.addWeighted(cv2.blur(flowing, (9, 9)), 1.5, flowing, 0, 2)
    better = _as_mask(cv2.blur(following, (9, 9)) > limit)
    moving = cv2.bitwise_or(better, _different(view, _shifted(other.color, motion.camera), usual))
    moving = cv2.dilate(moving, np.ones((5, 5), np.uint8))
    if motion.camera is None and not cv2.hasNonZero(moving):
        return Alignment(None, np.full((h, w), 255, np.uint8), view.factor)
    combined = _field(motion.camera, h, w)
    cv2.copyTo(motion.forth, moving, combined)
    there = _moved(combined)
    unknown = _different(view, _warped(other.color, there), usual)
    # Where the motion to the other frame and back does not return, or leaves the frame.
    back = cv2.add(combined, _warped(motion.back, there))
    away = _square(back) > _RETURNS**2 + 0.02 * _square(combined)
    x, y = there[..., 0], there[..., 1]
    unknown[(away & (moving > 0)) | (x < 0) | (y < 0) | (x > w - 1) | (y > h - 1)] = 255
    known = cv2.erode(cv2.bitwise_not(unknown), np.ones((3, 3), np.uint8))
    stands = motion.camera is None and not combined.any()
    return Alignment(None if stands else combined, np.asarray(known, np.uint8), view.factor)


def _flow(dense: cv2.DISOpticalFlow, view: View, other: View) -> Flow:
    if min(view.gray.shape) < 16:  # smaller than the flow's patches
        return np.zeros((*view.gray.shape, 2), np.float32)
    return np.asarray(dense.calc(view.gray, other.gray, None), np.float32)  # type: ignore[call-overload]


def _moved(motion: Flow) -> Flow:
    """Positions instead of displacements."""
    h, w = motion.shape[:2]
    moved = motion.copy()
    moved[..., 0] += np.arange(w, dtype=np.float32)
    moved[..., 1] += np.arange(h, dtype=np.float32)[:, None]
    return moved


def _field(camera: Matrix | None, height: int, width: int) -> Flow:
    """The displacement of each pixel by the camera's motion."""
    field = np.zeros((height, width, 2), np.float32)
    if camera is not None:
        (a, b, c), (d, e, f) = camera.astype(np.float32)
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        field[..., 0] = (a - 1) * x + b * y + c
        field[..., 1] = d * x + (e - 1) * y + f
    return field


def _warped(image: Any, there: Flow) -> Any:  # noqa: ANN401 - of the type of the image
    return cv2.remap(image, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


def _shifted(image: Any, camera: Matrix | None) -> Any:  # noqa: ANN401 - of the type of the image
    if camera is None:
        return image
    h, w = image.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, camera, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _square(motion: Any) -> Any:  # noqa: ANN401
    x, y = cv2.split(motion)
    return x * x + y * y


def _cost(view: View, other: View, camera: Matrix | None) -> float:
    """The mean difference where there is texture, large ones capped."""
    difference: Any = np.minimum(cv2.absdiff(view.gray, _shifted(other.gray, camera)), 24)
    return float(cv2.mean(difference, view.textured)[0])


def _different(view: View, aligned: Any, usual: float) -> Any:  # noqa: ANN401
    """255 where a frame differs from the aligned colors of another one, 0 elsewhere, (h, w).

    Rain that the network left is narrow; only what is wider is counted.
    """
    difference = _largest(cv2.absdiff(view.color, aligned))
    wide: Any = _as_mask(difference > min(max(_DIFFERENT, _UNUSUAL * usual), _ALWAYS))
    wide = cv2.morphologyEx(wide, cv2.MORPH_OPEN, np.ones(_WIDEST_STREAK[::-1], np.uint8))
    wide = cv2.dilate(wide, np.ones((_MARGIN, _MARGIN), np.uint8))
    shift = _largest(cv2.absdiff(view.means, cv2.boxFilter(aligned, cv2.CV_32F, _AREA)))
    limit = min(max(_SHIFTED, _UNUSUAL * float(np.median(shift[::3, ::3]))), _ALWAYS)
    return cv2.bitwise_or(wide, _as_mask(shift > limit))


def _as_mask(condition: NDArray[np.bool_]) -> Mask:
    return condition.view(np.uint8) * np.uint8(255)


def _largest(color: Any) -> Any:  # noqa: ANN401 - of the type of the image
    """The largest of the three channels."""
    red, green, blue = cv2.split(color)
    return cv2.max(cv2.max(red, green), blue)
