"""Write a model to a file, in the format that the ending of its name decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drsformer.files import atomic_write
from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from drsformer.model import DRSformer
    from drsformer_cli.downloads.zoo import LoadedModel

ONNX, DARKTABLE, SAFETENSORS, STATE_DICT = ".onnx", ".dtmodel", ".safetensors", ".pth"
SUFFIXES = (ONNX, DARKTABLE, SAFETENSORS, STATE_DICT)


@dataclass(frozen=True)
class Target:
    """A file to write.

    Attributes:
        path: Its path.
        size: H and W of the graph's images; None: any, or the default of the format.
        half: Whether weights are in float16, and the computation of a graph.
        overwrite: Whether an existing file is replaced.
    """

    path: Path
    size: tuple[int, int] | None
    half: bool
    overwrite: bool

    @property
    def suffix(self) -> str:
        """The ending, in small letters."""
        return self.path.suffix.lower()

    @property
    def is_graph(self) -> bool:
        """Whether the file holds a graph, and not only weights."""
        return self.suffix in (ONNX, DARKTABLE)

    def check(self) -> None:
        """Refuse what cannot be written, before anything is done.

        Raises:
            UsageError: The path cannot be written, the ending or the size is invalid, or the extra is missing.
        """
        if self.suffix not in SUFFIXES:
            raise UsageError(f"{self.path}: unknown format; expected a name that ends in {', '.join(SUFFIXES)}")
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path}: there is no folder {self.path.parent}")
        if self.path.is_dir():
            raise UsageError(f"{self.path}: is a folder; expected a file")
        if self.path.exists() and not self.overwrite:
            raise UsageError(f"{self.path}: exists; --overwrite replaces it")
        if self.is_graph:
            from drsformer_cli.exporting import onnx

            onnx.check_extra()
        elif self.size is not None:
            raise UsageError(f"--size is for ONNX; {self.suffix} files hold weights only")
        if self.suffix == DARKTABLE:
            from drsformer_cli.exporting import darktable

            darktable.check_size(self.size)

    def check_for(self, network: DRSformer) -> None:
        """Refuse what this network cannot be written as.

        Raises:
            UsageError: The size does not suit the network, or the format cannot say how it was ablated.
        """
        from drsformer.ablations import AblatedDRSformer

        if self.is_graph and self.size is not None:
            from drsformer_cli.exporting import onnx

            onnx.check_size(network, self.size)
        if self.suffix == STATE_DICT and isinstance(network, AblatedDRSformer):
            raise UsageError(f"{self.path}: a state dict cannot say how the network was ablated; {SAFETENSORS} can")


def write(target: Target, model: str, loaded: LoadedModel) -> float | None:
    """Write a model, on the CPU, that the target suits.

    Args:
        target: The file.
        model: Name of the model, or its checkpoint, as on the command line.
        loaded: The model.

    Returns:
        The largest difference of a graph from the network, on values in [0, 1]; None for files of weights.

    Raises:
        ExportError: The graph differs too much from the network; nothing was written.
        OSError: The file cannot be written.
    """
    if target.is_graph:
        return _write_graph(target, model, loaded)
    if target.suffix == SAFETENSORS:
        from drsformer.checkpoint import save_checkpoint

        training = loaded.training if isinstance(loaded.training, dict) else None
        save_checkpoint(loaded.network, target.path, half=target.half, training=training, overwrite=target.overwrite)
    else:
        _write_state_dict(target, loaded)
    return None


def _write_graph(target: Target, model: str, loaded: LoadedModel) -> float:
    from drsformer_cli.exporting import darktable, onnx
    from drsformer_cli.exporting.facts import facts_of, metadata

    facts = facts_of(model, loaded)
    size = darktable.check_size(target.size) if target.suffix == DARKTABLE else target.size
    graph, difference = onnx.export_verified(
        loaded.network, metadata(facts, loaded, half=target.half), size=size, half=target.half
    )
    with atomic_write(target.path, overwrite=target.overwrite) as file:
        if target.suffix == DARKTABLE:
            darktable.write(file, graph, darktable.config(facts, target.size))
        else:
            file.write(graph)
    return difference


def _write_state_dict(target: Target, loaded: LoadedModel) -> None:
    from drsformer.checkpoint import state_to_save, write_archive

    with atomic_write(target.path, overwrite=target.overwrite) as file:
        write_archive(file, state_to_save(loaded.network, half=target.half))
