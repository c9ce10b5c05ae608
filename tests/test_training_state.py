"""Losses, optimizers, and networks that begin with the weights of others."""

import math

import numpy as np
import pytest
import torch

from drsformer import DRSformer, load_checkpoint
from drsformer_cli.errors import UsageError
from drsformer_cli.ranks import Ranks
from drsformer_cli.training import optimizers
from drsformer_cli.training.config import Config, DataSection, ModelSection, TrainingSection
from drsformer_cli.training.loop import TrainerStep, _judge_losses, criterion
from drsformer_cli.training.optimizers import ADAMW_RMS, Muon, make_optimizers
from drsformer_cli.training.state import make_state
from drsformer_cli.training.toml_config import as_tables

TINY = {"preset": "small", "dim": 8}


CPU = torch.device("cpu")


def configuration(model, **training):
    return Config(DataSection({}), model=ModelSection(**model), training=TrainingSection(**training))


def state(model, **training):
    return make_state(configuration(model, **training), CPU)


@pytest.mark.parametrize(("loss", "expected"), [("l1", 0.125), ("charbonnier", 0.125), ("rmse", (0.3 + 0.1) / 2)])
def test_loss_of_two_samples(loss, expected):
    """One is off by 0.6 in a quarter of its values, the other by 0.1 everywhere."""
    clean = torch.rand(2, 3, 8, 8, requires_grad=True)
    difference = torch.full(clean.shape, 0.1)
    difference[0] = 0
    difference[0, :, :4, :4] = -0.6
    training = TrainingSection(loss=loss, charbonnier_eps=1e-6)
    assert criterion(clean + difference, clean, training).item() == pytest.approx(expected, abs=1e-5)
    criterion(clean * 1, clean.detach(), training).backward()  # where nothing is off
    assert torch.isfinite(clean.grad).all()


def test_each_parameter_has_one_optimizer():
    model = DRSformer(ModelSection(**TINY, mefc=True).network())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adamw, muon = make_optimizers(model, TrainingSection(optimizer="muon"))
    taken = [
        [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        for optimizer in (adamw, muon)
    ]
    assert sorted(taken[0] + taken[1]) == sorted(names.values())
    mixing = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.groups == 1 and name not in ("patch_embed.proj", "output")
    }
    assert {name.removesuffix(".weight") for name in taken[1]} == mixing
    (stacked,) = (group["params"] for group in muon.param_groups if group["matrices"] == 3)
    assert {names[id(kernel)] for kernel in stacked} == {name for name in taken[1] if name.endswith("attn.qkv.weight")}


@pytest.mark.parametrize(("matrices", "shape"), [(1, (6, 10, 1, 1)), (1, (8, 6, 3, 3)), (3, (24, 8, 1, 1))])
def test_muon_steps_are_orthogonal(matrices, shape):
    """The first step goes along all directions of the gradient by the same amount, in q, k and v each."""
    kernel = torch.nn.Parameter(torch.randn(shape).to(memory_format=torch.channels_last))
    gradients, orthogonal = [], []
    for _ in range(matrices):
        U, _, V = torch.linalg.svd(torch.randn(shape[0] // matrices, kernel[0].numel()), full_matrices=False)
        gradients.append(U * torch.linspace(1e-3, 1e-4, U.shape[1]) @ V)
        orthogonal.append(U @ V)
    kernel.grad = torch.cat(gradients).view(shape)
    before = kernel.detach().clone()
    Muon([{"params": [kernel], "matrices": matrices}], lr=0.01, weight_decay=0.1).step()
    steps = ((before * (1 - 0.01 * 0.1) - kernel.detach()) / 0.01 / ADAMW_RMS).flatten(1)
    for step, expected in zip(steps.chunk(matrices), orthogonal, strict=True):
        assert (step / max(step.shape) ** 0.5 - expected).norm() < 0.35 * expected.norm()


@pytest.mark.parametrize("shape", [(24, 24), (24, 47), (24, 48), (24, 300), (300, 24)])
def test_wide_matrices_are_orthogonalized_by_the_same_iterations(shape):
    """Singular values from 1 to 1e-5, so that some are still growing after the last iteration."""
    U, _, V = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -5, 24, dtype=torch.float64)
    expected = values / values.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        result = optimizers._orthogonal((U * values @ V).to(dtype))
        assert (result - (U * expected @ V)).norm() < bound * expected.norm()


def test_ranks_share_the_orthogonalization(monkeypatch):
    kernels = [torch.randn(24, 6).chunk(3), [torch.randn(9, 20)], [torch.randn(5, 5)]]
    expected = [[optimizers._orthogonal(matrix) for matrix in matrices] for matrices in kernels]
    sent = []
    monkeypatch.setattr(optimizers.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(optimizers.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(optimizers.dist, "all_reduce", lambda flat: sent.append(flat.clone()))
    for rank in (0, 1):
        monkeypatch.setattr(optimizers.dist, "get_rank", lambda rank=rank: rank)
        optimizers._orthogonalized(kernels)
    assert all(0 < flat.count_nonzero() < len(flat) for flat in sent)
    monkeypatch.setattr(optimizers.dist, "all_reduce", lambda flat: flat.copy_(sent[0] + sent[1]))
    for matrices, results in zip(expected, optimizers._orthogonalized(kernels), strict=True):
        for matrix, result in zip(matrices, results, strict=True):
            assert torch.equal(matrix, result)


def test_all_optimizers_wait_where_one_overflows():
    config = configuration(TINY, optimizer="muon", lr=0.01)
    begun = make_state(config, CPU)
    begun.scaler = torch.amp.GradScaler("cpu", enabled=True)  # as with fp16
    step = TrainerStep(config, begun, CPU, Ranks())
    batch = np.random.default_rng(0).integers(0, 256, (1, 2, 16, 16, 3), np.uint8)
    before = [parameter.detach().clone() for parameter in begun.model.parameters()]
    broken = begun.model.output.weight.register_hook(lambda gradient: gradient * math.nan)
    step(1, batch)
    assert all(map(torch.equal, before, begun.model.parameters()))
    broken.remove()
    step(2, batch)
    assert begun.finite()
    assert not any(map(torch.equal, before, begun.model.parameters()))


def test_the_mean_of_another_loss_is_forgotten():
    begun = state(TINY)
    begun.step, begun.loss, begun.loss_name, begun.lowest_loss = 7, 0.2, "l1", 0.1
    content = begun.content(as_tables(configuration(TINY)))
    for loss, expected in (("l1", 0.98 * 0.2 + 0.02 * 0.3), ("rmse", 0.3)):
        config = configuration(TINY, loss=loss)
        resumed = make_state(config, CPU, content)
        assert (resumed.step, resumed.loss, resumed.loss_name, resumed.lowest_loss) == (7, 0.2, "l1", 0.1)
        resumed.step = 8
        _judge_losses(resumed, [torch.tensor(0.3)], Ranks(), config)
        assert (resumed.loss, resumed.loss_name) == (pytest.approx(expected), loss)


def test_checkpoints_from_before_the_stem_resume():
    run = configuration(TINY)
    content = make_state(run, CPU).content(as_tables(run))
    del content["config"]["stem"]
    make_state(run, CPU, content)
    with pytest.raises(UsageError, match=r"another network: config\.stem: 1 -> 2"):
        make_state(configuration({**TINY, "stem": 2}), CPU, content)


def test_averaged_weights_follow():
    begun = state(TINY, ema=0.9)
    for parameter in begun.model.parameters():
        parameter.data += 1
    before = [parameter.clone() for parameter in begun.ema.parameters()]
    begun.average(0.9)
    for averaged, old in zip(begun.ema.parameters(), before, strict=True):
        torch.testing.assert_close(averaged, old + 0.1)


def test_a_grown_network_begins_as_the_smaller_one(tiny_file):
    more = [1, 2, 1, 3]
    with pytest.raises(UsageError, match=r"config\.num_blocks: \[1, 1, 1, 1\] -> \[1, 2, 1, 3\]"):
        state({**TINY, "num_blocks": more, "weights": str(tiny_file)})
    grown = state({**TINY, "num_blocks": more, "weights": str(tiny_file), "grow": True}).model
    x = torch.rand(1, 3, 24, 32)
    small = load_checkpoint(tiny_file)
    with torch.inference_mode():
        torch.testing.assert_close(grown(x), small(x))
    # What is new learns: its last layers have gradients.
    grown(x).sum().backward()
    assert grown.latent[2].ffn.project_out.weight.grad.abs().max() > 0
    with pytest.raises(UsageError, match=r"config\.stem: 1 -> 2"):
        state({**TINY, "stem": 2, "num_blocks": more, "weights": str(tiny_file), "grow": True})
    with pytest.raises(UsageError, match=r"config\.dim: 8 -> 16"):
        state({"preset": "small", "dim": 16, "num_blocks": more, "weights": str(tiny_file), "grow": True})
