"""Train the estimator of the streaks' width, models/drsformer/weights/streaks.pth; about an hour of one core.

    python .github/streaks/train.py ../shared/data streaks.pth

The layers of Rain100L's and Rain100H's training pairs, enlarged or shrunk by a known factor, are drawn over clean
images that are sharp or soft. A third of the samples is resized once more as a whole, as a camera or a person would.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from drsformer.streaks import PART, WIDTHS, StreakEstimator

STEPS = 2500
BATCH = 32
SMALLEST_IMAGE = 200


class Samples:
    """Parts of images with rain of known width, and their labels."""

    def __init__(self, data: Path) -> None:
        self.rng = np.random.default_rng(0)
        whole = [*read_all(data / "clean"), *read_all(data / "clean_more")]
        pairs = [image[:, : image.shape[1] // 2] for image in read_all(data / "rain800/train")]  # clean halves
        self.clean = [image for image in (*whole, *pairs) if min(image.shape) >= SMALLEST_IMAGE]
        self.light, self.heavy = read_all(data / "streaks/light"), read_all(data / "streaks/heavy")

    def batch(self):
        images, labels = zip(*(self.sample() for _ in range(BATCH)), strict=True)
        return torch.from_numpy(np.stack(images)[:, None]).float() / 255, torch.from_numpy(np.stack(labels))

    def sample(self):
        rng = self.rng
        resized = 2 ** rng.uniform(-1, 1.6) if rng.random() < 0.35 else 1.0
        side = max(40, round(PART / resized))
        image = square(self.any_of(self.clean), side / 2 ** rng.uniform(-1.3, 1.3), side, rng)
        width = None
        if rng.random() < 0.78:
            width = np.clip(2 ** rng.uniform(-1.6, 3.2), 0.3 * resized, 8 * resized)
            layer = self.layer(side, width / resized)
            image = 255 - (255 - image) * (1 - layer / 255) if rng.random() < 0.3 else image + layer
            if layer.std() <= 2:  # hardly visible
                width = None
        if side != PART:
            image = resize(image, PART)
        return self.photographed(image), label(width)

    def layer(self, side, width):
        rng = self.rng
        layer = self.any_of(self.light if rng.random() < 0.6 else self.heavy)
        if rng.random() < 0.5:
            layer = layer[:, ::-1]
        repeats = int(np.ceil(side / width / min(layer.shape)))
        if repeats > 1:  # mirrored copies, so that nothing ends abruptly
            row = np.concatenate([layer[:, ::-1] if i % 2 else layer for i in range(repeats)], axis=1)
            layer = np.concatenate([row[::-1] if i % 2 else row for i in range(repeats)], axis=0)
        if rng.random() < 0.25:
            H, W = layer.shape
            turn = cv2.getRotationMatrix2D((W / 2, H / 2), rng.uniform(-30, 30), 1)
            layer = cv2.warpAffine(layer, turn, (W, H), borderMode=cv2.BORDER_REFLECT)
        layer = square(layer, np.ceil(side / width), side, rng)
        if rng.random() < 0.15:
            layer = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.3, 0.8) * max(width, 0.5))
        return layer * rng.uniform(0.7, 1.5)

    def photographed(self, image):
        """With noise, JPEG and less light, at times."""
        rng = self.rng
        if rng.random() < 0.3:
            image = image + rng.normal(0, rng.uniform(0.5, 5), image.shape)
        image = np.clip(image, 0, 255).astype(np.uint8)
        if rng.random() < 0.5:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 98))]
            image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_GRAYSCALE)
        return (image * rng.uniform(0.4, 1)).astype(np.uint8) if rng.random() < 0.15 else image

    def any_of(self, images):
        return images[self.rng.integers(len(images))]


def label(width):
    """Shares of WIDTHS and of no rain; a width between two of them is shared by both."""
    shares = np.zeros(len(WIDTHS) + 1, np.float32)
    if width is None:
        shares[-1] = 1
    else:
        shares[:-1] = np.maximum(0, 1 - np.abs(np.clip(np.log2(width), WIDTHS[0], WIDTHS[-1]) - WIDTHS) / 0.5)
    return shares


def square(image, cut, side, rng):
    """A random square of `cut` pixels a side, or less where the image is smaller, resized to `side`, float32."""
    cut = min(round(cut), *image.shape)
    top, left = (rng.integers(have - cut + 1) for have in image.shape)
    return resize(image[top : top + cut, left : left + cut].astype(np.float32), side)


def resize(image, side):
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < len(image) else cv2.INTER_CUBIC)


def read_all(folder):
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(folder.iterdir())]


def main() -> None:
    data, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    samples, estimator = Samples(data), StreakEstimator()
    optimizer = torch.optim.AdamW(estimator.parameters(), weight_decay=1e-3)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(samples.batch)
        for step in range(STEPS):
            images, labels = following.result()
            following = pool.submit(samples.batch)
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1, step / 100) * (1 + np.cos(np.pi * step / STEPS))
            loss = F.cross_entropy(estimator(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 99:
                print(f"step {step + 1}, loss {loss.item():.3f}", flush=True)
                torch.save({key: value.half() for key, value in estimator.state_dict().items()}, out)


if __name__ == "__main__":
    main()
