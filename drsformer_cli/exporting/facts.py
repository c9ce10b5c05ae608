"""What an exported file says about its model: the facts of the table of models, and how to call the network."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drsformer.checkpoint import describe
from drsformer.files import sha256_of
from drsformer_cli import __version__
from drsformer_cli.downloads.zoo import MODELS

if TYPE_CHECKING:
    from drsformer_cli.downloads.zoo import LoadedModel, PublishedModel


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model.

    Attributes:
        name: Its name, or that of its checkpoint without the ending.
        row: Its row in the table of models; None: it is somebody's own checkpoint.
        sha256: SHA-256 of its checkpoint.
    """

    name: str
    row: PublishedModel | None
    sha256: str

    @property
    def license(self) -> str:
        """The license of the weights."""
        return self.row.license if self.row else "not stated"

    @property
    def slug(self) -> str:
        """The name in small letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "model"


def facts_of(model: str, loaded: LoadedModel) -> ModelFacts:
    """The facts about a model that is called `model` on the command line."""
    name = model if model in MODELS else loaded.checkpoint.stem
    return ModelFacts(name, MODELS.get(model), sha256_of(loaded.checkpoint))


def metadata(facts: ModelFacts, loaded: LoadedModel, *, half: bool) -> dict[str, str]:
    """Metadata for an exported file: strings by name."""
    network = loaded.network
    found = {
        "name": facts.name,
        "description": "Removes rain from images: DRSformer (Chen et al., CVPR 2023)",
        "license": facts.license,
        "checkpoint_sha256": facts.sha256,
        "parameters": str(sum(parameter.numel() for parameter in network.parameters())),
        "precision": "float16" if half else "float32",
        "layout": "NCHW",
        "color": "RGB, as in sRGB",
        "value_range": "0..1; the output is not clamped",
        "size_multiple": str(network.config.size_multiple),
        "drsformer_version": __version__,
        **{key: json.dumps(value) for key, value in describe(network).items()},
    }
    if facts.row is not None:
        row = facts.row
        found["trained_on"] = row.trained_on
        found["scores"] = f"{row.psnr} dB, SSIM {row.ssim}, {row.protocol}, {row.tested_on}"
        if row.paper:
            found["paper"] = row.paper
    return found
