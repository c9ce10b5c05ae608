"""Scores, means, intervals, and what a second run takes over from the first."""

import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer import Restorer
from drsformer.errors import ImageError
from drsformer_cli.evaluation.evaluator import Candidate, Evaluator, ImageScores, SetScores
from drsformer_cli.evaluation.image_sets import Case, ImageSet
from drsformer_cli.metrics import psnr, ssim
from drsformer_cli.pairs import Pair


def run_of(*values, scenes=None, metric="psnr"):
    scenes = scenes or [str(i) for i in range(len(values))]
    scores = [ImageScores(str(i), scenes[i], {metric: value}) for i, value in enumerate(values)]
    return SetScores(ImageSet("set", (), "uint8-Y"), Candidate("m"), scores)


def test_mean_leaves_out_what_has_no_number_and_says_so():
    run = run_of(30.0, 32.0, math.inf, math.nan)
    assert run.mean("psnr") == 31.0
    assert run.identical() == 1
    assert run_of(math.inf).mean("psnr") is None


def test_gain_is_over_the_images_that_have_both():
    """An identical result must not leave its rainy input alone in the other mean."""
    values = [{"psnr": 30.0, "psnr_input": 20.0}, {"psnr": math.inf, "psnr_input": 40.0}]
    run = SetScores(
        ImageSet("set", (), "uint8-Y"), Candidate("m"), [ImageScores(str(i), str(i), v) for i, v in enumerate(values)]
    )
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


SCORERS = {"psnr": psnr, "ssim": ssim}


def evaluator(pair, network, settings=None, **others):
    images = ImageSet("set", [Case("a", pair)], "uint8-Y")
    return Evaluator(images, [Candidate("tiny", network, settings or {"checkpoint": "1"})], SCORERS, **others)


def score(evaluator, case):
    """The scores of one image."""
    (scores,) = evaluator.score([case])
    return scores


def test_scores_are_those_of_the_metrics(pair, tiny):
    (scores,) = score(evaluator(pair, Restorer(tiny)), Case("a", pair))
    restored = Restorer(tiny)(photo())
    assert scores.values == {
        "psnr": psnr(restored, photo(seed=1)),
        "ssim": ssim(restored, photo(seed=1)),
        "psnr_input": psnr(photo(), photo(seed=1)),
        "ssim_input": ssim(photo(), photo(seed=1)),
    }
    assert scores.seconds > 0


def test_images_are_scored_in_order_and_read_one_ahead(pair):
    """While an image is restored, the next one is read; a reader that is further ahead would fill the memory."""
    read, restored = [], []
    following = threading.Event()

    class Watched(Case):
        def read(self):
            read.append(self.name)
            if self.name == "1":
                following.set()
            return super().read()

    def restore(image):
        if not restored:
            assert following.wait(60)
        restored.append(None)
        assert len(read) <= len(restored) + 1
        return image

    cases = [Watched(str(i), pair) for i in range(5)]
    images = ImageSet("set", cases, "uint8-Y")
    scores = list(Evaluator(images, [Candidate("same", restore)], SCORERS).score(cases))
    assert [of_case[0].name for of_case in scores] == sorted(read) == ["0", "1", "2", "3", "4"]
    assert {of_case[0].values["psnr"] for of_case in scores} == {psnr(photo(), photo(seed=1))}
    assert list(Evaluator(images, [Candidate("same", restore)], SCORERS).score([])) == []


def test_a_bug_keeps_its_traceback_wherever_it_happens(pair):
    def broken(*_):
        raise ZeroDivisionError

    class Broken(Case):
        read = broken

    images = ImageSet("set", (), "uint8-Y")
    for case, network, scorer in ((Broken, np.copy, psnr), (Case, broken, psnr), (Case, np.copy, broken)):
        scoring = Evaluator(images, [Candidate("same", network)], {"psnr": scorer, "ssim": ssim})
        with pytest.raises(ZeroDivisionError):
            list(scoring.score([case("a", pair)] * 3))


def test_saved_results_are_scored_again_not_made_again(pair, tiny, tmp_path):
    network, case = Restoring(tiny), Case("a", pair)
    first = score(evaluator(pair, network, save=tmp_path / "out"), case)
    assert np.array_equal(np.asarray(Image.open("out/set/tiny/a.png")), Restorer(tiny)(photo()))
    again = evaluator(pair, network, save=tmp_path / "out")
    assert again.foreign() is None
    assert score(again, case) == first
    assert network.calls == 1


def test_each_image_is_hashed_once(pair, tiny, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr("drsformer_cli.evaluation.evaluator.sha256_of", lambda path: hashed.append(path) or "0")
    saving = evaluator(pair, Restorer(tiny), save=tmp_path / "out")
    for _ in range(2):
        assert saving.foreign() is None
        score(saving, Case("a", pair))
    assert hashed == [pair.rainy]


def test_an_image_that_cannot_be_saved_is_scored(pair, tiny, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    (scores,) = score(evaluator(pair, Restorer(tiny), save=tmp_path / "out"), Case("a", pair))
    assert scores.error is None
    assert scores.values["psnr"] == psnr(Restorer(tiny)(photo()), photo(seed=1))
    assert scores.not_saved == f"{tmp_path}/out/set/tiny/a.png: cannot be written: Not a directory"


def test_results_of_another_checkpoint_setting_or_input_are_foreign(pair, tiny, tmp_path):
    save = tmp_path / "out"
    score(evaluator(pair, Restorer(tiny), save=save), Case("a", pair))
    other = evaluator(pair, Restorer(tiny), {"checkpoint": "2"}, save=save)
    assert other.foreign() == save / "set" / "tiny" / "a.png"
    score(other, Case("a", pair))
    assert other.foreign() is None
    assert evaluator(pair, Restorer(tiny), save=save).foreign() is not None
    Image.fromarray(photo(seed=5)).save("rainy.png")
    other = evaluator(pair, Restorer(tiny), {"checkpoint": "2"}, save=save)
    assert other.foreign() is not None
    for content in (b"", b"text"):
        (save / "set/tiny/a.png").write_bytes(content)
        assert other.foreign() is not None


def test_a_failure_costs_one_image_and_one_candidate(pair, tiny):
    def broken(image):
        raise MemoryError

    candidates = [Candidate("broken", broken), Candidate("tiny", Restorer(tiny))]
    scoring = Evaluator(ImageSet("set", (), "uint8-Y"), candidates, SCORERS)
    assert [scores.error for scores in score(scoring, Case("a", pair))] == ["out of memory", None]
    os.truncate("rainy.png", 100)
    assert all(scores.error.startswith("rainy.png: ") for scores in score(scoring, Case("a", pair)))


def test_existing_results(pair):
    given = Evaluator(ImageSet("set", (), "uint8-Y"), [Candidate("given")], SCORERS)
    (scores,) = score(given, Case("a", pair, Path("clean.png")))
    assert scores.values["psnr"] == math.inf
    assert scores.values["psnr_input"] == psnr(photo(), photo(seed=1))
    assert score(given, Case("a", pair))[0].error == "no result of that name"
    Image.fromarray(photo(40, 55)).save("small.png")
    assert (
        "small.png is 55x40, expected 56x40 as the rainy image"
        in score(given, Case("a", pair, Path("small.png")))[0].error
    )


def test_results_and_clean_images_alone_know_no_input(pair):
    alone = Case("a", pair, pair.rainy, has_input=False)
    (scores,) = score(Evaluator(ImageSet("set", (), "uint8-Y"), [Candidate("given")], SCORERS), alone)
    assert set(scores.values) == {"psnr", "ssim"}


def test_small_images_have_psnr_but_no_ssim(tmp_path, tiny):
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(1, 1)).save(tmp_path / name)
    pair = Pair("a", tmp_path / "a.png", tmp_path / "b.png")
    (scores,) = score(evaluator(pair, Restorer(tiny)), Case("a", pair))
    assert scores.values["psnr_input"] == math.inf
    assert math.isnan(scores.values["ssim"])


def without_clean(tiny, niqe, brisque):
    scorers = {"niqe": lambda image, *_: niqe(image), "brisque": lambda image, *_: brisque(image)}
    return Evaluator(ImageSet("real", ()), [Candidate("tiny", Restorer(tiny))], scorers)


def test_without_clean_images(pair, tiny):
    scoring = without_clean(tiny, lambda image: float(image[0, 0, 0]), lambda _: 1.0)
    (scores,) = score(scoring, Case("a", pair.rainy))
    assert scores.values["niqe_input"] == photo()[0, 0, 0]
    assert set(scores.values) == {"niqe", "brisque", "niqe_input", "brisque_input"}
    json.dumps(scores.values)


def test_an_image_without_any_number_is_not_scored(pair, tiny):
    def too_small(_):
        raise ImageError("too small")

    (scores,) = score(without_clean(tiny, too_small, too_small), Case("a", pair.rainy))
    assert scores.error == "too small, or of one color, for NIQE and BRISQUE"


def test_without_clean_images_the_best_case_is_the_one_that_improved_most():
    values = [(5.0, 3.0), (9.0, 4.0), (2.0, 2.5)]
    scores = [
        ImageScores(str(i), str(i), {"niqe_input": before, "niqe": after}) for i, (before, after) in enumerate(values)
    ]
    typical = SetScores(ImageSet("real", ()), Candidate("m"), scores).typical()
    assert {kind: score.name for kind, score in typical.items()} == {"worst": "2", "median": "0", "best": "1"}
