"""Random damage and a loop with a seed and a time limit; each target is a script of its own.

    python tests/fuzz/images.py --seed 7 --seconds 60

A case that fails is written into the working directory, with the command that repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Case = Callable[[random.Random], tuple[bytes, Callable[[], None]]]

ROOT = Path(__file__).parents[2]
for folder in (ROOT, ROOT / "models", ROOT / "tests"):
    sys.path.insert(0, str(folder))

LONGEST_SECONDS = 20
_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def damaged(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The data with one to six random changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        # The most important data is at the beginning.
        at = at if rng.random() < 0.5 else min(at, rng.randrange(min(len(changed), 200)))
        kind = rng.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((2, 4))
            changed[at : at + size] = rng.choice(_NUMBERS).to_bytes(4, rng.choice(("big", "little")))[:size]
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            changed[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 5:
            start = rng.randrange(len(changed))
            changed[at:at] = changed[start : start + rng.randrange(1, 100)]
        elif kind == 6:
            del changed[at:]
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            part = other[start : start + rng.randrange(1, 60)]
            changed[at : at + len(part)] = part
    return bytes(changed)


def one_line(
    expected: type[Exception] | tuple[type[Exception], ...], look: Callable[..., Any], *arguments: object
) -> Any:
    """The result, or None if it raises an expected error with a message of one line."""
    try:
        return look(*arguments)
    except expected as error:
        text = str(error)
    if not text or "\n" in text or "Error(" in text:
        raise AssertionError(f"no line for a user: {text!r}")
    return None


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError if the block takes too long."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def fuzz(case: Case, seed: int, seconds: float, first: int = 0, count: int | None = None) -> tuple[int, float]:
    """Run cases until the time is over; returns the number of cases and the seconds of the longest.

    Raises:
        AssertionError: A case failed; the message says how to repeat it.
    """
    end, number, longest = time.monotonic() + seconds, first, 0.0
    while time.monotonic() < end and (count is None or number < first + count):
        data, check = case(random.Random(f"{seed}-{number}"))  # noqa: S311 - repeatable, not secret
        start = time.monotonic()
        try:
            with time_limit(LONGEST_SECONDS):
                check()
        except Exception as error:
            path = Path(f"fuzz-{seed}-{number}.bin")
            path.write_bytes(data)
            raise AssertionError(
                f"--seed {seed} --first {number} --count 1 ({path}): {type(error).__name__}: {error}"
            ) from error
        longest = max(longest, time.monotonic() - start)
        number += 1
    return number - first, longest


def main(case: Case) -> None:
    """The command line of a target."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    parser.add_argument("--count", type=int, help="Number of cases.")
    given = parser.parse_args()
    try:
        count, longest = fuzz(case, given.seed, given.seconds, given.first, given.count)
    except AssertionError:
        traceback.print_exc()
        sys.exit(1)
    print(f"{count} cases, the longest {longest:.2f} s")  # noqa: T201 - a script
