"""DRSformer, the sparse Transformer for image deraining (CVPR 2023).

    import drsformer

    model = drsformer.load_model("general")
    rainy = drsformer.read_image("rainy.jpg")  # uint8 or uint16, (H, W, 3); gray and alpha too
    restored = drsformer.derain(model, rainy)

torch is imported when a name that needs it is used first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from drsformer.config import PRESETS, DRSformerConfig
from drsformer.errors import CheckpointError, ConfigError, DeviceError, DRSformerError, ImageError
from drsformer.pretrained import GENERAL, load_model

if TYPE_CHECKING:
    from drsformer.burst import restore_burst
    from drsformer.checkpoint import load_checkpoint, save_checkpoint
    from drsformer.images import read_image
    from drsformer.inference import Restored, Restorer, derain
    from drsformer.model import DRSformer
    from drsformer.temporal import restore_frames

__version__ = "0.1.0"

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
    "Restored",
    "Restorer",
    "__version__",
    "derain",
    "load_checkpoint",
    "load_model",
    "read_image",
    "restore_burst",
    "restore_frames",
    "save_checkpoint",
]

_LAZY = {
    "DRSformer": "drsformer.model",
    "Restored": "drsformer.inference",
    "Restorer": "drsformer.inference",
    "derain": "drsformer.inference",
    "load_checkpoint": "drsformer.checkpoint",
    "read_image": "drsformer.images",
    "restore_burst": "drsformer.burst",
    "restore_frames": "drsformer.temporal",
    "save_checkpoint": "drsformer.checkpoint",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
