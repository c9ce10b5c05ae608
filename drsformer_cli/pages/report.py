"""The report of a run: a page with a card for each image."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from drsformer.files import atomic_write
from drsformer_cli import console
from drsformer_cli.errors import IMAGE_ERRORS, UsageError, reason
from drsformer_cli.pages.compare import comparison, preview
from drsformer_cli.pages.page import assemble, escape
from drsformer_cli.pages.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from drsformer_cli.images import DecodedImage
    from drsformer_cli.ranks import Ranks

_LARGEST_SIDE, _SMALLEST_SIDE = 960, 480
_LARGE_IMAGES = 200  # so many have the largest side: about 30 MB
_CARDS = "<!-- the cards -->"


@dataclass(frozen=True)
class Fact:
    """A number of an image.

    Attributes:
        key: Its name for sorting: a lowercase letter, then lowercase letters and digits.
        title: Its name for people.
        text: Its value for people.
        value: Its value for sorting; NaN is sorted last.
    """

    key: str
    title: str
    text: str
    value: float


@dataclass(frozen=True)
class Sort:
    """A choice of the order of the cards.

    Attributes:
        title: Its name in the list.
        key: Key of a `Fact`, or "name".
        descending: Whether the largest value comes first.
    """

    title: str
    key: str
    descending: bool = False


@dataclass(frozen=True)
class Card:
    """An image that was restored.

    Attributes:
        name: Name of the image.
        images: The images to compare, by kind; see `comparison`. Empty: the card has none.
        facts: The numbers.
        files: The complete images, by kind.
        group: What it belongs to, such as a data set and a model.
        notes: Notes, one line each.
    """

    name: str
    images: Mapping[str, DecodedImage]
    facts: Sequence[Fact]
    files: Mapping[str, Path]
    group: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table above the cards.

    Attributes:
        title: Its caption.
        columns: Titles of the columns after the first one.
        rows: Title and cells of each row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Overview:
    """The page without its cards.

    Attributes:
        title: Title of the page.
        subtitle: What was done, on one line.
        sorts: The choices of the order; the first one is used at first.
        failures: Images without a result, and why.
        tables: Tables above the cards.
        notes: Notes about the tables, one line each.
        choices: Kinds that the restored images can be compared with, if there are several.
    """

    title: str
    subtitle: str
    sorts: Sequence[Sort]
    failures: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    choices: Sequence[str] = ()


class Report:
    """Cards of a run, kept in a temporary file until `write` puts them into a page.

    Args:
        path: The page. Its folder is created if it does not exist.
        number: Expected number of images: of many, smaller versions are kept, so that a browser can show the page.

    Raises:
        UsageError: The folder cannot be created or written to.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self._side = max(_SMALLEST_SIDE, round(_LARGEST_SIDE * math.sqrt(min(1.0, _LARGE_IMAGES / max(1, number)))))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._cards = Spool(path.parent)
        except OSError as error:
            raise UsageError(f"--report {path}: cannot be written: {reason(error)}") from None
        self._problem: str | None = None

    def __len__(self) -> int:
        return len(self._cards)

    def add(self, card: Card) -> None:
        """Add a card. An error does not stop the run: `write` raises it."""
        try:
            self._cards.append(self._card(card).encode())
        except IMAGE_ERRORS as error:
            self._problem = reason(error)

    def gather(self, ranks: Ranks) -> None:
        """Move the cards of all ranks to rank 0, in the order of `Ranks.shard`."""
        if ranks.world_size == 1:
            return
        rounds = max(ranks.broadcast(ranks.gather(len(self))))
        own, merged = iter(self._cards), Spool(self.path.parent)
        for _ in range(rounds):  # one card of each rank at a time, since all of them may not fit into memory
            for data in ranks.gather(next(own, b"")):
                if data:
                    merged.append(data)
        self._problem = next(filter(None, ranks.gather(self._problem or "")), None)
        self._cards.close()
        self._cards = merged

    def write(self, overview: Overview, *, overwrite: bool) -> None:
        """Write the page, once.

        Raises:
            OSError: The page cannot be written, or exists and `overwrite` is False; or cards are missing in it.
        """
        before, after = _page(overview, any_cards=len(self) > 0).split(_CARDS)
        with contextlib.closing(self._cards), atomic_write(self.path, overwrite=overwrite) as file:
            file.write(before.encode())
            for card in self._cards:
                file.write(card)
            file.write(after.encode())
        if self._problem is not None:
            raise OSError(f"images are missing in it: {self._problem}")

    def save(self, overview: Overview, *, overwrite: bool) -> bool:
        """Write the page, once; returns whether that worked, and prints the reason if it did not."""
        try:
            self.write(overview, overwrite=overwrite)
        except OSError as error:
            console.error(f"{self.path}: cannot be written: {reason(error)}")
            return False
        return True

    def _card(self, card: Card) -> str:
        images, notes = "", list(card.notes)
        try:
            previews = {kind: preview(image, self._side) for kind, image in card.images.items()}
            images = comparison(card.name, previews) if previews else ""
        except IMAGE_ERRORS as error:
            notes.append(f"no preview: {reason(error)}")
        data = (
            "".join(f' data-{escape(fact.key)}="{fact.value!r}"' for fact in card.facts if not math.isnan(fact.value))
            .replace('"inf"', '"Infinity"')
            .replace('"-inf"', '"-Infinity"')
        )
        name = escape(card.name)
        links = "".join(
            f'<a href="{escape(link(path, self.path.parent))}">{escape(kind.capitalize())}'
            f'<span class="only-heard"> file of {name}</span></a>'
            for kind, path in card.files.items()
        )
        button = f'<button type="button" class="enlarge">Enlarge<span class="only-heard"> {name}</span></button>'
        facts = "".join(f"<dt>{escape(fact.title)}</dt><dd>{escape(fact.text)}</dd>" for fact in card.facts)
        return (
            f'<li class="card" data-name="{name}"{data}>{images}<h2><bdi>{name}</bdi></h2>'
            + (f'<p class="group">{escape(card.group)}</p>' if card.group else "")
            + f"<dl>{facts}</dl>"
            + (_list(map(escape, notes)) if notes else "")
            + f'<p class="links">{links}{button if images else ""}</p></li>\n'
        )


def link(path: Path, folder: Path) -> str:
    """The address of a file for a page in a folder: relative, unless they have nothing in common."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive
        return path.absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _page(overview: Overview, *, any_cards: bool) -> str:
    sorts = "".join(
        f'<option value="{escape(sort.key)} {-1 if sort.descending else 1}">{escape(sort.title)}</option>'
        for sort in overview.sorts
    )
    values = {
        "subtitle": escape(overview.subtitle),
        "failures": _failures(overview.failures) if overview.failures else "",
        "tables": "".join(map(_table, overview.tables)),
        "notes": f'<div class="notes">{_list(map(escape, overview.notes))}</div>' if overview.notes else "",
        "sorts": sorts,
        "choices": _choices(overview.choices) if overview.choices else "",
        "tools_hidden": "" if any_cards else "hidden",
        "cards": _CARDS,
    }
    return assemble("report", overview.title, values)


def _failures(failures: Sequence[tuple[str, str]]) -> str:
    rows = _list(f"<bdi>{escape(name)}</bdi>: {escape(text)}" for name, text in failures)
    title = f'<h2 id="failed">{len(failures)} failed</h2>'
    return f'<section class="failures" aria-labelledby="failed">{title}{rows}</section>'


def _table(table: Table) -> str:
    columns = "".join(f'<th scope="col">{escape(title)}</th>' for title in ("", *table.columns))
    rows = "".join(
        f'<tr><th scope="row">{escape(title)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for title, cells in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>"
    return f'<div class="means"><table>{caption}<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>'


def _choices(kinds: Sequence[str]) -> str:
    choices = "".join(
        f'<label><input type="radio" name="left" value="{escape(kind)}"{" checked" * (i == 0)}> {escape(kind)}</label>'
        for i, kind in enumerate(kinds)
    )
    return f"<fieldset><legend>Compare with</legend>{choices}</fieldset>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
