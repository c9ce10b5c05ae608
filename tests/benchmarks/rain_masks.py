"""Layers of streaks cut from real photos of rain, for the source `rainmix` of the recipe `general` (RainMix).

    python tests/benchmarks/rain_masks.py rainmix ../shared/data/real ../shared/data/real_more

What the bundled model removes, in gray: max(0, rainy - restored). Of 1, 1/2 and 1/4 of a photo's size it takes the one
where most is removed, since streaks in large photos are wider than the model knows; changes of less than FAINTEST
levels are no streaks. A layer of which less than LEAST levels on average are left is not written.

Guo et al., "EfficientDeRain", AAAI 2021, mix such layers; `vary` of a source zooms, turns, shears and adds them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

import drsformer
from drsformer.inference import Restorer
from drsformer_cli.images import read_rgb8
from drsformer_cli.pairs import image_files

FAINTEST = 4
LEAST = 0.5
SHORTEST_SIDE = 200
"""Pixels that a layer has at least on its shorter side."""


def streaks(restorer, rainy):
    """What is removed, (H, W) float32."""
    removed = rainy.astype(np.float32).mean(axis=2) - restorer(rainy).astype(np.float32).mean(axis=2)
    return np.where(removed < FAINTEST, 0, removed)


def main():
    out, *folders = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    restorer = Restorer(drsformer.load_checkpoint(drsformer.GENERAL))
    for path in (file for folder in folders for file in image_files(folder)):
        rainy = read_rgb8(path)
        sizes = [rainy]
        while min(sizes[-1].shape[:2]) >= 2 * SHORTEST_SIDE and len(sizes) < 3:
            sizes.append(cv2.resize(sizes[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        layer = max((streaks(restorer, image) for image in sizes), key=np.mean)
        kept = layer.mean() >= LEAST
        print(f"{path}: {layer.shape[1]}x{layer.shape[0]}, mean {layer.mean():.1f}{'' if kept else ', left out'}")
        if kept:
            cv2.imwrite(str(out / f"{path.parent.name}_{path.stem}.png"), np.rint(layer).astype(np.uint8))


if __name__ == "__main__":
    main()
