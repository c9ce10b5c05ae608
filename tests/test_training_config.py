"""Sections of a run's configuration, and the bundled recipes."""

from dataclasses import replace

import pytest

from drsformer import PRESETS, DRSformerConfig
from drsformer.ablations import Ablation
from drsformer_cli.errors import UsageError
from drsformer_cli.training import config as configs
from drsformer_cli.training.schedule import learning_rate
from drsformer_cli.training.sources import Clean
from drsformer_cli.training.toml_config import MistakesError


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
    assert config.model.network() == PRESETS["half"]
    assert sum(source.weight for source in config.data.sources.values()) == pytest.approx(248)
    patches = [config.at(step).data.patch for step in config.stage_steps()]
    assert patches == sorted(patches)
    assert config.at(config.training.steps).training.loss == "rmse"


STAGES = """
base = "general"
[training]
steps = 100
accumulate = 2
loss = "l1"
[[stages]]
after = 10
patch = 128
weights = { light = 3 }
[[stages]]
after = 20
batch = 2
loss = "rmse"
weights = { heavy = 0 }
[[stages]]
after = 300
patch = 256
"""


def test_stages_change_what_they_name_from_their_step_on(tmp_path):
    (tmp_path / "run.toml").write_text(STAGES)
    config = configs.load(str(tmp_path / "run.toml"), ["data.patch=64"])

    def at(step):
        now = config.at(step)
        weights = [now.data.sources[name].weight for name in ("light", "heavy")]
        return now.data.patch, now.training.batch, now.training.loss, *weights

    assert at(1) == at(10) == (64, 16, "l1", 32, 34)
    assert at(11) == at(20) == (128, 16, "l1", 3, 34)
    assert at(21) == at(100) == (128, 2, "rmse", 3, 0)
    assert config.stage_steps() == [1, 11, 21]  # the last one is never reached


def test_mistakes_in_stages_are_named(tmp_path):
    (tmp_path / "run.toml").write_text(STAGES + "[[stages]]\nafter = 5\nbatch = 3\npatch = 30\nweights = { sun = 1 }\n")
    with pytest.raises(MistakesError) as caught:
        configs.load(str(tmp_path / "run.toml"), [])
    assert caught.value.mistakes[0] == "stages.3.patch: expected a multiple of 8, not 30"
    (tmp_path / "run.toml").write_text(STAGES + "[[stages]]\nafter = 5\nbatch = 3\nweights = { sun = 1 }\n")
    with pytest.raises(MistakesError) as caught:
        configs.load(str(tmp_path / "run.toml"), [])
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "stages.3.after",
        "stages.3.weights.sun",
        "stages.3.batch",
    ]


def test_a_recipe_that_is_based_on_another(tmp_path):
    (tmp_path / "one.toml").write_text('base = "general"\n[data.sources.light]\nweight = 1\n')
    (tmp_path / "two.toml").write_text(
        'base = "one.toml"\n[training]\nlr = 1e-4\n[data.sources.garg]\nkind = "clean"\n'
    )
    config, general = configs.load(str(tmp_path / "two.toml"), []), configs.load("general", [])
    assert config.training == replace(general.training, lr=1e-4)
    assert config.data.sources["light"] == replace(general.data.sources["light"], weight=1)
    assert config.data.sources["garg"] == Clean(kind="clean")
    for text, message in (
        ('base = "loop.toml"', "loop.toml: base loop.toml: a base of itself"),
        ('base = "gone"', "base gone: no such file, and no recipe of that name"),
        ("base = 3", "base: expected a recipe or a file, not 3"),
    ):
        (tmp_path / "loop.toml").write_text(text)
        with pytest.raises(UsageError, match=message):
            configs.load(str(tmp_path / "loop.toml"), [])


def test_warm_up_rises_evenly():
    training = configs.TrainingSection(steps=100, warmup=10, constant=50, lr=1.0, final_lr=0.0)
    assert [learning_rate(step, training) for step in (1, 5, 10, 11, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert learning_rate(75, training) == pytest.approx(0.5)
    assert learning_rate(100, training) == pytest.approx(0)


def test_model_section_changes_a_preset():
    section = configs.ModelSection(preset="small", dim=8, ablation=configs.AblationSection(attention="dense"))
    assert section.network() == DRSformerConfig(dim=8, num_blocks=(1, 1, 2, 3), mefc=False)
    assert section.ablation.ablation() == Ablation(top_k=())
    assert configs.ModelSection(preset="small", dim=24, stem=2).network() == replace(PRESETS["small"], dim=24, stem=2)


def test_patches_fit_the_stem():
    assert configs.load("general", ["model.stem=2", "data.patch=48"]).model.network().size_multiple == 16


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        (["data.patch=100"], "data.patch: expected a multiple of 8, not 100"),
        (["data.patch=104"], "data.patch: expected a multiple of 16, 8 * model.stem, not 104"),
        (["stages=[{after=1, patch=104}]"], "stages.0.patch: expected a multiple of 16, 8 * model.stem, not 104"),
        (["model.stem=4", "data.patch=48"], "data.patch: expected a multiple of 32"),
        (["model.stem=3"], "model.stem must be one of 1, 2, 4, not 3"),
        (["model.stem=2.0"], "model.stem: expected an integer"),
        (["model.grow=true"], "model.grow: expected weights to grow from"),
        (["model.dim=7"], "model.dim must be an even integer"),
        (["model.ablation.top_k=[0]"], "model.ablation.top_k must be numbers above 0"),
        (["training.lr=1e-7"], "training.final_lr: expected at most lr"),
        (["training.accumulate=3"], "training.accumulate: expected a divisor of batch"),
        (["data.sources.light.vary.gain=[2, 1]"], "data.sources.light.vary.gain: expected a list of 2 numbers"),
        (["data.sources.rain800.share_clean=false", "data.clean=[]"], "data.sources.light: no clean images"),
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
