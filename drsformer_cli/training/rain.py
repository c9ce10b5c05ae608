"""Rain for training: render streaks, vary given layers of streaks, and add either to clean images.

All randomness comes from the generator that is passed in, so that the result depends only on its seed.

Shapes: images (H, W, 3) uint8 RGB; layers (H, W) float32, 0..255, gray as in Rain100 and Rain200.
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

    Pixels = NDArray[np.uint8]
    Layer = NDArray[np.float32]
    Floats = NDArray[np.floating[Any]]

# Lowest and highest value; a value between them is drawn for each image.
Range = tuple[float, float]
Fraction = Annotated[Range, Limits(0, 1, ordered=True)]
Levels = Annotated[Range, Limits(0, 255, ordered=True)]
Lengths = Annotated[Range, Limits(0.5, 1000, ordered=True)]
Degrees = Annotated[Range, Limits(-180, 180, ordered=True)]
Sigma = Annotated[Range, Limits(0, 20, ordered=True)]
Factor = Annotated[Range, Limits(0, 10, ordered=True)]
Scale = Annotated[Range, Limits(0.1, 10, ordered=True)]
Probability = Annotated[float, Limits(0, 1)]

AIRLIGHT = (0.6, 1.0)
"""Range of the brightness of the haze that distant rain makes, on a scale of 1."""

SOFT_LIGHT_OPACITY = (0.2, 0.8)
"""Range of the opacity of a layer that is blended by soft light."""

FAINTEST_BLUR = 0.2
"""Standard deviation in pixels below which a blur changes nothing."""

MOST_POINTS = 4_000_000
"""Largest number of points of a layer; it limits the memory for extreme parameters."""

DEPTH_PLANES = 3
"""Planes that streaks are sorted into by their distance; each is blurred by its distance from the focal plane."""


@dataclass(frozen=True)
class Look:
    """How rain changes the scene besides its streaks, and how the streaks are blended.

    Attributes:
        screen: Probability that the layer is blended as 1 - (1 - clean)(1 - layer) instead of clean + layer.
        soft_light: Probability that the layer is blended as clean + opacity (2 layer - 1) clean (1 - clean) instead of
            either, which darkens what a faint layer covers, as image editors do.
        veil: 0..1, opacity of the haze in the farthest part of the scene; it grows with the distance.
        contrast: Factor for the contrast of the rainy image, around middle gray.
        saturation: Factor for the saturation of the rainy image.
    """

    screen: Probability = 0.0
    soft_light: Probability = 0.0
    veil: Fraction = (0.0, 0.0)
    contrast: Factor = (1.0, 1.0)
    saturation: Factor = (1.0, 1.0)


@dataclass(frozen=True)
class RainRanges(Look):
    """The ranges that a layer of rendered rain is drawn from.

    Attributes:
        amount: Mean of the layer, on a scale of 255, before overlapping streaks saturate. The number of streaks follows
            from this and their brightness and size.
        brightness: Brightness of the nearest streaks, on a scale of 255.
        length: Length of the nearest streaks.
        width: Width of the nearest streaks.
        depth: Ratio of the distances of the farthest and the nearest streaks; distant streaks are shorter, thinner and
            dimmer.
        angle: Direction of fall.
        directions: Number of directions, each with its own angle and amount; rounded.
        spread: Standard deviation of the angles within a direction, in degrees.
        taper: 0: streaks of even brightness, as motion blur makes them; 1: fading at both ends, as of near drops.
        beads: 0..1, amplitude of the brightness along a streak, as of an oscillating drop.
        gusts: 0..1, how much the amount varies over the image.
        blur: Standard deviation of the blur of the layer.
        defocus: Standard deviation of the additional blur of the streaks that are farthest out of focus.
        scale: Factor for the size of everything; drawn evenly on a logarithmic scale.
        noise: Probability that the layer is motion-blurred noise, as image editors draw rain, instead of streaks. It
            uses amount, length, width, angle, gusts, blur and scale.
    """

    amount: Levels = (2.0, 60.0)
    brightness: Annotated[Range, Limits(1, 255, ordered=True)] = (40.0, 130.0)
    length: Lengths = (30.0, 160.0)
    width: Lengths = (1.0, 3.0)
    depth: Annotated[Range, Limits(1, 20, ordered=True)] = (1.0, 3.5)
    angle: Degrees = (-30.0, 30.0)
    directions: Annotated[Range, Limits(1, 8, ordered=True)] = (1.0, 2.4)
    spread: Annotated[Range, Limits(0, 90, ordered=True)] = (0.3, 3.0)
    taper: Fraction = (0.0, 1.0)
    beads: Fraction = (0.0, 0.6)
    gusts: Fraction = (0.0, 0.8)
    blur: Sigma = (0.0, 0.6)
    defocus: Sigma = (0.0, 0.0)
    scale: Scale = (1.0, 1.0)
    noise: Probability = 0.0


@dataclass(frozen=True)
class LayerRanges(Look):
    """How given layers are varied.

    Attributes:
        gain: Factor for the brightness.
        mirror: Whether a layer is flipped horizontally at random.
        turn: Angle of the rotation, in degrees.
        shear: Shift of each row to the right relative to the row above, in pixels.
        scale: Factor for the size; drawn evenly on a logarithmic scale.
        second: Probability that a second layer is added, varied independently.
        blur: Standard deviation of the blur.
    """

    gain: Factor = (0.7, 1.25)
    mirror: bool = True
    turn: Degrees = (0.0, 0.0)
    shear: Annotated[Range, Limits(-2, 2, ordered=True)] = (0.0, 0.0)
    scale: Scale = (1.0, 1.0)
    second: Probability = 0.0
    blur: Sigma = (0.0, 0.0)


@dataclass(frozen=True)
class CameraRanges:
    """Effects of light and camera on the samples of sources that begin with clean images.

    Attributes:
        share: Probability of each of the following effects for a sample.
        dim: Factor for the brightness of both images.
        noise: Standard deviation of the sensor's noise, on a scale of 255; both images have the same noise, so that the
            network does not learn to remove it.
        jpeg: Quality of JPEG compression, which is applied to the rainy image only; for `kind = "clean"`, to both.
    """

    share: Probability = 0.0
    dim: Fraction = (0.4, 1.0)
    noise: Annotated[Range, Limits(0, 100, ordered=True)] = (0.0, 6.0)
    jpeg: Annotated[Range, Limits(1, 100, ordered=True)] = (60.0, 95.0)


def log_uniform(ranges: Range, rng: np.random.Generator) -> float:
    """Draw a number from a range of positive numbers, evenly on a logarithmic scale."""
    return math.exp(rng.uniform(math.log(ranges[0]), math.log(ranges[1])))


def composite(clean: Pixels, layer: Layer, look: Look, rng: np.random.Generator) -> Pixels:
    """Add haze and a layer of rain to a clean image and change its contrast and saturation: (H, W, 3) uint8."""
    image = clean.astype(np.float32)
    veil, contrast, saturation = (rng.uniform(*ranges) for ranges in (look.veil, look.contrast, look.saturation))
    screen = rng.random() < look.screen
    if veil > 0:
        haze = np.float32(veil) * _depth(layer.shape[0], layer.shape[1], rng)[..., None]  # (H, W, 1)
        air = 255 * rng.uniform(*AIRLIGHT) * (1 + 0.03 * rng.standard_normal(3)).astype(np.float32)
        image += haze * (np.minimum(air, 255) - image)
    if saturation != 1:
        gray = image.mean(axis=2, keepdims=True)
        image = gray + np.float32(saturation) * (image - gray)
    if contrast != 1:
        image = np.float32(127.5) + np.float32(contrast) * (image - np.float32(127.5))
    if saturation != 1 or contrast != 1:
        image = image.clip(0, 255)
    streaks = np.minimum(layer, 255)[..., None]
    if look.soft_light and rng.random() < look.soft_light:  # no draw for others: seeds give them the rain of before
        opacity = np.float32(rng.uniform(*SOFT_LIGHT_OPACITY))
        return to_pixels(image + opacity * (2 / 255 * streaks - 1) * image * (1 - image / 255))
    rainy = image + streaks * (1 - image / np.float32(255)) if screen else image + layer[..., None]
    return to_pixels(rainy)


def expose(clean: Pixels, camera: CameraRanges, rng: np.random.Generator) -> Pixels:
    """Apply dim light and sensor noise to a clean image: (H, W, 3) uint8."""
    dimmed, noisy = rng.random(2) < camera.share
    if not dimmed and not noisy:
        return clean
    image = clean * np.float32(rng.uniform(*camera.dim)) if dimmed else clean.astype(np.float32)
    if noisy:
        image += np.float32(rng.uniform(*camera.noise)) * rng.standard_normal(image.shape, dtype=np.float32)
    return to_pixels(image)


def compress(image: Pixels, camera: CameraRanges, rng: np.random.Generator) -> Pixels:
    """Apply the camera's JPEG compression to an image: (H, W, 3) uint8."""
    if rng.random() >= camera.share:
        return image
    quality = round(rng.uniform(*camera.jpeg))
    # OpenCV takes BGR, and stores color at half the resolution, as cameras do.
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(decoded, np.uint8)[..., ::-1]


def to_pixels(image: Floats) -> Pixels:
    """Round and clip to 0..255."""
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def vary(layer: Pixels, ranges: LayerRanges, height: int, width: int, rng: np.random.Generator) -> Layer:
    """Crop and vary a gray layer: (h, w) uint8 -> (H, W) float32; a layer that is too small is reflected."""
    gain, turn, shear = (rng.uniform(*drawn) for drawn in (ranges.gain, ranges.turn, ranges.shear))
    scale, blur = log_uniform(ranges.scale, rng), rng.uniform(*ranges.blur)
    if ranges.mirror and rng.random() < 0.5:
        layer = layer[:, ::-1]
    layer = np.ascontiguousarray(layer)
    if scale < 0.8:  # streaks would break up if warpAffine sampled so few points
        smaller: Any = cv2.resize(layer, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        layer, scale = np.asarray(smaller, np.uint8), 1.0
    matrix = cv2.getRotationMatrix2D((0, 0), turn, scale) @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
    # The center is anywhere that keeps the part inside the layer, if the layer is large enough.
    reach_x, reach_y = np.abs(np.linalg.inv(matrix[:, :2])) @ (width / 2, height / 2)
    y = round(rng.uniform(reach_y, max(reach_y, layer.shape[0] - reach_y)))
    x = round(rng.uniform(reach_x, max(reach_x, layer.shape[1] - reach_x)))
    matrix[:, 2] = (width // 2, height // 2) - matrix[:, :2] @ (x, y)
    smooth = cv2.INTER_CUBIC if scale > 1.5 else cv2.INTER_LINEAR
    part = cv2.warpAffine(layer, matrix, (width, height), flags=smooth, borderMode=cv2.BORDER_REFLECT_101)
    return _blurred(part.astype(np.float32) * np.float32(gain), blur)


def render(ranges: RainRanges, height: int, width: int, rng: np.random.Generator) -> Layer:
    """Render a layer of streaks, (H, W) float32, 0..255."""
    scale = log_uniform(ranges.scale, rng)
    size = max(1, round(height / scale)), max(1, round(width / scale))
    layer = _render_noise(ranges, *size, rng) if rng.random() < ranges.noise else _render_streaks(ranges, *size, rng)
    if size != (height, width):
        smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized: Any = cv2.resize(layer, (width, height), interpolation=smooth)
        layer = np.asarray(resized, np.float32).clip(0, 255)
    return layer


def _render_streaks(ranges: RainRanges, height: int, width: int, rng: np.random.Generator) -> Layer:
    """Streaks of all directions, (H, W)."""
    amount = rng.uniform(*ranges.amount)
    directions = max(1, round(rng.uniform(*ranges.directions)))
    shares = rng.dirichlet(np.full(directions, 3.0))
    blur = rng.uniform(*ranges.blur)
    gusts = rng.uniform(*ranges.gusts)
    amount = -255 * math.log1p(-min(amount, 250.0) / 255)  # compensates the saturation below
    layer = np.zeros((height, width), np.float32)
    for share in shares:
        layer += _one_direction(ranges, amount * share, height, width, rng)
    layer = _blurred(layer, blur) * _gusts(gusts, height, width, rng)
    # Where streaks overlap they hide each other in part, so that nothing exceeds 255.
    saturated: Layer = 255 * -np.expm1(layer / -255)
    return saturated


def _render_noise(ranges: RainRanges, height: int, width: int, rng: np.random.Generator) -> Layer:
    """The brightest part of noise that is blurred along the direction of fall, (H, W)."""
    drawn = (ranges.amount, ranges.length, ranges.width, ranges.angle, ranges.gusts, ranges.blur)
    amount, length, grain, angle, gusts, blur = (rng.uniform(*values) for values in drawn)
    length = min(length, 200.0)  # a longer one costs more and looks the same
    # Drawn in a rotated frame in which rain falls along the columns, large enough to cover the layer afterwards.
    reach = math.ceil(math.hypot(height, width))
    small = max(2, round(reach / grain)), max(2, round((reach + length) / max(grain, 1)))
    noise: Any = cv2.resize(
        rng.standard_normal((small[1], small[0]), dtype=np.float32),
        (reach, math.ceil(reach + length)),
        interpolation=cv2.INTER_LINEAR,
    )
    noise = np.asarray(cv2.blur(noise, (1, max(2, round(length)))), np.float32)
    center = reach / 2, (reach + length) / 2
    matrix = cv2.getRotationMatrix2D(center, angle, 1.0)
    matrix[:, 2] += np.array([width / 2 - center[0], height / 2 - center[1]])
    turned: Any = cv2.warpAffine(noise, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    field = np.asarray(turned, np.float32) / max(float(noise.std()), 1e-6)
    layer = np.maximum(field - np.float32(rng.uniform(-0.3, 0.7)), 0)
    layer = _blurred(layer, blur) * _gusts(gusts, height, width, rng)
    layer *= np.float32(amount / max(float(layer.mean()), 1e-6))
    return np.asarray(np.minimum(layer, 255), np.float32)


def _blurred(layer: Layer, sigma: float) -> Layer:
    if sigma <= FAINTEST_BLUR:
        return layer
    blurred: Any = cv2.GaussianBlur(layer, (0, 0), sigma)
    return np.asarray(blurred, np.float32)


def _one_direction(ranges: RainRanges, amount: float, height: int, width: int, rng: np.random.Generator) -> Layer:
    """Streaks around one angle with a mean of `amount`, (H, W)."""
    brightness, longest, widest = (rng.uniform(*r) for r in (ranges.brightness, ranges.length, ranges.width))
    angle, spread = rng.uniform(*ranges.angle), rng.uniform(*ranges.spread)
    taper, beads, depth = rng.uniform(*ranges.taper), rng.uniform(*ranges.beads), rng.uniform(*ranges.depth)
    defocus, focus = rng.uniform(*ranges.defocus), rng.uniform(0, 1)

    # The frame has a margin, so that as many streaks enter the layer as leave it.
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

    # Drop streaks that do not reach into the layer.
    sine, cosine = np.sin(angles), np.cos(angles)
    reach_y = (lengths * np.abs(cosine) + widths * np.abs(sine)) / 2 + 1
    reach_x = (lengths * np.abs(sine) + widths * np.abs(cosine)) / 2 + 1
    seen = (np.abs(tops - height / 2) < height / 2 + reach_y) & (np.abs(lefts - width / 2) < width / 2 + reach_x)
    streaks = np.stack([nearness, lengths, widths, values, tops, lefts, sine, cosine, powers, swings, waves, phases])
    streaks = streaks[:, seen]  # (12, N)
    if defocus <= FAINTEST_BLUR or depth < 1.01:
        return _draw(streaks, height, width)
    layer = np.zeros((height, width), np.float32)
    place = 1 + np.log(streaks[0]) / math.log(depth)  # 0: farthest, 1: nearest
    plane = np.minimum((place * DEPTH_PLANES).astype(np.int64), DEPTH_PLANES - 1)
    for number in range(DEPTH_PLANES):
        part = _draw(streaks[:, plane == number], height, width)
        layer += _blurred(part, defocus * abs(number / (DEPTH_PLANES - 1) - focus))
    return layer


def _draw(streaks: Floats, height: int, width: int) -> Layer:
    """Streaks (12, N), in the order of the names below, as a layer (H, W)."""
    _, lengths, widths, values, tops, lefts, sine, cosine, powers, swings, waves, phases = streaks
    # Each streak becomes a grid of points, one per pixel along and across; P points in total.
    along = np.ceil(lengths).astype(np.int64)
    across = np.ceil(widths).astype(np.int64)
    number = along * across
    streak = np.repeat(np.arange(len(number)), number)  # (P,) which streak a point belongs to
    point = np.arange(len(streak)) - np.repeat(np.cumsum(number) - number, number)  # (P,) its number there
    t = (point // across[streak] + 0.5) / along[streak]  # 0..1 along
    offset = ((point % across[streak] + 0.5) / across[streak] - 0.5) * widths[streak]  # pixels across
    distance = t * lengths[streak] - lengths[streak] / 2
    y = tops[streak] + distance * cosine[streak] - offset * sine[streak]
    x = lefts[streak] + distance * sine[streak] + offset * cosine[streak]
    inside = (y >= -1) & (y < height) & (x >= -1) & (x < width)
    y, x, t, streak = y[inside], x[inside], t[inside], streak[inside]
    value = values[streak] * np.sin(np.pi * t) ** powers[streak]
    value *= 1 + swings[streak] * np.sin(waves[streak] * 2 * np.pi * t + phases[streak])
    # The area of a point, in pixels.
    value *= (lengths / along * widths / across)[streak]
    return _splat(y, x, value, height, width)


def _splat(y: Floats, x: Floats, value: Floats, height: int, width: int) -> Layer:
    """Distribute the value of each point among the four pixels around it: (P,) -> (H, W).

    Coordinates are at least -1 and less than the height and width.
    """
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    dy, dx = y - top, x - left
    stride = width + 2  # a border of one pixel collects what is outside
    first = (top + 1) * stride + left + 1
    indices = np.concatenate([first, first + 1, first + stride, first + stride + 1])
    weights = np.concatenate(
        [(1 - dy) * (1 - dx) * value, (1 - dy) * dx * value, dy * (1 - dx) * value, dy * dx * value]
    )
    sums = np.bincount(indices, weights, minlength=(height + 2) * stride)
    return sums.reshape(height + 2, stride)[1:-1, 1:-1].astype(np.float32)


def _gusts(strength: float, height: int, width: int, rng: np.random.Generator) -> Layer:
    """A smooth field of mean 1 by which the density of the rain varies, (H, W)."""
    coarse = rng.standard_normal((2 + height // 40, 2 + width // 40)).astype(np.float32)
    field = np.exp(strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    normalized: Layer = field / field.mean()
    return normalized


def _depth(height: int, width: int, rng: np.random.Generator) -> Layer:
    """Random distances in a scene, 0..1, (H, W): smooth, mostly growing from the bottom to the top."""
    slope, top = rng.uniform(0, 1), rng.uniform(0.3, 1)
    coarse = rng.uniform(-0.3, 0.3, (4, 4)).astype(np.float32)
    field: Any = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(top, top * (1 - slope), height, dtype=np.float32)[:, None]
    return np.asarray(field + ramp, np.float32).clip(0, 1)
