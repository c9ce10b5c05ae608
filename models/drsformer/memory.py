"""Memory: measure what a network needs and what is free, detect out-of-memory errors, and keep freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
import weakref
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FREE_WITHOUT_PROC = 4.0 * 2**30  # a guess for systems without /proc: half of a small machine


def measure_bytes_per_pixel(forward: Callable[[Tensor], Tensor], device: torch.device) -> float:
    """Peak bytes of the tensors that are alive during a forward pass, per pixel of the input.

    Runs `forward` once on zeros of shape (1, 3, 64, 64), on CUDA (1, 3, 256, 256): even then, the attention maps, whose
    size does not depend on the image, are small compared to the rest.

    Args:
        forward: The network, (B, 3, H, W) -> (B, 3, H, W).
        device: The device that it runs on.
    """
    if device.type == "cuda":  # the allocator counts, including workspaces
        size = 256
        x = torch.zeros(1, 3, size, size, dtype=torch.float32, device=device)
        with torch.inference_mode():
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            forward(x)
            peak = torch.cuda.max_memory_allocated(device) - before
        return max(1.0, peak / size**2)
    size = 64
    with torch.no_grad(), _PeakMemory() as memory:
        forward(torch.zeros(1, 3, size, size, dtype=torch.float32, device=device))
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
    # The CPU and MPS allocators raise plain RuntimeErrors, as does oneDNN when it cannot map memory for its code.
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "DefaultCPUAllocator" in text
        or "out of memory" in text
        or text == "could not create a primitive"
    )


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for later allocations, in the whole process, from now on.

    glibc returns large buffers to the system as soon as they are freed. A network allocates and frees buffers of many
    megabytes; on a CPU, getting their pages back each time takes a tenth to a third of the time.

    Does nothing with other C libraries, or if the environment tunes glibc's malloc already.
    """
    if (mallopt := _mallopt()) is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        _kept.set()


def release_freed_memory() -> None:
    """Have glibc return all freed memory to the system; does nothing with other C libraries.

    Freed memory that is kept fragments when images have many sizes: a process that runs for days would grow.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Have glibc keep the memory that is freed in the block, as much as the block needed at once, for the next block.

    Buffers of more than 32 MB that are allocated outside of the block are still returned to the system when they are
    freed. After `keep_freed_memory`, this does nothing.
    """
    mallopt = None if _kept.is_set() else _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc adjusts it to by itself, until one of these is set
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, 2**16)  # glibc's default


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # from malloc.h
_TUNED_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")

_kept = threading.Event()


@cache
def _mallopt() -> Callable[[int, int], int] | None:
    """The function mallopt of glibc; None: this is another C library, or the environment tunes malloc already."""
    tuned = any(name in os.environ for name in _TUNED_BY) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return None


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of the storages that are alive.

    Attributes:
        peak: The most bytes that were alive at once.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled, and importing Dynamo takes a second

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
    """Bytes that the control group (a container, a batch job) has left; infinite if it has no limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return float(limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
