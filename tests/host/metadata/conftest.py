"""A service in a folder of its own, a VPC, and two guests in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.host.imds import MetadataService
from tests.host.metadata.site import Client, guest_in, pids, settings_in, vpc


@pytest.fixture
def service(folder: Path) -> Iterator[MetadataService]:
    made = MetadataService(settings_in(folder))
    try:
        yield made
    finally:
        made.stop()
        assert pids(folder) == []


@pytest.fixture
def one_vpc() -> Iterator[str]:
    with vpc() as name:
        yield name


@pytest.fixture
def clients(one_vpc: str) -> Iterator[tuple[Client, Client]]:
    with guest_in(one_vpc, 5) as first, guest_in(one_vpc, 6) as second:
        yield first, second
