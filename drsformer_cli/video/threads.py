"""Work in other threads, a few items ahead of or behind this one."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

Item = TypeVar("Item")

_POLL_SECONDS = 0.1  # how soon a thread that waits notices that it should stop


class _Thread:
    """A thread with a queue, which ends early when it is asked to."""

    def __init__(self, size: int) -> None:
        self.queue: queue.Queue[object] = queue.Queue(size)
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._guarded, daemon=True)

    def _guarded(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - raised in the other thread
            self.error = error

    def run(self) -> None:
        """The work of the thread."""
        raise NotImplementedError

    def put(self, item: object) -> bool:
        """Whether there was room before the other side ended."""
        while not self.stop.is_set():
            try:
                self.queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def end(self) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()


_END = object()


class _Producer(_Thread, Generic[Item]):
    def __init__(self, items: Iterator[Item], size: int) -> None:
        super().__init__(size)
        self.items = items

    def run(self) -> None:
        try:
            for item in self.items:
                if not self.put(item):
                    return
        finally:
            self.put(_END)


def ahead(items: Iterator[Item], size: int) -> Generator[Item]:
    """Run an iterator in a thread, which is at most `size` items ahead; its errors are raised here.

    Close the generator to end the thread early.
    """
    producer = _Producer(items, size)
    producer.thread.start()
    try:
        while (item := producer.queue.get()) is not _END:
            yield item  # type: ignore[misc]
        producer.thread.join()
        if producer.error is not None:
            raise producer.error
    finally:
        producer.end()


class Behind(_Thread, Generic[Item]):
    """Calls a function for each item in a thread, in order; at most `size` items wait for it.

    As a context manager, it waits for the last item when the block ends, and for none if the block raises.
    """

    def __init__(self, function: Callable[[Item], None], size: int) -> None:
        super().__init__(size)
        self.function = function

    def __enter__(self) -> Behind[Item]:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.add(_END)  # type: ignore[arg-type]
            self.thread.join()
        self.end()
        if kind is None and self.error is not None:
            raise self.error

    def run(self) -> None:
        """Call the function until the end is announced, or the thread is asked to stop."""
        try:
            while not self.stop.is_set():
                try:
                    item = self.queue.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if item is _END:
                    return
                self.function(item)  # type: ignore[arg-type]
        finally:
            self.stop.set()

    def add(self, item: Item) -> None:
        """Hand over an item; raises the error of an earlier one."""
        if not self.put(item) and self.error is not None:
            self.thread.join()
            raise self.error
