"""Weight files: what loads, and what a wrong one is called."""

import copy
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY

import drsformer
from drsformer import CheckpointError, DRSformer, DRSformerConfig, checkpoint, load_checkpoint, save_checkpoint
from drsformer.checkpoint import check_checkpoint


@pytest.fixture
def state(tiny):
    return dict(tiny.state_dict())


def saved(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return path


def equal(model, state):
    return all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"params": state},
        lambda state: {"params_ema": state},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 1e-4}},
        lambda state: {"params": {f"module.{key}": tensor for key, tensor in state.items()}},
        lambda state: {f"module.module.{key}": tensor for key, tensor in state.items()},
        lambda state: {f"module._orig_mod.{key}": tensor for key, tensor in state.items()},
        lambda state: {"n_averaged": torch.tensor(3), **{f"module.{key}": tensor for key, tensor in state.items()}},
        lambda state: {"state_dict": {f"network.{key}": tensor for key, tensor in state.items()}, "global_step": 3},
        lambda state: {"params": {key: tensor * 0 for key, tensor in state.items()}, "params_ema": state},
    ],
    ids=[
        *("bare", "params", "params_ema", "state_dict", "module", "module twice", "compiled", "AveragedModel"),
        *("Lightning", "both"),
    ],
)
def test_known_formats(wrap, state, tmp_path):
    model = load_checkpoint(saved(wrap(state), tmp_path))
    assert model.config == TINY
    assert equal(model, state)
    assert not model.training


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_wrapped_networks_are_saved_with_the_published_keys(name, tiny, state, tmp_path):
    compiled = torch.nn.Module()
    compiled._orig_mod = tiny  # as by torch.compile
    for wrapped in (torch.nn.DataParallel(tiny), compiled):
        save_checkpoint(wrapped, tmp_path / name)
        model = load_checkpoint(tmp_path / name)
        assert model.config == TINY
        assert equal(model, state)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_would_not_load_again_is_not_saved(name, tiny, tmp_path):
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=r"training cannot be stored as JSON: .*ndarray.*; expected plain values"):
        save_checkpoint(tiny, path, training={"psnr": np.zeros(3)})
    with pytest.raises(CheckpointError, match="cannot save Conv2d, with 0 networks; expected a DRSformer"):
        save_checkpoint(torch.nn.Conv2d(3, 3, 1), path)
    large = copy.deepcopy(tiny)
    large.output.weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"^output\.weight holds values up to 1e\+06, too large for float16"):
        save_checkpoint(large, path, half=True)
    large.output.weight.data[0, 0, 0, 0] = np.nan
    with pytest.raises(CheckpointError, match=r"^output\.weight holds values that are not finite"):
        save_checkpoint(large, path)
    assert not any(tmp_path.iterdir())
    save_checkpoint(tiny, path, training={"psnr": np.float64(30.5)})  # which is a float
    assert checkpoint.load_with_training(path)[1] == {"psnr": 30.5}


def test_weights_that_share_memory_in_the_file_do_not_in_the_network(state, tmp_path):
    state["encoder_level1.0.norm2.body.weight"] = state["encoder_level1.0.norm1.body.weight"]
    block = load_checkpoint(saved(state, tmp_path)).encoder_level1[0]
    block.norm1.body["weight"].data.zero_()
    assert block.norm2.body["weight"].all()


@pytest.mark.parametrize("legacy", [True, False])
def test_old_and_new_files_of_torch(legacy, state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"params": state}, path, _use_new_zipfile_serialization=not legacy)
    assert equal(load_checkpoint(path), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, state, tmp_path):
    model = load_checkpoint(saved({"params": {key: tensor.to(dtype) for key, tensor in state.items()}}, tmp_path))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "values",
    [
        {"mefc": True},
        {"dim": 12, "num_heads": (3, 2, 4, 8)},
        {"num_blocks": (2, 1, 3, 1)},
        {"norm_bias": False},
        {"bias": True},
        {"ffn_expansion_factor": 2.0},
        {"ffn_expansion_factor": 1.37},
        {"stem": 2},
        {"stem": 4, "mefc": True},
    ],
)
def test_configuration_is_read_from_the_shapes(values, tmp_path):
    config = DRSformerConfig(**{**TINY.to_dict(), **values})
    model = load_checkpoint(saved({"params": DRSformer(config).state_dict()}, tmp_path))
    assert model.config == config


def test_our_own_file_carries_its_configuration(tmp_path):
    # 2.663 gives the same widths as 2.66 at dim 8: only the file can tell.
    config = DRSformerConfig(**{**TINY.to_dict(), "ffn_expansion_factor": 2.663})
    save_checkpoint(DRSformer(config), tmp_path / "own.pth")
    assert load_checkpoint(tmp_path / "own.pth").config == config


def test_files_from_before_the_stem(state, tmp_path):
    config = TINY.to_dict()
    del config["stem"]
    assert load_checkpoint(saved({"params": state, "config": config}, tmp_path)).config == TINY


def test_half_precision_file_is_half_the_size(tiny, tmp_path):
    save_checkpoint(tiny, tmp_path / "full.pth")
    save_checkpoint(tiny, tmp_path / "half.pth", half=True)
    difference = (tmp_path / "full.pth").stat().st_size - (tmp_path / "half.pth").stat().st_size
    assert difference > 1.5 * sum(p.nelement() for p in tiny.parameters())
    assert load_checkpoint(tmp_path / "half.pth").config == TINY


class Payload:
    """Would leave a trace if it ever ran."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def restormer(state):
    """The keys of the network that DRSformer's code grew from."""
    renamed = {key.replace("dwconv3x3.", "dwconv."): t for key, t in state.items() if "5x5" not in key}
    return {key: t for key, t in renamed.items() if ".attn.attn" not in key and "_1.weight" not in key}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: [1, 2], "not a checkpoint: holds a list"),
        (lambda s: torch.zeros(3), "not a checkpoint: holds a Tensor"),
        (lambda s: {}, "holds no tensors"),
        (lambda s: {"params": {}}, "holds no tensors"),
        (lambda s: {"epoch": 3}, "'epoch' is a int, expected a tensor"),
        (lambda s: {"layer1.conv.weight": torch.zeros(3)}, "no patch_embed.proj.weight among its 1 keys"),
        (restormer, r"Restormer checkpoint\? \(attn1 missing in 7 blocks\)"),
        (lambda s: {k: t for k, t in s.items() if not k.endswith("attn1")}, r"attn.attn1 \(7 times\) missing"),
        (lambda s: {k: t for k, t in s.items() if k != "latent.0.norm1.body.bias"}, "norm1.body.bias missing"),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, "extra.weight unexpected"),
        (lambda s: {**s, "output.weight": torch.zeros(3, 4, 3, 3)}, "shape 3x4x3x3, expected 3x16x3x3"),
        (lambda s: {**s, "output.weight": s["output.weight"].int()}, "type torch.int32"),
        (lambda s: {**s, "output.weight": s["output.weight"].to_sparse()}, "expected a dense tensor"),
        (lambda s: {**s, "output.weight": s["output.weight"] * float("nan")}, "not finite"),
        (lambda s: {**s, "output.weight": (s["output.weight"] * float("nan")).to(torch.float8_e5m2)}, "not finite"),
        (lambda s: {**s, "latent.0.attn.temperature": torch.ones(3, 1, 1)}, r"num_heads\[3\]"),
        (lambda s: {**s, "latent.0.attn.temperature": torch.tensor(1.0)}, "is a scalar"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(8, 5, 3, 3)}, "shape 8x5x3x3, expected 8x3x3x3"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(8, 0, 3, 3)}, "shape 8x0x3x3, expected 8x3x3x3"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(8)}, "shape 8, expected 8x3x3x3"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(8, 27, 3, 3)}, "stem must be one of 1, 2, 4, not 3"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(8, 12, 3, 3)}, "output.weight has shape 3x16x3x3"),
        (lambda s: {"params": s, "config": {**TINY.to_dict(), "stem": 2}}, "config says stem = 2, its weights say 1"),
        (lambda s: {**s, "latent.900000.attn.attn1": torch.zeros(1)}, "blocks numbered up to 900000"),
        (lambda s: {"params": s, "config": {"dim": 16}}, "config says dim = 16"),
        (lambda s: {"params": s, "config": {"width": 16}}, "unknown configuration key 'width'"),
        (lambda s: {"params": s, "config": "x"}, "config is a str"),
    ],
)
def test_wrong_content_is_named_in_one_line(content, message, state, tmp_path):
    path = saved(content(state), tmp_path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))
    assert str(path) in str(error.value)


def test_code_in_a_pickle_never_runs(tmp_path):
    for name, write in (("zip.pth", torch.save), ("plain.pth", lambda c, p: p.write_bytes(pickle.dumps(c)))):
        path = tmp_path / name
        write({"params": Payload(tmp_path / "trace")}, path)
        with pytest.raises(CheckpointError, match=r"wants to run .*open|not a checkpoint"):
            load_checkpoint(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, I am no checkpoint\n" * 40, "not a checkpoint"),
        (b"<!DOCTYPE html><html><body>Confirm download</body></html>", "it is a web page"),
        (b"PK\x03\x04 not really a zip", "not a checkpoint"),
        (b"\x80\x02}q\x00.", "not a checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints(data, message, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(share, tiny_file, tmp_path):
    data = tiny_file.read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_archive_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(CheckpointError, match="that unpack to"):
        load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_of_countless_objects_is_not_loaded(zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAX_OPERATIONS", 100_000)
    path = tmp_path / "bomb.pth"
    bomb = b"\x80\x02(" + b"]" * 100_000 + b"l."
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", bomb)
    else:
        path.write_bytes(pickle.dumps(1, 2) + bomb)
    with pytest.raises(CheckpointError, match="builds more than 100000 objects"):
        load_checkpoint(path)


def test_check_for_one_network(tiny, tiny_file, tmp_path):
    check_checkpoint(tiny_file, TINY)
    with pytest.raises(CheckpointError, match=r"^another network: norm_bias = True, expected False$"):
        check_checkpoint(tiny_file, replace(TINY, norm_bias=False))
    with pytest.raises(CheckpointError, match=r"^another network: num_heads = \(1, 2, 4, 8\), expected"):
        check_checkpoint(tiny_file, replace(TINY, num_heads=(2, 2, 4, 8)))
    with pytest.raises(CheckpointError, match=r"^another network: stem = 1, expected 2$"):
        check_checkpoint(tiny_file, replace(TINY, stem=2))
    with pytest.raises(CheckpointError, match=r"has shape .*, expected"):
        check_checkpoint(tiny_file, replace(TINY, ffn_expansion_factor=2.0))
    with pytest.raises(CheckpointError, match=r"^num_heads\[3\]"):
        check_checkpoint(saved({**tiny.state_dict(), "latent.0.attn.temperature": torch.ones(3, 1, 1)}, tmp_path), TINY)


def test_check_finds_a_flipped_bit(tiny_file, tmp_path):
    data = bytearray(tiny_file.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(data)
    load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"^damaged: the checksum of tiny/data/\d+ inside it is wrong$"):
        check_checkpoint(path, TINY)


def test_tensors_larger_than_the_file_are_refused(state, tmp_path):
    state["output.weight"] = torch.zeros(1).expand(2**40, 16, 3, 3)
    with pytest.raises(CheckpointError, match="that unpack to"):
        load_checkpoint(saved(state, tmp_path))


def test_bundled_model():
    model = load_checkpoint(drsformer.GENERAL)
    assert model.config == drsformer.PRESETS["half"]
    assert drsformer.GENERAL.with_suffix(".md").is_file()
