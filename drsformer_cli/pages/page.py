"""Assemble a page from its parts in this folder: styles and scripts inside, and nothing else may be loaded or run."""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = Path(__file__).parent
_SHARED_STYLES = ("page.css", "compare.css")
_SHARED_SCRIPTS = ("compare.js",)


def assemble(name: str, title: str, values: Mapping[str, str], *, policy: str = "img-src data:") -> str:
    """A page of NAME.html, NAME.css, NAME.js and the parts that all pages share.

    Args:
        name: "report" or "serve".
        title: Title of the page, as text.
        values: HTML by the name of its placeholder in NAME.html; text in it must be escaped.
        policy: What the page may load besides its own styles and scripts, as a content security policy says it.
    """
    styles = "\n".join(_part(part) for part in (*_SHARED_STYLES, f"{name}.css"))
    scripts = "\n".join(_part(part) for part in (*_SHARED_SCRIPTS, f"{name}.js"))
    allowed = (
        "default-src 'none'",
        f"style-src {_source(styles)}",
        f"script-src {_source(scripts)}",
        policy,
        "base-uri 'none'",
        "form-action 'none'",
    )
    escaped = escape(title)
    return Template(_part("page.html")).substitute(
        title=escaped,
        styles=styles,
        scripts=scripts,
        policy="; ".join(allowed),
        content=Template(_part(f"{name}.html")).substitute(values, title=escaped),
    )


def escape(text: str) -> str:
    """Text as HTML, in an element or in a quoted attribute; bytes of a name that are not UTF-8 as backslash escapes."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _part(file: str) -> str:
    return (_FOLDER / file).read_text("utf-8")


def _source(text: str) -> str:
    """A style or script as a content security policy names it: by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
