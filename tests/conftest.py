"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests import golden, guard

# On a machine that is busy an example may take any time; what hangs is ended by the run's own limit.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--regenerate``: write golden files instead of comparing with them. ``--fuzz-*``: what is made up."""
    parser.addoption("--regenerate", action="store_true", help="write golden files instead of comparing with them")
    parser.addoption("--fuzz-seed", type=int, default=1, help="make up other requests and documents than in each run")
    parser.addoption("--fuzz-cases", type=int, default=0, help="how many in a slow test; 0: as many as it says itself")


def pytest_configure(config: pytest.Config) -> None:
    """Guard the run, and tell the comparer what was asked for."""
    guard.begin()
    golden.regenerate = bool(config.getoption("--regenerate"))


@pytest.fixture(scope="session")
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    """What ``--fuzz-seed`` says."""
    return int(request.config.getoption("--fuzz-seed"))


@pytest.fixture(scope="session")
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    """What ``--fuzz-cases`` says; 0: nothing."""
    return int(request.config.getoption("--fuzz-cases"))
