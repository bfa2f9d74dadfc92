"""What is installed on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

import lvagent
from lvagent.config import Settings
from lvagent.install import hook_text


def test_the_hook_is_the_same_wherever_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree = Path(lvagent.__file__).parent.parent
    monkeypatch.syspath_prepend(str(tree))
    texts = set()
    for folder in (tree, tmp_path):
        monkeypatch.chdir(folder)
        texts.add(hook_text(Settings()))
    assert len(texts) == 1
    assert texts.pop().count(f"'{tree}'") == 1
