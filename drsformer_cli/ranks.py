"""Several processes under torchrun: which one this is, and how they talk."""

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
    """The processes that torchrun started, or this one alone.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.

    Raises:
        UsageError: The environment describes no group of processes.
    """

    def __init__(self) -> None:
        try:
            self.rank = int(os.environ.get("RANK", "0"))
            self.size = int(os.environ.get("WORLD_SIZE", "1"))
            if self.size > 1:
                import torch.distributed as dist  # noqa: PLC0415

                # Ranks wait for each other only at the end, which may be far away for the first to get there.
                dist.init_process_group("gloo", timeout=dt.timedelta(days=7))
        except ValueError as error:
            raise UsageError(f"RANK and WORLD_SIZE are set, but not by torchrun: {error}") from None

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of the items."""
        return list(items[self.rank :: self.size])

    def broadcast(self, value: T) -> T:
        """The first rank's value, for all."""
        if self.size > 1:
            import torch.distributed as dist  # noqa: PLC0415

            values = [value]
            dist.broadcast_object_list(values, src=0)
            value = values[0]
        return value

    def agree(self, decide: Callable[[], T]) -> T:
        """What the first rank decides, for all; its errors are raised on the first and end the others quietly.

        Raises:
            DRSformerError: What `decide` raised; an OSError becomes a UsageError.
            typer.Exit: On the other ranks, since the first has said it.
        """
        decided: T | DRSformerError | None = None
        if self.first:
            try:
                decided = decide()
            except DRSformerError as error:
                decided = error
            except OSError as error:  # a name that is too long, a folder that may not be searched
                decided = UsageError(f"{error.filename}: {reason(error)}")
        agreed = self.broadcast(decided)
        if isinstance(agreed, DRSformerError):
            if self.first:
                raise agreed
            raise typer.Exit(exit_code(agreed))
        return cast("T", agreed)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, one for each of the values, on every rank."""
        if self.size == 1:
            return list(values)
        import torch  # noqa: PLC0415
        import torch.distributed as dist  # noqa: PLC0415

        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def gather(self, value: T) -> list[T]:
        """Every rank's value in order, on the first rank; an empty list on the others."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist  # noqa: PLC0415

        values: list[T | None] | None = [None] * self.size if self.first else None
        dist.gather_object(value, values, dst=0)
        return [item for item in values if item is not None] if values else []

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            import torch.distributed as dist  # noqa: PLC0415

            dist.destroy_process_group()
