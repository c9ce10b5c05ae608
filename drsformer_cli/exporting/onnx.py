"""A network as an ONNX file, verified against the network with ONNX Runtime."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from drsformer_cli.errors import ExportError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from drsformer.model import DRSformer

OPSET = 18
INPUT, OUTPUT = "rainy", "restored"

LARGEST_DIFFERENCE = 1e-5
"""Largest valid difference of a float32 file from the network, on values in [0, 1]."""

LARGEST_HALF_DIFFERENCE = 5e-3
"""Likewise of a file that computes in float16: a little more than a level of 255."""

# In multiples of the network's size. Smaller images have attention maps with equal scores, among which top-k may choose
# differently.
_SIZES = ((4, 6), (8, 5), (5, 11))


class _Half(nn.Module):
    """A network that computes in float16, for float32 images: (B, 3, H, W) -> (B, 3, H, W)."""

    def __init__(self, network: DRSformer) -> None:
        super().__init__()
        self.network: nn.Module = copy.deepcopy(network).half()

    def forward(self, rainy: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        restored: Tensor = self.network(rainy.half())
        return restored.float()


def export_verified(
    network: DRSformer, metadata: Mapping[str, str], *, size: tuple[int, int] | None = None, half: bool = False
) -> tuple[bytes, float]:
    """The content of an ONNX file that gives a network's results, and its largest difference from them.

    Args:
        network: A network on the CPU.
        metadata: Strings to store in the file, beside the difference.
        size: See `export`.
        half: See `export`.

    Raises:
        ExportError: The results of ONNX Runtime differ too much from those of the network.
        UsageError: See `export`.
    """
    model = export(network, size=size, half=half)
    largest = LARGEST_HALF_DIFFERENCE if half else LARGEST_DIFFERENCE
    difference = verify(model.SerializeToString(), network, size=size, largest=largest)
    for key, value in {**metadata, "largest_difference": f"{difference:.3g}"}.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString(), difference


def export(network: DRSformer, *, size: tuple[int, int] | None = None, half: bool = False) -> onnx.ModelProto:
    """The graph of a network: `rainy` -> `restored`, float32, (1, 3, H, W), opset 18.

    Args:
        network: A network on the CPU.
        size: H and W of a graph of that size. None: they are dynamic.
        half: Whether weights and computation are in float16.

    Raises:
        UsageError: The extra is missing, or H or W is not a multiple of the network's size.
    """
    check_extra()
    if size is not None:
        check_size(network, size)
    multiple = network.config.size_multiple
    height, width = size or (2 * multiple, 3 * multiple)
    dynamic = {2: multiple * torch.export.Dim("height"), 3: multiple * torch.export.Dim("width")}
    with _quiet():
        program = torch.onnx.export(
            _Half(network) if half else network,
            (torch.rand(1, 3, height, width),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_shapes=None if size else (dynamic,),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return _cleaned(program.model_proto)


def verify(model: bytes, network: DRSformer, *, size: tuple[int, int] | None, largest: float) -> float:
    """The largest difference of an ONNX file from a network, on random images of a few sizes, by ONNX Runtime on a CPU.

    Args:
        model: Content of the file.
        network: The network on the CPU.
        size: H and W of the file's images. None: they are dynamic.
        largest: Largest valid difference.

    Raises:
        ExportError: They differ more.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    multiple = network.config.size_multiple
    sizes = [size] if size else [(H * multiple, W * multiple) for H, W in _SIZES]
    generator = torch.Generator().manual_seed(0)
    difference = 0.0
    for H, W in sizes:
        rainy = torch.rand(1, 3, H, W, generator=generator)
        with torch.inference_mode():
            expected = network.forward(rainy)
        (restored,) = session.run([OUTPUT], {INPUT: rainy.numpy()})
        found = (torch.from_numpy(restored) - expected).abs().max().item()
        if not found <= largest:  # not a number is wrong, too
            raise ExportError(
                f"the exported network differs from the original by {found:.2g} on an image of {H}x{W}, "
                f"expected at most {largest:g}; nothing was written"
            )
        difference = max(difference, found)
    return difference


def check_size(network: DRSformer, size: tuple[int, int]) -> None:
    """Refuse a size that the network does not take.

    Raises:
        UsageError: H or W is not a multiple of the network's size.
    """
    multiple = network.config.size_multiple
    if any(side % multiple or side < multiple for side in size):
        raise UsageError(f"--size must be positive multiples of {multiple}, not {size[0]}x{size[1]}")


def check_extra() -> None:
    """Refuse to export without the extra.

    Raises:
        UsageError: A module of the extra is not installed.
    """
    try:
        import onnx  # noqa: F401 - whether it is there
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"ONNX needs {error.name}, which is not installed: pip install 'drsformer[export]'") from None


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes, which name files of this machine, and with `height` and `width` as dimensions."""
    noted: list[Any] = [model, model.graph, *model.graph.node, *model.graph.initializer]
    noted += [*model.graph.input, *model.graph.output]
    for part in noted:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.graph.name = "DRSformer"
    for value in (*model.graph.input, *model.graph.output):
        _, _, height, width = value.type.tensor_type.shape.dim
        if height.dim_param:
            height.dim_param, width.dim_param = "height", "width"
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter logs and warns of; a failure raises."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
