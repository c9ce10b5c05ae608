"""Rain for training: streaks drawn from parameters, layers of streaks varied, and both added to clean photos.

Everything is drawn from the generator that is passed in, so that a seed decides the image.

Shapes: photos (H, W, 3) uint8 RGB; layers (H, W) float32, 0..255, gray and additive as in Rain100 and Rain200.
Lengths are in pixels; angles in degrees from the vertical, positive leaning to the right at the bottom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import cv2
import numpy as np

from drsformer_cli.training.toml_config import Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Photo = NDArray[np.uint8]
    Layer = NDArray[np.float32]
    Floats = NDArray[np.floating[Any]]

# Lowest and highest value; one between them is drawn for each image.
Range = tuple[float, float]
Share = Annotated[Range, Limits(0, 1, rising=True)]
Level = Annotated[Range, Limits(0, 255, rising=True)]
Pixels = Annotated[Range, Limits(0.5, 1000, rising=True)]
Degrees = Annotated[Range, Limits(-180, 180, rising=True)]
Sigma = Annotated[Range, Limits(0, 20, rising=True)]

AIRLIGHT = (0.6, 1.0)
"""Brightness of the veil that distant rain makes, of 1."""

FAINTEST_BLUR = 0.2
"""Standard deviation in pixels under which a blur changes nothing."""

MOST_POINTS = 4_000_000
"""Points that one layer is drawn with at most; a bound for memory where the parameters are extreme."""


@dataclass(frozen=True)
class RainRanges:
    """What one layer of rendered rain is drawn from.

    Attributes:
        amount: Mean of the layer, of 255, before overlaps saturate; with the brightness and the size of the streaks
            it decides how many there are.
        brightness: Of the nearest streaks, of 255.
        length: Of the nearest streaks, in pixels.
        width: Of the nearest streaks, in pixels.
        depth: How many times farther than the nearest the farthest streaks are, and so shorter, thinner and dimmer.
        angle: Direction of fall, in degrees from the vertical.
        directions: How many directions cross, each of its own angle and amount; rounded.
        spread: Standard deviation of the angles within a direction, in degrees.
        taper: 0: even along the streak, as motion blur makes them; 1: fading to both ends, as drops seen near.
        beads: 0..1, how much the brightness swings along a streak, as of an oscillating drop.
        gusts: 0..1, how much the amount differs from place to place.
        blur: Standard deviation of the camera's blur over the layer, in pixels.
        veil: 0..1, how much of the scene far rain hides behind an even gray.
    """

    amount: Level = (2.0, 60.0)
    brightness: Annotated[Range, Limits(1, 255, rising=True)] = (40.0, 130.0)
    length: Pixels = (30.0, 160.0)
    width: Pixels = (1.0, 3.0)
    depth: Annotated[Range, Limits(1, 20, rising=True)] = (1.0, 3.5)
    angle: Degrees = (-30.0, 30.0)
    directions: Annotated[Range, Limits(1, 8, rising=True)] = (1.0, 2.4)
    spread: Annotated[Range, Limits(0, 90, rising=True)] = (0.3, 3.0)
    taper: Share = (0.0, 1.0)
    beads: Share = (0.0, 0.6)
    gusts: Share = (0.0, 0.8)
    blur: Sigma = (0.0, 0.6)
    veil: Share = (0.0, 0.0)


@dataclass(frozen=True)
class LayerRanges:
    """How a given layer is varied.

    Attributes:
        gain: Factor of its brightness.
        mirror: Whether it is mirrored, left to right, at random.
        turn: Degrees that it is turned by.
        scale: Factor of its size.
        second: Probability that another layer is added, varied in its own way.
        blur: As for rendered rain.
        veil: As for rendered rain.
    """

    gain: Annotated[Range, Limits(0, 10, rising=True)] = (0.7, 1.25)
    mirror: bool = True
    turn: Degrees = (0.0, 0.0)
    scale: Annotated[Range, Limits(0.1, 10, rising=True)] = (1.0, 1.0)
    second: Annotated[float, Limits(0, 1)] = 0.0
    blur: Sigma = (0.0, 0.0)
    veil: Share = (0.0, 0.0)


def composite(clean: Photo, layer: Layer, veil: Range, rng: np.random.Generator) -> Photo:
    """The photo in the rain: min(255, (1 - v) clean + v air + layer), (H, W, 3) uint8; v drawn from `veil`."""
    share = rng.uniform(*veil)
    air = 255 * rng.uniform(*AIRLIGHT)
    rainy = clean * np.float32(1 - share) + np.float32(share * air) + layer[..., None]
    rounded: Photo = np.rint(np.minimum(rainy, 255)).astype(np.uint8)
    return rounded


def vary(layer: Photo, ranges: LayerRanges, height: int, width: int, rng: np.random.Generator) -> Layer:
    """A part of a gray layer (h, w) uint8, varied, as (H, W) float32; a layer that is too small is reflected."""
    gain, turn, scale = rng.uniform(*ranges.gain), rng.uniform(*ranges.turn), rng.uniform(*ranges.scale)
    if ranges.mirror and rng.random() < 0.5:
        layer = layer[:, ::-1]
    # Where the middle of the result comes from: anywhere that leaves no side outside the layer, where there is such.
    reach_y, reach_x = height / 2 / scale, width / 2 / scale
    y = round(rng.uniform(reach_y, max(reach_y, layer.shape[0] - reach_y)))
    x = round(rng.uniform(reach_x, max(reach_x, layer.shape[1] - reach_x)))
    matrix = cv2.getRotationMatrix2D((x, y), turn, scale)
    matrix[:, 2] += (width // 2 - x, height // 2 - y)
    part = cv2.warpAffine(np.ascontiguousarray(layer), matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    blur = rng.uniform(*ranges.blur)
    varied = part.astype(np.float32) * np.float32(gain)
    if blur > FAINTEST_BLUR:
        varied = _blurred(varied, blur)
    return varied


def render(ranges: RainRanges, height: int, width: int, rng: np.random.Generator) -> Layer:
    """A layer of streaks, (H, W) float32 of 0..255."""
    amount = rng.uniform(*ranges.amount)
    directions = max(1, round(rng.uniform(*ranges.directions)))
    shares = rng.dirichlet(np.full(directions, 3.0))
    blur = rng.uniform(*ranges.blur)
    gusts = rng.uniform(*ranges.gusts)
    amount = -255 * math.log1p(-min(amount, 250.0) / 255)  # what saturation below will take away
    layer = np.zeros((height, width), np.float32)
    for share in shares:
        layer += _one_direction(ranges, amount * share, height, width, rng)
    if blur > FAINTEST_BLUR:
        layer = _blurred(layer, blur)
    layer *= _gusts(gusts, height, width, rng)
    # Where streaks overlap they hide each other in part, so that nothing exceeds 255.
    saturated: Layer = 255 * -np.expm1(layer / -255)
    return saturated


def _blurred(layer: Layer, sigma: float) -> Layer:
    blurred: Any = cv2.GaussianBlur(layer, (0, 0), sigma)
    return np.asarray(blurred, np.float32)


def _one_direction(ranges: RainRanges, amount: float, height: int, width: int, rng: np.random.Generator) -> Layer:
    """Streaks around one angle whose sum is `amount` a pixel."""
    brightness, longest, widest = (rng.uniform(*r) for r in (ranges.brightness, ranges.length, ranges.width))
    angle, spread = rng.uniform(*ranges.angle), rng.uniform(*ranges.spread)
    taper, beads, depth = rng.uniform(*ranges.taper), rng.uniform(*ranges.beads), rng.uniform(*ranges.depth)

    # Streaks begin in a frame large enough that those entering from outside are as many as those leaving.
    margin = int(longest) + 2
    area = (height + 2 * margin) * (width + 2 * margin)
    # The expected sum over a streak: the mean of nearness**3, of the other draws below, and of the taper.
    nearness_cubed = 1.0 if depth < 1.01 else (1 - depth**-3) / (3 * math.log(depth))
    ink = brightness * longest * widest * nearness_cubed * 0.9 * 0.95 * (1 - 0.36 * taper)
    most = int(MOST_POINTS / (longest * (widest + 1)))
    N = min(int(rng.poisson(amount * area / max(ink, 1e-6))), most)
    if N == 0:
        return np.zeros((height, width), np.float32)

    # All of shape (N,). Nearness 1/depth..1, evenly on a logarithmic scale: the farther, the more numerous.
    nearness = np.exp(rng.uniform(-math.log(depth), 0, N))
    lengths = np.maximum(longest * nearness * rng.uniform(0.5, 1.3, N), 2)
    widths = np.maximum(widest * nearness * rng.uniform(0.6, 1.3, N), 0.5)
    values = brightness * nearness * rng.gamma(3.0, 1 / 3.0, N)
    angles = np.deg2rad(angle + spread * rng.standard_normal(N))
    tops = rng.uniform(-margin, height + margin, N)
    lefts = rng.uniform(-margin, width + margin, N)
    powers = taper * rng.uniform(0.5, 1.5, N)
    swings, waves, phases = beads * rng.uniform(0, 1, N), rng.uniform(0.5, 4, N), rng.uniform(0, 2 * np.pi, N)

    # Each streak becomes a grid of points, one a pixel along and across; P points in all.
    along = np.ceil(lengths).astype(np.int64)
    across = np.ceil(widths).astype(np.int64)
    number = along * across
    streak = np.repeat(np.arange(N), number)  # (P,) which streak a point belongs to
    point = np.arange(len(streak)) - np.repeat(np.cumsum(number) - number, number)  # (P,) its number there
    t = (point // across[streak] + 0.5) / along[streak]  # 0..1 along
    offset = ((point % across[streak] + 0.5) / across[streak] - 0.5) * widths[streak]  # pixels across
    distance = t * lengths[streak] - lengths[streak] / 2
    sine, cosine = np.sin(angles), np.cos(angles)
    y = tops[streak] + distance * cosine[streak] - offset * sine[streak]
    x = lefts[streak] + distance * sine[streak] + offset * cosine[streak]
    value = values[streak] * np.sin(np.pi * t) ** powers[streak]
    value *= 1 + swings[streak] * np.sin(waves[streak] * 2 * np.pi * t + phases[streak])
    # A point stands for this share of a pixel.
    value *= (lengths / along * widths / across)[streak]
    return _splat(y, x, value, height, width)


def _splat(y: Floats, x: Floats, value: Floats, height: int, width: int) -> Layer:
    """Points added to the four pixels around each, by their distance: (P,) three times -> (H, W)."""
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    dy, dx = y - top, x - left
    inside = (top >= -1) & (top < height) & (left >= -1) & (left < width)
    top, left, dy, dx, value = top[inside], left[inside], dy[inside], dx[inside], value[inside]
    stride = width + 2  # a border of one takes what falls outside
    first = (top + 1) * stride + left + 1
    indices = np.concatenate([first, first + 1, first + stride, first + stride + 1])
    weights = np.concatenate(
        [(1 - dy) * (1 - dx) * value, (1 - dy) * dx * value, dy * (1 - dx) * value, dy * dx * value]
    )
    sums = np.bincount(indices, weights, minlength=(height + 2) * stride)
    return sums.reshape(height + 2, stride)[1:-1, 1:-1].astype(np.float32)


def _gusts(strength: float, height: int, width: int, rng: np.random.Generator) -> Layer:
    """A smooth field of mean 1 that makes the rain denser here and thinner there, (H, W)."""
    coarse = rng.standard_normal((2 + height // 40, 2 + width // 40)).astype(np.float32)
    field = np.exp(strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    normalized: Layer = field / field.mean()
    return normalized
