"""Sections of a run's configuration, and the bundled recipes."""

from dataclasses import replace

import pytest

from drsformer import PRESETS, DRSformerConfig
from drsformer.ablations import Ablation
from drsformer_cli.commands.train import RECIPES
from drsformer_cli.errors import UsageError
from drsformer_cli.training import config as configs
from drsformer_cli.training.schedule import learning_rate
from drsformer_cli.training.toml_config import MistakesError


def test_recipes_are_those_that_help_names():
    assert sorted(RECIPES.split(", ")) == configs.recipes()


@pytest.mark.parametrize("name", ["rain200l", "rain200h", "did", "ddn", "spa"])
def test_the_papers_recipes(name):
    config = configs.load(name, [])
    training = config.training
    assert config.model.network() == PRESETS["plain" if name in ("rain200l", "spa") else "mefc"]
    assert config.validation.protocol == ("float-Y" if name in ("did", "ddn") else "uint8-Y")
    assert (training.steps, training.batch, config.data.patch, training.loss) == (300_000, 8, 128, "l1")
    rates = [learning_rate(step, training) for step in (1, 92_000, 196_000, 300_000)]
    assert rates == pytest.approx([1e-4, 1e-4, (1e-4 + 1e-6) / 2, 1e-6])


def test_the_bundled_models_recipe():
    config = configs.load("general", [])
    assert config.model.network() == replace(PRESETS["small"], num_blocks=(1, 1, 1, 1))
    shares = {name: source.weight for name, source in config.data.sources.items() if source.weight}
    assert shares == {"light": 33, "heavy": 45, "garg": 10, "rain800": 12}
    assert (config.training.steps, config.training.batch, config.data.patch) == (7031, 4, 64)
    assert configs.load("general-grown", []).model.grow
    assert configs.load("general-heavy", []).model.network() == PRESETS["small"]


def test_warm_up_rises_evenly():
    training = configs.TrainingSection(steps=100, warmup=10, constant=50, lr=1.0, final_lr=0.0)
    assert [learning_rate(step, training) for step in (1, 5, 10, 11, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert learning_rate(75, training) == pytest.approx(0.5)
    assert learning_rate(100, training) == pytest.approx(0)


def test_model_section_changes_a_preset():
    section = configs.ModelSection(preset="small", dim=8, ablation=configs.AblationSection(attention="dense"))
    assert section.network() == DRSformerConfig(dim=8, num_blocks=(1, 1, 2, 3), mefc=False)
    assert section.ablation.ablation() == Ablation(top_k=())


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        (["data.patch=100"], "data.patch: expected a multiple of 8, not 100"),
        (["model.grow=true"], "model.grow: expected weights to grow from"),
        (["model.dim=7"], "model.dim must be an even integer"),
        (["model.ablation.top_k=[0]"], "model.ablation.top_k must be shares above 0"),
        (["training.lr=1e-7"], "training.final_lr: expected at most lr"),
        (["training.accumulate=3"], "training.accumulate: expected a divisor of batch"),
        (["data.sources.light.vary.gain=[2, 1]"], "data.sources.light.vary.gain: expected a list of 2 numbers"),
        (["data.sources.rain800.share_clean=false", "data.clean=[]"], "data.sources.light: no photos"),
        (["training.stepps=3"], "training.stepps: unknown key; did you mean steps?"),
    ],
)
def test_mistakes(settings, mistake):
    with pytest.raises(MistakesError) as caught:
        configs.load("general", settings)
    assert any(text.startswith(mistake) for text in caught.value.mistakes), caught.value.mistakes


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(UsageError, match="no such file, and no recipe of that name; recipes: ddn, did, general"):
        configs.load("generall", [])
