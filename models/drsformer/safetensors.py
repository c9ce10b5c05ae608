"""Read and write safetensors files: https://huggingface.co/docs/safetensors.

A file has eight bytes, the length of the header, little-endian; the header, a JSON object with the type, the shape and
the range of bytes of each tensor, and with strings under `__metadata__`; and the data. The library of that name is not
used: the format is this simple, and every error should be one line.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch

from drsformer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import IO

    from torch import Tensor

SUFFIX = ".safetensors"

METADATA = "__metadata__"

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LENGTH_BYTES = 8
# The header of the largest network has 0.2 MB; the format allows 100 MB, of which JSON could make gigabytes.
_MAX_HEADER = 8 * 2**20
_MAX_DIMENSIONS = 8
_MAX_NUMBER = 2**48


def is_safetensors(path: Path) -> bool:
    """Whether a file is named as a safetensors file, or begins like one.

    Raises:
        OSError: The file cannot be read.
    """
    if path.suffix.lower() == SUFFIX:
        return True
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
    return start[_LENGTH_BYTES:] == b"{" and int.from_bytes(start[:_LENGTH_BYTES], "little") <= _MAX_HEADER


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises:
        CheckpointError: The file is damaged, or holds tensors of other types than floating-point ones; the message says
            in one line what was found, without the path.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
            raise CheckpointError(f"not a safetensors file, or a truncated one: {size} bytes, a header of {length}")
        if length > _MAX_HEADER:
            raise CheckpointError(f"a safetensors header of {length} bytes; expected at most {_MAX_HEADER}")
        header = _parsed(file.read(length))
        data = bytearray(file.read())
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{METADATA} in the safetensors header is not a table of strings")
    places = {name: _place(name, entry) for name, entry in header.items()}
    position = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != position:
            raise CheckpointError(f"{name!r:.99} begins at byte {begin} of the data, expected {position}")
        position = end
    if position != len(data):
        raise CheckpointError(f"the tensors have {position} bytes, the data of the file {len(data)}")
    return {name: _tensor(data, *place) for name, place in places.items()}, metadata


def write(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, on the CPU, and metadata to an open binary file.

    Raises:
        KeyError: A tensor is not of a floating-point type with 16 bits or more.
        OSError: The file cannot be written.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the data begins at a multiple of 8
    file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _parsed(header: bytes) -> dict[str, Any]:
    try:
        found = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):  # JSON's and UTF-8's errors are ValueErrors
        raise CheckpointError("not a safetensors file, or a damaged one: its header is not JSON") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"not a safetensors file: its header is a {type(found).__name__}, expected an object")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CheckpointError("the safetensors header names a tensor twice")
    return found


def _place(name: str, entry: object) -> tuple[torch.dtype, list[int], int, int]:
    """The type, the shape, and the range of bytes of a tensor, all of which must agree."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise CheckpointError(f"{name!r:.99} has no dtype, shape and data_offsets in the safetensors header")
    if kind not in _TYPES:
        raise CheckpointError(f"{name!r:.99} has type {kind:.9}, expected one of {', '.join(_TYPES)}")
    if len(shape) > _MAX_DIMENSIONS or not all(type(length) is int and 0 <= length < _MAX_NUMBER for length in shape):
        raise CheckpointError(f"{name!r:.99} has an invalid shape in the safetensors header")
    if not 0 <= begin <= end < _MAX_NUMBER:
        raise CheckpointError(f"{name!r:.99} has invalid data_offsets in the safetensors header")
    expected = math.prod(shape) * _TYPES[kind].itemsize
    if end - begin != expected:
        raise CheckpointError(f"{name!r:.99} has {end - begin} bytes, expected {expected} for its type and shape")
    return _TYPES[kind], shape, begin, end


def _tensor(data: bytearray, dtype: torch.dtype, shape: list[int], begin: int, end: int) -> Tensor:
    if begin == end:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=begin).clone().view(dtype).view(shape)
