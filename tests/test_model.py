"""The network against the authors' outputs, and against the literal transcription where those do not reach."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import transcription

from drsformer import PRESETS, ConfigError, DRSformer, DRSformerConfig

FIXTURES = Path(__file__).parent / "fixtures"
PARITY = json.loads((FIXTURES / "parity.json").read_text())
SMALL = {"dim": 8, "num_blocks": (1, 1, 1, 2)}


def seeded_weights(model, seed):
    """Weights of a parity case: drawn key by key in sorted order."""
    rng = np.random.Generator(np.random.PCG64(seed))
    state = {}
    for key, tensor in sorted(model.state_dict().items()):
        z = rng.standard_normal(tuple(tensor.shape))
        last = key.rsplit(".", 1)[-1]
        if last == "temperature":
            value = 1 + 0.2 * z
        elif last in ("attn1", "attn2", "attn3", "attn4"):
            value = 0.25 + 0.05 * z
        elif ".norm" in key and last == "weight":
            value = 1 + 0.1 * z
        elif last == "bias":
            value = 0.1 * z
        else:
            value = z / np.sqrt(np.prod(tensor.shape[1:])) * (0.05 if key == "output.weight" else 1)
        state[key] = torch.from_numpy(np.asarray(value, np.float32))
    return state


def case_model(name):
    case = PARITY["cases"][name]
    widths = case["config"]
    values = {"dim": widths["dim"], "num_blocks": widths["num_blocks"], "num_heads": widths["heads"]} if widths else {}
    model = DRSformer(DRSformerConfig(**values, mefc=case["variant"] == "mefc"))
    model.load_state_dict(seeded_weights(model, case["weight_seed"]))
    return model.eval()


@pytest.mark.parametrize("name", PARITY["cases"])
def test_output_equals_the_authors(name):
    """To the rounding of the stored outputs in float64; in float32 the processor decides the last digits (1.1e-6)."""
    arrays = np.load(FIXTURES / f"{name}.npz")
    image = torch.from_numpy(arrays["input"])
    model = case_model(name)
    with torch.inference_mode():
        assert np.abs(model(image).numpy() - arrays["output"]).max() < 5e-6
        if name.startswith("small"):  # the full networks are slow in float64
            assert np.abs(model.double()(image.double()).numpy() - arrays["output"]).max() < 1e-7


@pytest.mark.parametrize("variant", ["mefc", "plain"])
def test_state_dict_is_the_published_one(variant):
    shapes = {key: list(tensor.shape) for key, tensor in DRSformer(PRESETS[variant]).state_dict().items()}
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    assert digest == PARITY["state_dict_sha256"][variant]


@pytest.mark.parametrize("variant", ["mefc", "plain"])
def test_state_dict_key_by_key(variant, shared):
    expected = json.loads((shared / "parity" / "state_dict.json").read_text())[variant]
    assert {key: list(tensor.shape) for key, tensor in DRSformer(PRESETS[variant]).state_dict().items()} == expected


@pytest.mark.parametrize(
    "config",
    [
        {"mefc": True},
        {"mefc": False},
        {"mefc": False, "norm_bias": False, "bias": True},
        {"mefc": False, "stem": 2},
        {"mefc": True, "stem": 2, "bias": True},
        {"mefc": False, "stem": 4},
    ],
)
@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 2, 3), (2, 5, 1)])
def test_any_size_and_batch_with_gradients(config, shape):
    model = DRSformer(DRSformerConfig(**SMALL, **config)).double()
    model.load_state_dict(seeded_weights(model, 3))
    B, rows, columns = shape
    multiple = model.config.size_multiple
    size = (B, 3, multiple * rows, multiple * columns)
    x = torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    literal = {key: tensor.detach().clone().requires_grad_() for key, tensor in model.state_dict().items()}
    expected = transcription.forward(literal, x)
    output = model(x)
    assert (output - expected).abs().max() < 1e-10
    expected.square().sum().backward()
    output.square().sum().backward()
    for key, parameter in model.named_parameters():
        reference = literal[key].grad
        assert (parameter.grad - reference).abs().max() <= 1e-9 * (1 + reference.abs().max()), key


def test_half_precision_stays_close():
    arrays = np.load(FIXTURES / "small_mefc.npz")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = case_model("small_mefc")(torch.from_numpy(arrays["input"]))
    assert np.abs(output.float().numpy() - arrays["output"]).max() < 0.02


@pytest.mark.parametrize("shape", [(1, 3, 12, 16), (1, 3, 16, 4), (1, 3, 0, 8)])
def test_other_sizes_are_refused(tiny, shape):
    with pytest.raises(ConfigError, match="multiples of 8"):
        tiny(torch.zeros(shape))


def test_with_a_stem_fewer_sizes_are_accepted():
    model = DRSformer(DRSformerConfig(**SMALL, mefc=False, stem=2))
    with pytest.raises(ConfigError, match="H and W must be positive multiples of 16, not 16 and 24"):
        model(torch.zeros(1, 3, 16, 24))


def test_a_stem_works_on_every_second_pixel_of_a_smaller_image():
    """With features switched off, the network is its residual; with the last convolution as an identity, shuffled."""
    model = DRSformer(DRSformerConfig(**SMALL, mefc=False, stem=2)).eval()
    seen = []
    model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.nn.init.zeros_(model.output.weight)
    x = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(model(x), x)
    (unshuffled,) = seen
    assert unshuffled.shape == (1, 12, 16, 24)
    assert torch.equal(unshuffled[0, 4 * 1 + 2 * 0 + 1], x[0, 1, 0::2, 1::2])  # green, even rows, odd columns
