"""The rearranged network computes what the plain one computes, from the same weights."""

import numpy as np
import pytest
import torch
from conftest import photo
from test_model import FIXTURES, PARITY, case_model, seeded_weights

from drsformer import DRSformer, DRSformerConfig, derain
from drsformer.fast_inference import optimize_for_inference
from drsformer.inference import pad_to_multiple


@pytest.mark.parametrize("name", PARITY["cases"])
def test_output_equals_the_authors(name):
    arrays = np.load(FIXTURES / f"{name}.npz")
    with torch.inference_mode():
        output = optimize_for_inference(case_model(name))(torch.from_numpy(arrays["input"]))
    assert np.abs(output.numpy() - arrays["output"]).max() < 5e-6  # 0.8e-6 to 1.1e-6, by processor


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 2, 3), (2, 5, 6)])
@pytest.mark.parametrize(
    "values",
    [
        {"mefc": True},
        {"mefc": False, "dim": 16, "num_heads": (4, 2, 1, 8)},
        {"mefc": False, "norm_bias": False, "bias": True},
        {"mefc": False, "ffn_expansion_factor": 10.1},  # several blocks of hidden channels, the last one odd
        {"mefc": False, "ffn_expansion_factor": 0.2},
        {"mefc": False, "stem": 2},
        {"mefc": True, "stem": 2, "bias": True},
        {"mefc": False, "stem": 2, "ffn_expansion_factor": 30.0},
        {"mefc": False, "stem": 4},
    ],
)
def test_any_configuration_and_size(values, shape):
    model = DRSformer(DRSformerConfig(**{"dim": 8, "num_blocks": (1, 1, 2, 1), **values}))
    model.load_state_dict(seeded_weights(model, 5))
    B, rows, columns = shape
    multiple = model.config.size_multiple
    x = torch.rand(B, 3, multiple * rows, multiple * columns, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (optimize_for_inference(model)(x) - model(x)).abs().max() < 3e-6


@pytest.mark.parametrize("stem", [1, 2, 4])
@pytest.mark.parametrize("size", [(37, 51), (9, 70)])
def test_images_of_odd_sizes(stem, size):
    model = DRSformer(DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), mefc=False, stem=stem)).eval()
    model.load_state_dict(seeded_weights(model, 5))
    image = photo(*size).astype(np.float32) / 255
    x = pad_to_multiple(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0), 8 * stem)
    with torch.inference_mode():
        expected = model(x)[0, :, : size[0], : size[1]].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(derain(model, image) - expected).max() < 3e-6
    tiles = derain(model, image, tile=33, overlap=8)  # rounded up to a multiple
    assert tiles.shape == image.shape
    assert np.isfinite(tiles).all()


def test_the_plain_network_is_left_alone(tiny):
    before = {key: tensor.clone() for key, tensor in tiny.state_dict().items()}
    fast = optimize_for_inference(tiny)
    for parameter in fast.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in tiny.state_dict().items())
    assert all(parameter.requires_grad for parameter in tiny.parameters())
