"""Fifty images with heavy rain, for the model card; they replace Rain100H, which is not available.

    python tests/benchmarks/heavy_rain.py ../shared/data heavy
    drsformer eval --inputs heavy/input --targets heavy/target

Every second clean image of Rain100L, none of which was trained on, with one of the 18 heavy layers, which were trained
on. The layers are made brighter by GAIN, so that the rainy images have 13.6 dB, as in Rain100H.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from drsformer_cli.training.rain import Look, composite

GAIN = 1.24
SEED = 11


def main():
    data, out = map(Path, sys.argv[1:])
    rng = np.random.default_rng(SEED)
    layers = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((data / "streaks/heavy").iterdir())]
    for folder in ("input", "target"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted((data / "Rain100L/target").iterdir())[::2]:
        clean = cv2.imread(str(path))
        H, W = clean.shape[:2]
        layer = layers[rng.integers(len(layers))]
        below, right = (max(0, size - have) for size, have in zip((H, W), layer.shape, strict=True))
        layer = cv2.copyMakeBorder(layer, 0, below, 0, right, cv2.BORDER_REFLECT_101)[:H, :W]
        if rng.random() < 0.5:
            layer = layer[:, ::-1]
        rainy = composite(clean, np.float32(GAIN) * layer, Look(), np.random.default_rng(SEED))
        cv2.imwrite(str(out / "input" / f"{path.stem}.png"), rainy)
        cv2.imwrite(str(out / "target" / f"{path.stem}.png"), clean)


if __name__ == "__main__":
    main()
