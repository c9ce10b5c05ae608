"""Memory: how much a network needs, how much a device has left, and how to tell that it ran out."""

from __future__ import annotations

import math
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable

_FREE_WITHOUT_PROC = 4.0 * 2**30  # a guess for systems without /proc: half of a small machine


def measure_bytes_per_pixel(forward: Callable[[Tensor], Tensor], device: torch.device) -> float:
    """Peak bytes of the tensors that are alive during a forward pass, per pixel of its input.

    Runs `forward` once on zeros of shape (1, 3, 64, 64), on CUDA (1, 3, 256, 256): the attention maps, which do not
    grow with the image, are small beside the rest even there.

    Args:
        forward: The network, (B, 3, H, W) -> (B, 3, H, W).
        device: Where it runs.
    """
    if device.type == "cuda":  # its allocator counts by itself, workspaces included
        size = 256
        x = torch.zeros(1, 3, size, size, device=device)
        with torch.inference_mode():
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            forward(x)
            peak = torch.cuda.max_memory_allocated(device) - before
        return max(1.0, peak / size**2)
    size = 64
    with torch.no_grad(), _PeakMemory() as memory:
        forward(torch.zeros(1, 3, size, size, device=device))
    return max(1.0, memory.peak / size**2)


def free_memory(device: torch.device) -> float:
    """Bytes that this process may still allocate on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(free + reserved)
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    # The processes that torchrun started on this machine share its memory.
    return min(_available_memory(), _container_memory()) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device ran out of memory."""
    # The CPU and MPS allocators raise plain RuntimeErrors.
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "DefaultCPUAllocator" in text
        or "out of memory" in text
    )


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of the storages that are alive.

    Attributes:
        peak: The most bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._storages: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self._storages:
                self._storages.add(storage)
                self._alive += storage.nbytes()
                self.peak = max(self.peak, self._alive)
                weakref.finalize(storage, self._release, storage.nbytes())
        return result

    def _release(self, size: int) -> None:
        self._alive -= size


def _available_memory() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return _FREE_WITHOUT_PROC


def _container_memory() -> float:
    """Bytes that the control group (a container, a batch job) has left; infinite where it has no limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return float(limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
