"""Every setting stands in docs/operations.md, with its default."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from lvagent.config import Settings, load

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
FOR_TESTS_ONLY = {("guests", "fast_capabilities")}


def block() -> str:
    lines = PAGE.read_text().splitlines()
    first = lines.index("    [api]")
    end = next(at for at, line in enumerate(lines) if at > first and line and not line.startswith("    "))
    return "\n".join(line.removeprefix("    ") for line in lines[first:end]) + "\n"


def test_the_settings_that_are_documented_are_those_that_there_are() -> None:
    told = {(section, key) for section, keys in tomllib.loads(block()).items() for key in keys}
    there = {
        (section.name, entry.name)
        for section in dataclasses.fields(Settings)
        for entry in dataclasses.fields(getattr(Settings(), section.name))
    }
    assert told == there - FOR_TESTS_ONLY


def test_what_is_documented_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "lvagent.toml").write_text(block())
    assert load(tmp_path / "lvagent.toml", {}) == Settings()
