"""Damaged and foreign checkpoints: each gives a network, or one line of CheckpointError."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import torch
from conftest import TINY
from harness import one_line

import drsformer
from drsformer import CheckpointError, DRSformer, safetensors
from drsformer.checkpoint import check_checkpoint, describe

if TYPE_CHECKING:
    import random


@functools.cache
def content() -> dict[str, Any]:
    torch.manual_seed(0)
    model = DRSformer(TINY)
    return {"params": model.state_dict(), **describe(model)}


@functools.cache
def seeds() -> list[bytes]:
    files = [written(content()), written(content(), new=False), written({"params": content()["params"]})]
    return [*files, written_as_safetensors()]


def written_as_safetensors() -> bytes:
    buffer = io.BytesIO()
    safetensors.write(buffer, content()["params"], {"config": json.dumps(content()["config"])})
    return buffer.getvalue()


def written(value: object, *, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def odd(value: object, rng: random.Random) -> object:
    """Another value in its place."""
    choices = [None, 0, -1, 1e308, float("nan"), "text", b"bytes", [], {}, [value], {"a": value}, True]
    choices += [torch.zeros(()), torch.zeros(0), torch.ones(3, 4, dtype=torch.int64), torch.full((2, 2), torch.nan)]
    if isinstance(value, torch.Tensor):
        choices += [value.double(), value.bool(), value.flatten(), value[..., :0], value[None], value * torch.inf]
        choices += [value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value, value.to(torch.complex64)]
    return rng.choice(choices)


def changed(rng: random.Random) -> object:
    """The content of a checkpoint with a few keys or values changed."""
    table = {key: dict(value) if isinstance(value, dict) else value for key, value in content().items()}
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.choice([table, *(value for value in table.values() if isinstance(value, dict))])
        if not place:
            continue
        key = rng.choice(list(place))
        kind = rng.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1:
            place[rng.choice(["", "x", f"module.{key}", f"{key}.1", 7, "params_ema", "state_dict"])] = place.pop(key)
        else:
            place[key] = odd(place[key], rng)
    return table


def case(rng: random.Random) -> tuple[bytes, object]:
    data = written(changed(rng)) if rng.random() < 0.5 else rng.choice(seeds())
    if rng.random() < 0.6:
        data = harness.damaged(data, rng, seeds())
    if rng.random() < 0.3:  # the directory of the archive is at its end
        data = data[:-2000] + harness.damaged(data[-2000:], rng, seeds())
    return data, functools.partial(check, data)


def check(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        model = one_line(CheckpointError, drsformer.load_checkpoint, path)
        one_line(CheckpointError, check_checkpoint, path, TINY)
    if model is not None:
        assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


if __name__ == "__main__":
    harness.main(case)
