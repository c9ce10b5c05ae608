"""Rain that falls at an angle: the pairs of Rain100L, rotated, as folders for `drsformer eval`.

    python tests/benchmarks/turned_rain.py ../shared/data/Rain100L turned30 30
    drsformer eval --inputs turned30/input --targets turned30/target

The rainy and the clean image are rotated around their center by DEGREES counterclockwise, with cubic interpolation, and
cropped to the square in the middle that is inside the image at any angle. Thus sets of all angles, including 0, show
the same scenes at the same size.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import cv2

from drsformer_cli.pairs import find_pairs


def turned(image, degrees):
    """The square in the middle of a rotated image (H, W, 3); its diagonal is the shorter side of the image."""
    H, W = image.shape[:2]
    side = int(min(H, W) / math.sqrt(2)) // 2 * 2
    matrix = cv2.getRotationMatrix2D((W / 2 - 0.5, H / 2 - 0.5), degrees, 1)
    matrix[:, 2] += side / 2 - W / 2, side / 2 - H / 2
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_CUBIC)


def main():
    data, out, degrees = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    for pair in find_pairs(data).pairs:
        for folder, path in (("input", pair.rainy), ("target", pair.clean)):
            (out / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / folder / f"{pair.name}.png"), turned(cv2.imread(str(path)), degrees))


if __name__ == "__main__":
    main()
