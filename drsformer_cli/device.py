"""The device and the CPU threads that the network runs on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """The device with this name: auto, cpu, cuda, cuda:N or mps. Under torchrun, auto and cuda are the rank's device.

    Raises:
        UsageError: The name is unknown, or this machine has no such device.
    """
    import torch

    name = name.lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())) or name[-1:] == ":":
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine or this torch has no Metal device")
    if kind != "cuda":
        return torch.device(kind)
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number == 0:
        why = "this torch was built without CUDA" if torch.version.cuda is None else "no CUDA device was found"
        raise UsageError(f"--device {name}: {why}; try --device cpu")
    wanted = int(index) if index else int(os.environ.get("LOCAL_RANK", "0")) % number
    if wanted >= number:
        raise UsageError(f"--device {name}: this machine has {number} CUDA device{'s' * (number != 1)}, from cuda:0")
    torch.cuda.set_device(wanted)
    # With TF32, cuDNN's default, results differ from the published ones by 1e-3.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", wanted)


def set_threads(number: int | None) -> None:
    """Set the number of torch's CPU threads. None: torch chooses."""
    if number is not None:
        import torch

        torch.set_num_threads(number)
