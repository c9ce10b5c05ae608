"""Layers of streaks cut from photos of real rain, for the source `rainmix` of the recipe `general` (RainMix).

    python tests/benchmarks/rain_masks.py rainmix ../shared/data/real ../shared/data/real_more

A layer is what the bundled model removes, in gray: max(0, rainy - restored). Each image is restored at 1, 1/2 and 1/4
of its size, and the size at which most is removed is used, since streaks in large images are wider than those that the
model knows. Changes of less than FAINTEST levels are not streaks. Layers with a mean below LEAST are not written.

Guo et al., "EfficientDeRain", AAAI 2021, mix such layers; `vary` of a source scales, rotates, shears and adds them.
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
"""Smallest shorter side of a layer in pixels."""


def streaks(restorer, rainy):
    """The streaks that the model removes, (H, W) float32."""
    removed = rainy.astype(np.float32).mean(axis=2) - restorer(rainy).astype(np.float32).mean(axis=2)
    return np.where(removed < FAINTEST, 0, removed)


def main():
    out, *folders = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    restorer = Restorer(drsformer.load_checkpoint(drsformer.GENERAL), scale=1)
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
