"""Contact sheets: rows of images side by side, each row under a line of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drsformer_cli import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drsformer_cli.metrics.full_reference import RGB8

WIDTH = 400
"""Maximum width of an image on the sheet, in pixels."""

ERROR_GAIN = 4
"""Factor by which an error map is brightened: errors of 64 levels and more are white."""

_LINE = 22
_GAP = 4


def row(text: str, images: Sequence[RGB8]) -> RGB8:
    """Images of one size, (H, W, 3), side by side under a line of text, each shrunk to at most `WIDTH`."""
    text = console.printable(text)  # file names may contain anything
    H, W = images[0].shape[:2]
    width = min(W, WIDTH)
    height = max(1, round(H * width / W))
    shrunk = [np.asarray(cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA), np.uint8) for p in images]
    font = ImageFont.load_default(14)
    needed = max(len(shrunk) * (width + _GAP) - _GAP, math.ceil(font.getlength(text)) + 4)
    sheet = Image.new("RGB", (needed, height + _LINE), "white")
    ImageDraw.Draw(sheet).text((2, 2), text, fill="black", font=font)
    for i, image in enumerate(shrunk):
        sheet.paste(Image.fromarray(image), (i * (width + _GAP), _LINE))
    return np.asarray(sheet)


def stack(rows: Sequence[RGB8]) -> RGB8:
    """Rows of any width, one below the other, on white."""
    width = max(part.shape[1] for part in rows)
    padded = [np.pad(part, ((0, _GAP), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in rows]
    return np.concatenate(padded)


def error_map(restored: RGB8, clean: RGB8) -> RGB8:
    """(H, W, 3): the mean absolute error over the channels, times `ERROR_GAIN`, from black over red to white."""
    error = np.abs(restored.astype(np.int16) - clean).mean(axis=2) * ERROR_GAIN
    colored = cv2.applyColorMap(np.minimum(error, 255).astype(np.uint8), cv2.COLORMAP_HOT)
    return np.asarray(cv2.cvtColor(colored, cv2.COLOR_BGR2RGB), np.uint8)
