"""Draw the demonstration image: a landscape from noise, and rain over it. All ours, so we may ship it.

    python .github/demo/make_scene.py .github/demo/rainy.jpg

Needs numpy, OpenCV and Pillow, which the package brings.
"""

import sys

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 400, 600
MAP = 1024


def clouds(rng, size, octaves=9, roughness=0.52):
    """Fractal noise that tiles, (size, size) in [0, 1]."""
    total = np.zeros((size, size))
    for octave in range(2, octaves + 1):
        grid = rng.standard_normal((2**octave, 2**octave))
        grid = np.pad(grid, 2, mode="wrap")
        scale = size // 2**octave
        layer = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += layer[2 * scale : 2 * scale + size, 2 * scale : 2 * scale + size] * roughness**octave
    return (total - total.min()) / np.ptp(total)


def landscape(rng):
    """Mountains, meadows and a lake under clouds, (HEIGHT, WIDTH, 3) in [0, 1]."""
    height = clouds(rng, MAP) ** 1.5
    water = np.quantile(height, 0.22)
    detail = clouds(rng, MAP, 10, 0.8)
    slope_y, slope_x = np.gradient(height * 260)
    light = (slope_x * 0.8 - slope_y * 0.3 + 1) / np.sqrt(1 + slope_x**2 + slope_y**2)
    steep = np.clip(np.hypot(slope_x, slope_y) * 1.1 - 0.5, 0, 1)[..., None]
    high = np.clip((height - 0.42) * 6, 0, 1)[..., None]
    meadow, forest = np.array([0.42, 0.50, 0.20]), np.array([0.14, 0.24, 0.10])
    mix = np.clip(detail * 3 - 1, 0, 1)[..., None]
    ground = meadow * mix + forest * (1 - mix)
    rock = np.array([0.44, 0.40, 0.37]) * (0.7 + 0.6 * detail[..., None])
    snow = np.array([0.93, 0.94, 0.97])
    color = ground * (1 - steep) + rock * steep
    color = color * (1 - high * (1 - steep * 0.7)) + snow * high * (1 - steep * 0.7)
    color *= np.clip(light, 0.25, 1.6)[..., None] * (0.75 + 0.5 * detail[..., None])
    surface = np.maximum(height, water)
    wet = (height <= water)[..., None]
    color = np.where(wet, np.array([0.25, 0.36, 0.42]) * (0.8 + 0.4 * detail[..., None]), color)

    sky = clouds(rng, MAP, 8, 0.6)[:HEIGHT, :WIDTH][..., None]
    blend = np.linspace(0, 1, HEIGHT)[:, None, None]
    air = np.array([0.38, 0.52, 0.70]) * (1 - blend) + np.array([0.72, 0.78, 0.82]) * blend
    image = air + np.clip(sky * 2.4 - 1.0, 0, 0.8) * (np.array([0.86, 0.86, 0.87]) - air)
    eye, horizon, scale = surface[0:60, 480:540].max() + 0.12, 120, 430
    lowest = np.full(WIDTH, HEIGHT)
    rows = np.arange(HEIGHT)[:, None]
    for distance in np.geomspace(12, 900, 900):  # from near to far: what is drawn hides what comes behind
        across = 512 + distance * np.linspace(-0.75, 0.75, WIDTH)
        x, y = across.astype(int) % MAP, int(distance) % MAP
        top = np.clip((eye - surface[y, x]) * 260 / distance * scale + horizon, 0, HEIGHT).astype(int)
        haze = 1 - np.exp(-distance / 900)
        shade = color[y, x] * (1 - haze) + np.array([0.70, 0.76, 0.82]) * haze
        visible = (rows >= top) & (rows < lowest)
        image = np.where(visible[..., None], shade[None], image)
        lowest = np.minimum(lowest, top)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.6), 0, 1)


def streaks(rng, length, angle, density, brightness):
    """One layer of falling drops, (HEIGHT, WIDTH) of 0 upwards: bright points smeared along their path."""
    points = (rng.random((HEIGHT, WIDTH)) < density) * rng.uniform(0.4, 1, (HEIGHT, WIDTH))
    kernel = np.zeros((length, length), np.float32)
    half = length / 2 * np.array([np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    start, end = np.array([length / 2] * 2) - half, np.array([length / 2] * 2) + half
    cv2.line(kernel, tuple(start.astype(int).tolist()), tuple(end.astype(int).tolist()), 1.0, 1, cv2.LINE_AA)
    return brightness * cv2.filter2D(cv2.GaussianBlur(points, (0, 0), 0.7), -1, kernel)


def main():
    rng = np.random.default_rng(7)
    clean = landscape(rng)
    rain = streaks(rng, 21, 12, 0.006, 0.42) + streaks(rng, 35, 10, 0.002, 0.55)
    rainy = np.clip(clean + rain[..., None], 0, 1)
    Image.fromarray(np.rint(rainy * 255).astype(np.uint8)).save(sys.argv[1], quality=95, subsampling=0)


if __name__ == "__main__":
    main()
