"""Processes under torchrun: the rank of this process, and communication with the others."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, TypeVar, cast

import typer

from drsformer.errors import DRSformerError
from drsformer_cli.errors import UsageError, exit_code, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


class Ranks:
    """The processes that torchrun started, or this process alone.

    Attributes:
        rank: Rank of this process, from 0.
        world_size: Number of processes.

    Raises:
        UsageError: RANK or WORLD_SIZE is set, but not by torchrun.
    """

    def __init__(self) -> None:
        try:
            self.rank = int(os.environ.get("RANK", "0"))
            self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
            if self.world_size > 1:
                import torch.distributed as dist

                # Ranks wait for each other only at the end, and one may finish long before the others.
                dist.init_process_group("gloo", timeout=dt.timedelta(days=7))
        except ValueError as error:
            raise UsageError(f"RANK and WORLD_SIZE are set, but not by torchrun: {error}") from None

    @property
    def is_rank_0(self) -> bool:
        """Whether this process has rank 0, the one that prints and writes for all."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """This rank's share of the items."""
        return list(items[self.rank :: self.world_size])

    def broadcast(self, value: T) -> T:
        """The value of rank 0, on all ranks."""
        if self.world_size > 1:
            import torch.distributed as dist

            values = [value]
            dist.broadcast_object_list(values, src=0)
            value = values[0]
        return value

    def on_rank_0(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0, and return its result on all ranks.

        Raises:
            DRSformerError: On rank 0, raised by `function`; an OSError becomes a UsageError.
            typer.Exit: On the other ranks if rank 0 raises an error, since rank 0 reports it.
        """
        result: T | DRSformerError | None = None
        if self.is_rank_0:
            try:
                result = function()
            except DRSformerError as error:
                result = error
            except OSError as error:  # such as a name that is too long, or a folder without permission
                result = UsageError(f"{error.filename}: {reason(error)}")
        result = self.broadcast(result)
        if isinstance(result, DRSformerError):
            if self.is_rank_0:
                raise result
            raise typer.Exit(exit_code(result))
        return cast("T", result)

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all ranks, on all ranks."""
        if self.world_size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order, on rank 0; an empty list on the other ranks."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T | None] | None = [None] * self.world_size if self.is_rank_0 else None
        dist.gather_object(value, values, dst=0)
        return [item for item in values if item is not None] if values else []

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
