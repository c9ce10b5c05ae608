"""Three stages at once: order, failures and early ends."""

import contextlib
import threading
from collections import deque

import pytest

from drsformer.errors import ImageError
from drsformer_cli.overlap import overlapped


def read(item):
    if item == "unreadable":
        raise ImageError("unreadable")
    return item.upper()


def results(items, work=lambda item, text: text, finish=lambda item, text, stop: f"{item}={text}"):
    found = []
    for item, future in overlapped(items, read, work, finish):
        error = future.exception()
        found.append((item, str(error) if error else future.result()))
    return found


def test_order_and_values():
    assert results(["a", "b", "c"]) == [("a", "a=A"), ("b", "b=B"), ("c", "c=C")]
    assert results([]) == []


@pytest.mark.parametrize("items", [["unreadable", "b"], ["b", "unreadable"]])
def test_a_failure_costs_one_item(items):
    assert dict(results(items)) == {"unreadable": "unreadable", "b": "b=B"}


def test_a_failure_of_the_last_stage_is_the_items_own():
    def finish(item, text, stop):
        if item == "a":
            raise OSError("disk full")
        return text

    assert results(["a", "b"], finish=finish) == [("a", "disk full"), ("b", "B")]


def test_a_bug_ends_the_loop():
    def bug(item, text):
        raise KeyError(item)

    with pytest.raises(KeyError):
        results(["a"], work=bug)


def test_the_next_item_is_read_while_this_one_is_worked_on():
    reading = threading.Event()

    def read_and_tell(item):
        if item == "b":
            reading.set()
        return item

    def work(item, text):
        assert item != "a" or reading.wait(60)
        return text

    assert [item for item, _ in overlapped(["a", "b"], read_and_tell, work, lambda *_: None)] == ["a", "b"]


def test_an_early_end_stops_what_is_not_finished():
    started, stopped = threading.Event(), []

    def finish(item, text, stop):
        if item == "b":
            started.set()
            stopped.append(stop.wait(60))

    with contextlib.closing(overlapped(["a", "b", "c"], read, lambda item, text: text, finish)) as work:
        next(work)
        assert started.wait(60)
    assert stopped == [True]


def test_what_an_interrupt_leaves_finished_but_not_handled():
    finished, pending = threading.Event(), deque()

    def work(item, text):
        if item == "b":
            assert finished.wait(60)
            raise KeyboardInterrupt
        return text

    def finish(item, text, stop):
        finished.set()
        return text

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(["a", "b"], read, work, finish, pending))
    assert [(item, future.result()) for item, future in pending] == [("a", "A")]
