"""TOML to dataclasses: what is taken, what is refused, and that everything wrong is said at once."""

import pickle
import tomllib
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import pytest

from drsformer_cli.errors import UsageError
from drsformer_cli.training import config as configs
from drsformer_cli.training import toml_config
from drsformer_cli.training.toml_config import Limits, MistakesError


@dataclass(frozen=True)
class Cat:
    kind: Literal["cat"]
    lives: Annotated[int, Limits(1, 9)] = 9


@dataclass(frozen=True)
class Dog:
    kind: Literal["dog"]
    tricks: tuple[str, ...] = ()


@dataclass(frozen=True)
class House:
    rooms: int = 1
    size: Annotated[tuple[float, float], Limits(0, 100, ordered=True)] = (1.0, 2.0)

    def mistakes(self):
        return ["rooms: expected an even number"] if self.rooms % 2 else []


@dataclass(frozen=True)
class Tree:
    height: Annotated[int, Limits(1, 100)] | None = None


@dataclass(frozen=True)
class Street:
    name: str
    pets: dict[str, Cat | Dog] = field(default_factory=dict)
    house: House = field(default_factory=House)
    color: Literal["red", "blue"] = "red"
    lit: bool = True
    limit: float | None = None
    trees: tuple[Tree, ...] = ()
    ages: dict[str, Annotated[int, Limits(0, 120)]] = field(default_factory=dict)


def parse(text):
    return toml_config.parse(Street, tomllib.loads(text), "street.toml")


def test_values_of_every_kind():
    street = parse(
        "name = 'Main'\nlimit = 30\ncolor = 'blue'\n[house]\nrooms = 2\nsize = [1, 2.5]\n"
        "[pets.tom]\nkind = 'cat'\nlives = 7\n[pets.rex]\nkind = 'dog'\ntricks = 'sit'\n"
    )
    assert street == Street(
        "Main", {"tom": Cat("cat", 7), "rex": Dog("dog", ("sit",))}, House(2, (1.0, 2.5)), "blue", limit=30.0
    )


def test_every_mistake_at_once_with_its_path():
    with pytest.raises(MistakesError) as caught:
        parse(
            "nam = 'Main'\nlit = 1\ncolor = 'green'\nlimit = 'high'\n[house]\nrooms = true\nsize = [3, 1]\n"
            "[pets.tom]\nkind = 'cat'\nlives = 10\nclaws = 4\n[pets.rex]\nkind = 'fish'\n[pets.it]\n"
            "[[trees]]\nheight = 3\n[[trees]]\nheight = 101\nleaves = 2\n[ages]\nann = -1\n"
        )
    assert sorted(caught.value.mistakes) == sorted(
        [
            "nam: unknown key; did you mean name?",
            "name: missing; expected text",
            "lit: expected true or false, not 1",
            'color: expected "red" or "blue", not "green"',
            'limit: expected a number, not "high"',
            "house.rooms: expected an integer, not true",
            "house.size: expected a list of 2 numbers from 0 to 100, in ascending order, not [3, 1]",
            "pets.tom.lives: expected an integer from 1 to 9, not 10",
            "pets.tom.claws: unknown key; expected one of kind, lives",
            'pets.rex.kind: expected "cat" or "dog", not "fish"',
            'pets.it.kind: expected "cat" or "dog", missing',
            "trees.1.height: expected an integer from 1 to 100, not 101",
            "trees.1.leaves: unknown key; expected one of height",
            "ages.ann: expected an integer from 0 to 120, not -1",
        ]
    )


@pytest.mark.parametrize("value", ["nan", "inf", "[1, nan]", "[1]", "[1, 2, 3]", "'1, 2'", "[1, true]"])
def test_odd_numbers_are_refused(value):
    with pytest.raises(MistakesError, match=r"house\.size: expected a list of 2 numbers"):
        parse(f"name = 'x'\nhouse.rooms = 2\nhouse.size = {value}")


def test_a_section_checks_what_spans_its_fields():
    with pytest.raises(MistakesError, match=r"1 mistake: house\.rooms: expected an even number"):
        parse("name = 'x'\nhouse.rooms = 3")


def test_settings_replace_values_and_make_tables():
    table = tomllib.loads("name = 'x'")
    settings = ["house.rooms=4", "name=Back = Lane", "pets.tom.kind=cat", "lit=false", "house.size=[0, 1]"]
    toml_config.override(table, settings)
    assert toml_config.parse(Street, table, "x") == Street(
        "Back = Lane", {"tom": Cat("cat")}, House(4, (0.0, 1.0)), lit=False
    )


@pytest.mark.parametrize("setting", ["rooms", "=4", "house..rooms=4", "name.first=x"])
def test_bad_settings_are_refused(setting):
    with pytest.raises(UsageError, match="--set"):
        toml_config.override({"name": "x"}, [setting])


def test_mistakes_travel_among_processes():
    error = pickle.loads(pickle.dumps(MistakesError("run.toml", ["a: b", "c: d"])))  # noqa: S301 - our own
    assert (str(error), error.mistakes) == ("run.toml: 2 mistakes: a: b; c: d", ["a: b", "c: d"])


def test_dump_is_read_back():
    street = Street('a "name"\n\\é', {"t o m": Cat("cat", 3), "rex": Dog("dog", ("sit", "roll"))}, House(2), limit=1e-9)
    street = replace(street, trees=(Tree(3), Tree()), ages={"x y": 4})
    text = toml_config.dump(toml_config.as_tables(street))
    assert parse(text) == street


def test_tables_are_merged_unless_they_are_of_another_kind():
    below = {"a": 1, "house": {"rooms": 2, "size": [1, 2]}, "pets": {"tom": {"kind": "cat", "lives": 3}}}
    above = {"a": 2, "house": {"rooms": 4}, "pets": {"tom": {"kind": "dog"}, "rex": {"kind": "dog"}}}
    assert toml_config.merge(below, above) == {
        "a": 2,
        "house": {"rooms": 4, "size": [1, 2]},
        "pets": {"tom": {"kind": "dog"}, "rex": {"kind": "dog"}},
    }
    assert below["house"] == {"rooms": 2, "size": [1, 2]}
    lives = toml_config.merge(below, {"pets": {"tom": {"lives": 4}}})
    assert lives["pets"]["tom"] == {"kind": "cat", "lives": 4}


def test_differences_name_what_changed():
    old, new = toml_config.as_tables(Street("a")), toml_config.as_tables(Street("b", limit=2.0))
    assert toml_config.differences(old, new) == ['name: "a" -> "b"', "limit: null -> 2.0"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"a = = 1", "not TOML: .*line 1"), (b"\xff\xfe", "not UTF-8"), (None, "No such file")]
)
def test_unreadable_files_get_one_line(tmp_path, content, message):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        toml_config.read(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = 5\n", encoding="utf-8-sig")
    assert toml_config.read(path) == {"steps": 5}


def test_what_spans_fields_is_found_beside_other_mistakes(tmp_path):
    """Unless it names a field that is wrong itself."""
    config = "[training]\nsteps = 'many'\nbatch = 5\naccumulate = 2\n[data]\npatch = 33\ncrop = 'left'\n"
    path = tmp_path / "run.toml"
    path.write_text(config + "[data.sources.a]\nkind = 'rendered'\n")
    with pytest.raises(MistakesError) as caught:
        configs.load(str(path), ["training.lr=fast", "training.final_lr=1"])
    assert sorted(mistake.split(":")[0] for mistake in caught.value.mistakes) == [
        "data.crop",
        "data.patch",
        "data.sources.a",
        "training.accumulate",
        "training.lr",
        "training.steps",
    ]


def test_none_unsets_what_may_be_left_out():
    config = configs.load("general", ["data.sources.rain800.side_by_side=none"])
    assert config.data.sources["rain800"].side_by_side is None


def test_what_toml_itself_does_not_limit(tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 5000)
    with pytest.raises(UsageError, match="brackets within brackets"):
        toml_config.read(path)
    table = {}
    toml_config.override(table, ["a=" + "[" * 5000])
    assert table == {"a": "[" * 5000}
