"""Rain that is wider than in benchmarks: the layers of Rain100L enlarged, as folders for `drsformer eval`.

    python tests/benchmarks/wide_rain.py ../shared/data/Rain100L wide2 2
    drsformer eval --inputs wide2/input --targets wide2/target
    python tests/benchmarks/wide_rain.py ../shared/data/Rain100L enlarged2 2 image

The layer of a pair, rainy - clean, is enlarged FACTOR times, cropped to the middle, and added to the clean image. With
`image`, the clean image is enlarged and cropped, too, as if a camera had more pixels; it then has no fine detail.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from drsformer_cli.pairs import find_pairs
from drsformer_cli.training.rain import to_pixels


def enlarged(image, factor):
    """The middle of an image, enlarged to the size of the image, (H, W, C) float32."""
    H, W = image.shape[:2]
    height, width = round(H / factor), round(W / factor)
    top, left = (H - height) // 2, (W - width) // 2
    part = image[top : top + height, left : left + width].astype(np.float32)
    return cv2.resize(part, (W, H), interpolation=cv2.INTER_CUBIC)


def main():
    data, out, factor = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    for folder in ("input", "target"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for pair in find_pairs(data).pairs:
        rainy, clean = (cv2.imread(str(path)) for path in (pair.rainy, pair.clean))
        layer = enlarged(rainy.astype(np.float32) - clean, factor).clip(0, 255)
        if "image" in sys.argv[4:]:
            clean = to_pixels(enlarged(clean, factor))
        cv2.imwrite(str(out / "input" / f"{pair.name}.png"), to_pixels(clean + layer))
        cv2.imwrite(str(out / "target" / f"{pair.name}.png"), clean)


if __name__ == "__main__":
    main()
