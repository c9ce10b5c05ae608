"""Files in, restored files out: each image is read, restored and written while its neighbors in the queue are.

Shapes: pixels (H, W, 3).
"""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np

from drsformer.errors import ImageError
from drsformer.files import atomic_write
from drsformer_cli import images
from drsformer_cli.errors import IMAGE_ERRORS, reason
from drsformer_cli.overlap import overlapped
from drsformer_cli.paths import check_writable

if TYPE_CHECKING:
    import threading
    from collections import deque
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from drsformer.inference import Restorer
    from drsformer_cli.deraining.plan import Job
    from drsformer_cli.images import DecodedImage

    Pixels = NDArray[Any]  # uint8 or uint16


@dataclass(frozen=True)
class RestoredImage:
    """A restored image, the image that it was made from, and facts for the report.

    Attributes:
        rainy: The image that was read.
        image: The image to write.
        seconds: Time in the network.
        scale: The rain was estimated at 1/scale of the size.
        tile: Side of the tiles in pixels; None: the image was processed whole.
        mean_change: Mean absolute difference of all values, on a scale of 255.
    """

    rainy: DecodedImage
    image: DecodedImage
    seconds: float
    scale: float
    tile: int | None
    mean_change: float


@dataclass(frozen=True)
class Written:
    """A restored image that was written.

    Attributes:
        restored: The image.
        notes: What reading and writing had to change, one line each.
        problem: Why the comparison image was not written; None: it was, or the job has none.
    """

    restored: RestoredImage
    notes: tuple[str, ...]
    problem: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for was written; the restored image always is, since a damaged one is an error."""
        return self.problem is None

    @property
    def mean_change(self) -> float:
        """Mean absolute difference of all values, on a scale of 255."""
        return self.restored.mean_change

    @property
    def _megapixels(self) -> float:
        H, W = self.restored.image.pixels.shape[:2]
        return float(H * W / 1e6)

    def facts(self, model: str) -> dict[str, object]:
        """What --json says, with the name of the model."""
        return {
            "seconds": round(self.restored.seconds, 3),
            "megapixels": round(self._megapixels, 3),
            "scale": self.restored.scale,
            "tile": self.restored.tile,
            "model": model,
            "mean_change": round(self.mean_change, 3),
            **({"incomplete": self.problem} if self.problem else {}),
        }

    def summary(self) -> str:
        """The work in a few words."""
        scale = f" at scale {self.restored.scale:g}" if self.restored.scale != 1 else ""
        return f"{self._megapixels:.2f} megapixels in {self.restored.seconds:.1f} s{scale}"


def derain(
    jobs: Sequence[Job],
    restorer: Restorer,
    *,
    quality: int,
    overwrite: bool,
    progress: Callable[[Job, float, str], None],
    done: Callable[[Job, Written], None] | None = None,
    pending: deque[tuple[Job, Future[Written]]] | None = None,
) -> Generator[tuple[Job, Future[Written]]]:
    """Process the jobs in order; see `overlapped` for what is yielded and how to stop early.

    Args:
        jobs: What to read and where to write it.
        restorer: The network and its settings.
        quality: 1..100, for the formats that have one.
        overwrite: Whether existing files may be replaced.
        progress: Called with the job in the network, its progress, 0 to 1, and a text about it.
        done: Called, in another thread, with each job whose image was written.
        pending: See `overlapped`; the future of an image that an interrupt kept from being written is cancelled.
    """

    def restore(job: Job, rainy: DecodedImage) -> RestoredImage:
        progress(job, 0.0, "")
        images.check_size(rainy, job.image_format or rainy.format)  # before any time is spent in the network
        if job.target is not None:
            make_writable(job.target.parent)
        if job.others:
            return _restore_burst(job, rainy, restorer)
        return restore_image(rainy, restorer, lambda done, total: progress(job, done / total, ""))

    def write(job: Job, restored: RestoredImage, stop: threading.Event) -> Written:
        written = _written(job, restored, stop, quality=quality, overwrite=overwrite)
        if done is not None:
            done(job, written)
        return written

    return overlapped(jobs, _read, restore, write, pending)


def _read(job: Job) -> DecodedImage:
    return images.read(job.source if job.source is not None else sys.stdin.buffer)


def make_writable(folder: Path) -> None:
    """Create a folder for an output, before any time is spent in the network.

    Raises:
        OSError: It cannot be created, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot create the folder {folder}: {error.strerror}") from None
    try:
        check_writable(folder)
    except OSError as error:
        raise OSError(error.errno, f"cannot write into {folder}: {error.strerror}") from None


def restore_image(
    rainy: DecodedImage, restorer: Restorer, progress: Callable[[int, int], None] | None = None
) -> RestoredImage:
    """Restore an image; see `Restorer.restore` for the arguments and the errors."""
    start = time.perf_counter()
    restored = restorer.restore(rainy.pixels, progress)
    seconds = time.perf_counter() - start
    image = replace(rainy, pixels=restored.image)
    return RestoredImage(rainy, image, seconds, restored.scale, restored.tile, mean_change(rainy.pixels, image.pixels))


def _restore_burst(job: Job, rainy: DecodedImage, restorer: Restorer) -> RestoredImage:
    from drsformer.burst import restore_burst

    burst = [rainy.pixels]
    for path in job.others:
        try:
            other = images.read(path)
        except IMAGE_ERRORS as error:
            raise ImageError(f"{path}: {reason(error)}") from None
        burst.append(other.pixels)
        if other.metadata.icc != rainy.metadata.icc:
            note = f"{path} has another ICC profile, or none; its colors are taken as they are"
            rainy = replace(rainy, notes=(*rainy.notes, note))
    start = time.perf_counter()
    scale = restorer.choose_scale(rainy.pixels)
    names = ["the first image", *map(str, job.others)]  # errors are printed with its name
    image = replace(rainy, pixels=restore_burst(burst, restorer, scale=scale, names=names))
    seconds = time.perf_counter() - start
    return RestoredImage(rainy, image, seconds, scale, None, mean_change(rainy.pixels, image.pixels))


def mean_change(before: Pixels, after: Pixels) -> float:
    """Mean absolute difference of all values, on a scale of 255."""
    return float(cv2.norm(before, after, cv2.NORM_L1)) / before.size * 255 / float(np.iinfo(before.dtype).max)


@contextlib.contextmanager
def output_file(target: Path, *, overwrite: bool, folder: Path | None = None) -> Iterator[IO[bytes]]:
    """`atomic_write` for an output; see there.

    Raises:
        OSError: It cannot be written; the message says so, and names it.
    """
    try:
        with atomic_write(target, overwrite=overwrite, folder=folder) as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, f"{target}: cannot be written: {reason(error)}") from None


def _written(job: Job, restored: RestoredImage, stop: threading.Event, *, quality: int, overwrite: bool) -> Written:
    image_format = job.image_format or restored.image.format
    notes = (*restored.rainy.notes, *images.losses(restored.image, image_format))

    def write(image: DecodedImage, target: Path | None) -> None:
        data = images.encode(image, image_format, quality=quality)
        if stop.is_set():
            raise CancelledError
        if target is None:
            try:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except OSError as error:
                raise OSError(error.errno, f"cannot be written to stdout: {reason(error)}") from None
            return
        with output_file(target, overwrite=overwrite) as file:
            file.write(data)

    write(restored.image, job.target)
    problem = None
    if job.comparison is not None:
        try:
            write(images.side_by_side(restored.rainy, restored.image), job.comparison)
        except IMAGE_ERRORS as error:  # the restored image is kept
            problem = f"no comparison: {reason(error)}"
        except CancelledError:
            problem = "no comparison: interrupted"
    return Written(restored, notes, problem)
