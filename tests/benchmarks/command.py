"""Time of the whole command on large JPEGs with the bundled model, against the time inside its network.

    python tests/benchmarks/command.py [MEGAPIXELS ...]

Default: 1, 12 and 50 megapixels, which take minutes. The time per megapixel should not grow with the image.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

SIZES = (1, 12, 50)


def image(megapixels):
    """Smooth noise of several scales, 4:3, which compresses like a photo."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    rng = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3), np.float32)
    for cells in (8, 64, 512):
        pixels += cv2.resize(rng.random((cells, cells, 3), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(pixels * 85, 0, 255).astype(np.uint8)


def run_command(arguments):
    """Run the command, then print the seconds in the network on stderr; called in a separate process."""
    from drsformer.inference import Restorer
    from drsformer_cli import app

    inside, forward = 0.0, Restorer._forward

    def timed(self, x, half=None):
        nonlocal inside
        start = time.perf_counter()
        y = forward(self, x, half)
        inside += time.perf_counter() - start
        return y

    Restorer._forward = timed
    sys.argv = ["drsformer", *arguments]
    try:
        app.main()
    finally:
        print(f"\nnetwork {inside}", file=sys.stderr)


def main():
    sizes = [float(argument) for argument in sys.argv[1:]] or SIZES
    print("| megapixels | whole command | network | ratio | network a megapixel |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.jpg"), Path(folder, "out.jpg")
        for megapixels in sizes:
            pixels = image(megapixels)
            cv2.imwrite(str(source), pixels)
            command = [sys.executable, __file__, "--run", "derain", str(source), "-o", str(target), "--overwrite", "-q"]
            start = time.perf_counter()
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            whole = time.perf_counter() - start
            network = float(answer.stderr.split()[-1])
            size = pixels.shape[0] * pixels.shape[1] / 1e6
            print(
                f"| {size:.1f} | {whole:.1f} s | {network:.1f} s | {whole / network:.2f} | {network / size:.2f} s |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_command(sys.argv[2:])
    else:
        main()
