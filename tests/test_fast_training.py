"""The form that trains faster computes what the plain network computes, gradients included."""

import pytest
import torch
from test_model import seeded_weights

from drsformer import DRSformer, DRSformerConfig
from drsformer.fast_training import DepthwiseConv2d, RearrangedMSFN, optimize_for_training


@pytest.mark.parametrize(
    "values",
    [
        {"mefc": True},  # an odd number of hidden channels at some levels
        {"mefc": False, "norm_bias": False, "bias": True},
        {"mefc": False, "ffn_expansion_factor": 2.0},
        {"mefc": False, "ffn_expansion_factor": 0.13},  # one hidden channel at the first level
        {"mefc": False, "stem": 2},
        {"mefc": False, "stem": 4, "bias": True},
    ],
)
def test_outputs_and_gradients_are_the_same(values):
    config = DRSformerConfig(**{"dim": 8, "num_blocks": (1, 1, 1, 2), **values})
    plain, rearranged = DRSformer(config).double(), DRSformer(config).double()
    plain.load_state_dict(seeded_weights(plain, 3))
    optimize_for_training(rearranged)
    rearranged.load_state_dict(plain.state_dict())
    for kind in (RearrangedMSFN, DepthwiseConv2d):
        assert any(isinstance(module, kind) for module in rearranged.modules())
    multiple = config.size_multiple
    size = (3, 3, 2 * multiple, 3 * multiple)
    x = torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, output = plain(x), rearranged(x)
    assert (output - expected).abs().max() < 1e-10
    expected.square().sum().backward()
    output.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in rearranged.named_parameters()}
    for name, parameter in plain.named_parameters():
        bound = 1e-9 * (1 + parameter.grad.abs().max())
        assert (gradients[name] - parameter.grad).abs().max() <= bound, name


def test_half_precision_trains():
    network = DRSformer(DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), mefc=False))
    optimize_for_training(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
