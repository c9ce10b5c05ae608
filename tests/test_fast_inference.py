"""The rearranged network computes what the plain one computes, from the same weights."""

import numpy as np
import pytest
import torch
from test_model import FIXTURES, PARITY, case_model, seeded_weights

from drsformer import DRSformer, DRSformerConfig
from drsformer.fast_inference import accelerate


@pytest.mark.parametrize("name", PARITY["cases"])
def test_output_equals_the_authors(name):
    arrays = np.load(FIXTURES / f"{name}.npz")
    with torch.inference_mode():
        output = accelerate(case_model(name))(torch.from_numpy(arrays["input"]))
    assert np.abs(output.numpy() - arrays["output"]).max() < 5e-6  # 0.8e-6 to 1.1e-6, by processor


@pytest.mark.parametrize("shape", [(1, 16, 8), (3, 16, 24), (2, 40, 48)])
@pytest.mark.parametrize(
    "values",
    [
        {"mefc": True},
        {"mefc": False, "dim": 16, "num_heads": (4, 2, 1, 8)},
        {"mefc": False, "norm_bias": False, "bias": True},
        {"mefc": False, "ffn_expansion_factor": 10.1},  # several blocks of hidden channels, the last one odd
        {"mefc": False, "ffn_expansion_factor": 0.2},
    ],
)
def test_any_configuration_and_size(values, shape):
    model = DRSformer(DRSformerConfig(**{"dim": 8, "num_blocks": (1, 1, 2, 1), **values}))
    model.load_state_dict(seeded_weights(model, 5))
    B, H, W = shape
    x = torch.rand(B, 3, H, W, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (accelerate(model)(x) - model(x)).abs().max() < 3e-6


def test_the_plain_network_is_left_alone(tiny):
    before = {key: tensor.clone() for key, tensor in tiny.state_dict().items()}
    fast = accelerate(tiny)
    for parameter in fast.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in tiny.state_dict().items())
    assert all(parameter.requires_grad for parameter in tiny.parameters())
