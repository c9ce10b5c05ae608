"""Strict parsing of TOML into frozen dataclasses: all mistakes of a file are reported at once, with their dotted paths.

The dataclasses are the schema. Supported annotations: bool, int, float, str, Literal, X | None, tuple[X, ...],
tuple[X, X], dataclasses, dict[str, X], unions of dataclasses that differ in their `kind`; `Annotated[X, Limits(...)]`
bounds numbers. A dataclass can check combinations of its fields in a method `mistakes() -> list[str]`.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import re
import tomllib
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

Table = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Bounds of a number, or of each number of a list.

    Attributes:
        least: Smallest valid value.
        most: Largest valid value.
        ordered: Whether the numbers of a list must be in ascending order, as in [low, high].
    """

    least: float = -math.inf
    most: float = math.inf
    ordered: bool = False

    def __str__(self) -> str:
        if math.isinf(self.most):
            return "" if math.isinf(self.least) else f" of at least {self.least:g}"
        return f" from {self.least:g} to {self.most:g}"


class MistakesError(UsageError):
    """All mistakes in a configuration.

    Attributes:
        source: File or recipe of the configuration.
        mistakes: The mistakes, one line each, beginning with the dotted path.
        partial: The configuration with defaults instead of wrong values; None if a wrong value has no default.
    """

    def __init__(self, source: str, mistakes: list[str], partial: object = None) -> None:
        super().__init__(f"{source}: {len(mistakes)} mistake{'s' * (len(mistakes) != 1)}: {'; '.join(mistakes)}")
        self.source = source
        self.mistakes = mistakes
        self.partial = partial

    def __reduce__(self) -> tuple[type[MistakesError], tuple[str, list[str]]]:
        return MistakesError, (self.source, self.mistakes)  # it is broadcast to other ranks


def read(path: Path) -> Table:
    """The tables of a file.

    Raises:
        UsageError: It cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8; expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: not a configuration: brackets within brackets without end") from None


def merge(below: Table, above: Table) -> Table:
    """Merge tables: values of `above` replace those of `below`; tables are merged unless their `kind` differs."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind") in (None, old.get("kind")):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def override(table: Table, settings: Sequence[str]) -> None:
    """Put `key=value` settings into the tables; a value that is not TOML is text.

    Raises:
        UsageError: A setting has no `=`, or a part of its path is not a table.
    """
    wrong = [setting for setting in settings if not re.fullmatch(r"[^=.]+(\.[^=.]+)*=.*", setting, re.DOTALL)]
    if wrong:
        raise UsageError(f"--set {', '.join(wrong)}: expected key=value, such as training.steps=1000")
    for setting in settings:
        key, _, text = setting.partition("=")
        names = [name.strip() for name in key.split(".")]
        *parents, last = names
        target = table
        for name in parents:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UsageError(f"--set {setting}: {name} is not a table")
        try:
            target[last] = tomllib.loads(f"value = {text.strip()}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            target[last] = text


def parse(kind: type[T], table: Table, source: str) -> T:
    """Parse tables into a dataclass.

    Raises:
        MistakesError: All unknown keys, missing keys, wrong types, and values out of range.
    """
    mistakes: list[str] = []
    value = _section(kind, table, "", mistakes)
    if mistakes or value is None:
        raise MistakesError(source, mistakes, value)
    return value


def _section(kind: type[T], table: Mapping[str, Any], path: str, mistakes: list[str]) -> T | None:
    """The dataclass, with defaults instead of wrong values; None if a wrong value has no default."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # T is a dataclass
    hints = {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name in names}
    prefix = f"{path}." if path else ""
    for key in table:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(hints)}"
            mistakes.append(f"{prefix}{key}: unknown key; {hint}")
    values, wrong = {}, set()
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # T is a dataclass
        before = len(mistakes)
        if field.name in table:
            values[field.name] = _value(hints[field.name], table[field.name], prefix + field.name, mistakes)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            mistakes.append(f"{prefix}{field.name}: missing; expected {_expected(hints[field.name])}")
        if len(mistakes) > before:
            wrong.add(field.name)
    # Wrong values are replaced by defaults, so that other mistakes are found, too.
    values = {name: value for name, value in values.items() if value is not None or name not in wrong}
    try:
        value = kind(**values)
    except TypeError:  # a value without a default is missing
        return None
    found = value.mistakes() if hasattr(value, "mistakes") else []
    mistakes += [prefix + text for text in found if not wrong & set(re.findall(r"\w+", text))]
    return value


def _value(hint: Any, value: object, path: str, mistakes: list[str]) -> Any:  # noqa: ANN401 - annotations are any object
    inner, limits, optional = _unwrapped(hint)
    if optional and value == "none":  # TOML has no null
        return None
    if dataclasses.is_dataclass(inner) and isinstance(inner, type) and isinstance(value, dict):
        return _section(inner, value, path, mistakes)
    if get_origin(inner) in (Union, UnionType):
        return _one_of(inner, value, path, mistakes)
    converted: Any
    if get_origin(inner) is dict and isinstance(value, dict):
        items = {name: _value(get_args(inner)[1], item, f"{path}.{name}", mistakes) for name, item in value.items()}
        converted = {name: item for name, item in items.items() if item is not None}
    elif get_origin(inner) is tuple and dataclasses.is_dataclass(get_args(inner)[0]) and isinstance(value, list):
        parts = [_value(get_args(inner)[0], item, f"{path}.{number}", mistakes) for number, item in enumerate(value)]
        converted = tuple(part for part in parts if part is not None)
    else:
        converted = _plain(inner, value)
    if converted is not None and _within(limits, converted):
        return converted
    mistakes.append(f"{path}: expected {_expected(hint)}, not {_shown(value)}")
    return None


def _unwrapped(hint: Any) -> tuple[Any, Limits | None, bool]:  # noqa: ANN401
    """A type without Annotated and None, its limits, and whether it may be None."""
    limits, optional = None, False
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        optional = True
    if get_origin(hint) is Annotated:
        hint, limits = get_args(hint)
    return hint, limits, optional


def _one_of(union: Any, table: object, path: str, mistakes: list[str]) -> Any:  # noqa: ANN401
    """Parse a table into the dataclass of the union with the same `kind`."""
    kinds = {get_args(get_type_hints(option)["kind"])[0]: option for option in get_args(union)}
    if not isinstance(table, dict):
        mistakes.append(f"{path}: expected a table, not {_shown(table)}")
        return None
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        found = "missing" if kind is None else f"not {_shown(kind)}"
        mistakes.append(f"{path}.kind: expected {_expected(Literal[tuple(kinds)])}, {found}")
        return None
    return _section(kinds[kind], table, path, mistakes)


def _plain(hint: Any, value: object) -> Any:  # noqa: ANN401
    """The value as the type of the annotation; None if it has another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value if value in arguments and type(value) in {type(option) for option in arguments} else None
    if origin is tuple:
        if arguments[0] is str and isinstance(value, str):
            value = [value]  # a single text is a list of one
        if not isinstance(value, list | tuple):
            return None
        item_hints = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        items = tuple(map(_plain, item_hints, value)) if len(item_hints) == len(value) else (None,)
        return None if None in items else items
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # TOML's integers have no limit
            return None
    return value if type(value) is hint else None


def _within(limits: Limits | None, value: Any) -> bool:  # noqa: ANN401
    if limits is None:
        return True
    numbers = value if isinstance(value, tuple) else (value,)
    ordered = not limits.ordered or all(a <= b for a, b in itertools.pairwise(numbers))
    return ordered and all(limits.least <= number <= limits.most for number in numbers)  # false for NaN


def _expected(hint: Any) -> str:  # noqa: ANN401
    """A type and its limits in words."""
    hint, found, _ = _unwrapped(hint)
    limits = f"{found}{', in ascending order' if found.ordered else ''}" if found else ""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(json.dumps(option) for option in arguments)
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        words = {bool: "true/false values", int: "integers", float: "numbers", str: "texts"}
        return f"a list of {number}{words.get(arguments[0], 'tables')}{limits}"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return f"{words.get(hint, 'a table')}{limits}"


def _shown(value: object) -> str:
    """A value in TOML syntax, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_tables(value: object) -> Any:  # noqa: ANN401 - tables, lists and scalars, as JSON has them
    """A configuration as tables, lists and scalars; values of None are omitted."""
    if dataclasses.is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: as_tables(item) for name, item in named.items() if item is not None}
    if isinstance(value, dict):
        return {name: as_tables(item) for name, item in value.items()}
    return [as_tables(item) for item in value] if isinstance(value, tuple) else value


def dump(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """The tables as the text of a TOML file."""
    scalars = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and (scalars or not table) else []
    lines += [f"{_key(key)} = {_inline(value)}" for key, value in scalars.items()]
    text = "\n".join(lines) + "\n" * bool(lines)
    for key, value in table.items():
        if isinstance(value, dict):
            below = dump(value, (*path, key))
            text += f"\n{below}" if text else below
    return text


def _inline(value: object) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_inline(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value, ensure_ascii=False)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """The changes between two configurations, one line per key."""
    changed = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += differences(before, after, f"{path}{key}.")
        elif before != after:
            changed.append(f"{path}{key}: {_shown(before)} -> {_shown(after)}")
    return changed


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "_").replace("_", "a").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)
