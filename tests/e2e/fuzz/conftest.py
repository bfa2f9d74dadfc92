"""The agent that made-up requests are sent to."""

from __future__ import annotations

import pytest

from tests.e2e.fuzz.served import Served, serve
from tests.lab.host import LabHost


@pytest.fixture(scope="module")
def served(agent_lab: LabHost) -> Served:
    """An agent that is ready, with no VM."""
    return serve(agent_lab)
