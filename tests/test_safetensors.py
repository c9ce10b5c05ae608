"""safetensors files: what is written, what loads, and what a damaged one is called."""

import json
import shutil

import pytest
import torch
from conftest import TINY

from drsformer import CheckpointError, DRSformer, DRSformerConfig, load_checkpoint, load_model, save_checkpoint
from drsformer import safetensors as ours
from drsformer.ablations import Ablation, build
from drsformer.checkpoint import load_with_training


@pytest.fixture(scope="module")
def tiny_safetensors(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(tiny, path)
    return path


def same(one, other):
    return all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())


def assembled(header, data=b"", length=None):
    """The content of a file with this header, a text or JSON values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def test_saved_and_loaded(tiny, tiny_safetensors):
    model = load_model(tiny_safetensors)
    assert model.config == TINY
    assert not model.training
    assert same(model, tiny)


def test_content_decides_and_not_the_name(tiny, tiny_safetensors, tmp_path):
    for name in ("weights.pth", "weights", "weights.SAFETENSORS"):
        shutil.copyfile(tiny_safetensors, tmp_path / name)
        assert same(load_checkpoint(tmp_path / name), tiny)


def test_configuration_ablation_and_training_are_kept(tmp_path):
    config = DRSformerConfig(**{**TINY.to_dict(), "ffn_expansion_factor": 2.663})
    training = {"steps": 3, "folders": ["a", "b"], "loss": None}
    save_checkpoint(DRSformer(config), tmp_path / "x.safetensors", training=training)
    model, found = load_with_training(tmp_path / "x.safetensors")
    assert (model.config, found) == (config, training)
    ablation = Ablation(top_k=(0.5,), feed_forward="fn")
    save_checkpoint(build(config, ablation), tmp_path / "y.safetensors")
    assert load_checkpoint(tmp_path / "y.safetensors").ablation == ablation


def test_half_precision_is_half_the_size(tiny, tiny_safetensors, tmp_path):
    save_checkpoint(tiny, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * tiny_safetensors.stat().st_size
    state = load_checkpoint(tmp_path / "half.safetensors").state_dict()
    assert all(torch.equal(tensor, tiny.state_dict()[key].half().float()) for key, tensor in state.items())


def test_existing_file_is_kept_unless_overwritten(tiny, tmp_path):
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(FileExistsError):
        save_checkpoint(tiny, tmp_path / "x.safetensors", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_text() == "mine"


def test_the_library_reads_ours_and_we_read_the_library_s(tiny, tiny_safetensors, tmp_path):
    library = pytest.importorskip("safetensors")
    torch_files = pytest.importorskip("safetensors.torch")
    state = torch_files.load_file(tiny_safetensors)
    assert all(torch.equal(state[key], tensor) for key, tensor in tiny.state_dict().items())
    with library.safe_open(tiny_safetensors, "pt") as file:
        assert json.loads(file.metadata()["config"]) == {**TINY.to_dict(), "num_blocks": [1, 1, 1, 1],
                                                         "num_heads": [1, 2, 4, 8]}  # fmt: skip
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        converted = {f"module.{key}": tensor.to(dtype) for key, tensor in tiny.state_dict().items()}
        torch_files.save_file(converted, tmp_path / "theirs.safetensors", {"format": "pt"})
        model = load_checkpoint(tmp_path / "theirs.safetensors")
        assert model.config == TINY
        assert all(
            torch.equal(tensor, converted[f"module.{key}"].float()) for key, tensor in model.state_dict().items()
        )


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"abc", "truncated one: 3 bytes"),
        (assembled({}, length=10**15), "truncated one: .* a header of 1000000000000000"),
        (assembled(b"{" + b" " * (9 * 2**20)), "header of 9437185 bytes; expected at most 8388608"),
        (assembled(b"not JSON"), "its header is not JSON"),
        (assembled(b'{"a": "\xff"}'), "its header is not JSON"),
        (assembled(b'{"a":' * 100_000), "its header is not JSON"),
        (assembled([1, 2]), "header is a list"),
        (assembled({}), "holds no tensors"),
        (assembled({"__metadata__": {"config": 3}}), "__metadata__ .* is not a table of strings"),
        (assembled({"__metadata__": ["config"]}), "not a table of strings"),
        (assembled({"__metadata__": {"config": "{"}}), "config in its metadata is not JSON"),
        (assembled({"__metadata__": {"config": "[1]"}, "a": entry([1], 0, 4)}, bytes(4)), "not a DRSformer"),
        (assembled(b'{"a": {}, "a": {}}'), "names a tensor twice"),
        (assembled({"a": 3}), "'a' has no dtype, shape and data_offsets"),
        (assembled({"a": {"dtype": "F32"}}), "'a' has no dtype, shape and data_offsets"),
        (assembled({"a": entry([1], 0, 4, "I32")}, bytes(4)), "'a' has type I32, expected one of F64, F32, F16, BF16"),
        (assembled({"a": entry([-1, -1], 0, 4)}, bytes(4)), "'a' has an invalid shape"),
        (assembled({"a": entry([True], 0, 4)}, bytes(4)), "'a' has an invalid shape"),
        (assembled({"a": entry([1] * 9, 0, 4)}, bytes(4)), "'a' has an invalid shape"),
        (assembled({"a": entry([10**4000], 0, 4)}, bytes(4)), "'a' has an invalid shape"),
        (assembled({"a": entry([1], 0, 10**4000)}, bytes(4)), "'a' has invalid data_offsets"),
        (assembled({"a": entry([1], -4, 0)}, bytes(4)), "'a' has invalid data_offsets"),
        (assembled({"a": entry([2], 0, 4)}, bytes(4)), "'a' has 4 bytes, expected 8"),
        (assembled({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6)), "'b' begins at byte 2 .*, expected 4"),
        (assembled({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "'b' begins at byte 8 .*, expected 4"),
        (assembled({"a": entry([1], 0, 4)}, bytes(3)), "tensors have 4 bytes, the data of the file 3"),
        (assembled({"a": entry([1], 0, 4)}, bytes(5)), "tensors have 4 bytes, the data of the file 5"),
        (assembled({"a\nb": 3}), r"'a\\nb' has no dtype"),
    ],
)  # fmt: skip
def test_damaged_files_are_named_in_one_line(content, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_truncated_file(share, tiny_safetensors, tmp_path):
    data = tiny_safetensors.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"truncated one|the data of the file"):
        load_checkpoint(path)


def test_values_are_checked_as_in_other_checkpoints(tiny, tmp_path):
    state = {**tiny.state_dict(), "output.weight": torch.full((3, 16, 3, 3), float("nan"))}
    with (tmp_path / "x.safetensors").open("wb") as file:
        ours.write(file, state, {})
    with pytest.raises(CheckpointError, match=r"output\.weight holds values that are not finite"):
        load_checkpoint(tmp_path / "x.safetensors")
