from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.api.app import operations_of
from tests.unit.cli.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.agent.gate.set()
    assert operations_of(shell.app).close(10)
