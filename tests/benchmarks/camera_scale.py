"""Rain at the size that cameras make: how much do --scale auto and the best fixed scale restore, and how fast?

    python tests/benchmarks/camera_scale.py ../shared/data

Composites: crops of large, detailed clean images with the layers of Rain100L's test pairs (light) and the heavy
training layers, enlarged. Enlarged: pairs of Rain100L, rainy and clean alike. Y-PSNR of the rainy image, at full size,
at the scale that is chosen, and at the best of SCALES; seconds of the choice and of the whole restoration. Takes half
an hour on two cores.
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
    """PSNR and seconds by name."""
    start = time.perf_counter()
    chosen = restorer.choose_scale(rainy)
    choosing = time.perf_counter() - start
    scores, seconds = {}, {}
    for scale in (2**SCALES).tolist():
        if scale == 1 and rainy.size / 3 > LARGEST_AT_FULL_SIZE:
            continue
        start = time.perf_counter()
        scores[scale] = psnr(restorer.restore(rainy, scale=scale).image, clean)
        seconds[scale] = time.perf_counter() - start
    return {
        "rainy": psnr(rainy, clean),
        "full": scores.get(1.0, np.nan),
        "auto": scores[chosen],
        "best": max(scores.values()),
        "chosen": chosen,
        "choosing": choosing,
        "auto_s": choosing + seconds[chosen],
        "full_s": seconds.get(1.0, np.nan),
    }


def main():
    data = Path(sys.argv[1])
    restorer = drsformer.Restorer(drsformer.load_model(*sys.argv[2:]))
    print("| rain | wider by | rainy | full size | auto | best fixed | chosen | choice | auto | full size |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for factor in FACTORS:
        rows = {}
        for kind, rainy, clean in (*composites(data, factor), *enlarged(data, factor)):
            rows.setdefault(kind, []).append(measure(restorer, rainy, clean))
        for kind, of_kind in rows.items():
            mean = {name: np.mean([row[name] for row in of_kind]) for name in of_kind[0]}
            chosen = ", ".join(f"{row['chosen']:.1f}" for row in of_kind)
            decibels = " | ".join(f"{mean[name]:.2f}" for name in ("rainy", "full", "auto", "best"))
            times = " | ".join(f"{mean[name]:.2f} s" for name in ("choosing", "auto_s", "full_s"))
            print(f"| {kind} | {factor} | {decibels} | {chosen} | {times} |", flush=True)


if __name__ == "__main__":
    main()
