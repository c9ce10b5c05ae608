"""One thread that restores images, one after the other, with the functions of `derain`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drsformer.memory import release_freed_memory
from drsformer_cli import images
from drsformer_cli.deraining.pipeline import restore_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from drsformer.inference import Restorer


@dataclass(frozen=True)
class Task:
    """An image to restore.

    Attributes:
        file: Bytes of an image file.
        image_format: Pillow's name of the format of the answer; None: that of the file.
        quality: 1..100, for the formats that have one.
        strength: Blends between the image (0) and the restored image (1).
    """

    file: bytes
    image_format: str | None
    quality: int
    strength: float


@dataclass(frozen=True)
class Answer:
    """A restored image.

    Attributes:
        file: Bytes of an image file.
        image_format: Pillow's name of its format.
        seconds: Time in the network.
        scale: The rain was estimated at 1/scale of the size.
        mean_change: Mean absolute difference of all values, on a scale of 255.
        notes: What reading and writing had to change, one line each.
    """

    file: bytes
    image_format: str
    seconds: float
    scale: float
    mean_change: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A task that was submitted.

    Attributes:
        answer: Its answer; None if it was abandoned. Raises the `IMAGE_ERRORS` of reading, restoring and encoding.
        abandoned: Set when nobody waits for the answer: work on it ends after the current tile.
    """

    answer: Future[Answer | None]
    abandoned: threading.Event

    def abandon(self) -> bool:
        """Give the job up; returns whether it had not begun."""
        self.abandoned.set()
        return self.answer.cancel()


class StoppedError(Exception):
    """The worker takes no more tasks."""


class _AbandonedError(Exception):
    """Nobody waits for the answer."""


@dataclass
class Worker:
    """A thread that restores images.

    Attributes:
        restorer: The network and its settings; only this thread uses it, and sets its strength.
        last_seconds: Time of the last task in the network.
    """

    restorer: Restorer
    last_seconds: float = 1.0
    _executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "network"))

    def submit(self, task: Task) -> Job:
        """Append a task to the queue, which has no limit.

        Raises:
            StoppedError: `stop` was called.
        """
        abandoned = threading.Event()
        try:
            return Job(self._executor.submit(self._run, task, abandoned), abandoned)
        except RuntimeError:
            raise StoppedError from None

    def stop(self) -> None:
        """Take no more tasks and cancel those that wait; the running one is finished."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, task: Task, abandoned: threading.Event) -> Answer | None:
        def check(_done: int = 0, _total: int = 0) -> None:
            if abandoned.is_set():
                raise _AbandonedError

        try:
            return self._answer(task, check)
        except _AbandonedError:
            return None
        finally:
            release_freed_memory()

    def _answer(self, task: Task, check: Callable[..., None]) -> Answer:
        check()
        rainy = images.read(task.file)
        image_format = task.image_format or rainy.format
        images.check_size(rainy, image_format)
        check()
        self.restorer.strength = task.strength
        restored = restore_image(rainy, self.restorer, check)
        self.last_seconds = restored.seconds
        file = images.encode(restored.image, image_format, quality=task.quality)
        notes = (*rainy.notes, *images.losses(restored.image, image_format))
        return Answer(file, image_format, restored.seconds, restored.scale, restored.mean_change, notes)
