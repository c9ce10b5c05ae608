"""Rain at the size that cameras make: how much do --scale auto and the best fixed scale restore, and how fast?

    python tests/benchmarks/camera_scale.py ../shared/data [FACTOR ...]

Composites: crops of large, detailed clean images with the layers of Rain100L's test pairs (light) and the heavy
training layers, enlarged. Enlarged: pairs of Rain100L, rainy and clean alike. Y-PSNR of the rainy image, at each of the
scales, and at the one that is chosen for each image; seconds of the choice, of it with the restoration, and at full
size. Takes half an hour on two cores.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np

import drsformer
from drsformer.streaks import SCALES
from drsformer_cli.metrics.full_reference import psnr
from drsformer_cli.pairs import find_pairs
from drsformer_cli.training.rain import to_pixels

FACTORS = (1, 1.5, 2, 3, 4, 8)
ALL = SCALES.tolist()
HEIGHT, WIDTH = 832, 1152  # of the composites
LARGEST_AT_FULL_SIZE = 2.5e6  # pixels; larger enlarged pairs are not restored at full size, which would take hours
SEED = 3


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def backgrounds(data):
    """Crops of clean images of 4 to 42 megapixels: three of clean_large, two of Rain800's test."""
    rng = np.random.default_rng(SEED)
    whole = [read(path) for path in sorted((data / "clean_large").iterdir())]
    pairs = [read(data / "rain800/test" / name) for name in ("60.jpg", "71.jpg")]
    for image in (*whole, *(pair[:, : pair.shape[1] // 2] for pair in pairs)):
        top, left = rng.integers(image.shape[0] - HEIGHT + 1), rng.integers(image.shape[1] - WIDTH + 1)
        yield image[top : top + HEIGHT, left : left + WIDTH]


def layers(data):
    """By kind, (H, W) uint8."""
    pairs = find_pairs(data / "Rain100L").pairs[::20]
    light = [cv2.subtract(*(read(path)[..., 1] for path in (pair.rainy, pair.clean))) for pair in pairs]
    heavy = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((data / "streaks/heavy").iterdir())[::4]]
    return {"light": light, "heavy": heavy}


def composites(data, factor):
    for kind, of_kind in layers(data).items():
        for image, layer in zip(backgrounds(data), of_kind, strict=True):
            large = cv2.resize(layer, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            while large.shape[0] < image.shape[0] or large.shape[1] < image.shape[1]:  # mirrored copies
                large = np.concatenate([large, large[::-1]])
                large = np.concatenate([large, large[:, ::-1]], axis=1)
            H, W = image.shape[:2]
            yield kind, to_pixels(image + large[:H, :W, None].astype(np.float32)), image


def enlarged(data, factor):
    for pair in find_pairs(data / "Rain100L").pairs[7::20]:
        images = (read(path) for path in (pair.rainy, pair.clean))
        yield "enlarged", *(cv2.resize(i, None, fx=factor, fy=factor, interpolation=cv2.INTER_LANCZOS4) for i in images)


def measure(restorer, rainy, clean):
    """PSNR by scale, and at the chosen scale; seconds of the choice, with the restoration, and at full size."""
    start = time.perf_counter()
    chosen = restorer.choose_scale(rainy)
    choosing = time.perf_counter() - start
    scores, seconds = dict.fromkeys(ALL, np.nan), dict.fromkeys(ALL, np.nan)
    for scale in ALL:
        if scale == 1 and rainy.size / 3 > LARGEST_AT_FULL_SIZE:
            continue
        start = time.perf_counter()
        scores[scale] = psnr(restorer.restore(rainy, scale=scale).image, clean)
        seconds[scale] = time.perf_counter() - start
    decibels = [psnr(rainy, clean), *scores.values(), scores[chosen]]
    return decibels, chosen, [choosing, choosing + seconds[chosen], seconds[1.0]]


def main():
    data = Path(sys.argv[1])
    restorer = drsformer.Restorer(drsformer.load_model())
    scales = " | ".join(f"{scale:.2g}" for scale in ALL)
    print(f"| rain | wider by | rainy | {scales} | auto | chosen | choice | auto | full size |")
    print("|---" * (len(ALL) + 8) + "|")
    for factor in map(float, sys.argv[2:] or FACTORS):
        rows = {}
        for kind, rainy, clean in (*composites(data, factor), *enlarged(data, factor)):
            rows.setdefault(kind, []).append(measure(restorer, rainy, clean))
        for kind, of_kind in rows.items():
            decibels, chosen, seconds = zip(*of_kind, strict=True)
            cells = [kind, f"{factor:g}", *(f"{value:.2f}" for value in np.mean(decibels, axis=0))]
            cells += [", ".join(f"{scale:.2g}" for scale in chosen), *(f"{s:.2f} s" for s in np.mean(seconds, axis=0))]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
