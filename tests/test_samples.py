"""Samples and where they come from: reproducible, any number of workers, any image; what is wrong is listed."""

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer.errors import ImageError
from drsformer_cli.training import run_data
from drsformer_cli.training.config import Config
from drsformer_cli.training.toml_config import MistakesError, parse


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Photos, layers, pairs in two folders and pairs side by side; the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/deep", "layers", "pairs/input", "pairs/target", "halves"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(6):
        Image.fromarray(photo(seed=i)).save(f"photos/{'deep/' * (i % 2)}{i}.png")
        Image.fromarray(photo(seed=i)[..., 0] // 4).save(f"layers/{i}.png")
        Image.fromarray(photo(seed=i, noise=0.2)).save(f"pairs/input/{i}.png")
        Image.fromarray(photo(seed=i)).save(f"pairs/target/{i}.png")
        Image.fromarray(np.hstack([photo(seed=i), photo(seed=i, noise=0.2)])).save(f"halves/{i}.png")
    return tmp_path


PAIRED = {"kind": "paired", "path": "pairs"}
RENDERED = {"kind": "rendered"}
LAYERS = {"kind": "layers", "layers": ["layers"], "vary": {"second": 0.5, "turn": [-5, 5]}}
HALVES = {"kind": "paired", "path": "halves", "side_by_side": "clean-left", "share_clean": True}


def load(sections, validation=None, stages=(), **data):
    table = {"data": {"clean": ["photos"], "patch": 24, "workers": 0, "sources": sections, **data}}
    table |= {"training": {"batch": 3}, "stages": list(stages)}
    config = parse(Config, {**table, "validation": validation or {"every": 0}}, "test")
    return run_data.load(config, "test", lambda done, total: None)


def samples(loaded, number=24):
    return [loaded.samples.sample(1, index) for index in range(number)]


@pytest.mark.parametrize("source", [PAIRED, RENDERED, LAYERS, HALVES, {"kind": "clean"}], ids=lambda s: s["kind"])
def test_samples_of_every_source(folders, source):
    loaded = load({"x": source})
    for rainy, clean in samples(loaded):
        assert rainy.shape == clean.shape == (24, 24, 3)
        assert rainy.dtype == clean.dtype == np.uint8
        if source["kind"] in ("layers", "rendered"):
            assert (rainy >= clean).all()
        if source["kind"] == "clean":
            assert np.array_equal(rainy, clean)
    assert len({sample.tobytes() for sample in samples(loaded)}) > 20


def test_rainy_and_clean_are_cropped_and_turned_alike(folders):
    for i in range(6):  # pairs whose rainy image is the clean one and ten more
        Image.fromarray(photo(seed=i) // 2 + 10).save(f"pairs/input/{i}.png")
        Image.fromarray(photo(seed=i) // 2).save(f"pairs/target/{i}.png")
    assert all((rainy.astype(int) - clean == 10).all() for rainy, clean in samples(load({"x": PAIRED})))


def test_a_sample_is_a_function_of_seed_step_and_index(folders):
    mixed = {"a": PAIRED, "b": RENDERED, "c": LAYERS}
    first, second = load(mixed, mixup=0.3), load(mixed, mixup=0.3, cache=0)
    for step, index in ((1, 0), (7, 3), (2, 5)):
        assert np.array_equal(first.samples.sample(step, index), second.samples.sample(step, index))
    assert not np.array_equal(first.samples.sample(1, 0), first.samples.sample(2, 0))


def test_any_number_of_workers_gives_the_same_batches(folders):
    mixed = {"a": PAIRED, "b": RENDERED, "c": LAYERS}
    with_none, with_two = (
        np.stack(list(load(mixed, workers=workers).samples.batches(range(1, 8), list))) for workers in (0, 2)
    )
    assert with_none.shape == (7, 3, 2, 24, 24, 3)
    assert np.array_equal(with_none, with_two)


def test_weights_are_shares_of_the_samples(folders):
    loaded = load({"a": {**PAIRED, "weight": 3}, "b": {"kind": "clean", "weight": 1}})
    assert loaded.samples.shares == {"a": 0.75, "b": 0.25}
    same = [np.array_equal(rainy, clean) for rainy, clean in samples(loaded, 200)]
    assert 30 < sum(same) < 70


def test_reserve_is_used_when_nothing_else_is_there(folders):
    absent = {"kind": "layers", "layers": ["nowhere"], "required": False}
    reserve = {**RENDERED, "weight": 0}
    assert load({"a": absent, "b": reserve}).samples.shares == {"b": 1.0}
    assert load({"a": PAIRED, "b": reserve}).samples.shares == {"a": 1.0}
    assert "left out, since these folders do not exist: nowhere" in load({"a": absent, "b": reserve}).notes


def test_images_that_cannot_be_read_are_mentioned(folders):
    (folders / "phone").mkdir()
    (folders / "phone/deeper").mkdir()
    Image.fromarray(photo()).save("phone/a.png")
    (folders / "phone/deeper/b.jxl").touch()
    notes = load({"x": {"kind": "clean", "clean": ["phone"]}}).notes
    assert "phone/deeper: 1 image skipped that cannot be read: .jxl" in notes


def test_clean_halves_serve_as_photos(folders):
    loaded = load({"a": HALVES, "b": {"kind": "clean"}}, clean=[])
    assert "b: 50% of the samples, from 6 clean images" in loaded.notes


def test_small_images_are_reflected(folders):
    (folders / "small").mkdir()
    Image.fromarray(photo(12, 13)).save("small/a.png")
    loaded = load({"x": {"kind": "clean", "clean": ["small"]}}, patch=64, flips=False, turns=False)
    rainy, _ = loaded.samples.sample(1, 0)
    assert np.array_equal(rainy, np.pad(photo(12, 13), ((0, 52), (0, 51), (0, 0)), mode="reflect"))


def test_odd_images_are_taken(folders):
    Image.fromarray(photo(dtype=np.uint16)[..., 0]).save("photos/deep16.png")
    Image.fromarray(photo()[..., 0]).save("photos/gray.jpg")
    Image.fromarray(np.dstack([photo(), photo()[..., 0]])).save("photos/alpha.png")
    loaded = load({"x": {"kind": "clean"}})
    assert loaded.problems == []
    assert "x: 100% of the samples, from 9 clean images" in loaded.notes


@pytest.mark.parametrize("decode", [True, False])
def test_unusable_files_are_listed_and_left_out(folders, decode):
    (folders / "photos" / "text.jpg").write_text("no image")
    Image.fromarray(photo(30, 30)).save("pairs/input/2.png")
    (folders / "pairs" / "target" / "3.png").unlink()
    if decode:
        Image.fromarray(photo(1, 1)).save("photos/one.png")
        whole = (folders / "photos" / "0.png").read_bytes()
        (folders / "photos" / "0.png").write_bytes(whole[: len(whole) // 2])
    loaded = load({"a": PAIRED, "b": RENDERED}, decode=decode)
    text = "\n".join(loaded.problems)
    assert "pairs/input/2.png is 30x30, but the clean 2.png is 56x40: their sizes differ" in text
    assert "3.png: no partner in target" in text
    assert "photos/text.jpg: not an image" in text
    if decode:
        assert "photos/one.png: 1x1 pixels; expected at least 11 a side" in text
        assert "photos/0.png: damaged image" in text
    assert "a: 50% of the samples, from 4 pairs" in loaded.notes
    assert f"b: 50% of the samples, from {5 if decode else 6} clean images" in loaded.notes
    samples(loaded)


def test_a_run_gives_up_where_nothing_can_be_read(folders):
    loaded = load({"x": {"kind": "clean"}}, decode=False, cache=0)
    for file in (folders / "photos").rglob("*.png"):
        file.unlink()
    with pytest.raises(ImageError, match=r"100 images in a row cannot be read; the last one: photos/.*No such file"):
        loaded.samples.sample(1, 0)


def test_crops_are_downscaled_up_to_the_whole_image(folders):
    def clean(crop, seed=0):
        sections = {"x": {"kind": "clean", "crop": crop}}
        loaded = load(sections, flips=False, turns=False, patch=16)
        return [sample[1] for sample in samples(loaded, 12)]

    import cv2

    squares = [
        cv2.resize(photo(seed=i)[:, left : left + 40], (16, 16), interpolation=cv2.INTER_AREA)
        for i in range(6)
        for left in range(17)
    ]
    for crop in ({"whole": 1}, {"shrink": [50, 50]}):  # 40 of 40x56
        assert all(any(np.array_equal(image, square) for square in squares) for image in clean(crop))
    assert not any(np.array_equal(image, square) for image in clean({"shrink": [1, 2]})[:4] for square in squares)


def test_pairs_are_downscaled_alike(folders):
    for i in range(6):
        Image.fromarray(photo(seed=i) // 2 + 10).save(f"pairs/input/{i}.png")
        Image.fromarray(photo(seed=i) // 2).save(f"pairs/target/{i}.png")
    loaded = load({"x": {**PAIRED, "crop": {"shrink": [1, 2], "whole": 0.3}}})
    assert all(abs(rainy.astype(int) - clean - 10).max() <= 1 for rainy, clean in samples(loaded))


def test_weights_change_with_the_stage(folders):
    loaded = load({"a": PAIRED, "b": {"kind": "clean"}}, stages=[{"after": 1, "weights": {"a": 0}, "patch": 32}])
    assert len({rainy.tobytes() == clean.tobytes() for rainy, clean in samples(loaded)}) == 2
    second = [loaded.samples.sample(2, i) for i in range(10)]
    assert {sample.shape for sample in second} == {(2, 32, 32, 3)}
    assert all(np.array_equal(rainy, clean) for rainy, clean in second)


def test_all_folders_that_are_missing_or_empty_are_named(folders):
    (folders / "empty").mkdir()
    with pytest.raises(MistakesError) as caught:
        load(
            {"a": {"kind": "paired", "path": "nowhere"}, "b": {**LAYERS, "layers": ["empty"]}, "c": RENDERED},
            validation={"paired": {"x": {"path": "empty"}}},
            clean=["photoss", "empty"],
        )
    paths = [mistake.split(":")[0] for mistake in caught.value.mistakes]
    assert paths == [
        "data.sources.a.path",
        "data.sources.b.layers",
        "data.clean",
        "data.clean",
        "validation.paired.x.path",
    ]
    assert "--set data.clean=FOLDER" in caught.value.mistakes[2]


def test_nothing_usable_is_a_mistake(folders):
    (folders / "bad").mkdir()
    (folders / "bad" / "a.jpg").write_text("x")
    with pytest.raises(MistakesError, match="none of them has an image that can be used"):
        load({"x": {"kind": "clean", "clean": ["bad"]}})


def test_held_out_photos_and_layers_are_not_trained_on(folders):
    loaded = load({"a": LAYERS}, validation={"held_out": 0.5, "images": 5, "crop": 16})
    assert "a: 100% of the samples, from 3 clean images and 3 layers" in loaded.notes
    assert [image.group for image in loaded.validation] == ["held out a"] * 5
    rainy, clean = loaded.validation[0].read()
    assert rainy.shape == clean.shape == (16, 16, 3)
    again = load({"a": LAYERS}, validation={"held_out": 0.5, "images": 5, "crop": 16}).validation[0].read()
    assert np.array_equal(rainy, again[0])


def test_what_one_source_holds_out_no_other_trains_on(folders):
    sections = {"a": LAYERS, "b": {"kind": "clean", "clean": ["photos"]}, "c": HALVES}
    loaded = load(sections, validation={"held_out": 0.34, "images": 8, "crop": 16})
    assert "a: 33% of the samples, from 8 clean images and 4 layers" in loaded.notes  # 4 of 6, and 4 of 6 halves
    assert "b: 33% of the samples, from 4 clean images" in loaded.notes
    assert "c: 33% of the samples, from 4 pairs" in loaded.notes
    assert [image.group for image in loaded.validation] == ["held out a"] * 8 + ["held out c"] * 8


def test_validation_pairs_are_spread_and_cropped(folders):
    loaded = load({"a": PAIRED}, validation={"paired": {"x": {"path": "pairs"}}, "images": 3, "crop": 20})
    assert [image.read()[0].shape for image in loaded.validation] == [(20, 20, 3)] * 3
    whole = load({"a": PAIRED}, validation={"paired": {"x": {"path": "pairs", "images": 0}}, "images": 1}).validation
    assert [image.read()[1].shape for image in whole] == [(40, 56, 3)] * 6


def test_images_that_a_run_wrote_are_no_photos(folders):
    before = load({"x": RENDERED}).notes
    (folders / "photos/runs/a/validation").mkdir(parents=True)
    (folders / "photos/runs/a/metrics.jsonl").touch()
    for name in ("curves.png", "validation/step_00000001.png"):
        Image.fromarray(photo()).save(folders / "photos/runs/a" / name)
    assert load({"x": RENDERED}).notes == before
