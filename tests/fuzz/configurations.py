"""Damaged recipes: each gives a configuration, or one line of UsageError."""

from __future__ import annotations

import functools
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from harness import one_line

from drsformer_cli.errors import UsageError
from drsformer_cli.training import config

if TYPE_CHECKING:
    import random

VALUES = [
    *("0", "-1", "1e400", "nan", "inf", "9" * 400, "1.5", "-9223372036854775808", "true", "1979-05-27", "07:32:00"),
    *(
        '""',
        "'x'",
        '"\\u0000"',
        '"雨"',
        "'../..'",
        "[]",
        "[[[]]]",
        "[1, 'a']",
        "[0.5, 0.1]",
        "[" * 3000,
        "{}",
        "{a = 1}",
    ),
]


@functools.cache
def seeds() -> list[bytes]:
    folder = resources.files("drsformer_cli").joinpath("recipes")
    return [folder.joinpath(f"{name}.toml").read_bytes() for name in config.recipes.NAMES]


def changed_line(line: bytes, rng: random.Random) -> bytes:
    key, separator, _ = line.partition(b"=")
    if separator and rng.random() < 0.7:
        return key + b"= " + rng.choice(VALUES).encode()
    return rng.choice(
        [b"", line + b"\n" + line, line.upper(), line[::-1], b"[" + line + b"]", line.replace(b".", b"..")]
    )


def case(rng: random.Random) -> tuple[bytes, object]:
    data = rng.choice(seeds())
    if rng.random() < 0.7:
        lines = data.split(b"\n")
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(lines))
            lines[at] = changed_line(lines[at], rng)
        data = b"\n".join(lines)
    if rng.random() < 0.4:
        data = harness.damaged(data, rng, seeds())
    settings = [f"{rng.choice(['data.patch', 'training', 'x.y', '', '=', 'model.dim'])}={rng.choice(VALUES)}"]
    return data, functools.partial(check, data, settings if rng.random() < 0.3 else [])


def check(data: bytes, settings: list[str]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        found = one_line(UsageError, config.load, str(Path(file.name)), settings)
    assert found is None or isinstance(found, config.Config)


if __name__ == "__main__":
    harness.main(case)
