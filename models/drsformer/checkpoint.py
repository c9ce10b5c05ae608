"""Read and write checkpoints, in our own formats and in those of other training code."""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from drsformer import safetensors
from drsformer.ablations import AblatedDRSformer, Ablation, build
from drsformer.config import LEVELS, DRSformerConfig
from drsformer.errors import CheckpointError, ConfigError
from drsformer.files import atomic_write
from drsformer.model import DRSformer

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

StateDict = dict[str, Tensor]

WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys under which training code stores the state dict; averaged weights are preferred."""

ENCODER = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
"""Prefixes of the levels at which blocks are counted and heads are read."""

# A checkpoint in half precision at most doubles when it is unpacked.
_MAX_EXPANSION = 4
_SLACK = 2**20
# Pickles of the published files build about 30,000 objects, those of a training state ten times as many.
_MAX_OPERATIONS = 2_000_000
# Files of torch before 1.6 are this many pickles in a row, followed by the values.
_OLD_PICKLES = 5


def load_checkpoint(path: str | os.PathLike[str]) -> DRSformer:
    """Load the network of a checkpoint, on the CPU, in float32, in evaluation mode.

    The state dict may be the content of the file, or its value of `params` (as in the published files), `params_ema`
    (preferred) or `state_dict`, with or without the prefix of a module that holds the network, such as `DataParallel`;
    or the tensors of a safetensors file. Our own files also have a configuration; otherwise variant, widths, blocks and
    heads are inferred from keys and shapes. Nothing in the file is executed.

    Raises:
        CheckpointError: The file is missing, damaged, not a checkpoint of DRSformer, or does not match the network
            exactly; the message says in one line what was found.
    """
    return load_with_training(path)[0]


def load_with_training(path: str | os.PathLike[str]) -> tuple[DRSformer, object]:
    """Load the network and the value of `training` that `save_checkpoint` wrote; None if the file has none.

    Raises:
        CheckpointError: See `load_checkpoint`.
    """
    path = Path(path)
    try:
        content = read_content(path)
        state, stored_config = _unwrap(content)
        _check_values(state, path.stat().st_size)
        ablation = Ablation()
        if isinstance(content, dict) and "ablation" in content:
            config, ablation = _stated(content)
        else:
            config = infer_config(state)
            if stored_config is not None:
                config = _agreed_config(stored_config, config)
        model = _without_values(config, ablation, state)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    # Assigned, whatever torch's default device and type are.
    model.load_state_dict({key: _own(tensor) for key, tensor in state.items()}, strict=True, assign=True)
    return model.eval(), content.get("training") if isinstance(content, dict) else None


def check_checkpoint(path: str | os.PathLike[str], config: DRSformerConfig) -> None:
    """Refuse a file that is damaged, not a checkpoint, or holds another network; nothing in it is executed.

    This is stricter than loading: the configuration must be the given one, and the checksums inside the archive must be
    right. The authors publish no hashes, so only these checksums reveal a flipped bit.

    Raises:
        CheckpointError: The file is refused; the message says in one line what was found, without the path.
    """
    path = Path(path)
    state, _ = _unwrap(read_content(path, checksums=True))
    _check_values(state, path.stat().st_size)
    try:
        found = infer_config(state)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if name := _first_difference(found, config):
        raise CheckpointError(f"another network: {name} = {getattr(found, name)}, expected {getattr(config, name)}")
    _without_values(config, Ablation(), state)


def save_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    half: bool = False,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = True,
) -> None:
    """Write {"params": state dict, "config": configuration}: the published format, and the configuration.

    A path that ends in .safetensors gets that format, with the configuration as JSON in its metadata.

    Args:
        model: The network, or a module that wraps it.
        path: Path of the file, which is replaced only when it is complete.
        half: Whether to store the weights in float16, half the size.
        training: Plain values that describe the training, stored in the file as JSON gives them back.
        overwrite: Whether to replace an existing file.

    Raises:
        CheckpointError: The model is not a DRSformer, its weights are not finite, float16 cannot hold them, or
            `training` has other values.
        FileExistsError: The file exists, and `overwrite` is False.
        OSError: The file cannot be written.
    """
    network = _network_in(model)
    state = state_to_save(network, half=half)
    facts = {**describe(network), **({"training": _plain(training)} if training else {})}
    with atomic_write(path, overwrite=overwrite) as file:
        if Path(path).suffix.lower() == safetensors.SUFFIX:
            metadata = {key: json.dumps(value) for key, value in facts.items()}
            safetensors.write(file, state, {"format": "pt", **metadata})
        else:
            write_archive(file, {"params": state, **facts})


def write_archive(file: IO[bytes], content: object) -> None:
    """`torch.save` to an open binary file.

    Raises:
        OSError: The file cannot be written; `torch.save` alone would raise a RuntimeError.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.write(buffer.getbuffer())


def state_to_save(model: DRSformer, *, half: bool = False) -> StateDict:
    """The state dict on the CPU, in float32 or float16, with the published keys.

    Raises:
        CheckpointError: A weight is not finite, or is too large for float16.
    """
    dtype = torch.float16 if half else torch.float32
    state = {}
    for key, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{key} holds values that are not finite")
        state[key] = tensor.detach().to("cpu", dtype)
        if half and state[key].isinf().any():
            largest = tensor.abs().max().item()
            raise CheckpointError(f"{key} holds values up to {largest:g}, too large for float16; save it in float32")
    return state


def describe(model: DRSformer) -> dict[str, Any]:
    """The description of a network in our files: its configuration, and its ablation if it has one."""
    described = {"config": model.config.to_dict()}
    return {**described, "ablation": model.ablation.to_dict()} if isinstance(model, AblatedDRSformer) else described


def _network_in(model: nn.Module) -> DRSformer:
    """The network itself, also where it is wrapped, as by `DataParallel` or `torch.compile`."""
    found = [module for module in model.modules() if isinstance(module, DRSformer)]
    if len(found) != 1:
        raise CheckpointError(f"cannot save {type(model).__name__}, with {len(found)} networks; expected a DRSformer")
    return found[0]


def _plain(training: Mapping[str, Any]) -> Any:  # noqa: ANN401
    try:
        return json.loads(json.dumps(training))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"training cannot be stored as JSON: {error}; expected plain values") from None


def read_content(path: Path, *, checksums: bool = False) -> object:
    """The content of a file; nothing in it is executed.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or holds more than tensors and plain values.
    """
    try:
        _check_file(path)
        if safetensors.is_safetensors(path):
            return _safetensors_content(path)
        _check_archive(path, checksums=checksums)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        # torch's message names the refused global.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise CheckpointError(
                f"refused: it wants to run {refused[1]} while loading; expected tensors only"
            ) from None
        raise CheckpointError(f"not a checkpoint{_first_bytes(path)}") from None
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything from inside torch
        kind = type(error).__name__
        raise CheckpointError(f"not a checkpoint, or a damaged one ({kind}){_first_bytes(path)}") from None


def _safetensors_content(path: Path) -> dict[str, Any]:
    """The content of a safetensors file, in the form of our .pth files."""
    state, metadata = safetensors.read(path)
    content: dict[str, Any] = {"params": state}
    for key in ("config", "ablation", "training"):
        if key in metadata:
            try:
                content[key] = json.loads(metadata[key])
            except (ValueError, RecursionError):
                raise CheckpointError(f"{key} in its metadata is not JSON") from None
    return content


def _check_file(path: Path) -> None:
    """Refuse folders and empty files."""
    if path.is_dir():
        raise CheckpointError("is a folder; expected a checkpoint (.pth or .safetensors)")
    if path.stat().st_size == 0:
        raise CheckpointError("not a checkpoint: the file is empty")


def _check_archive(path: Path, *, checksums: bool) -> None:
    """Refuse damaged archives, and those that unpack to far more than their size."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MAX_EXPANSION * size + _SLACK:
                raise CheckpointError(f"not a checkpoint: {size} bytes that unpack to {unpacked}")
            damaged = archive.testzip() if checksums else None
            if damaged is not None:
                raise CheckpointError(f"damaged: the checksum of {damaged} inside it is wrong")
            for entry in archive.infolist():
                if entry.filename.endswith("/data.pkl") and entry.file_size > _MAX_OPERATIONS:  # one has a byte or more
                    with archive.open(entry) as file:
                        _check_pickles(file, 1)
    else:
        with path.open("rb") as file:
            _check_pickles(file, _OLD_PICKLES)


def _check_pickles(file: IO[bytes], number: int) -> None:
    """Refuse pickles of more objects than any network has: a small file could build enough to fill the memory."""
    operations = chain.from_iterable(pickletools.genops(file) for _ in range(number))
    try:
        if next(islice(operations, _MAX_OPERATIONS, None), None) is not None:
            raise CheckpointError(f"not a checkpoint: builds more than {_MAX_OPERATIONS} objects")
    except ValueError:
        return  # damaged, or not a pickle: torch refuses it, too


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return ": it is a web page, probably a download that was answered with a form"
    return ""


def _unwrap(content: object) -> tuple[StateDict, object]:
    """The state dict without wrappers and prefixes, and the configuration if the file has one."""
    if not isinstance(content, dict):
        raise CheckpointError(f"not a checkpoint: holds a {type(content).__name__}, expected a state dict")
    stored_config = content.get("config")
    state: Any = content
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            state = content[wrapper]
            break
    if not state:
        raise CheckpointError("not a checkpoint: holds no tensors")
    wrong = [(key, value) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        key, value = wrong[0]
        raise CheckpointError(f"not a state dict: {key!r} is a {type(value).__name__}, expected a tensor")
    return _published(state), stored_config


def _own(tensor: Tensor) -> Tensor:
    """A copy in float32: tensors of a file may share memory."""
    return tensor.float().clone(memory_format=torch.contiguous_format)


def _published(state: StateDict) -> StateDict:
    """The state dict without the prefix of a module that holds the network, such as `DataParallel` or Lightning's."""
    first = "patch_embed.proj.weight"
    prefix = next((key.removesuffix(first) for key in state if key.endswith(f".{first}")), "")
    beside = {key for key in state if not key.startswith(prefix)}
    if not beside <= {"n_averaged"}:  # which is `AveragedModel`'s
        return state
    return {key.removeprefix(prefix): value for key, value in state.items() if key not in beside}


def infer_config(state: StateDict) -> DRSformerConfig:
    """Infer the configuration from the keys and shapes of a state dict without prefixes.

    Raises:
        CheckpointError: It is not that of a DRSformer, or its widths contradict each other.
    """
    landmarks = ["patch_embed.proj.weight"]
    landmarks += [f"{level}.0.{key}" for level in ENCODER for key in ("attn.temperature", "ffn.project_in.weight")]
    for key in landmarks:
        if key not in state:
            raise CheckpointError(_describe_foreign(state, key))
        if not state[key].ndim:
            raise CheckpointError(f"{key} is a scalar, expected 3 or 4 dimensions")
    dim = state["patch_embed.proj.weight"].shape[0]
    hidden = [state[f"{level}.0.ffn.project_in.weight"].shape[0] // 2 for level in ENCODER]
    heads = [state[f"{level}.0.attn.temperature"].shape[0] for level in ENCODER]
    blocks = [
        1 + max(int(m[1]) for key in state if (m := re.match(rf"{level}\.(\d{{1,6}})\.", key))) for level in ENCODER
    ]
    if sum(blocks) > len(state):
        raise CheckpointError(f"blocks numbered up to {max(blocks) - 1} in a file of {len(state)} tensors")
    return DRSformerConfig(
        dim=dim,
        num_blocks=(blocks[0], blocks[1], blocks[2], blocks[3]),
        num_heads=(heads[0], heads[1], heads[2], heads[3]),
        ffn_expansion_factor=_expansion_factor(dim, hidden),
        bias="encoder_level1.0.attn.qkv.bias" in state,
        norm_bias="encoder_level1.0.norm1.body.bias" in state,
        mefc=any(key.startswith("encoder_level0.") for key in state),
        stem=_stem(state["patch_embed.proj.weight"]),
    )


def _stem(kernel: Tensor) -> int:
    """The stem for which the first convolution reads 3 * stem**2 channels; 1 if there is none."""
    channels = kernel.shape[1] if kernel.ndim > 1 else 0
    stem = math.isqrt(channels // 3)
    return stem if stem and channels == 3 * stem**2 else 1


def _expansion_factor(dim: int, hidden: list[int]) -> float:
    """A factor that gives these hidden widths at widths dim, 2 dim, 4 dim and 8 dim: 2.66, or that of fewest digits."""
    widths = [max(dim, 1) * 2**level for level in range(LEVELS)]
    lower = max(h / width for h, width in zip(hidden, widths, strict=True))
    upper = min((h + 1) / width for h, width in zip(hidden, widths, strict=True))
    middle = (lower + upper) / 2
    for factor in (DRSformerConfig.ffn_expansion_factor, round(middle, 1), round(middle, 2), round(middle, 3)):
        if lower <= factor < upper:
            return factor
    return middle


def _agreed_config(stored: object, inferred: DRSformerConfig) -> DRSformerConfig:
    """The file's own configuration, which must agree with its shapes."""
    if not isinstance(stored, dict):
        raise CheckpointError(f"its config is a {type(stored).__name__}, expected a dictionary")
    config = DRSformerConfig.from_dict(stored)
    if name := _first_difference(config, inferred):
        raise CheckpointError(
            f"its config says {name} = {getattr(config, name)}, its weights say {getattr(inferred, name)}"
        )
    return config


def _first_difference(one: DRSformerConfig, other: DRSformerConfig) -> str | None:
    """The first setting in which two configurations differ, except for `ffn_expansion_factor`.

    Many factors give the same widths; the shapes of all levels are checked afterwards.
    """
    names = (field.name for field in fields(one) if field.name != "ffn_expansion_factor")
    return next((name for name in names if getattr(one, name) != getattr(other, name)), None)


def _stated(content: dict[str, Any]) -> tuple[DRSformerConfig, Ablation]:
    """The configuration and the ablation that are stored in a file; the ablation cannot be inferred from shapes."""
    config, ablation = content.get("config"), content["ablation"]
    if not isinstance(config, dict) or not isinstance(ablation, dict):
        raise CheckpointError("its config or its ablation is not a dictionary")
    return DRSformerConfig.from_dict(config), Ablation.from_dict(ablation)


def _without_values(config: DRSformerConfig, ablation: Ablation, state: StateDict) -> DRSformer:
    """The network, on the meta device; a state dict whose keys and shapes are not exactly its own is refused."""
    with torch.device("meta"):
        model = build(config, ablation)
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        found = [
            f"{_summary(keys)} {word}" for keys, word in ((missing, "missing"), (unexpected, "unexpected")) if keys
        ]
        raise CheckpointError(f"{'; '.join(found)}{_family(state)}")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(f"{key} has shape {_shape(tensor)}, expected {_shape(expected[key])}")
    return model


def _check_values(state: StateDict, file_size: int) -> None:
    """Refuse values that are not finite or not floating-point, and more than fit in the file (tensors of stride 0)."""
    size = sum(tensor.nelement() * tensor.element_size() for tensor in state.values())
    if size > _MAX_EXPANSION * file_size + _SLACK:
        raise CheckpointError(f"not a checkpoint: {file_size} bytes that unpack to {size}")
    for key, tensor in state.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise CheckpointError(f"{key} has type {tensor.dtype}, expected a dense tensor of a floating-point type")
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(f"{key} holds values that are not finite")


def _describe_foreign(state: StateDict, absent: str) -> str:
    family = _family(state)
    if family:
        return f"no {absent}{family}"
    first = next(iter(state))
    return f"not a DRSformer: no {absent} among its {len(state)} keys (the first is {first})"


def _family(state: StateDict) -> str:
    """A guess at the network that the weights belong to, for the end of a message."""
    attention = [key for key in state if key.endswith(".attn.temperature")]
    sparse = [key for key in state if key.endswith(".attn.attn1")]
    if attention and not sparse and any(key.endswith(".ffn.dwconv.weight") for key in state):
        return f": a Restormer checkpoint? (attn1 missing in {_blocks(len(attention))})"
    if attention and len(sparse) < len(attention):
        return f" (attn1 missing in {_blocks(len(attention) - len(sparse))})"
    if any("relative_position_bias_table" in key for key in state):
        return ": a checkpoint of a window-attention network (SwinIR, Uformer)?"
    return ""


def _blocks(number: int) -> str:
    return f"{number} block{'s' * (number != 1)}"


def _summary(keys: list[str]) -> str:
    """The most common kind of key and the number of others: 'attn.attn1 (40 times) and 12 others'."""
    kinds = Counter(re.sub(r"^(?:(?:encoder|decoder)_level\d|latent|refinement)\.\d+\.", "", key) for key in keys)
    kind, times = kinds.most_common(1)[0]
    text = kind if times == 1 else f"{kind} ({times} times)"
    others = len(keys) - times
    return text if not others else f"{text} and {others} other{'s' * (others != 1)}"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
