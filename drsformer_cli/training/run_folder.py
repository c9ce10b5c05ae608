"""The folder of a run: its configuration, log, checkpoints and best weights.

config.toml  metrics.jsonl  curves.png  best.pth  step_00001000.pth ...  validation/step_00001000.png ...
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from typing import TYPE_CHECKING, Any

import torch

from drsformer.checkpoint import read_content
from drsformer.errors import CheckpointError
from drsformer.files import atomic_write
from drsformer_cli import console
from drsformer_cli.errors import UsageError, reason
from drsformer_cli.lock import locked
from drsformer_cli.paths import check_writable
from drsformer_cli.training import toml_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG_FILE = "config.toml"
BEST_FILE = "best.pth"
METRICS_FILE = "metrics.jsonl"

_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.part")  # of `atomic_write`, when it was killed


class RunFolder:
    """The folder that a run writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse_unsuitable(self, *known: str) -> None:
        """Check that it is new, empty, or the folder of a run, and that it is writable; nothing is written.

        Args:
            known: Files that also identify the folder of a run, in addition to its configuration.

        Raises:
            UsageError: It cannot be created or written to, or holds other files.
        """
        try:
            existing = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
            if not existing.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            check_writable(existing)
            names = {path.name for path in existing.iterdir() if not path.name.startswith(".")}
        except OSError as error:
            raise UsageError(f"--output {self.path}: cannot write there: {error.strerror}") from None
        if existing == self.path and names and not names & {CONFIG_FILE, *known}:
            raise UsageError(f"--output {self.path}: holds other files; expected a new folder, or that of a run")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Create the folder, lock it against other processes, and remove partial files of a killed process.

        Raises:
            UsageError: Another process is training into the folder, or it is not writable.
        """

        def refuse() -> None:
            raise UsageError(f"--output {self.path}: another process is training into it")

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock", refuse))
                for file in self.path.iterdir():
                    if _LEFTOVER.fullmatch(file.name):
                        file.unlink()
            except OSError as error:
                raise UsageError(f"--output {self.path}: cannot write there: {error.strerror}") from None
            yield

    def checkpoints(self) -> list[Path]:
        """The checkpoints, from the oldest to the latest."""
        return sorted(path for path in self.path.glob("step_*.pth") if path.stem.removeprefix("step_").isdecimal())

    def write_config(self, table: dict[str, Any]) -> None:
        """Write the resolved configuration."""
        with atomic_write(self.path / CONFIG_FILE) as file:
            file.write(toml_config.dump(table).encode())

    def save(self, step: int, content: dict[str, Any], keep: int) -> Path:
        """Write a checkpoint and remove those older than the latest `keep`.

        Raises:
            OSError: It cannot be written; all earlier ones are kept.
        """
        path = self.path / f"step_{step:08d}.pth"
        # Serialized in memory: torch hides why a file could not be written.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())
        for old in self.checkpoints()[:-keep]:
            old.unlink(missing_ok=True)
        return path

    def latest(self) -> dict[str, Any]:
        """The content of the latest checkpoint that can be read.

        Raises:
            UsageError: No checkpoint can be read.
        """
        for path in reversed(self.checkpoints()):
            try:
                content = read_content(path)
            except CheckpointError as error:
                console.say(f"{path}: {reason(error)}; using the previous one")
                continue
            if isinstance(content, dict) and isinstance(content.get("training"), dict):
                return content
            console.say(f"{path}: holds no training state; using the previous one")
        raise UsageError(f"--resume: no checkpoint in {self.path} can be read; remove its step_*.pth to start again")
