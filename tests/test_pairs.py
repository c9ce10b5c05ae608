"""Find data sets, and pair rainy images with clean ones."""

from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer.errors import ImageError
from drsformer_cli import datasets, pairs
from drsformer_cli.errors import UsageError


def touch(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names_of(found):
    return [(pair.rainy.name, pair.clean.name) for pair in found.pairs]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("rainy", "clean"),
    [
        ("input", "target"),
        ("rain", "norain"),
        ("rainy", "clean"),
        ("rainy_image", "ground_truth"),
        ("lq", "gt"),
        ("Input", "GT"),
    ],
)
@pytest.mark.parametrize("below", [".", "test", "Testing/real_test_1000"])
def test_layouts_found_in_the_wild(rainy, clean, below):
    touch(f"Set/{below}/{rainy}/2.png", f"Set/{below}/{rainy}/10.png")
    touch(f"Set/{below}/{clean}/2.jpg", f"Set/{below}/{clean}/10.png")
    found = pairs.find_pairs(Path("Set"))
    assert names_of(found) == [("2.png", "2.jpg"), ("10.png", "10.png")]
    assert not found.problems


@pytest.mark.parametrize(
    ("rainy", "clean", "expected"),
    [
        (["a.png"], ["a.jpg"], {"a.png": "a.jpg"}),
        (["rain-001.png", "rain-12.png"], ["norain-1.png", "norain-12.png"], {"rain-001.png": "norain-1.png"}),
        (["901_1.jpg", "901_14.jpg", "90_1.jpg"], ["901.jpg", "90.jpg"], {"901_14.jpg": "901.jpg"}),
        (["90_1.jpg", "901_1.jpg"], ["901.jpg", "90.jpg"], {"90_1.jpg": "90.jpg"}),
        (["norain-1x2.png", "norain-11x2.png"], ["norain-1.png", "norain-11.png"], {"norain-1x2.png": "norain-1.png"}),
        (["été_rain.png"], ["été_clean.png"], {"été_rain.png": "été_clean.png"}),
        (["5_rain.png"], ["5_gt.png"], {"5_rain.png": "5_gt.png"}),
        (["e\u0301te\u0301.png"], ["\u00e9t\u00e9.png"], {"e\u0301te\u0301.png": "\u00e9t\u00e9.png"}),
        (["\u00e9 rain.png"], ["e\u0301 clean.png"], {"\u00e9 rain.png": "e\u0301 clean.png"}),
        (["\u00e9-1_2.png", "a_1.png"], ["e\u0301-1.png", "a.png"], {"\u00e9-1_2.png": "e\u0301-1.png"}),
    ],
)
def test_pairing_rules(rainy, clean, expected):
    found = pairs.pair([Path(p) for p in rainy], [Path(p) for p in clean])
    assert expected.items() <= dict(names_of(found)).items()
    assert len(found.pairs) == len(rainy)


def test_one_rule_for_all_so_that_no_image_gets_a_stranger():
    found = pairs.pair([Path("1.png"), Path("1_2.png")], [Path("gt/1.png"), Path("gt/3.png")])
    assert names_of(found) == [("1.png", "1.png")]
    assert found.problems == ["1_2.png: no partner in gt"]
    assert found.unused == [Path("gt/3.png")]


def test_ambiguous_partners_are_named_not_chosen():
    found = pairs.pair([Path("1.png"), Path("2.png")], [Path("1.png"), Path("1.jpg"), Path("2.png")])
    assert names_of(found) == [("2.png", "2.png")]
    assert found.problems == ["1.png: 2 possible partners: 1.png, 1.jpg"]


def test_equal_stems_keep_their_endings_in_their_names():
    found = pairs.pair([Path("1.png"), Path("1.jpg"), Path("2.png")], [Path("1.png"), Path("2.png")])
    assert [pair.name for pair in found.pairs] == ["1.png", "1.jpg", "2"]


def test_both_in_one_folder():
    touch("Heavy/rain-1.png", "Heavy/norain-1.png", "Heavy/rain-2.png", "Heavy/norain-2.png")
    found = pairs.find_pairs(Path("Heavy"))
    assert names_of(found) == [("rain-1.png", "norain-1.png"), ("rain-2.png", "norain-2.png")]


def test_images_one_level_deeper():
    touch("Light/rain/X2/norain-1x2.png", "Light/norain/norain-1.png")
    assert names_of(pairs.find_pairs(Path("Light"))) == [("norain-1x2.png", "norain-1.png")]


def test_training_images_are_never_taken_for_a_test():
    touch("Set/train/input/1.png", "Set/train/target/1.png")
    with pytest.raises(UsageError, match="expected input and target"):
        pairs.find_pairs(Path("Set"))
    touch("Set/test/input/2.png", "Set/test/target/2.png")
    assert names_of(pairs.find_pairs(Path("Set"))) == [("2.png", "2.png")]
    assert names_of(pairs.find_pairs(Path("Set/train"))) == [("1.png", "1.png")]


def test_two_candidates_are_refused():
    touch("Set/a/input/1.png", "Set/a/target/1.png", "Set/b/input/1.png", "Set/b/target/1.png")
    with pytest.raises(UsageError, match=r"several folders .* choose one: Set/a, Set/b"):
        pairs.find_pairs(Path("Set"))
    touch("Set/a/gt/1.png")
    with pytest.raises(UsageError, match="several rainy or clean folders: input, gt, target"):
        pairs.find_pairs(Path("Set/a"))


@pytest.mark.parametrize("place", ["Rain200L", "rain_200l", "sets/Rain200L", "Rain13K/test/rain200L"])
def test_located_by_name_in_any_spelling(place):
    Path("root", place).mkdir(parents=True)
    dataset = datasets.find_dataset("rain200l")
    assert pairs.locate(dataset, Path("root")) == Path("root", place)
    assert pairs.locate(dataset, Path("root", place)) == Path("root", place)
    assert pairs.locate(datasets.find_dataset("Rain200H"), Path("root")) is None
    assert pairs.locate(dataset, Path("nowhere")) is None


def test_missing_numbers():
    dataset = datasets.find_dataset("Rain100L")
    everything = [pairs.Pair(f"norain-{i}", Path(), Path()) for i in range(1, 101)]
    assert pairs.missing_numbers(dataset, everything) == []
    assert pairs.missing_numbers(dataset, everything[:49] + everything[50:]) == [50]
    named = [pairs.Pair("street", Path(), Path())]
    assert pairs.missing_numbers(dataset, named) == []


def save(path, pixels):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_reading_a_pair_gives_8_bit_rgb():
    save("a.png", photo())
    save("b.png", photo(dtype=np.uint16)[..., 0])
    rainy, clean = pairs.Pair("a", Path("a.png"), Path("b.png")).read()
    assert np.array_equal(rainy, photo())
    assert clean.dtype == np.uint8
    assert np.abs(clean[..., 1].astype(int) - photo()[..., 0]).max() <= 1


@pytest.mark.parametrize(("side", "order"), [("clean-left", (1, 0)), ("rainy-left", (0, 1))])
def test_halves_of_one_image(side, order):
    save("Set/test/1.png", np.hstack([photo(), photo(seed=1)]))
    (pair,) = pairs.find_pairs(Path("Set"), side_by_side=side).pairs
    for image, seed in zip(pair.read(), order, strict=True):
        assert np.array_equal(image, photo(seed=seed))
    save("odd.png", photo()[:, :-1])
    with pytest.raises(ImageError, match=r"odd\.png: 55 pixels wide"):
        pairs.Pair("odd", Path("odd.png"), Path("odd.png"), side).read()


def test_turned_and_differing_images_are_named_and_never_resized():
    save("a.png", photo(40, 56))
    save("turned.png", photo(56, 40))
    save("other.png", photo(40, 57))
    Path("broken.png").write_bytes(b"text")
    cases = {"turned.png": "rotated", "other.png": "sizes differ", "broken.png": "not an image", "none.png": "No such"}
    for name, message in cases.items():
        pair = pairs.Pair("a", Path("a.png"), Path(name))
        assert message in pairs.size_problems([pair])[pair]
        with pytest.raises((ImageError, OSError), match=message):
            pair.read()
    assert pairs.size_problems([pairs.Pair("a", Path("a.png"), Path("a.png"))]) == {}


def test_sizes_are_those_of_the_upright_image():
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photo(40, 56)).save("turned.jpg", exif=exif)
    save("upright.png", photo(56, 40))
    pair = pairs.Pair("a", Path("turned.jpg"), Path("upright.png"))
    assert pairs.size_problems([pair]) == {}
    assert pair.read()[0].shape == (56, 40, 3)


def test_the_teams_data(shared):
    root = shared / "data"
    for name in ("Rain100L", "Rain800"):
        dataset = datasets.find_dataset(name)
        folder = pairs.locate(dataset, root)
        assert folder is not None
        found = pairs.find_pairs(folder, side_by_side=dataset.side_by_side)
        assert (len(found.pairs), found.problems) == (dataset.count, [])
