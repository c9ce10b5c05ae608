"""Scores, means, intervals, and what a second run takes over from the first."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer import Restorer
from drsformer.errors import ImageError
from drsformer_cli.datasets import Pair
from drsformer_cli.evaluation.evaluator import Evaluator, Method, Run, Score
from drsformer_cli.evaluation.image_sets import ImageSet, Sample
from drsformer_cli.metrics import psnr, ssim


def run_of(*values, scenes=None, metric="psnr"):
    scenes = scenes or [str(i) for i in range(len(values))]
    scores = [Score(str(i), scenes[i], {metric: value}) for i, value in enumerate(values)]
    return Run(ImageSet("set", (), "uint8-Y"), Method("m"), scores)


def test_mean_leaves_out_what_has_no_number_and_says_so():
    run = run_of(30.0, 32.0, math.inf, math.nan)
    assert run.mean("psnr") == 31.0
    assert run.identical() == 1
    assert run_of(math.inf).mean("psnr") is None


def test_gain_is_over_the_images_that_have_both():
    """An identical result must not leave its rainy input alone in the other mean."""
    values = [{"psnr": 30.0, "psnr_input": 20.0}, {"psnr": math.inf, "psnr_input": 40.0}]
    run = Run(ImageSet("set", (), "uint8-Y"), Method("m"), [Score(str(i), str(i), v) for i, v in enumerate(values)])
    assert (run.mean("psnr"), run.mean("psnr_input"), run.gain("psnr")) == (30.0, 30.0, 10.0)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = run_of(*rng.normal(30, 3, 40)).interval("psnr")
        covered += low <= 30 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_images_of_one_scene_are_not_independent():
    """Five scenes of ten equal images: as uncertain as five images, not as fifty."""
    values = [25.0, 28.0, 30.0, 32.0, 35.0]
    five = run_of(*values).interval("psnr")
    fifty = run_of(*np.repeat(values, 10), scenes=[str(i) for i in np.repeat(range(5), 10)]).interval("psnr")
    assert fifty == pytest.approx(five)
    assert run_of(30.0, 31.0, scenes=["a", "a"]).interval("psnr") is None


def test_typical_cases():
    assert {kind: score.name for kind, score in run_of(31.0, 40.0, 20.0, 35.0).typical().items()} == {
        "worst": "2",
        "median": "0",
        "best": "1",
    }
    assert run_of().typical() == {}


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("rainy.png")
    Image.fromarray(photo(seed=1)).save("clean.png")
    return Pair("a", Path("rainy.png"), Path("clean.png"))


class Restoring:
    """A network that counts."""

    def __init__(self, tiny):
        self.restorer = Restorer(tiny)
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return self.restorer(image)


def evaluator(pair, network, settings=None, **others):
    images = ImageSet("set", [Sample("a", pair)], "uint8-Y")
    return Evaluator(images, [Method("tiny", network, settings or {"checkpoint": "1"})], **others)


def test_scores_are_those_of_the_metrics(pair, tiny):
    (score,) = evaluator(pair, Restorer(tiny)).score(Sample("a", pair))
    restored = Restorer(tiny)(photo())
    assert score.values == {
        "psnr": psnr(restored, photo(seed=1)),
        "ssim": ssim(restored, photo(seed=1)),
        "psnr_input": psnr(photo(), photo(seed=1)),
        "ssim_input": ssim(photo(), photo(seed=1)),
    }
    assert score.seconds > 0


def test_saved_results_are_scored_again_not_made_again(pair, tiny, tmp_path):
    network, sample = Restoring(tiny), Sample("a", pair)
    first = evaluator(pair, network, save=tmp_path / "out").score(sample)
    assert np.array_equal(np.asarray(Image.open("out/set/tiny/a.png")), Restorer(tiny)(photo()))
    again = evaluator(pair, network, save=tmp_path / "out")
    assert again.foreign() is None
    assert again.score(sample) == first
    assert network.calls == 1


def test_results_of_another_checkpoint_setting_or_input_are_foreign(pair, tiny, tmp_path):
    save = tmp_path / "out"
    evaluator(pair, Restorer(tiny), save=save).score(Sample("a", pair))
    other = evaluator(pair, Restorer(tiny), {"checkpoint": "2"}, save=save)
    assert other.foreign() == save / "set" / "tiny" / "a.png"
    other.score(Sample("a", pair))
    assert other.foreign() is None
    assert evaluator(pair, Restorer(tiny), save=save).foreign() is not None
    Image.fromarray(photo(seed=5)).save("rainy.png")
    assert other.foreign() is not None
    for content in (b"", b"text"):
        (save / "set/tiny/a.png").write_bytes(content)
        assert other.foreign() is not None


def test_a_failure_costs_one_image_and_one_method(pair, tiny):
    def broken(image):
        raise MemoryError

    methods = [Method("broken", broken), Method("tiny", Restorer(tiny))]
    scores = Evaluator(ImageSet("set", (), "uint8-Y"), methods).score(Sample("a", pair))
    assert (scores[0].error, scores[1].error) == ("out of memory", None)
    os.truncate("rainy.png", 100)
    scores = Evaluator(ImageSet("set", (), "uint8-Y"), methods).score(Sample("a", pair))
    assert all(score.error.startswith("rainy.png: ") for score in scores)


def test_existing_results(pair):
    images = ImageSet("set", (), "uint8-Y")
    given = Evaluator(images, [Method("given")])
    (score,) = given.score(Sample("a", pair, Path("clean.png")))
    assert score.values["psnr"] == math.inf
    assert score.values["psnr_input"] == psnr(photo(), photo(seed=1))
    assert given.score(Sample("a", pair))[0].error == "no result of that name"
    Image.fromarray(photo(40, 55)).save("small.png")
    assert "small.png is 55x40, the image 56x40" in given.score(Sample("a", pair, Path("small.png")))[0].error


def test_results_and_targets_alone_know_no_input(pair):
    alone = Sample("a", pair, pair.rainy, has_input=False)
    (score,) = Evaluator(ImageSet("set", (), "uint8-Y"), [Method("given")]).score(alone)
    assert set(score.values) == {"psnr", "ssim"}


def test_small_images_have_psnr_but_no_ssim(tmp_path, tiny):
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(1, 1)).save(tmp_path / name)
    pair = Pair("a", tmp_path / "a.png", tmp_path / "b.png")
    (score,) = evaluator(pair, Restorer(tiny)).score(Sample("a", pair))
    assert score.values["psnr_input"] == math.inf
    assert math.isnan(score.values["ssim"])


def test_without_ground_truth(pair, tiny):
    images = ImageSet("real", (), None)
    scorers = {"niqe": lambda image: float(image[0, 0, 0]), "brisque": lambda image: 1.0}
    method = Method("tiny", Restorer(tiny))
    (score,) = Evaluator(images, [method], no_reference=scorers).score(Sample("a", pair.rainy))
    assert score.values["niqe_input"] == photo()[0, 0, 0]
    assert set(score.values) == {"niqe", "brisque", "niqe_input", "brisque_input"}
    json.dumps(score.values)


def test_a_image_without_any_number_is_not_scored(pair, tiny):
    def too_small(_):
        raise ImageError("too small")

    scorers = {"niqe": too_small, "brisque": too_small}
    method = Method("tiny", Restorer(tiny))
    (score,) = Evaluator(ImageSet("real", ()), [method], no_reference=scorers).score(Sample("a", pair.rainy))
    assert score.error == "too small, or of one color, for NIQE and BRISQUE"
