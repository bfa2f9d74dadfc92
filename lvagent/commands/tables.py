"""Printing: tables of plain text that fit a terminal, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

import click

Json = Mapping[str, object]


def plain(value: object) -> str:
    """A value as text for a terminal: no control characters, nothing for None."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def print_json(value: object) -> None:
    """Print JSON for programs, and for people who like it."""
    click.echo(json.dumps(value, indent=2))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table with aligned columns.

    :param empty: what to say if there are no rows.
    """
    if not rows:
        click.echo(empty)
        return
    lines = [list(heads), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one to a line; what is empty is left out."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        text = ", ".join(plain(part) for part in value) if isinstance(value, list | tuple) else plain(value)
        if text:
            click.echo(f"{name.ljust(width)}  {text}")


def size(count: object) -> str:
    """Bytes for people: ``21.0 MiB``."""
    value = float(cast(int, count))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def texts(found: object) -> list[str]:
    """A JSON list of strings."""
    return [str(part) for part in cast(list[object], found)]


def objects(found: object) -> list[dict[str, object]]:
    """A JSON list of objects."""
    return cast(list[dict[str, object]], found)
