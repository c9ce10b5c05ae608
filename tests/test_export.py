"""`drsformer export`: what the files hold, that they give the network's results, and what is refused."""

import json
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, documented_keys
from torch import nn

import drsformer
from drsformer import load_checkpoint
from drsformer.ablations import Ablation, build
from drsformer.files import sha256_of
from drsformer.model import PatchEmbed, SparseTransformerBlock
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import ExportError, UsageError

pytestmark = pytest.mark.xdist_group("export")  # the exporter is imported once

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def onnx_files():
    """The module that writes ONNX files; the exporter takes seconds for each block of a network."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from drsformer_cli.exporting import onnx

    return onnx


class OneBlock(nn.Module):
    """A network of a single block between an unshuffle and a shuffle, quicker to export than the smallest DRSformer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.config = replace(TINY, stem=2)
        self.embed = PatchEmbed(12, 12)
        self.block = SparseTransformerBlock(12, 2, self.config)

    def forward(self, x):
        y = self.block(self.embed(nn.functional.pixel_unshuffle(x, 2)))
        return nn.functional.pixel_shuffle(y, 2) + x


@pytest.fixture(scope="session")
def one_block():
    return OneBlock().eval()


def run_onnx(content, image):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["restored"], {"rainy": image.numpy()})[0])


def shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_any_size(onnx_files, one_block):
    model = onnx_files.export(one_block)
    assert shape(model.graph.input[0]) == shape(model.graph.output[0]) == [1, 3, "height", "width"]
    content = model.SerializeToString()
    assert onnx_files.verify(content, one_block, size=None, largest=1e-5) < 1e-6
    for size in ((16, 16), (16, 208), (96, 112)):
        image = torch.rand(1, 3, *size)
        with torch.inference_mode():
            assert (run_onnx(content, image) - one_block(image)).abs().max() < 1e-6
    other = OneBlock().eval()
    with torch.no_grad():
        other.block.attn.attn3.add_(0.01)
    with pytest.raises(ExportError, match=r"differs from the original by \S+ on an image of 64x96, expected"):
        onnx_files.verify(content, other, size=None, largest=1e-5)


@pytest.fixture
def loads(monkeypatch, tiny_file):
    """Has the command load this network from the small one's checkpoint."""

    def loads(network):
        monkeypatch.setattr(zoo, "load_model", lambda model, **_: zoo.LoadedModel(network, tiny_file, None))

    return loads


def test_fixed_size_and_half_precision(run, onnx_files, loads, one_block, tiny_file, tmp_path, monkeypatch):
    import onnx

    loads(one_block)
    path = tmp_path / "x.onnx"
    answer = run("export", tiny_file, "-o", path, "--size", "32x48", "--half", "--json")
    assert answer.code == 0
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["rainy", "restored"]
    for value in (*model.graph.input, *model.graph.output):
        assert shape(value) == [1, 3, 32, 48]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight")]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert {parameter.dtype for parameter in one_block.parameters()} == {torch.float32}
    assert str(ROOT).encode() not in content
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        assert (run_onnx(content, image) - one_block(image)).abs().max() < onnx_files.LARGEST_HALF_DIFFERENCE
    report = json.loads(answer.out)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert report["bytes"] == len(content)
    assert float(facts["largest_difference"]) == pytest.approx(report["largest_difference"], rel=0.01)
    assert onnx_files.LARGEST_DIFFERENCE < report["largest_difference"] < onnx_files.LARGEST_HALF_DIFFERENCE
    assert facts["precision"] == "float16"
    assert facts["checkpoint_sha256"] == sha256_of(tiny_file)
    assert facts["license"] == "not stated"
    assert facts["size_multiple"] == "16"
    assert facts["drsformer_version"] == drsformer.__version__
    assert json.loads(facts["config"])["stem"] == 2

    # The same graph for another network is wrong: nothing is written.
    other = OneBlock().eval()
    with torch.no_grad():
        other.embed.proj.weight.mul_(1.5)
    loads(other)
    monkeypatch.setattr(onnx_files, "export", lambda network, **_: onnx.load_from_string(content))
    answer = run("export", tiny_file, "-o", path, "--size", "32x48", "--half", "--overwrite", "--quiet")
    assert answer.code == 1
    assert re.fullmatch(r"drsformer: the exported network differs from the original by \S+ on .*\n", answer.err)
    assert path.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_facts_of_a_published_model(general):
    from drsformer_cli.exporting.facts import facts_of, metadata

    loaded = zoo.LoadedModel(general, drsformer.GENERAL, None)
    facts = metadata(facts_of("general", loaded), loaded, half=False)
    assert facts["name"] == "general"
    assert facts["license"] == "MIT"
    assert facts["parameters"] == "4798220"
    assert facts["trained_on"] == "mixed rain"
    assert all(isinstance(value, str) for value in facts.values())


def test_darktable(run, onnx_files, monkeypatch, tiny_file, tmp_path):
    asked = []

    def export_verified(network, metadata, *, size, half):
        asked.append(size)
        return b"graph", 1e-7

    monkeypatch.setattr(onnx_files, "export_verified", export_verified)
    monkeypatch.chdir(tmp_path)
    answer = run("export", tiny_file, "--for", "darktable")
    assert answer.out.startswith(f"{tiny_file} -> tiny.dtmodel  0.0 MB, differs from the network by at most 1.0e-07")
    assert run("export", tiny_file, "-o", "small.dtmodel", "--size", "256").code == 0
    assert asked == [(512, 512), (256, 256)]
    with zipfile.ZipFile("small.dtmodel") as archive:
        folder = "denoise-drsformer-tiny"
        # darktable takes the folder of the first entry for the model's id
        assert archive.namelist() == [f"{folder}/", f"{folder}/config.json", f"{folder}/model.onnx"]
        described = json.loads(archive.read(f"{folder}/config.json"))
        assert archive.read(f"{folder}/model.onnx") == b"graph"
    assert described["id"] == folder
    assert described["task"] == "denoise"
    assert described["backend"] == "onnx"
    assert described["attributes"] == {"input_sizes": [256]}
    assert {"name", "description", "version", "arch", "tiling"} <= described.keys()
    assert described["model_card"]["license"] == "not stated"


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.PTH"])
@pytest.mark.parametrize("half", [False, True])
def test_weights(run, name, half, tiny, tiny_file, tmp_path):
    answer = run("export", tiny_file, "-o", tmp_path / name, *["--half"] * half, "--json")
    assert answer.code == 0
    report = json.loads(answer.out)
    assert set(report) == documented_keys("export")
    assert report["largest_difference"] is None
    expected = {key: tensor.half().float() if half else tensor for key, tensor in tiny.state_dict().items()}
    found = load_checkpoint(tmp_path / name)
    assert found.config == TINY
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.state_dict().items())
    if name == "x.pth":
        state = torch.load(tmp_path / name, weights_only=True)
        assert list(state) == list(expected)
        assert {tensor.dtype for tensor in state.values()} == {torch.float16 if half else torch.float32}


def test_a_model_is_not_replaced_by_its_export(run, tiny_file, tmp_path):
    model, linked = tmp_path / "tiny.pth", tmp_path / "linked.pth"
    model.write_bytes(tiny_file.read_bytes())
    linked.symlink_to(model)
    answer = run("export", model, "-o", linked, "--half", "--overwrite")
    assert (answer.code, "linked.pth would be overwritten, but it is the model itself" in answer.err) == (2, True)
    assert model.read_bytes() == tiny_file.read_bytes()


def test_a_state_dict_cannot_hold_an_ablation(run, tmp_path):
    ablation = Ablation(top_k=())
    drsformer.save_checkpoint(build(TINY, ablation), tmp_path / "ablated.pth")
    answer = run("export", tmp_path / "ablated.pth", "-o", tmp_path / "x.pth")
    assert answer.code == 2
    assert "a state dict cannot say how the network was ablated; .safetensors can" in answer.err
    assert run("export", tmp_path / "ablated.pth", "-o", tmp_path / "x.safetensors").code == 0
    assert load_checkpoint(tmp_path / "x.safetensors").ablation == ablation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "x.tflite"],
            "x.tflite: unknown format; expected a name that ends in .onnx, .dtmodel, .safetensors, .pth",
        ),
        (["-o", "x"], "x: unknown format"),
        (["-o", "none/x.pth"], "none/x.pth: there is no folder none"),
        (["-o", "folder.pth"], "folder.pth: is a folder; expected a file"),
        (["-o", "mine.pth"], "mine.pth: exists; --overwrite replaces it"),
        (["-o", "x.pth", "--size", "64"], "--size is for ONNX; .pth files hold weights only"),
        (["-o", "x.onnx", "--size", "64x"], "'64x' is not N or HxW in pixels"),
        (["-o", "x.onnx", "--size", "-8"], "'-8' is not N or HxW in pixels"),
        (["-o", "x.onnx", "--size", "0"], "'0' is not N or HxW in pixels"),
        (["-o", "x.onnx", "--size", "64x60"], "--size must be positive multiples of 8, not 64x60"),
        (["-o", "x.onnx", "--for", "darktable"], "x.onnx: darktable imports .dtmodel files; expected that ending"),
        (["-o", "x.dtmodel", "--size", "512x256"], "whose tiles are square, not 512x256"),
        (["--for", "darktable", "--size", "128"], "a number of at least 256 for darktable"),
    ],
)
def test_invalid_usage(run, onnx_files, tiny_file, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "mine.pth").write_text("mine")
    answer = run("export", tiny_file, *arguments)
    assert answer.code == 2
    assert message in " ".join(answer.err.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.pth", "mine.pth"]
    assert (tmp_path / "mine.pth").read_text() == "mine"


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra(run, absent, tiny_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, absent, None)
    answer = run("export", tiny_file, "-o", tmp_path / "x.onnx")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        f"drsformer: ONNX needs {absent}, which is not installed: pip install 'drsformer[export]'"
    ]
    assert run("export", tiny_file, "-o", tmp_path / "x.safetensors").code == 0


def test_a_missing_model(run, tmp_path, home):
    answer = run("export", "nosuch", "-o", tmp_path / "x.pth")
    assert answer.code == 2
    assert "nosuch: no such file, and no model of that name" in answer.err


def test_sizes_are_multiples_of_the_network_s(onnx_files, one_block):
    with pytest.raises(UsageError, match="positive multiples of 16, not 32x40"):
        onnx_files.export(one_block, size=(32, 40))
