"""A folder for the servers' files, and a site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.dhcp.site import Site, a_site


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    with a_site(folder) as made:
        yield made
