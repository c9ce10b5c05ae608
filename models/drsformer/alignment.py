"""Align frames with each other: the motion of the camera, that of everything else, and where neither is known.

Motion is estimated on small 8-bit views of restored frames, since rain would be taken for motion. Shapes: H, W of the
frames; h, w of the views. A motion of one frame to another tells, for each pixel of the one, where it is in the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from drsformer.exposure import compare, difference, exposed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from drsformer.exposure import Gains
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
_STEP = 12  # one pixel in so many rows and columns is tracked, ...
_WINDOW = (21, 21)  # by the pixels around it
_FEWEST_POINTS = 12  # that tell the camera's motion
_TILE = 16  # side of the parts of a view that are moved as one or pixel by pixel
_SCATTERED = 0.5  # share of such a part up to which pixels that move otherwise are unknown instead: most are not real
_RETURNS = 0.7  # how far from itself a pixel may be after the motion to the other frame and back
_SAME_PLACE = 1.5  # how far apart two motions may take the corners of a view, if they are the same
_STEADILY = 2.5  # how much more areas change steadily than to and fro in a dissolve
_LEAST_STEP = 1.5  # the mean change of areas in it, from frame to frame of those compared


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
        forth: That of each pixel; None: it was not estimated.
        back: That of each pixel of the other frame to this one; None: as `forth`.
    """

    camera: Matrix | None
    forth: Flow | None
    back: Flow | None

    @property
    def is_translation(self) -> bool:
        """Whether the camera moves all pixels alike."""
        return _is_translation(self.camera)

    def reversed(self) -> Motion:
        """The motion of the other frame to this one."""
        camera = None if self.camera is None else np.asarray(cv2.invertAffineTransform(self.camera), np.float64)
        return Motion(camera, self.back, self.forth)

    def then(self, second: Motion) -> Motion:
        """The camera's motion of this frame to the other one, and on from there; without that of each pixel."""
        if self.camera is None or second.camera is None:
            return Motion(second.camera if self.camera is None else self.camera, None, None)
        linear, offset = second.camera[:, :2], second.camera[:, 2:]
        return Motion(linear @ self.camera + np.hstack([np.zeros((2, 2)), offset]), None, None)


@dataclass(frozen=True)
class Alignment:
    """Where the pixels of a frame are in another one.

    Attributes:
        motion: (h, w, 2); None: all are at the same place.
        known: 255 where that is known and the other frame shows the same thing, 0 elsewhere.
        factor: Size of a pixel of the views, in pixels of the frames.
        camera: The motion of all pixels that are not `apart`; None: they stand still.
        apart: 255 where the motion is another, 0 elsewhere, (h, w).
        aligned: The view of the other frame, aligned with that of this one and of its exposure, (h, w, 3).
        gains: By how much the red, green and blue of the other frame must be multiplied for the exposure of this one;
            None: by nothing.
    """

    motion: Flow | None
    known: Mask
    factor: float
    camera: Matrix | None
    apart: Mask
    aligned: ImageArray
    gains: Gains | None = None


class Warp:
    """An alignment at the size of the frames; called with an image, it moves that to where a frame's pixels are in it.

    Args:
        alignment: Where they are.
        height: That of the frame and of the images.
        width: That of the frame and of the images.
    """

    def __init__(self, alignment: Alignment, height: int, width: int) -> None:
        self.alignment = alignment
        self.height, self.width = height, width
        self.shift = 0.0, 0.0
        self.apart: list[tuple[slice, slice]] = []  # the parts of a frame that do not follow the shift
        if alignment.motion is None:
            return
        if not _is_translation(alignment.camera):
            self.apart = [(slice(0, height), slice(0, width))]
            return
        if alignment.camera is not None:
            x, y = alignment.camera[:, 2].tolist()
            self.shift = x * alignment.factor, y * alignment.factor
        apart: Any = cv2.bitwise_and(alignment.apart, alignment.known)  # nobody looks at the unknown pixels
        self.apart = _parts(apart, alignment.factor, height, width)

    def __call__(self, image: Any, *, cubic: bool = False) -> Any:  # noqa: ANN401 - of the type of the image
        """An image, moved, (H, W) or (H, W, 3); interpolated by linear or by cubic polynomials.

        Those of three channels also get the exposure of the frame.
        """
        if self.alignment.gains is not None and image.ndim == 3:
            image = exposed(image, self.alignment.gains)
        if self.alignment.motion is None:
            return image
        moved = _translated(image, *self.shift, cubic=cubic)
        interpolation = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
        for part, there in zip(self.apart, self._there, strict=True):
            moved[part] = warped(image, there, interpolation)
        return moved

    @cached_property
    def known(self) -> Mask:
        """The alignment's `known`, (H, W); what is near something unknown is unknown."""
        known: Any = cv2.resize(self.alignment.known, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return _as_mask(np.asarray(known) == 255)

    @cached_property
    def interpolated(self) -> Mask:
        """255 for each pixel of the frame that is elsewhere in the other one, 0 for the rest, (H, W)."""
        motion = self.alignment.motion
        if motion is None:
            return np.zeros((self.height, self.width), np.uint8)
        moved: Any = _as_mask((motion[..., 0] != 0) | (motion[..., 1] != 0))
        return _as_mask(np.asarray(cv2.resize(moved, (self.width, self.height), interpolation=cv2.INTER_LINEAR)) > 0)

    @cached_property
    def _there(self) -> list[Flow]:
        """Positions in the other frame for the pixels of each part, (H', W', 2)."""
        small: Any = self.alignment.motion
        h, w = small.shape[:2]
        down, right = h / self.height, w / self.width
        there = []
        for rows, columns in self.apart:
            top, left = rows.start, columns.start
            place = np.array([[right, 0, (left + 0.5) * right - 0.5], [0, down, (top + 0.5) * down - 0.5]])
            size = (columns.stop - left, rows.stop - top)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            motion = cv2.warpAffine(small, place, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
            there.append(positions(np.asarray(motion, np.float32) * np.float32(self.alignment.factor), left, top))
        return there


def estimate_motion(view: View, other: View) -> Motion:
    """The motion of a frame to another one of the same size.

    The camera's is the simplest of none, a translation, a similarity and an affine transformation that explains the
    frames about as well as the best of them.
    """
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    gray, _ = _with_gains(other, compare(view.color, other.color).gains)
    forth, back = _flow(dense, view.gray, gray), _flow(dense, gray, view.gray)
    here, there = _tracked(view, gray, forth)
    candidates: list[Matrix | None] = [None]
    if len(here) >= _FEWEST_POINTS:
        x, y = np.median(there - here, axis=0)
        candidates.append(np.array([[1, 0, x], [0, 1, y]], np.float64))
        for estimate in (cv2.estimateAffinePartial2D, cv2.estimateAffine2D):
            matrix, _ = estimate(here, there, method=cv2.RANSAC, ransacReprojThreshold=1, maxIters=500)
            if matrix is not None and np.isfinite(matrix).all():
                candidates.append(np.asarray(matrix, np.float64))
    costs = [_cost(view, gray, camera) for camera in candidates]
    simplest = next(i for i, cost in enumerate(costs) if cost <= 1.02 * min(costs) + 0.05)
    return Motion(candidates[simplest], forth, back)


def is_confirmed(motion: Motion, ways: Sequence[Motion], height: int, width: int) -> bool:
    """Whether the camera's motion between two frames is about the same on one of the ways by another frame.

    Args:
        motion: That from the one to the other.
        ways: The same by way of other frames.
        height: That of the views.
        width: That of the views.
    """
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    places = [corners if camera is None else corners @ camera[:, :2].T + camera[:, 2]
              for camera in (motion.camera, *(way.camera for way in ways))]  # fmt: skip
    return any(float(np.hypot(*(place - places[0]).T).mean()) <= _SAME_PLACE for place in places[1:])


def align(view: View, other: View, motion: Motion) -> Alignment:
    """Where the pixels of a frame are in another one: by the camera's motion where that fits, else by the flow.

    Without a flow, what moves otherwise than the camera makes it is unknown.
    """
    h, w = view.gray.shape
    followed = _shifted(other.color, motion.camera)
    gains, is_alike = compare(view.color, followed)
    gray, color = _with_gains(other, gains)
    if gains is not None:
        followed = _shifted(color, motion.camera)
    if not is_alike:
        unknown: Any = np.zeros((h, w), np.uint8)
        return Alignment(None, unknown, view.factor, None, unknown, followed)
    following = cv2.absdiff(view.gray, _shifted(gray, motion.camera))
    if motion.forth is None or motion.back is None:
        combined = _field(motion.camera, h, w)
        apart: Any = np.zeros((h, w), np.uint8)
        aligned = followed
        unknown = _different(view, aligned, _usual(following))
        unknown[_outside(positions(combined))] = 255
    else:
        flowing = cv2.absdiff(view.gray, warped(gray, positions(motion.forth)))
        # Pixels that move otherwise than the camera makes them: they look different, or the flow is much better.
        limit = cv2.addWeighted(cv2.blur(flowing, (9, 9)), 1.5, flowing, 0, 2)
        better = _as_mask(cv2.blur(following, (9, 9)) > limit)
        differing = cv2.bitwise_or(better, _different(view, followed, _usual(flowing)))
        apart = cv2.dilate(differing, np.ones((5, 5), np.uint8))
        if motion.camera is None and not cv2.hasNonZero(apart):
            return Alignment(None, np.full((h, w), 255, np.uint8), view.factor, None, apart, followed, gains)
        combined = _field(motion.camera, h, w)
        cv2.copyTo(motion.forth, apart, combined)
        there = positions(combined)
        aligned = warped(color, there)
        unknown = _different(view, aligned, _usual(flowing))
        # Where the motion to the other frame and back does not return, or leaves the frame.
        back = cv2.add(combined, warped(motion.back, there))
        away = _square(back) > _RETURNS**2 + 0.02 * _square(combined)
        unknown[(away & (apart > 0)) | _outside(there)] = 255
    known: Any = cv2.erode(cv2.bitwise_not(unknown), np.ones((3, 3), np.uint8))
    known = cv2.subtract(known, _scattered(cv2.bitwise_and(apart, known)))
    moved = None if motion.camera is None and not combined.any() else combined
    return Alignment(moved, np.asarray(known, np.uint8), view.factor, motion.camera, apart, aligned, gains)


def is_dissolving(view: View, before: Alignment, after: Alignment) -> bool:
    """Whether a frame between two others is a mixture of them, as one scene fades into another one.

    Then areas change steadily, by much more than to and fro, as they do by the rain that the network leaves.
    """
    now, earlier, later = (_mean_colors(color) for color in (view.color, before.aligned, after.aligned))
    earlier, later = earlier - now, later - now
    steadily, to_and_fro = float(np.abs(later - earlier).mean()), float(np.abs(later + earlier).mean())
    return steadily > max(_STEADILY * to_and_fro, 2 * _LEAST_STEP)


def _with_gains(view: View, gains: Gains | None) -> tuple[Any, Any]:
    """A view whose channels are multiplied, gray and in color."""
    if gains is None:
        return view.gray, view.color
    color = exposed(view.color, gains)
    return cv2.cvtColor(color, cv2.COLOR_RGB2GRAY), color


def _mean_colors(color: ImageArray) -> NDArray[np.float32]:
    """The mean colors of squares of a view."""
    h, w = color.shape[:2]
    size = max(1, w // _TILE), max(1, h // _TILE)
    return np.asarray(cv2.resize(color, size, interpolation=cv2.INTER_AREA), np.float32)


def _usual(difference: Any) -> float:  # noqa: ANN401
    return float(np.median(difference[::2, ::2]))


def _outside(there: Flow) -> NDArray[np.bool_]:
    """Which positions are beyond the edges, (h, w)."""
    h, w = there.shape[:2]
    x, y = there[..., 0], there[..., 1]
    return (x < 0) | (y < 0) | (x > w - 1) | (y > h - 1)


def _tracked(view: View, other: ImageArray, flow: Flow) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points of a view and where they are in another one, (N, 2) each.

    They are more exact than the flow, as a larger window is compared: what is left of rain matters less.
    """
    sampled = (slice(_STEP // 2, None, _STEP),) * 2
    chosen = view.textured[sampled] > 0
    here: Any = np.argwhere(chosen)[:, ::-1].astype(np.float32) * _STEP + _STEP // 2
    there: Any = here + flow[sampled][chosen]
    if not len(here):
        return here, there
    ending = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.01)
    options: Any = {"winSize": _WINDOW, "maxLevel": 1, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW, "criteria": ending}
    there, status, _ = cv2.calcOpticalFlowPyrLK(view.gray, other, here, there, **options)
    found = np.asarray(status)[:, 0] > 0
    return here[found], there[found]


def _flow(dense: cv2.DISOpticalFlow, gray: ImageArray, other: ImageArray) -> Flow:
    if min(gray.shape) < 16:  # smaller than the flow's patches
        return np.zeros((*gray.shape, 2), np.float32)
    return np.asarray(dense.calc(gray, other, None), np.float32)  # type: ignore[call-overload]


def positions(motion: Flow, left: int = 0, top: int = 0) -> Flow:
    """Positions instead of displacements, of which the first one is that at (left, top)."""
    h, w = motion.shape[:2]
    there = motion.copy()
    there[..., 0] += np.arange(left, left + w, dtype=np.float32)
    there[..., 1] += np.arange(top, top + h, dtype=np.float32)[:, None]
    return there


def _field(camera: Matrix | None, height: int, width: int) -> Flow:
    """The displacement of each pixel by the camera's motion."""
    field = np.zeros((height, width, 2), np.float32)
    if camera is not None:
        (a, b, c), (d, e, f) = camera.astype(np.float32)
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        field[..., 0] = (a - 1) * x + b * y + c
        field[..., 1] = d * x + (e - 1) * y + f
    return field


def warped(image: Any, there: Flow, interpolation: int = cv2.INTER_LINEAR) -> Any:  # noqa: ANN401 - of the type of the image
    """An image with the pixels that are at the given positions; those at its edge are repeated."""
    return cv2.remap(image, there, None, interpolation, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


def _shifted(image: Any, camera: Matrix | None) -> Any:  # noqa: ANN401 - of the type of the image
    if camera is None:
        return image
    h, w = image.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, camera, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _is_translation(camera: Matrix | None) -> bool:
    return camera is None or bool((camera[:, :2] == np.eye(2)).all())


def _parts(mask: Mask, factor: float, height: int, width: int) -> list[tuple[slice, slice]]:
    """Rectangles of a frame of this size that hold everything in a mask of the view, and the pixels around it."""

    def of_frame(first: int, end: int, size: int) -> slice:
        return slice(max(0, int((first * _TILE - 1) * factor)), min(size, math.ceil((end * _TILE + 1) * factor)))

    parts = []
    for row, line in enumerate(np.any(_tiles(mask), axis=(1, 3))):
        edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).tolist()  # where runs begin and end
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            parts.append((of_frame(row, row + 1, height), of_frame(first, end, width)))
    return parts


def _scattered(mask: Mask) -> Mask:
    """What is in a mask of the view, but not where it covers most of a tile."""
    few = np.count_nonzero(_tiles(mask), axis=(1, 3)) <= _SCATTERED * _TILE**2
    h, w = mask.shape
    return mask & _as_mask(few.repeat(_TILE, axis=0).repeat(_TILE, axis=1)[:h, :w])


def _tiles(mask: Mask) -> Mask:
    """A mask of the view in tiles, filled up by 0: (h, w) -> (rows, _TILE, columns, _TILE)."""
    h, w = mask.shape
    rows, columns = -(-h // _TILE), -(-w // _TILE)
    padded = np.pad(mask, ((0, rows * _TILE - h), (0, columns * _TILE - w)))
    return padded.reshape(rows, _TILE, columns, _TILE)


def _translated(image: Any, x: float, y: float, *, cubic: bool) -> Any:  # noqa: ANN401 - of the type of the image
    """An image with the pixels that are (x, y) further; those at the edge are repeated."""
    H, W = image.shape[:2]
    left, top = math.floor(x), math.floor(y)
    if (x, y) != (left, top):
        kernels = (_cubic if cubic else _linear)(x - left), (_cubic if cubic else _linear)(y - top)
        image = cv2.sepFilter2D(image, -1, *kernels, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE)
    left, top = max(-W + 1, min(left, W - 1)), max(-H + 1, min(top, H - 1))
    inside = image[max(0, top) : H + min(0, top), max(0, left) : W + min(0, left)]
    sides = max(0, -top), max(0, top), max(0, -left), max(0, left)
    return cv2.copyMakeBorder(inside, *sides, cv2.BORDER_REPLICATE)


def _linear(fraction: float) -> Any:  # noqa: ANN401 - for OpenCV
    """Weights of the pixels at -1, 0, 1 and 2 for the value at a fraction of a pixel."""
    return np.array([0, 1 - fraction, fraction, 0], np.float32)


def _cubic(fraction: float) -> Any:  # noqa: ANN401 - for OpenCV
    """The same by cubic polynomials, those of cv2.INTER_CUBIC (Keys, 1981, a = -0.75)."""
    a = -0.75
    near, far = np.array([fraction, 1 - fraction]), np.array([1 + fraction, 2 - fraction])
    inner = ((a + 2) * near - (a + 3)) * near * near + 1
    outer = ((far - 5) * far + 8) * far * a - 4 * a
    return np.array([outer[0], *inner, outer[1]], np.float32)


def _square(motion: Any) -> Any:  # noqa: ANN401
    x, y = cv2.split(motion)
    return x * x + y * y


def _cost(view: View, other: ImageArray, camera: Matrix | None) -> float:
    """How badly a motion of the camera explains what has texture."""
    return difference(view.gray, _shifted(other, camera), view.textured)


def _different(view: View, aligned: Any, usual: float) -> Any:  # noqa: ANN401
    """255 where a frame differs from the aligned colors of another one, 0 elsewhere, (h, w).

    Rain that the network left is narrow; only what is wider is counted.
    """
    largest = _largest(cv2.absdiff(view.color, aligned))
    wide: Any = _as_mask(largest > min(max(_DIFFERENT, _UNUSUAL * usual), _ALWAYS))
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
