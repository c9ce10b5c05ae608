"""The package that darktable imports: a zip archive (.dtmodel) of one folder, with config.json and model.onnx.

Source: dev-doc/AI.md, dev-doc/AI_Tasks.md and src/common/ai_models.c of darktable 5.6, and its repository darktable-ai.
"""

from __future__ import annotations

import json
import zipfile
from typing import IO, TYPE_CHECKING, Any

from drsformer_cli import __version__
from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    from drsformer_cli.exporting.facts import ModelFacts

SUFFIX = ".dtmodel"

SIDE = 512
"""Side of the tiles in pixels: the bundled model then needs 0.7 GB in ONNX Runtime, with 768 pixels 2 GB."""

SMALLEST_SIDE = 256
"""Smallest side: neighboring tiles share 64 pixels on each edge, and their results are not blended."""


def check_size(size: tuple[int, int] | None) -> tuple[int, int]:
    """H and W of the tiles; the default is `SIDE`.

    Raises:
        UsageError: They are not square, or too small.
    """
    if size is None:
        return SIDE, SIDE
    if size[0] != size[1] or size[0] < SMALLEST_SIDE:
        raise UsageError(
            f"--size must be a number of at least {SMALLEST_SIDE} for darktable, whose tiles are square, "
            f"not {size[0]}x{size[1]}"
        )
    return size


def config(facts: ModelFacts, size: tuple[int, int] | None) -> dict[str, Any]:
    """The content of config.json; the task is "denoise", because darktable has none for rain."""
    card = {
        "long_description": "DRSformer, the sparse Transformer for image deraining (Chen et al., CVPR 2023)",
        "scope": "single-image rain removal",
        "paper": "https://arxiv.org/abs/2303.11950",
        "license": facts.license,
        "notes": f"exported by drsformer {__version__}; checkpoint sha256 {facts.sha256}",
    }
    if facts.row is not None:
        card["training_data"] = facts.row.trained_on
    return {
        "id": f"denoise-drsformer-{facts.slug}",
        "name": f"derain drsformer {facts.name}",
        "description": "Removes rain: choose it in place of a model for noise",
        "task": "denoise",
        "arch": "drsformer",
        "backend": "onnx",
        "version": __version__,
        "tiling": True,
        "num_inputs": 1,
        "attributes": {"input_sizes": [check_size(size)[0]]},
        "model_card": card,
    }


def write(file: IO[bytes], graph: bytes, described: dict[str, Any]) -> None:
    """Write the package to an open binary file.

    Args:
        file: The file.
        graph: Content of the ONNX file.
        described: Content of config.json.
    """
    folder = described["id"]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir(folder)
        archive.writestr(f"{folder}/config.json", json.dumps(described, indent=2) + "\n")
        archive.writestr(f"{folder}/model.onnx", graph)
