"""Servers of the API on a socket of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.api.served import Served, serving


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with serving(Served, tmp_path) as start:
        yield lambda folder=tmp_path, **api: start(folder, **{"slow": 5, **api})
