"""Servers of the API on a socket of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lvagent.config import Api
from tests.host.api.served import Served


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(folder: Path = tmp_path, **api: object) -> Served:
        options = {"socket": str(folder / "api.sock"), "group": "", "slow": 1, **api}
        served = Served(folder, Api(**options))  # type: ignore[arg-type]
        served.server.start()
        made.append(served)
        return served

    yield start
    for served in made:
        served.agent.gate.set()
        served.server.stop()
