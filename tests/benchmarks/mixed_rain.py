"""Many kinds of rain made as in image editors, as in DDN-Data, as folders for `drsformer eval`.

    python tests/benchmarks/mixed_rain.py ../shared/data mixed
    drsformer eval --inputs mixed/input --targets mixed/target

Every second clean image of Rain100L (not those of heavy_rain.py; none was trained on) with one of KINDS kinds of rain,
from short and dense to long and sparse, at angles of up to 50 degrees to either side. The rain is made as by Fu et al.,
"Removing rain from single images via a deep detail network", CVPR 2017, and many others: noise with a threshold, motion
blur, more contrast, blended by screen. The code does not share anything with the rain of training, which it tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

KINDS = 14
SEED = 5


def streaks(height, width, kind, rng):
    """A layer of one kind of rain, (H, W), 0..1."""
    grain = (1.0, 1.5, 2.2)[kind % 3]
    length = (9, 15, 25, 40)[kind % 4]
    density = (0.02, 0.05, 0.1)[kind % 3 - 1]
    degrees = rng.uniform(-50, 50)
    margin = length
    size = round((width + 2 * margin) / grain), round((height + 2 * margin) / grain)
    noise = rng.random(size[::-1], dtype=np.float32)
    drops = (noise > 1 - density) * rng.uniform(0.5, 1, noise.shape).astype(np.float32)
    drops = cv2.resize(drops, (width + 2 * margin, height + 2 * margin), interpolation=cv2.INTER_LINEAR)
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    reach = length / 2 * np.array([np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    ends = [tuple(np.rint(length + sign * reach).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1, lineType=cv2.LINE_AA)
    layer = cv2.filter2D(drops, -1, kernel / kernel.sum())[margin:-margin, margin:-margin]
    return np.clip(layer / np.quantile(layer, 0.995), 0, 1) * rng.uniform(0.3, 0.8)


def main():
    data, out = map(Path, sys.argv[1:])
    rng = np.random.default_rng(SEED)
    for folder in ("input", "target"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((data / "Rain100L/target").iterdir())[1::2]):
        clean = cv2.imread(str(path))
        layer = streaks(*clean.shape[:2], number % KINDS, rng)[..., None]
        rainy = 255 - (255 - clean.astype(np.float32)) * (1 - layer)
        cv2.imwrite(str(out / "input" / f"{path.stem}.png"), np.rint(rainy).astype(np.uint8))
        cv2.imwrite(str(out / "target" / f"{path.stem}.png"), clean)


if __name__ == "__main__":
    main()
