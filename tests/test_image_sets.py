"""Which images `eval` scores."""

import pickle
from pathlib import Path

import pytest
from conftest import photo
from PIL import Image

from drsformer_cli.errors import UsageError
from drsformer_cli.evaluation.image_sets import MissingDatasetError, Request, training_uses, with_training_warnings
from drsformer_cli.training import config
from drsformer_cli.training.toml_config import as_tables


def save(path, *, height=16, width=24):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(height, width)).save(path)


def request(**settings):
    nothing = dict.fromkeys(("inputs", "targets", "results", "protocol", "limit"))
    return Request(**{"datasets": [], "real": [], "root": Path("root"), "models": ["general"], **nothing, **settings})


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(images):
    return [case.name for case in images.cases]


def test_a_known_data_set_with_holes():
    for number in (1, 2, 4):
        save(f"root/Rain200L/test/input/rain-{number}.png")
        save(f"root/Rain200L/test/target/norain-{number}.png")
    save("root/Rain200L/test/input/rain-5.png")
    save("root/Rain200L/test/target/norain-6.png")
    (images,) = request(datasets=["rain200l"]).gather()
    assert (images.name, images.protocol) == ("Rain200L", "uint8-Y")
    assert names(images) == ["rain-1", "rain-2", "rain-4"]
    assert images.problems == ("rain-5.png: no partner in target",)
    assert images.warnings == (
        "3 of 200 pairs found, missing 3, 5, 6 and 194 more",
        "clean images without a rainy one: norain-6.png",
    )


def test_sizes_that_differ_are_problems_before_any_work():
    save("set/input/1.png")
    save("set/target/1.png", height=24, width=16)
    save("set/input/2.png")
    save("set/target/2.png")
    (images,) = request(datasets=["set"]).gather()
    assert names(images) == ["2"]
    assert images.problems == ("1.png is 24x16, but the clean 1.png is 16x24: one of them is rotated",)


def test_a_folder_of_a_known_name_is_that_set_wherever_it_lies():
    save("here/Rain100L/input/1.png")
    save("here/Rain100L/target/1.png")
    (images,) = request(datasets=["here/Rain100L"]).gather()
    assert images.dataset.name == "Rain100L"
    (images,) = request(datasets=["Rain100L"], root=Path("here")).gather()
    assert images.dataset.name == "Rain100L"


@pytest.mark.parametrize(("given", "name"), [("mine/rain/target", "rain"), ("mine/dry", "dry")])
def test_any_pair_of_folders(given, name):
    save("wet/a.png")
    save(f"{given}/a.png")
    (images,) = request(inputs=Path("wet"), targets=Path(given)).gather()
    assert (images.name, names(images), images.protocol) == (name, ["a"], "uint8-Y")


def test_results_of_a_data_set_are_matched_with_its_rainy_images():
    """Of two rainy versions of one scene, each result belongs to one."""
    for version in (1, 2):
        save(f"root/DDN/rainy_image/7_{version}.jpg")
        save(f"results/7_{version}.png")
    save("root/DDN/ground_truth/7.jpg")
    (images,) = request(datasets=["DDN-Data"], results=Path("results"), models=[]).gather()
    assert images.protocol == "float-Y"
    assert [(s.name, s.result.name, s.source.clean.name) for s in images.cases] == [
        ("7_1", "7_1.png", "7.jpg"),
        ("7_2", "7_2.png", "7.jpg"),
    ]
    assert len({case.scene for case in images.cases}) == 1


def test_results_and_targets_alone():
    save("results/1.png")
    save("results/2.png")
    save("targets/1.png")
    (images,) = request(results=Path("results"), targets=Path("targets"), models=[]).gather()
    assert [(s.name, s.result, s.source.clean) for s in images.cases] == [
        ("1", Path("results/1.png"), Path("targets/1.png"))
    ]
    assert images.problems == ("2.png: no partner in targets",)
    assert (images.total, images.cases[0].has_input) == (2, False)


def test_folders_of_a_known_name_get_its_protocol():
    save("DID-Data/results/1.png")
    save("DID-Data/targets/1.png")
    (images,) = request(results=Path("DID-Data/results"), targets=Path("DID-Data/targets"), models=[]).gather()
    assert (images.name, images.protocol) == ("DID-Data", "float-Y")


def test_photos_and_limit():
    for name in ("10.jpg", "9.jpg", "9.png"):
        save(f"real/{name}")
    (images,) = request(real=[Path("real")], limit=2).gather()
    assert names(images) == ["9.jpg", "9.png"]
    assert [metric.name for metric in images.metrics] == ["niqe", "brisque"]
    assert images.warnings == ("only its first 2 images (--limit)",)


def test_a_protocol_that_papers_do_not_use_is_mentioned():
    save("root/Rain800/test/1.jpg")
    (images,) = request(datasets=["Rain800"], protocol="float-Y").gather()
    assert "papers report uint8-Y on it, not float-Y" in images.warnings


def test_images_that_cannot_be_read_are_mentioned():
    save("set/input/1.png")
    save("set/target/1.png")
    for name in ("2.ppm", "3.PPM", "4.cr2"):
        Path("set/input", name).touch()
    note = "set/input: 3 images skipped that cannot be read: .cr2, .ppm"
    for asked in ({"datasets": ["set"]}, {"inputs": Path("set/input"), "targets": Path("set/target")}):
        assert note in request(**asked).gather()[0].warnings
    assert note in request(real=[Path("set/input")]).gather()[0].warnings
    Path("set/input/1.png").unlink()
    with pytest.raises(UsageError, match=r"set/input: no images in it; set/input: 3 images skipped .*: \.cr2, \.ppm"):
        request(real=[Path("set/input")]).gather()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to score"),
        ({"inputs": "a"}, "--inputs: needs the clean images"),
        ({"targets": "a"}, "--targets: needs --inputs"),
        ({"results": "a"}, "--results: needs either"),
        ({"results": "a", "targets": "a", "datasets": ["Rain800"]}, "--results: needs either"),
        ({"results": "a", "targets": "a", "real": ["a"]}, "--results: needs either"),
        ({"datasets": ["Rain200M"]}, "did you mean Rain200L"),
        ({"datasets": ["Rain200L"]}, "Rain200L: not found in root"),
        ({"real": ["none"]}, "none: No such file"),
        ({"real": ["a"]}, "a: no images in it"),
        ({"inputs": "set/input", "targets": "set/target", "datasets": ["set"]}, "two sets of images are called set"),
    ],
)
def test_what_cannot_be_asked(settings, message):
    Path("a").mkdir()
    save("set/input/1.png")
    save("set/target/1.png")
    for name in ("inputs", "targets", "results"):
        if name in settings:
            settings = {**settings, name: Path(settings[name])}
    settings = {**settings, "real": [Path(path) for path in settings.get("real", [])]}
    with pytest.raises(UsageError, match=message):
        request(**settings).gather()


@pytest.mark.parametrize(
    ("paired", "images"),
    [({"a": {"path": "set/test"}}, 2), ({"a": {"path": "set/test", "images": 2}}, 12)],
)
def test_images_that_training_has_seen(paired, images):
    for number in (1, 2, 3):
        save(f"set/test/input/{number}.png")
        save(f"set/test/target/{number}.png")
    save("mine/input/1.png")
    save("mine/target/1.png")
    about = {
        "data": {"clean": ["photos"], "sources": {"a": {"kind": "paired", "path": "mine"}, "b": {"kind": "rendered"}}},
        "validation": {"paired": paired, "images": images},
    }
    uses = training_uses({"run": about})
    (chosen,), (trained,) = (request(datasets=[name]).gather() for name in ("set", "mine"))
    assert with_training_warnings(chosen, "ours", uses).warnings == (
        "ours was selected on at most 2 of these images: 1, 2, 3",
    )
    assert with_training_warnings(trained, "ours", uses).warnings == ("ours was trained on 1 of these images: 1",)


@pytest.mark.parametrize(
    ("targets", "name"), [("mine/target", "mine"), ("target", "target"), ("./mine", "mine"), ("../x/gt", "x")]
)
def test_a_set_of_folders_is_named_as_the_user_wrote_it(targets, name, monkeypatch):
    Path("here").mkdir()
    monkeypatch.chdir("here")
    save(f"{targets}/1.png")
    save("rainy/1.png")
    (images,) = request(inputs=Path("rainy"), targets=Path(targets)).gather()
    assert images.name == name


@pytest.mark.parametrize("training", [None, 1, {}, {"run": {}}, {"run": []}, {"run": {"data": 1}}])
def test_checkpoints_that_tell_nothing_of_their_training(training):
    assert training_uses(training) == []


def test_where_to_get_a_data_set():
    with pytest.raises(MissingDatasetError, match=r"^--dataset SPA: not found in root$") as caught:
        request(datasets=["SPA"]).gather()
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # noqa: S301 - as ranks send it
        assert str(error) == "--dataset SPA: not found in root"
        for part in ("SPA-Data in root", "kaggle", "SPA-Data/test/input/*.png", "DRSFORMER_DATA"):
            assert part.lower() in error.advice.lower()


def test_the_record_of_a_configuration_is_understood():
    """What `drsformer train` writes into its checkpoints, from the recipe that it runs."""
    run = as_tables(config.load("general", ["validation.paired.test.path=test", "validation.paired.test.images=0"]))
    trained, selected = training_uses({"run": run})
    assert "../shared/data/rain800/train" in trained.folders
    assert (selected.folders, selected.most) == (("test",), 0)
