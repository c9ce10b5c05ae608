"""Odd trees of folders: data sets are found and paired, and inputs planned, or one line says why not."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from harness import one_line

from drsformer_cli import pairs
from drsformer_cli.datasets import DATASETS
from drsformer_cli.deraining.plan import plan
from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    import random

FOLDERS = [
    "test",
    "train",
    "Rain100L",
    "rain200h",
    "input",
    "rainy",
    "target",
    "norain",
    "GT",
    ".git",
    "雨",
    " ",
    "a b",
]
STEMS = ["1", "01", "1_1", "1_2", "rain-1", "norain-1", "rain-001", "x2", "im (1)", "é", "e\u0301", "", ".hidden"]
STEMS += ["\udcff", "[x]", "a" * 250]
ENDINGS = [".png", ".PNG", ".jpg", ".mpo", ".txt", "", ".png.png", ".tif"]


def case(rng: random.Random) -> tuple[bytes, object]:
    """A list of [kind, path, target]: folders, files, links."""
    places = [""]
    entries = []
    for _ in range(rng.randrange(1, 40)):
        where = rng.choice(places)
        if rng.random() < 0.3:
            places.append(os.path.join(where, rng.choice(FOLDERS)))  # noqa: PTH118 - text for now
            entries.append(["folder", places[-1], ""])
        else:
            name = os.path.join(where, rng.choice(STEMS) + rng.choice(ENDINGS))  # noqa: PTH118
            entries.append([rng.choice(["file", "file", "file", "folder", "link"]), name, rng.choice(places)])
    return json.dumps(entries).encode(), functools.partial(check, entries, rng.choice(list(DATASETS)))


def check(entries: list[list[str]], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind, path, target in entries:
            with contextlib.suppress(OSError):  # a name that is taken, or none
                place = root / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if kind == "folder":
                    place.mkdir()
                elif kind == "file":
                    place.write_bytes(b"")
                else:
                    place.symlink_to(root / target)
        dataset = DATASETS[name]
        located = pairs.locate(dataset, root)
        assert located is None or located.is_dir()
        for side in (None, "rainy-left"):
            found = one_line(UsageError, lambda side=side: pairs.find_pairs(root, side_by_side=side))
            if found is not None:
                assert all(pair.rainy.is_file() and pair.clean.is_file() for pair in found.pairs)
                pairs.missing_numbers(dataset, found.pairs)
                assert all("\n" not in text for text in pairs.size_problems(found.pairs).values())
        planned = one_line(UsageError, lambda: plan([str(root)], str(root / "out"), recursive=True))
        if planned is not None:
            targets = [job.target for job in planned.jobs]
            assert len(set(targets)) == len(targets)


if __name__ == "__main__":
    harness.main(case)
