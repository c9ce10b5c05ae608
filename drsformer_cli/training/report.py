"""The log of a run: metrics.jsonl, curves.png, images of validations, and TensorBoard if it is installed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from drsformer.files import atomic_write
from drsformer_cli import console, images, sheet
from drsformer_cli.errors import reason
from drsformer_cli.training.run_folder import METRICS_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drsformer_cli.training.rain import Pixels

Row = dict[str, Any]

CURVES_FILE = "curves.png"

_PANEL = (640, 240)  # width and height of a curve's panel


def write_image(pixels: Pixels, path: Path) -> None:
    """Write a PNG, and create its folder if it is missing.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(images.encode(images.DecodedImage(pixels), "PNG"))


class TrainingLog:
    """Writes the log of a run that continues after `step`; a failed write is reported once and does not stop the run.

    Attributes:
        rows: Everything that was logged so far, including what an interrupted run logged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._warned = False
        self.rows = _rows_until(folder / METRICS_FILE, step)
        self._attempt(self._rewrite)
        self._board = _tensorboard(folder)

    def add(self, row: Row) -> None:
        """Append a line to metrics.jsonl."""
        self.rows.append(row)
        self._attempt(lambda: self._append(row))
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, row["step"])

    def write_images(self, step: int, shown: Sequence[Pixels]) -> None:
        """Write the curves, and the images of a validation."""
        self._attempt(lambda: write_image(_curves(self.rows), self._folder / CURVES_FILE))
        if shown:
            path = self._folder / "validation" / f"step_{step:08d}.png"
            self._attempt(lambda: write_image(sheet.stack(shown), path))

    def close(self) -> None:
        """Finish writing to TensorBoard."""
        if self._board is not None:
            self._board.close()

    def _rewrite(self) -> None:
        with atomic_write(self._folder / METRICS_FILE) as file:
            file.writelines(f"{json.dumps(row)}\n".encode() for row in self.rows)

    def _append(self, row: Row) -> None:
        with (self._folder / METRICS_FILE).open("a") as file:
            file.write(f"{json.dumps(row)}\n")

    def _attempt(self, write: Any) -> None:  # noqa: ANN401
        try:
            write()
        except OSError as error:
            if not self._warned:
                console.error(f"{self._folder}: the log is incomplete: {reason(error)}")
            self._warned = True


def _rows_until(path: Path, step: int) -> list[Row]:
    """The rows that an interrupted run logged up to this step; later steps will be repeated."""
    rows = []
    try:
        lines = path.read_text().splitlines() if step else []
    except OSError:
        lines = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last line, when the process was killed
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= step:
            rows.append(row)
    return rows


def _tensorboard(folder: Path) -> Any:  # noqa: ANN401 - torch.utils.tensorboard may be absent
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _curves(rows: Sequence[Row]) -> Pixels:
    """Curves of loss, PSNR and learning rate, one below the other."""
    return np.vstack([_panel(rows, name) for name in ("loss", "psnr", "lr")])


def _panel(rows: Sequence[Row], name: str) -> Pixels:
    """The curve of a quantity over the steps, (H, W, 3); loss and learning rate have a logarithmic scale."""
    W, H = _PANEL
    left, right, top, bottom = 70, W - 20, 30, H - 30
    panel = np.full((H, W, 3), 255, np.uint8)
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None and math.isfinite(row[name])]

    def write(text: str, x: float, y: int) -> None:
        cv2.putText(panel, text, (int(x), y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), lineType=cv2.LINE_AA)

    write(name, left, 18)
    cv2.rectangle(panel, (left, top), (right, bottom), (200, 200, 200))
    if not points:
        return panel
    steps, values = np.array(points, np.float64).T
    scaled = values if name == "psnr" else np.log10(np.maximum(values, 1e-12))
    low, high = scaled.min(), max(scaled.max(), scaled.min() + 1e-6)
    x = left + (right - left) * (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    y = bottom - (bottom - top) * (scaled - low) / (high - low)
    line = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(panel, [line], isClosed=False, color=(200, 60, 30), lineType=cv2.LINE_AA)
    cv2.circle(
        panel, line[-1].tolist(), 3, (200, 60, 30), cv2.FILLED, cv2.LINE_AA
    )  # visible even if it is the only point
    for value, height in ((values[scaled.argmin()], bottom), (values[scaled.argmax()], top + 8)):
        write(f"{value:.4g}", 8, height)
    for step, place in ((steps[0], left), (steps[-1], right - 50)):
        write(f"{step:.0f}", place, H - 12)
    return panel
