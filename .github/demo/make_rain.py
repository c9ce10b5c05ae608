"""Let it rain on a photo, for the demonstration image.

    python .github/demo/make_rain.py china.jpg .github/demo/rainy.jpg

china.jpg comes with scikit-learn (sklearn/datasets/images), by danielbuechele, CC BY 2.0. The rain is drawn as in
training: streaks of three depths, thin haze, and the flat light of an overcast day.
"""

import sys

import numpy as np
from PIL import Image

from drsformer_cli.training import rain

SEED = 5


def fixed(value):
    return (value, value)


STREAKS = rain.RainRanges(
    amount=fixed(11),
    brightness=fixed(62),
    length=fixed(40),
    width=fixed(1.5),
    depth=fixed(2.2),
    angle=fixed(9),
    directions=fixed(1),
    spread=fixed(1.6),
    taper=fixed(0.5),
    beads=fixed(0.3),
    gusts=fixed(0.25),
    blur=fixed(0.45),
    veil=fixed(0.3),
    saturation=fixed(0.85),
)


def main():
    source, target = sys.argv[1:]
    rng = np.random.default_rng(SEED)
    photo = np.asarray(Image.open(source).convert("RGB"))
    overcast = rain.to_pixels(photo * np.float32(0.78))
    layer = rain.render(STREAKS, *photo.shape[:2], rng)
    Image.fromarray(rain.composite(overcast, layer, STREAKS, rng)).save(target, quality=92)


if __name__ == "__main__":
    main()
