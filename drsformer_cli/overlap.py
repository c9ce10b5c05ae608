"""A pipeline of three stages: while this thread works on an item, the next is read and the previous finished."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from drsformer_cli.errors import IMAGE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Finished = TypeVar("Finished")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    finish: Callable[[Item, Worked, threading.Event], Finished],
    pending: deque[tuple[Item, Future[Finished]]] | None = None,
) -> Generator[tuple[Item, Future[Finished]]]:
    """Process the items in order, with `read` of the next item and `finish` of the previous one in separate threads.

    Use `contextlib.closing` on the generator if an interrupt may end the loop over it early.

    Args:
        items: The items.
        read: The first stage. For the first item it runs in this thread, so that endless input can be interrupted.
        work: The second stage, in this thread.
        finish: The third stage. Its event is set when the loop ends early: nothing may be written from then on.
        pending: Items whose third stage was started are appended, and removed when the next one is asked for. When an
            interrupt has ended the loop, these are the items that may be finished without having been handled; their
            futures are done.

    Yields:
        Each item with the future of its last stage. The future raises the `IMAGE_ERRORS` of all stages; other errors
        of the first two stages are raised here.
    """
    stop = threading.Event()
    reader, finisher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    pending = deque() if pending is None else pending
    following: Future[Read] = Future()
    try:
        for i, item in enumerate(items):
            reading, following = following, reader.submit(read, items[i + 1]) if i + 1 < len(items) else Future()
            try:
                worked = work(item, read(item) if i == 0 else reading.result())
            except IMAGE_ERRORS as error:
                current: Future[Finished] = Future()
                current.set_exception(error)
            else:
                current = finisher.submit(finish, item, worked, stop)
            pending.append((item, current))
            if len(pending) > 1:
                yield pending[0]
                pending.popleft()
        if pending:
            yield pending[0]
            pending.popleft()
    except BaseException:  # interrupts and early ends included
        stop.set()
        raise
    finally:
        reader.shutdown(cancel_futures=True)
        finisher.shutdown(cancel_futures=True)
