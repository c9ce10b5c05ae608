"""Write the tables of options in docs/ from the code: `make docs`.

A table stands between `<!-- options of NAME -->` and `<!-- end of options -->`, where NAME is a command.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from drsformer_cli.app import app

DOCS = Path(__file__).parents[1] / "docs"
PLACE = re.compile(r"(?<=<!-- options of )(\w+)( -->\n).*?(?=<!-- end of options -->)", re.DOTALL)


def commands() -> dict[str, Any]:
    """The commands by name."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def table(name: str) -> str:
    """The table of the arguments and options of a command."""
    lines = ["| option | meaning | default |", "|---|---|---|"]
    lines += [_row(parameter) for parameter in commands()[name].params if not getattr(parameter, "hidden", False)]
    return "".join(f"{line}\n" for line in lines)


def with_tables(text: str) -> str:
    """A page with its tables as they should be."""
    return PLACE.sub(lambda found: f"{found[1]}{found[2]}{table(found[1])}", text)


def _row(parameter: Any) -> str:  # noqa: ANN401 - Typer's copy of click is private
    meaning, default = _split(parameter.help or "")
    if not default and parameter.default is not None and not isinstance(parameter.default, bool):
        default = f"`{parameter.default:g}`" if isinstance(parameter.default, float) else f"`{parameter.default}`"
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar}`"
    else:
        short_first = sorted(parameter.opts, key=len)
        value = "" if parameter.is_flag else f" {parameter.metavar or 'TEXT'}"
        names = ", ".join(f"`{name}`" for name in short_first[:-1]) + ", " * (len(short_first) > 1)
        names += f"`{short_first[-1]}{value}`"
    return f"| {_cell(names)} | {_cell(meaning)} | {_cell(default)} |"


def _split(text: str) -> tuple[str, str]:
    """A help text without its default, and the default, which follows `Default: ` up to the end of the sentence."""
    found = re.search(r"\s*Default(?P<of>[^.:]*): (?P<value>.*?)\.(?=\s|$)", text)
    if found is None or found["of"]:
        return text, ""
    return text[: found.start()] + text[found.end() :], found["value"]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def main() -> None:
    """Write every page whose tables are stale."""
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        new = with_tables(text)
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
