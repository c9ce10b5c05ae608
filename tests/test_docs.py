"""The pages in docs/: their tables are those of the code, and their links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TABLES = runpy.run_path(str(ROOT / ".github/options_tables.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_options_are_those_of_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert text == TABLES["with_tables"](text), f"{page.name} is stale: make docs"


def test_each_command_has_one_table():
    found = [name for page in PAGES for name in re.findall(r"<!-- options of (\w+) -->", page.read_text("utf-8"))]
    assert sorted(found) == sorted(TABLES["commands"]())


def test_a_stale_table_is_written_again():
    table = TABLES["table"]("download")
    assert "| `--mirror URL` | Download from URL/NAME.pth. | DRSFORMER_MIRROR, or the publishers |" in table
    page = "before\n<!-- options of download -->\nold\n<!-- end of options -->\nafter\n"
    assert TABLES["with_tables"](page) == page.replace("old\n", table)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_description_on_a_package_index_has_no_relative_links():
    pytest.importorskip("hatchling")
    convert = runpy.run_path(str(ROOT / "hatch_build.py"))["without_relative_links"]
    assert (
        convert("![a](b.jpg)\n\nSee [the `x`](docs/x.md#y), [z](https://z.org).") == "See the `x`, [z](https://z.org)."
    )
    text = convert((ROOT / "README.md").read_text(encoding="utf-8"))
    assert not re.findall(r"\]\((?!https?:)[^)]*\)", text)
    assert "https://pytorch.org" in text
