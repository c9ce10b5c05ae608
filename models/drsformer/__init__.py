"""DRSformer, the sparse Transformer for image deraining (CVPR 2023).

    import drsformer

    model = drsformer.load_checkpoint(drsformer.GENERAL)
    clean = drsformer.derain(model, rainy)  # numpy H x W x 3: uint8, uint16, or float32 in [0, 1]

torch is imported with the first name that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer.config import PRESETS, DRSformerConfig
from drsformer.errors import CheckpointError, ConfigError, DeviceError, DRSformerError, ImageError

if TYPE_CHECKING:
    from drsformer.checkpoint import load_checkpoint, save_checkpoint
    from drsformer.inference import Restorer, derain
    from drsformer.model import DRSformer

__all__ = [
    "GENERAL",
    "PRESETS",
    "CheckpointError",
    "ConfigError",
    "DRSformer",
    "DRSformerConfig",
    "DRSformerError",
    "DeviceError",
    "ImageError",
    "Restorer",
    "derain",
    "load_checkpoint",
    "save_checkpoint",
]

GENERAL = Path(__file__).with_name("weights") / "general.pth"
"""Weight file of the bundled model; its card lies beside it."""

_LAZY = {
    "DRSformer": "drsformer.model",
    "Restorer": "drsformer.inference",
    "derain": "drsformer.inference",
    "load_checkpoint": "drsformer.checkpoint",
    "save_checkpoint": "drsformer.checkpoint",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
