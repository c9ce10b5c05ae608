"""Restore a video: each frame by the network, and then with the help of the frames before and after it."""

from __future__ import annotations

import os
import statistics
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from drsformer.alignment import (
    View,
    Warp,
    align,
    estimate_motion,
    is_confirmed,
    is_dissolving,
    positions,
    shrunk,
    warped,
)
from drsformer.config import MOST_NEIGHBORS
from drsformer.errors import ConfigError, ImageError
from drsformer.fusion import Fused, Neighbor, at_full_strength, dryness, fuse, steadied
from drsformer.images import is_rgb, shape_and_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from drsformer.alignment import Alignment, Motion
    from drsformer.fusion import Mask
    from drsformer.images import ImageArray
    from drsformer.inference import Restorer

_FIRST_FRAMES = 3  # frames of a shot of which the scale is chosen

_NEAR = 3  # frames on each side to which the motion of each pixel is estimated; beyond, only the camera's is followed
_STANDS = 1 / 3  # share of the motions over so many frames that are none, from which on the camera mostly stands
_FEW = 4  # frames on each side that help where the camera's motion is not a translation, which takes longer
_STEADY = 3  # fused frames on each side that are averaged with one

CONTEXT = MOST_NEIGHBORS + _STEADY + _FIRST_FRAMES - 1
"""Most frames on each side that a restored frame depends on, besides the scale of its shot."""

# A shot begins where the frames before and after it differ by more than this share of their mean contrast, on
# thumbnails of this size. Rain alone makes up to 0.69, and different scenes at least 0.87 in heavy rain.
_CUT = 0.78
_THUMBNAIL = 96
_GROUP = 3  # frames before and after it that are compared

_THREADS = 4
_SMALLEST = 16  # side in pixels of frames that can be aligned

_BUDGET = 2 * 2**30  # bytes for the aligned frames


@dataclass(frozen=True)
class RestoredFrame:
    """A restored frame.

    Attributes:
        image: (H, W, 3), of the type of the rainy frame.
        scale: The scale at which the network restored it; see `Restorer`.
        starts_shot: Whether it is the first frame of the video, or follows a cut.
    """

    image: ImageArray
    scale: float
    starts_shot: bool


def restore_frames(
    frames: Iterable[ImageArray],
    restorer: Restorer,
    *,
    temporal: Literal["auto", "off"] | int = "auto",
    scale: float | None = None,
) -> Iterator[RestoredFrame]:
    """Restore the frames of a video, one after the other.

    Frames near each other are aligned, and what is bright in one of them only is rain. Where they cannot be aligned,
    and beyond a cut, a frame is restored by the network alone. The scale is chosen once for each shot. Each frame
    passes through the network once; no more than `CONTEXT` frames are read ahead.

    Args:
        frames: (H, W, 3) RGB, uint8 or uint16, all of the same size and type.
        restorer: The network and its settings.
        temporal: The number of frames on each side that help a frame, 0 to 8. "auto": 8, or fewer if frames have
            more than 4.4 megapixels of 8 bits. "off" and 0: none.
        scale: The scale of the first shot, if it is known. None: it is chosen.

    Yields:
        As many frames, in the same order.

    Raises:
        ConfigError: `temporal` is out of its range, or `restorer` is not a `Restorer`.
        ImageError: A frame has another shape or type than is expected.
    """
    check_restorer(restorer)
    reach = _checked_reach(temporal)
    return _Video(restorer, reach, scale).restored(frames)


@dataclass
class _Answer:
    """What the network made of a frame.

    Attributes:
        restored: The restored frame.
        unblended: The same at full strength.
        dryness: See `drsformer.fusion.dryness`.
        scale: Its scale.
    """

    restored: ImageArray
    unblended: ImageArray
    dryness: ImageArray
    scale: float

    @cached_property
    def view(self) -> View:
        return View(self.unblended)


@dataclass
class _Frame:
    """A frame that was read.

    Attributes:
        rainy: The frame.
        thumbnail: Its luma, small.
        starts_shot: Whether it starts a shot; None: not yet known.
        answer: The network's; None: it was not asked yet.
        motions: The motions to the frames that are so many frames later.
        fused: The frame fused with its neighbors; None: not yet.
        alignments: Those with the nearest frames, by their numbers, which fusing it made.
    """

    rainy: ImageArray
    thumbnail: ImageArray
    starts_shot: bool | None = None
    answer: _Answer | None = None
    motions: dict[int, Motion] = field(default_factory=dict)
    fused: Fused | None = None
    alignments: dict[int, Alignment] = field(default_factory=dict)


class _Video:
    """The frames between the first that still helps and the last that was read."""

    def __init__(self, restorer: Restorer, reach: int | None, scale: float | None) -> None:
        self.restorer = restorer
        self.reach = reach
        self.scale = scale
        self.window: deque[_Frame] = deque()
        self.pool: ThreadPoolExecutor
        self.first = 0  # number of the first frame of the window

    def restored(self, frames: Iterable[ImageArray]) -> Iterator[RestoredFrame]:
        source = iter(frames)
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as self.pool:
            yield from self._one_by_one(source)

    def _one_by_one(self, source: Iterator[ImageArray]) -> Iterator[RestoredFrame]:
        number = 0
        while True:
            for rainy in islice(source, number + CONTEXT + 1 - self._end()):
                self._append(rainy)
            if number == self._end():
                return
            yield self._restore(number)
            number += 1
            while self.first < number - MOST_NEIGHBORS:
                self.window.popleft()
                self.first += 1
            if number > _STEADY:
                self._frame(number - _STEADY - 1).fused = None  # nothing needs it any more

    def _end(self) -> int:
        return self.first + len(self.window)

    def _frame(self, number: int) -> _Frame:
        return self.window[number - self.first]

    def _append(self, rainy: ImageArray) -> None:
        _check_frame(rainy)
        if self.window and (self.window[-1].rainy.shape, self.window[-1].rainy.dtype) != (rainy.shape, rainy.dtype):
            last = self.window[-1].rainy
            raise ImageError(
                f"frame {self._end()} is {rainy.shape[1]}x{rainy.shape[0]} {rainy.dtype}, "
                f"but the one before it {last.shape[1]}x{last.shape[0]} {last.dtype}"
            )
        if min(rainy.shape[:2]) < _SMALLEST:
            self.reach = 0
        elif self.reach is None:
            self.reach = _affordable_reach(rainy)
        rainy = np.array(rainy, order="C")  # frames are read ahead, perhaps into one array
        self.window.append(_Frame(rainy, _thumbnail(rainy)))

    def _restore(self, number: int) -> RestoredFrame:
        answer = self._answer(number)
        others = self._others(number)
        image = self._steadied(number, others) if others else answer.restored
        return RestoredFrame(image, answer.scale, self._starts_shot(number))

    def _others(self, number: int) -> list[int]:
        """The frames that help a frame, none of them beyond a cut, the nearest first."""
        reach = self.reach or 0
        others = []
        n = number
        while n > max(self.first, number - reach) and not self._starts_shot(n):
            n -= 1
            others.append(n)
        n = number + 1
        while n <= number + reach and n < self._end() and not self._starts_shot(n):
            others.append(n)
            n += 1
        return sorted(others, key=lambda n: abs(n - number))

    def _starts_shot(self, number: int) -> bool:
        frame = self._frame(number)
        if frame.starts_shot is None:
            before = []
            for n in range(number - 1, max(self.first, number - _GROUP) - 1, -1):
                before.append(self._frame(n).thumbnail)
                if self._frame(n).starts_shot:
                    break
            after = [self._frame(n).thumbnail for n in range(number, min(number + _GROUP, self._end()))]
            frame.starts_shot = not before or is_cut(before, after)
        return frame.starts_shot

    def _answer(self, number: int) -> _Answer:
        """What the network makes of a frame; it is asked once."""
        frame = self._frame(number)
        if frame.answer is None:
            scale = self._choose_scale(number) if self._starts_shot(number) else self._answer(number - 1).scale
            restored = self.restorer.restore(frame.rainy, scale=scale).image
            unblended = at_full_strength(frame.rainy, restored, self.restorer.strength)
            frame.answer = _Answer(restored, unblended, dryness(frame.rainy, unblended), scale)
        return frame.answer

    def _choose_scale(self, number: int) -> float:
        """The scale of the shot that begins with a frame."""
        if number == 0 and self.scale is not None:
            return self.scale
        first = [self._frame(number)]
        for n in range(number + 1, min(number + _FIRST_FRAMES, self._end())):
            if self._starts_shot(n):
                break
            first.append(self._frame(n))
        return statistics.median_low(self.restorer.choose_scale(frame.rainy) for frame in first)

    def _steadied(self, number: int, others: Sequence[int]) -> ImageArray:
        """A fused frame, averaged with the fused frames next to it."""
        frame, fused = self._frame(number), self._fused(number)
        near = [n for n in others if abs(n - number) <= _STEADY]
        images = {n: self._fused(n).image for n in near}

        def neighbor(n: int) -> tuple[ImageArray, Mask, Mask]:
            H, W = frame.rainy.shape[:2]
            warp = Warp(frame.alignments[n], H, W)
            return warp(images[n], cubic=True), warp.known, warp.interpolated

        steady = steadied(fused, list(self.pool.map(neighbor, near)), pool=self.pool)
        frame.alignments.clear()
        return steady.blended(frame.rainy, self.restorer.strength, self.pool)

    def _fused(self, number: int) -> Fused:
        """A frame fused with its neighbors, at full strength; it is made once."""
        frame = self._frame(number)
        if frame.fused is None:
            others = self._others(number)
            for n in sorted((number, *others)):
                self._answer(n)  # in the order of the video
            motions = self._motions(number, others)
            cheap = [n for n in others if abs(n - number) <= _FEW or motions[n].is_translation]
            alignments = dict(
                zip(cheap, self.pool.map(lambda n: self._align(number, n, motions[n]), cheap), strict=True)
            )
            if self._is_dissolving(number, alignments):
                nothing = np.zeros_like(self._answer(number).view.gray)
                alignments = {n: replace(alignment, known=nothing) for n, alignment in alignments.items()}
            frame.alignments = {n: alignments[n] for n in cheap if abs(n - number) <= _STEADY}
            neighbors = list(self.pool.map(lambda n: self._neighbor(n, alignments[n]), cheap))
            frame.fused = fuse(frame.rainy, self._answer(number).unblended, neighbors, pool=self.pool)
        return frame.fused

    def _align(self, number: int, other: int, motion: Motion) -> Alignment:
        return align(self._answer(number).view, self._answer(other).view, motion)

    def _is_dissolving(self, number: int, alignments: Mapping[int, Alignment]) -> bool:
        """Whether a frame is part of a dissolve, as near frames on both sides show."""
        view = self._answer(number).view
        pairs = [(2 * number - n, n) for n in range(number + 1, number + _NEAR + 1)]
        pairs = [(before, after) for before, after in pairs if {before, after} <= alignments.keys()]
        return any(is_dissolving(view, alignments[before], alignments[after]) for before, after in pairs)

    def _neighbor(self, number: int, alignment: Alignment) -> Neighbor:
        """A neighbor of the frame with which it is aligned."""
        rainy, answer = self._frame(number).rainy, self._answer(number)
        return aligned(rainy, answer.unblended, answer.dryness, Warp(alignment, *rainy.shape[:2]))

    def _estimate(self, number: int, other: int) -> Motion:
        """The motion of a frame to a near one; it is estimated once for both directions."""
        if other < number:
            return self._estimate(other, number).reversed()
        motions = self._frame(number).motions
        if other - number not in motions:
            motions[other - number] = estimate_motion(self._answer(number).view, self._answer(other).view)
        return motions[other - number]

    def _motions(self, number: int, others: Sequence[int]) -> dict[int, Motion]:
        """The motions of a frame to others, in steps to those that are far."""
        frames = range(min(number, *others), max(number, *others) + 1)
        near = min(_NEAR, len(frames) - 1)
        pairs = [(a, b) for a in frames for b in range(a + 1, a + near + 1) if b in frames]
        estimates = dict(zip(pairs, self.pool.map(lambda pair: self._estimate(*pair), pairs), strict=True))
        far = [motion.camera is None for (a, b), motion in estimates.items() if b - a == near]
        stands = sum(far) >= _STANDS * len(far)
        motions: dict[int, Motion] = {}
        for other in others:  # the nearest first
            if abs(other - number) > near:
                between = other - near if other > number else other + near
                motions[other] = motions[between].then(self._motion(between, other, frames, stands=stands))
            else:
                motions[other] = self._motion(number, other, frames, stands=stands)
        return motions

    def _motion(self, number: int, other: int, frames: range, *, stands: bool) -> Motion:
        """The motion of a frame to a near one; if nothing confirms it and the camera mostly stands, it stands here."""
        motion = self._estimate(number, other)
        if motion.camera is None or not stands:
            return motion
        a, b = sorted((number, other))
        ways = [
            self._estimate(number, n).then(self._estimate(n, other))
            for n in range(a - 1, b + 2)
            if n in frames and n not in (a, b) and max(abs(n - a), abs(n - b)) <= _NEAR
        ]
        confirmed = is_confirmed(motion, ways, *self._answer(number).view.gray.shape)
        return motion if confirmed else replace(motion, camera=None)


def aligned(rainy: ImageArray, restored: ImageArray, dry: ImageArray, warp: Warp) -> Neighbor:
    """A neighbor, moved to where its pixels are in the present frame."""
    return Neighbor(warp(rainy, cubic=True), warp(restored, cubic=True), warp(dry), warp.known, warp.interpolated)


def is_cut(before: Sequence[ImageArray], after: Sequence[ImageArray]) -> bool:
    """Whether two groups of neighboring thumbnails show different scenes.

    If the later group begins with the last frames of the earlier scene, it does not.
    """
    if _difference(before, after) <= _CUT:
        return False
    return len(after) == 1 or _difference(before, after[:1]) > _difference(after[:1], after[1:])


def _difference(before: Sequence[ImageArray], after: Sequence[ImageArray]) -> float:
    """The mean difference of two groups of thumbnails, as a share of their mean contrast.

    Of each group the darkest values are compared, in which there is little rain.
    """
    earlier, later = np.minimum.reduce(before), np.minimum.reduce(after)
    h, w = later.shape
    candidates = [earlier]
    if min(h, w) >= 16:
        dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = np.asarray(dense.calc(later, earlier, None), np.float32)  # type: ignore[call-overload]
        candidates.append(np.asarray(warped(earlier, positions(flow))))
    # Without the mean: a flash is not a cut.
    now = later - later.mean()
    contrast = (np.abs(earlier - earlier.mean()).mean() + np.abs(now).mean()) / 2
    difference = min(np.abs(candidate - candidate.mean() - now).mean() for candidate in candidates)
    return float((difference - 1) / max(contrast, 1e-6))


def _thumbnail(rainy: ImageArray) -> ImageArray:
    """The luma of a frame, small and blurred so that rain hardly shows, uint8."""
    gray: Any = shrunk(cv2.cvtColor(rainy, cv2.COLOR_RGB2GRAY), _THUMBNAIL)
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), 1.0))


def check_restorer(restorer: object) -> None:
    """Refuse a network, which lacks the settings.

    Raises:
        ConfigError: It is not a `Restorer`.
    """
    if not hasattr(restorer, "choose_scale"):
        raise ConfigError(f"expected a Restorer such as Restorer(model), not {type(restorer).__name__}")


def _checked_reach(temporal: Literal["auto", "off"] | int) -> int | None:
    if temporal == "auto":
        return None
    if temporal == "off":
        return 0
    if isinstance(temporal, bool) or not isinstance(temporal, int | np.integer) or not 0 <= temporal <= MOST_NEIGHBORS:
        raise ConfigError(f"temporal must be 'auto', 'off' or an integer from 0 to {MOST_NEIGHBORS}, not {temporal!r}")
    return int(temporal)


def _affordable_reach(rainy: ImageArray) -> int:
    """How many frames of this size on each side are worth their memory.

    This depends on nothing else, so that a resumed run does the same.
    """
    # A frame is held as rainy, restored and fused, aligned, and with masks and the map of the alignment.
    return min(MOST_NEIGHBORS, _BUDGET // (2 * 10 * rainy.nbytes))


def _check_frame(rainy: ImageArray) -> None:
    if not is_rgb(rainy) or 0 in rainy.shape:
        raise ImageError(f"expected frames of shape (H, W, 3), uint8 or uint16, not {shape_and_type(rainy)}")
