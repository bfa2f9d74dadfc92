"""Pure: values to texts. One environment for all templates.

Autoescaping is on for every template, whatever its name ends with: XML is the format where an unescaped value is a
device. Texts that are not XML pass their values through a filter of their own format instead (``| line`` refuses what
could begin a second line), and mark the result safe.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2
from markupsafe import Markup


def templates_folder() -> Path:
    """Where the templates are: inside the installed package, or beside it in a source tree."""
    inside = Path(__file__).parent.parent / "templates"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "templates"


def line(value: object) -> Markup:
    """A value for a line-based text, as it is: without control characters, so that it cannot begin another line.

    :raise ValueError: it holds a control character, or half of a surrogate pair, which no file can hold.
    """
    text = str(value)
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or char in _UNSPEAKABLE for char in text):
        raise ValueError(f"control character in {text!r}")
    return Markup(text)


_UNSPEAKABLE = frozenset(map(chr, (0x2028, 0x2029, *range(0xD800, 0xE000))))


@functools.cache
def environment() -> jinja2.Environment:
    """The one environment: everything escaped, an undefined name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["line"] = line
    return made


def render(template: str, /, **values: object) -> str:
    """Render a template of ``templates/`` with these values."""
    return environment().get_template(template).render(**values)
