"""The paper's ablations: each is built, trained, saved, and loaded as what it is."""

from dataclasses import replace

import pytest
import torch
from test_model import seeded_weights

from drsformer import CheckpointError, ConfigError, DRSformer, DRSformerConfig, derain, load_checkpoint, save_checkpoint
from drsformer.ablations import AblatedDRSformer, Ablation, build
from drsformer.model import MEFC

CONFIG = DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1))
PLAIN = DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), mefc=False)  # quicker

CASES = [
    Ablation(top_k=()),
    Ablation(top_k=(0.5,)),
    Ablation(top_k=(0.25, 0.5, 0.75, 0.9, 1.0)),
    Ablation(experts=0),
    Ablation(experts=1),
    Ablation(experts=4, mefc="early"),
    Ablation(mefc="final"),
    Ablation(feed_forward="gdfn"),
    Ablation(feed_forward="dfn"),
    Ablation(feed_forward="fn"),
]


@pytest.mark.parametrize("ablation", CASES, ids=str)
def test_is_trained_saved_and_loaded(ablation, tmp_path):
    of_the_mefc = ablation.experts != Ablation.experts or ablation.mefc != Ablation.mefc
    model = build(CONFIG if of_the_mefc else PLAIN, ablation)
    x = torch.rand(1, 3, 8, 16)
    model(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    save_checkpoint(model, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert isinstance(loaded, AblatedDRSformer)
    assert loaded.ablation == ablation
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    pixels = (x[0].permute(1, 2, 0).numpy() * 255).astype("uint8")
    assert derain(loaded, pixels).shape == pixels.shape


@pytest.mark.parametrize(
    "ablation", [Ablation(top_k=()), Ablation(mefc="final"), Ablation(feed_forward="gdfn")], ids=str
)
def test_the_stem_is_no_matter_to_it(ablation, tmp_path):
    model = build(replace(CONFIG, stem=2), ablation).eval()
    save_checkpoint(model, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert (loaded.config.stem, loaded.ablation) == (2, ablation)
    x = torch.rand(1, 3, 16, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    assert derain(loaded, torch.zeros(19, 30, 3, dtype=torch.uint8).numpy()).shape == (19, 30, 3)


def test_without_a_change_it_is_the_network_itself():
    assert type(build(CONFIG, Ablation())) is DRSformer


def test_the_papers_ratios_give_the_papers_attention():
    plain, ablated = DRSformer(PLAIN), AblatedDRSformer(PLAIN, Ablation())
    state = seeded_weights(plain, 1)
    plain.load_state_dict(state)
    ablated.load_state_dict(state)
    same = build(PLAIN, Ablation(top_k=(0.5, 2 / 3, 0.75, 0.8, 1.0)))
    same.load_state_dict({**{key: torch.zeros_like(value) for key, value in same.state_dict().items()}, **state})
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(plain(x), ablated(x))
        assert (plain(x) - same(x)).abs().max() < 1e-5  # the fifth map has weight zero


def test_mefc_stands_where_it_is_asked_for():
    places = {}
    for mefc in ("both", "early", "final"):
        model = AblatedDRSformer(CONFIG, Ablation(mefc=mefc))
        places[mefc] = (isinstance(model.encoder_level0, MEFC), isinstance(model.refinement, MEFC))
    assert places == {"both": (True, True), "early": (True, False), "final": (False, True)}


@pytest.mark.parametrize(
    "values",
    [{"top_k": (0.0,)}, {"top_k": (1.5,)}, {"experts": 9}, {"experts": True}, {"mefc": "x"}, {"feed_forward": "x"}],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ConfigError):
        Ablation(**values)


@pytest.mark.parametrize(
    "change", [{"ablation": {"experts": 4}}, {"ablation": {"expert": 4}}, {"ablation": 3}, {"config": 3}]
)
def test_checkpoints_that_contradict_themselves_are_refused(change, tmp_path):
    model = build(CONFIG, Ablation(experts=1))
    content = {"params": model.state_dict(), "config": CONFIG.to_dict(), "ablation": {"experts": 1}, **change}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: "):
        load_checkpoint(tmp_path / "a.pth")
