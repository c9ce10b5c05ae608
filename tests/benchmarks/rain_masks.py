"""Layers of streaks cut from photos and videos of real rain, for training (RainMix).

    python tests/benchmarks/rain_masks.py rainmix ../shared/data/real ../shared/data/real_more
    python tests/benchmarks/rain_masks.py videorain --video ../shared/data/clips/ntu_rb2 \\
        --video ../shared/data/clips/weichen_rain.mp4

A layer is what the bundled model removes, in gray: max(0, rainy - restored). Each image is restored at 1, 1/2 and 1/4
of its size, and the size at which most is removed is used, since streaks in large images are wider than those that the
model knows. Changes of less than FAINTEST levels are not streaks. Layers with a mean below LEAST are not written.

Of videos, or folders of frames, the neighboring frames tell what is rain, also where the model leaves it: the layer is
what `drsformer.temporal` removes from every third of the first FRAMES frames. With `--pairs FOLDER`, these frames are
written too, to FOLDER/rainy and FOLDER/clean; clean is the restored frame where there are streaks, else the rainy one.

Guo et al., "EfficientDeRain", AAAI 2021, mix such layers; `vary` of a source scales, rotates, shears and adds them.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

import drsformer
from drsformer.inference import Restorer
from drsformer.temporal import restore_frames
from drsformer_cli.images import read_rgb8
from drsformer_cli.pairs import image_files

FAINTEST = 4
LEAST = 0.5
SHORTEST_SIDE = 200
"""Smallest shorter side of a layer in pixels."""


FRAMES = 60
EVERY = 3


def streaks(rainy, restored):
    """The streaks that were removed, (H, W) float32."""
    removed = rainy.astype(np.float32).mean(axis=2) - restored.astype(np.float32).mean(axis=2)
    return np.where(removed < FAINTEST, 0, removed)


def of_photo(path, restorer):
    """The layer of a photo."""
    sizes = [read_rgb8(path)]
    while min(sizes[-1].shape[:2]) >= 2 * SHORTEST_SIDE and len(sizes) < 3:
        sizes.append(cv2.resize(sizes[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return max((streaks(image, restorer(image)) for image in sizes), key=np.mean)


def frames(path):
    """The frames of a video, or of a folder."""
    if path.is_dir():
        yield from map(read_rgb8, image_files(path))
        return
    video = cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        yield np.ascontiguousarray(read[1][..., ::-1])


def of_video(path, restorer):
    """Some frames of a video, (number, rainy, restored)."""
    rainy = list(islice(frames(path), FRAMES))
    for number, restored in enumerate(restore_frames(rainy, restorer)):
        if number and number % EVERY == 0:
            yield number, rainy[number], restored.image


def write(layer, path, source):
    """Write a layer, unless there is hardly anything in it."""
    kept = layer.mean() >= LEAST
    print(f"{source}: {layer.shape[1]}x{layer.shape[0]}, mean {layer.mean():.1f}{'' if kept else ', left out'}")
    if kept:
        cv2.imwrite(str(path), np.rint(layer).astype(np.uint8))


def write_pair(rainy, restored, layer, folder, name):
    """Write a frame and what is behind its streaks."""
    clean = np.where((layer > 0)[..., None], restored, rainy)
    for kind, image in (("rainy", rainy), ("clean", clean)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / kind / name), image[..., ::-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--video", type=Path, action="append", default=[])
    parser.add_argument("--pairs", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    restorer = Restorer(drsformer.load_checkpoint(drsformer.GENERAL), scale=1)
    for path in (file for folder in options.folders for file in image_files(folder)):
        write(of_photo(path, restorer), options.out / f"{path.parent.name}_{path.stem}.png", path)
    for path in options.video:
        for number, rainy, restored in of_video(path, restorer):
            name, layer = f"{path.stem}_{number:03}.png", streaks(rainy, restored)
            write(layer, options.out / name, f"{path}, frame {number}")
            if options.pairs:
                write_pair(rainy, restored, layer, options.pairs, name)


if __name__ == "__main__":
    main()
