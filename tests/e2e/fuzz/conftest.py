"""The agent that made-up requests are sent to: one for all modules here, each of which leaves its host empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import IMAGES
from tests.e2e.fuzz.served import Served, serve
from tests.lab.host import LabHost


@pytest.fixture(scope="package")
def one_host(image: str) -> Iterator[Served]:
    """A host with an agent of its own."""
    assert image
    with LabHost(images=IMAGES) as lab:
        lab.start_libvirtd()
        lab.run(["lvagent", "hook", "install"])
        lab.reload_libvirtd()
        lab.start_agent()
        yield serve(lab)


@pytest.fixture
def served(one_host: Served) -> Served:
    """An agent that is ready, with no VM, whatever the test before left."""
    one_host.begin()
    return one_host
