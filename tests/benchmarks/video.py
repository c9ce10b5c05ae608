"""Video: rain that is new in each frame, before a scene that stands still or moves; against the clean frames.

    python tests/benchmarks/video.py ../shared/data [--frames 12] [--model NAME] [--only NAME] [--write FOLDER]
        [--held-out] [--seed 17]

Each sequence is a window of a large clean photo that stands still, pans, zooms or trembles as a hand does, with patches
of another photo that move over it. The rain of each frame is a layer of `streaks` or drawn, and is never the same
twice. The constants of `drsformer.alignment` were chosen on the default photos and seed, those of `drsformer.fusion` on
both these and --held-out, other photos in other rain. Compared are the network frame by frame, `drsformer.temporal`,
the plain median of five frames of the rainy video, and that of the restored one.

PSNR and SSIM are means over the frames, on luma; the lowest gain is that of the frame that loses most, or gains least,
against frame by frame. Flicker is the warped difference of Lei et al., "Blind video temporal consistency via deep video
prior", NeurIPS 2020: the mean absolute difference of a frame and its predecessor, moved by the flow of the clean
frames, where that flow is consistent; on a scale of 255, beside that of the clean video itself.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

import drsformer
from drsformer.inference import Restorer
from drsformer.temporal import restore_frames
from drsformer_cli.metrics.full_reference import psnr, ssim
from drsformer_cli.training.rain import LayerRanges, Look, RainRanges, composite, render, vary

HEIGHT, WIDTH = 240, 352
SEED = 17
PHOTOS = (
    "rain800/test/71.jpg",
    "rain800/test/60.jpg",
    "clean_large/riteshraj_Haze.jpg",
    "clean_large/veajay_thunder-storm.jpg",
)
"""Clean photos; those of rain800 are the left halves of their files."""

HELD_OUT = tuple(f"Rain100L/target/norain-{number}.png" for number in (7, 70, 35, 45, 56))
"""Other clean photos, on which no model was trained."""

DRAWN = RainRanges(amount=(12, 25), angle=(-8, 8), directions=(1, 1), length=(25, 70), width=(1, 2.2))


@dataclass(frozen=True)
class Kind:
    """One kind of sequence: which rain, how the camera moves in pixels a frame, and what moves before it.

    Attributes:
        rain: light, heavy, drawn or dry.
        pan: Motion to the right in pixels a frame.
        zoom: Growth a frame.
        tremble: Standard deviation of the position in pixels, as of a hand that holds the camera.
        objects: Number of moving patches.
        veil: Opacity of the haze.
        cut: Whether another photo begins in the middle.
    """

    rain: str
    pan: float = 0.0
    zoom: float = 0.0
    tremble: float = 0.0
    objects: int = 0
    veil: float = 0.0
    cut: bool = False


KINDS = {
    "light-static": Kind("light"),
    "heavy-static": Kind("heavy"),
    "drawn-static": Kind("drawn"),
    "light-pan": Kind("light", pan=1.7),
    "heavy-pan": Kind("heavy", pan=1.7),
    "drawn-pan": Kind("drawn", pan=5.3),
    "heavy-zoom": Kind("heavy", zoom=0.01),
    "light-hand": Kind("light", tremble=2.0),
    "light-objects": Kind("light", objects=3),
    "heavy-objects": Kind("heavy", objects=3),
    "drawn-objects-pan": Kind("drawn", pan=1.7, objects=3),
    "drawn-veil": Kind("drawn", veil=0.5),
    "heavy-cut": Kind("heavy", cut=True),
    "dry-static": Kind("dry"),
    "dry-pan": Kind("dry", pan=1.7, objects=2),
}


def photo(path):
    """A clean photo at about 2.5 times the size of a frame, or its own if that is smaller, (h, w, 3) RGB."""
    image = cv2.imread(str(path))[..., ::-1]
    if "rain800" in path.parts:
        image = image[:, : image.shape[1] // 2]
    scale = min(1.0, 2.5 * max(HEIGHT / image.shape[0], WIDTH / image.shape[1]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def clean_frames(kind, frames, photos, rng):
    """The clean video, a list of (H, W, 3)."""
    scene, other = photos[0], photos[1]
    at = np.array([scene.shape[1] / 2 - kind.pan * frames / 2, scene.shape[0] / 2])
    patches = [_patch(other, rng) for _ in range(kind.objects)]
    clean = []
    for number in range(frames):
        if kind.cut and number == frames // 2:
            scene = other
            at = np.array([scene.shape[1] / 2, scene.shape[0] / 2])
        here = at + (kind.pan * number, 0) + kind.tremble * rng.standard_normal(2)
        size = (1 + kind.zoom) ** number
        window = np.array([[size, 0, WIDTH / 2 - size * here[0]], [0, size, HEIGHT / 2 - size * here[1]]])
        frame = cv2.warpAffine(scene, window, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        for pixels, opacity, start, speed in patches:
            shift = np.column_stack([np.eye(2), start + number * speed])
            alpha = cv2.warpAffine(opacity, shift, (WIDTH, HEIGHT))[..., None]
            moved = cv2.warpAffine(pixels, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
            frame = np.rint(frame + alpha * (moved.astype(np.float32) - frame)).astype(np.uint8)
        clean.append(frame)
    return clean


def _patch(image, rng):
    """Pixels, opacity, first position and speed of something that moves, the size of a person or a car."""
    h, w = (int(side) for side in rng.integers(40, 100, 2))
    top, left = (int(rng.integers(0, side - size)) for side, size in zip(image.shape[:2], (h, w), strict=True))
    opacity = cv2.ellipse(np.zeros((h, w), np.float32), (w // 2, h // 2), (w // 2 - 3, h // 2 - 3), 0, 0, 360, 1, -1)
    start = rng.uniform((0, 0), (WIDTH - w, HEIGHT - h))
    speed = np.array([rng.choice((-1, 1)) * rng.uniform(1, 7), rng.uniform(-1, 1)])
    return image[top : top + h, left : left + w], cv2.GaussianBlur(opacity, (0, 0), 0.7), start, speed


def rainy_frames(kind, clean, layers, rng):
    """The same video in the rain."""
    if kind.rain == "dry":
        return [frame.copy() for frame in clean]
    mirrored = rng.random() < 0.5
    order = rng.permutation(len(layers[kind.rain])) if kind.rain != "drawn" else []
    angle = rng.uniform(*DRAWN.angle)
    rainy = []
    for number, frame in enumerate(clean):
        if kind.rain == "drawn":
            drawn = RainRanges(**{**vars(DRAWN), "angle": (angle, angle)})
            layer = render(drawn, HEIGHT, WIDTH, rng)
        else:
            ranges = LayerRanges(gain=(0.9, 1.2), mirror=False, turn=(-3, 3), scale=(1, 1.2))
            layer = vary(layers[kind.rain][order[number % len(order)]], ranges, HEIGHT, WIDTH, rng)
        layer = layer[:, ::-1] if mirrored else layer
        rainy.append(composite(frame, layer, Look(veil=(kind.veil, kind.veil)), np.random.default_rng(SEED)))
    return rainy


def sequence(name, frames, data, photos=PHOTOS, seed=SEED):
    """Clean and rainy frames of a kind."""
    number = list(KINDS).index(name)
    rng = np.random.default_rng((seed, number))
    photos = [photo(data / photos[(number + i) % len(photos)]) for i in range(2)]
    layers = {
        kind: [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((data / "streaks" / kind).iterdir())]
        for kind in ("light", "heavy")
    }
    clean = clean_frames(KINDS[name], frames, photos, rng)
    return clean, rainy_frames(KINDS[name], clean, layers, rng)


def flows(clean):
    """For each frame but the first: where its pixels were in the one before it, (H, W, 2), and where that is known."""
    estimate = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clean]
    grid = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(np.float32)
    found = []
    for before, now in pairwise(gray):
        back, forth = estimate.calc(now, before, None), estimate.calc(before, now, None)
        there = grid + back
        inside = ((there >= 0) & (there <= (WIDTH - 1, HEIGHT - 1))).all(-1)
        returned = cv2.remap(forth, there, None, cv2.INTER_LINEAR)
        found.append((there, inside & (np.square(back + returned).sum(-1) < 0.25)))
    return found


def flicker(video, motion):
    """The warped difference between neighbors, on a scale of 255."""
    differences = []
    for before, now, (there, known) in zip(video[:-1], video[1:], motion, strict=True):
        moved = cv2.remap(before, there, None, cv2.INTER_CUBIC)
        differences.append(np.abs(now.astype(np.float32) - moved)[known].mean())
    return float(np.mean(differences))


def median_of_five(video):
    """The plain temporal median, without any alignment."""
    last = len(video) - 1
    return [np.median([video[min(max(i + d, 0), last)] for d in range(-2, 3)], axis=0).round().astype(np.uint8)
            for i in range(len(video))]  # fmt: skip


class Cached:
    """A restorer that remembers, so that its time is measured apart from that of `restore_frames`."""

    strength = 1.0

    def __init__(self, restorer):
        self.restorer = restorer
        self.known = {}
        self.seconds = 0.0

    def choose_scale(self, image):
        return 1.0

    def restore(self, image, progress=None, scale=1.0):
        key = image.tobytes()
        if key not in self.known:
            start = time.perf_counter()
            self.known[key] = self.restorer.restore(image, scale=scale)
            self.seconds += time.perf_counter() - start
        return self.known[key]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--model", default=drsformer.GENERAL, type=Path)
    parser.add_argument("--only", nargs="*", default=list(KINDS))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, help="default: 17, held out 18")
    options = parser.parse_args()
    photos = HELD_OUT if options.held_out else PHOTOS
    seed = SEED + options.held_out if options.seed is None else options.seed
    network = Restorer(drsformer.load_checkpoint(options.model))
    print("| sequence | method | PSNR | lowest gain | SSIM | flicker | clean's flicker | s a frame |\n|" + "---|" * 8)
    for name in options.only:
        clean, rainy = sequence(name, options.frames, options.data, photos, seed)
        restorer = Cached(network)
        restored = [restorer.restore(frame).image for frame in rainy]
        start = time.perf_counter()
        fused = [frame.image for frame in restore_frames(rainy, restorer)]
        seconds = time.perf_counter() - start
        videos = {
            "rainy": (rainy, 0),
            "median of rainy": (median_of_five(rainy), 0),
            "frame by frame": (restored, restorer.seconds),
            "median of restored": (median_of_five(restored), restorer.seconds),
            "temporal": (fused, seconds),
        }
        motion = flows(clean)
        own = flicker(clean, motion)
        alone = [psnr(x, y) for x, y in zip(restored, clean, strict=True)]
        for method, (video, spent) in videos.items():
            scores = [psnr(x, y) for x, y in zip(video, clean, strict=True)]
            lowest = min(score - other for score, other in zip(scores, alone, strict=True))
            similar = np.mean([ssim(x, y) for x, y in zip(video, clean, strict=True)])
            values = f"{np.mean(scores):.2f} | {lowest:+.2f} | {similar:.4f} | {flicker(video, motion):.2f} | {own:.2f}"
            print(f"| {name} | {method} | {values} | {spent / len(clean):.2f} |", flush=True)
        if options.write:
            for method, video in {"clean": clean, **{key: value for key, (value, _) in videos.items()}}.items():
                folder = options.write / name / method.replace(" ", "_")
                folder.mkdir(parents=True, exist_ok=True)
                for number, frame in enumerate(video):
                    cv2.imwrite(str(folder / f"{number:03}.png"), frame[..., ::-1])


if __name__ == "__main__":
    main()
