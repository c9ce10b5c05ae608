"""Restore images of any size: pad, tile, run the network, blend, clamp.

Shapes: H, W of the image; h, w of a tile. Colors are (H, W, 3); the network takes (1, 3, h, w).
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsformer.config import SIZE_MULTIPLE, DRSformerConfig
from drsformer.errors import ConfigError, DeviceError, ImageError
from drsformer.fast_inference import optimize_for_inference
from drsformer.images import luma
from drsformer.memory import free_memory, is_out_of_memory, kept_memory, measure_bytes_per_pixel
from drsformer.model import DRSformer
from drsformer.scale import add_enlarged, shrink
from drsformer.streaks import choose_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from drsformer.images import ImageArray

    FloatArray = NDArray[np.float32]

TileSize = int | Literal["auto"] | None
Scale = float | Literal["auto"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

PEAK_VALUE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
"""The value that corresponds to 1, for each type of an image."""

DEFAULT_OVERLAP = 32
"""Pixels that neighboring tiles share."""

SMALLEST_TILE = 16
"""Smallest tile that is tried when memory runs out."""

LARGEST_SCALE = 16.0
"""Largest `scale`."""

SMALLEST_GOOD_TILE = 192
"""Smallest tile that tile="auto" chooses: on 25 images, tiles of 192 and more lost nothing, tiles of 128 0.2 dB."""

# For each kind of device: images with up to this many pixels are processed whole, larger ones in tiles of up to this
# size, even if more memory is free. Images of the benchmarks are processed whole, as for the published numbers, and
# frames of 1280x720, which take a fifth longer in tiles.
_AUTO = {"cpu": (1280 * 720, 384), "cuda": (1536 * 1536, 1024), "mps": (1024 * 1024, 512)}

# Convolutions need buffers besides the tensors, and memory becomes fragmented. Measured on a CPU: the process grows by
# 1.2 to 1.7 times the size of the tensors.
_OVERHEAD = 2.0
_SHARE_OF_FREE_MEMORY = 0.6

# Twice what the published networks need. If even this fits, nothing has to be measured.
_GENEROUS_BYTES_PER_PIXEL = 25_000

logger = logging.getLogger("drsformer")


def derain(
    model: nn.Module,
    image: ImageArray,
    *,
    scale: Scale = "auto",
    tile: TileSize = "auto",
    overlap: int | None = None,
    precision: Precision = "auto",
    strength: float = 1.0,
    tta: bool = False,
) -> ImageArray:
    """Remove the rain from an image.

    Args:
        model: The network, on the device that it should run on, with float32 weights.
        image: Image of any size; uint8, uint16, or float32 in [0, 1]. (H, W, 3) RGB, (H, W, 4) RGB and alpha,
            (H, W) or (H, W, 1) gray, or (H, W, 2) gray and alpha. Gray is passed to the network as three equal
            channels, and becomes the BT.601 luma of the network's output; alpha is not changed.
        scale: The rain is estimated at 1/scale of the size, and what was removed is enlarged and taken from the image.
            1: at full size, as for published numbers. Up to 16, for streaks that are that many times as wide as in
            benchmarks (2 to 4 pixels). "auto": chosen for each image by the width of its streaks, 1 to 6.7.
        tile: Side of the square tiles in pixels, rounded up to a multiple of 8 times the network's stem. None: the
            image is processed whole. "auto": small images are processed whole, larger ones in tiles that fit the
            free memory.
        overlap: Pixels that neighboring tiles share, less than the tile. None: 32, or a quarter of a small tile.
        precision: "auto" is float32 on a CPU and bfloat16 (or float16) autocast on CUDA devices that support it.
            Attention scores, top-k and softmax are always float32.
        strength: Blends between the image (0) and the restored image (1).
        tta: Whether to average over the image and its 3 flips, which takes four times as long. Rotations by 90 degrees
            do not help, since the network does not know rain that falls sideways.

    Returns:
        The restored image, of the shape and type of `image`.

    Raises:
        ImageError: `image` has another shape, type or range, or the network's output is not finite in float32.
        ConfigError: A setting is out of its range.
        DeviceError: The device is out of memory even for the smallest tile.
    """
    restorer = Restorer(model, scale=scale, tile=tile, overlap=overlap, precision=precision, strength=strength, tta=tta)
    return restorer(image)


@dataclass(frozen=True)
class Restored:
    """A restored image, and how it was computed.

    Attributes:
        image: The restored image, of the shape and type of the rainy one.
        tile: Side of the tiles in pixels, at 1/scale of the size. None: the image was processed whole.
        scale: The rain was estimated at 1/scale of the size.
    """

    image: ImageArray
    tile: int | None
    scale: float


class Restorer:
    """`derain` for many images: the network is prepared once, and settings are checked once.

    Takes the settings and raises the errors of `derain`. Later changes of the model's weights have no effect.

    On a CPU, glibc keeps the memory of the network for the next image; see `drsformer.memory.kept_memory`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: Scale = "auto",
        tile: TileSize = "auto",
        overlap: int | None = None,
        precision: Precision = "auto",
        strength: float = 1.0,
        tta: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"expected a network such as load_model gives, not {type(model).__name__}")
        parameter = next(model.parameters(), torch.empty(0, dtype=torch.float32, device="cpu"))
        self.device = parameter.device
        self._multiple = _size_multiple(model)
        self.scale = _checked_scale(scale)
        self.tile = _checked_tile(tile, self._multiple)
        self.overlap = _checked_overlap(overlap, self.tile)
        if not isinstance(strength, int | float | np.number) or not 0 <= strength <= 1:
            raise ConfigError(f"strength must be between 0 and 1, not {strength!r}")
        self.strength = strength
        self.tta = tta
        self._half = half_precision(precision, self.device)
        if self._half is None and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(f"the model's weights must be float32, not {kind}; 'precision' chooses how it computes")
        # The fast network is measured only on CPUs, and does not include the changes of subclasses.
        faster = type(model) is DRSformer and self.device.type == "cpu" and self._half is None
        self._network = optimize_for_inference(cast("DRSformer", model)) if faster else model
        self._largest_tile: int | None = None  # set when the device runs out of memory
        self._bytes_per_pixel: float | None = None
        self._said: set[str] = set()

    def __call__(self, image: ImageArray) -> ImageArray:
        """Return the restored image; see `derain`."""
        return self.restore(image).image

    def restore(
        self, image: ImageArray, progress: Callable[[int, int], None] | None = None, scale: float | None = None
    ) -> Restored:
        """Restore an image; see `derain`.

        Args:
            image: The rainy image.
            progress: Called after each tile with the number of finished tiles and the number of all tiles.
            scale: Overrides the scale of this restorer. None: its own.
        """
        _check_image(image)
        image = np.asarray(image)  # of a subclass, such as a memmap, the plain array
        scale = self.choose_scale(image) if scale is None else _checked_factor(scale, "None")
        peak = PEAK_VALUE[image.dtype]
        rainy = _color_of(image) if scale == 1 else shrink(_color_of(image), peak, scale)
        H, W = rainy.shape[:2]
        tile = self.choose_tile(H, W)
        if tile is not None and max(H, W) <= tile:
            tile = None
        if tile is not None:
            self._warn_of_small_tiles(tile)
        done = 0
        rows, columns = self._grid(H, W, tile)

        def count() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, len(rows) * len(columns))

        restored = np.empty_like(image)
        with kept_memory() if self.device.type == "cpu" else contextlib.nullcontext():
            bands = self._restore_rows(rainy, tile, count)
            if scale == 1:
                for top, finished in bands:
                    bottom = top + len(finished)
                    if image.dtype != np.float32:
                        np.rint(np.multiply(finished, peak, out=finished), out=finished)
                    _put_color(finished.astype(image.dtype, copy=False), image[top:bottom], restored[top:bottom])
            else:
                C = 3 if _channels(image).shape[2] >= 3 else 1
                change = np.empty((H, W, C), np.float32)
                for top, finished in bands:
                    here = slice(top, top + len(finished))
                    change[here] = (finished if C == 3 else luma(finished)[..., None]) - rainy[here, :, :C]
                _channels(restored)[..., C:] = _channels(image)[..., C:]  # alpha
                add_enlarged(_channels(image)[..., :C], change, peak, into=_channels(restored)[..., :C])
        return Restored(restored, tile, scale)

    def choose_scale(self, image: ImageArray) -> float:
        """The scale at which an image is restored: that of this restorer, or the one that "auto" chooses."""
        return choose_scale(_color_of(image), PEAK_VALUE[image.dtype]) if self.scale == "auto" else self.scale

    @property
    def precision(self) -> str:
        """Precision of the computation: fp32, bf16 or fp16."""
        return {None: "fp32", torch.bfloat16: "bf16"}.get(self._half, "fp16")

    def choose_tile(self, height: int, width: int) -> int | None:
        """Side of the tiles for an image of this size, in pixels; None: the image is processed whole."""
        if self.tile != "auto":
            return self.tile
        whole, preferred = _AUTO.get(self.device.type, _AUTO["cpu"])
        budget = free_memory(self.device) * _SHARE_OF_FREE_MEMORY / _OVERHEAD
        pixels = _round_up(height, self._multiple) * _round_up(width, self._multiple)
        if pixels <= whole and pixels * _GENEROUS_BYTES_PER_PIXEL <= budget:
            return None
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = measure_bytes_per_pixel(lambda x: self._forward(x, self._half), self.device)
        if pixels <= whole and pixels * self._bytes_per_pixel <= budget:
            return None
        tile = min(preferred, math.isqrt(int(budget / self._bytes_per_pixel)))
        tile = max(SMALLEST_GOOD_TILE, tile - tile % self._multiple)
        # The smallest tile that gives the same number of tiles: pixels that tiles share are computed twice.
        needed = max(fitting_tile(length, tile, self.overlap_of(tile)) for length in (height, width))
        return max(SMALLEST_GOOD_TILE, _round_up(needed, self._multiple))

    def _grid(self, height: int, width: int, tile: int | None) -> tuple[list[int], list[int]]:
        return tile_starts(height, tile, self.overlap_of(tile)), tile_starts(width, tile, self.overlap_of(tile))

    def overlap_of(self, tile: TileSize) -> int:
        """Pixels that neighboring tiles share: of a size, with tiles of "auto" that are large, or without tiles 0."""
        if tile is None:
            return 0
        if tile == "auto":
            return DEFAULT_OVERLAP if self.overlap is None else self.overlap
        if self.overlap is None:
            return min(DEFAULT_OVERLAP, tile // 4)
        # Tiles that were made smaller because of the memory may be smaller than the given overlap.
        return min(self.overlap, tile - 1) if tile == self.tile else min(self.overlap, tile // 2)

    def _restore_rows(
        self, image: ImageArray, tile: int | None, count: Callable[[], None]
    ) -> Iterator[tuple[int, FloatArray]]:
        """Yield (top, rows) from top to bottom: finished rows, (n, W, 3) in [0, 1].

        Only one row of tiles is held in float32. Each tile is blended over its left and upper neighbors; a blend of
        equal values is exactly that value, so that tiling alone never changes a pixel.
        """
        H, W = image.shape[:2]
        tops, lefts = self._grid(H, W, tile)
        h, w = min(tile or H, H), min(tile or W, W)
        above: FloatArray | None = None  # rows of the previous row of tiles that this one overlaps
        for i, top in enumerate(tops):
            band = np.empty((h, W, 3), np.float32)
            right = 0  # columns of the band that are filled
            for left in lefts:
                restored = self._restore_tile(image[top : top + h, left : left + w])
                shared = right - left
                _blend_over(band[:, left:right], restored[:, :shared], ramp(shared)[None, :, None])
                band[:, right : left + w] = restored[:, shared:]
                right = left + w
                count()
            if above is not None:
                shared = len(above)
                _blend_over(above, band[:shared], ramp(shared)[:, None, None])
                band[:shared] = above
            finished = (tops[i + 1] if i + 1 < len(tops) else H) - top
            above = band[finished:].copy()
            yield top, band[:finished]

    def _restore_tile(self, pixels: ImageArray) -> FloatArray:
        """(h, w, 3) of any type -> (h, w, 3) in [0, 1], in smaller tiles where the device is out of memory."""
        size = max(pixels.shape[:2])
        if self._largest_tile is None or size <= self._largest_tile:
            try:
                return self._restore_whole(pixels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback would keep the tensors alive.
            self._shrink(size)
        restored = np.empty(pixels.shape, np.float32)
        for top, rows in self._restore_rows(pixels, self._largest_tile, lambda: None):
            restored[top : top + len(rows)] = rows
        return restored

    def _shrink(self, size: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if size <= SMALLEST_TILE:
            raise DeviceError(f"{self.device} is out of memory even for a tile of {size} pixels; try another device")
        self._largest_tile = max(SMALLEST_TILE, size // 2 // self._multiple * self._multiple)
        self._say_once("memory", f"{self.device} is out of memory for a tile of {size} pixels; using smaller tiles")
        self._warn_of_small_tiles(self._largest_tile)

    def _warn_of_small_tiles(self, tile: int) -> None:
        if tile < SMALLEST_GOOD_TILE:
            self._say_once("small", f"tiles of less than {SMALLEST_GOOD_TILE} pixels leave more rain")

    def _restore_whole(self, pixels: ImageArray) -> FloatArray:
        h, w = pixels.shape[:2]
        rainy = np.ascontiguousarray(pixels, np.float32)
        if pixels.dtype != np.float32:
            rainy = rainy / np.float32(PEAK_VALUE[pixels.dtype])
        x = torch.tensor(rainy, device=self.device).permute(2, 0, 1).unsqueeze(0)  # (1, 3, h, w)
        with torch.inference_mode():
            padded = pad_to_multiple(x, self._multiple)
            y = self._averaged(padded, self._half)
            if self._half is not None and not torch.isfinite(y).all():
                self._say_once(
                    "half", f"{self.precision} gives values that are not finite; such tiles are computed in fp32"
                )
                y = self._averaged(padded, None)
            y = y[..., :h, :w].clamp(0, 1)
            if not torch.isfinite(y).all():
                raise ImageError("the network's output is not finite; the checkpoint may be damaged")
            if self.strength < 1:
                y = x.lerp(y, self.strength)
            restored: FloatArray = y.squeeze(0).permute(1, 2, 0).cpu().numpy()
        return restored

    def _averaged(self, x: Tensor, half: torch.dtype | None) -> Tensor:
        if not self.tta:
            return self._forward(x, half)
        mean = torch.zeros_like(x)
        for n, dims in enumerate(((), (3,), (2,), (2, 3)), 1):
            y = self._forward(x.flip(dims), half).flip(dims)
            mean += (y - mean) / n
        return mean

    def _forward(self, x: Tensor, half: torch.dtype | None = None) -> Tensor:
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):  # also within another autocast
            y: Tensor = self._network(x)
        return y.float()

    def _say_once(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            logger.warning(message)


def pad_to_multiple(x: Tensor, multiple: int = SIZE_MULTIPLE) -> Tensor:
    """Pad (B, 3, h, w) at the right and bottom to multiples of `multiple`, at least four of them.

    Padding reflects at most h - 1 and w - 1 pixels, and repeats the last pixel beyond that.
    """
    h, w = x.shape[-2:]
    # A side of one or two multiples is as many pixels of the deepest level: there, plain white can turn gray.
    below, right = (max(_round_up(side, multiple), 4 * multiple) - side for side in (h, w))
    x = F.pad(x, (0, min(right, w - 1), 0, min(below, h - 1)), mode="reflect")
    return F.pad(x, (0, max(0, right - w + 1), 0, max(0, below - h + 1)), mode="replicate")


def tile_starts(length: int, tile: int | None, overlap: int) -> list[int]:
    """First pixels of the fewest tiles that cover `length` with at least `overlap` shared pixels, evenly spread.

    No tile extends beyond the image: the last one ends with it.
    """
    if tile is None or length <= tile:
        return [0]
    number = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (number - 1)) for i in range(number)]


def fitting_tile(length: int, tile: int, overlap: int) -> int:
    """The smallest tile that covers `length` with as many tiles as `tile` does."""
    number = len(tile_starts(length, tile, overlap))
    return math.ceil((length + (number - 1) * overlap) / number)


def ramp(length: int) -> FloatArray:
    """Weights of the new tile for `length` shared pixels: 3 t^2 - 2 t^3, which rises smoothly from 0 to 1."""
    t = (np.arange(length) + 0.5) / max(length, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _blend_over(old: FloatArray, new: FloatArray, weights: FloatArray) -> None:
    """Add weights * (new - old) to old, in place; exact where the two are equal."""
    old += weights * (new - old)


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type for autocast; None: float32."""
    known: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if isinstance(precision, str) and precision in known:
        return known[precision]
    if precision != "auto":
        raise ConfigError(f"precision must be one of auto, {', '.join(known)}, not {precision!r}")
    if device.type != "cuda":
        return None
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else None


def _size_multiple(model: nn.Module) -> int:
    """What H and W must be multiples of, also where a network is wrapped, as by `DataParallel`."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return max((c.size_multiple for c in configs if isinstance(c, DRSformerConfig)), default=SIZE_MULTIPLE)


def _checked_scale(scale: Scale) -> Scale:
    return scale if scale == "auto" else _checked_factor(scale, "'auto'")


def _checked_factor(scale: float, other: str) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.number) or not 1 <= scale <= LARGEST_SCALE:
        raise ConfigError(f"scale must be {other} or a number from 1 to {LARGEST_SCALE:g}, not {scale!r}")
    return float(scale)


def _checked_tile(tile: TileSize, multiple: int) -> TileSize:
    if tile is None or tile == "auto":
        return tile
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < SIZE_MULTIPLE:
        raise ConfigError(f"tile must be 'auto', None or an integer of at least {SIZE_MULTIPLE}, not {tile!r}")
    return _round_up(int(tile), multiple)


def _checked_overlap(overlap: int | None, tile: TileSize) -> int | None:
    if overlap is None:
        return None
    if isinstance(overlap, bool) or not isinstance(overlap, int | np.integer) or overlap < 0:
        raise ConfigError(f"overlap must be an integer of at least 0, not {overlap!r}")
    if isinstance(tile, int) and overlap >= tile:
        raise ConfigError(f"overlap must be less than the tile of {tile}, not {overlap}")
    return int(overlap)


def _check_image(image: ImageArray) -> None:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"expected a numpy array of shape (H, W, 3), not {type(image).__name__}")
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] > 4):
        raise ImageError(f"expected an array of shape (H, W), or (H, W, C) with 1 to 4 channels, not {image.shape}")
    if image.dtype not in PEAK_VALUE:
        raise ImageError(f"expected uint8, uint16 or float32, not {image.dtype}")
    if image.dtype == np.float32:
        low, high = image.min(), image.max()
        if not (low >= 0 and high <= 1):  # also when one is NaN
            raise ImageError(f"expected float32 values in [0, 1], found {low!s} to {high!s}")


def _channels(image: ImageArray) -> ImageArray:
    """(H, W) or (H, W, C) -> (H, W, C), the same memory."""
    return image[..., None] if image.ndim == 2 else image


def _color_of(image: ImageArray) -> ImageArray:
    """(H, W) or (H, W, C) -> (H, W, 3), the same memory."""
    channels = _channels(image)
    if channels.shape[2] >= 3:
        return channels[..., :3]
    return np.broadcast_to(channels[..., :1], (*channels.shape[:2], 3))


def _put_color(color: ImageArray, image: ImageArray, into: ImageArray) -> None:
    """Write color, (H, W, 3), into an array of the shape of `image`, with alpha as `image` has it."""
    if image.ndim == 2:
        into[:] = luma(color)
    elif image.shape[2] < 3:
        into[..., 0] = luma(color)
    else:
        into[..., :3] = color
    if image.ndim == 3 and image.shape[2] in (2, 4):
        into[..., -1] = image[..., -1]


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
