"""The table: every failpoint x what happens there. In each case the VM is afterwards wholly there, or wholly gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from lvagent.failpoints import ACTIONS, POINTS
from tests.e2e.faults.cases import case
from tests.e2e.faults.faulty import Faulty
from tests.e2e.faults.operations import CASES, PASSES

pytestmark = pytest.mark.e2e

SAMPLE = (
    ("volume.made", "create", "kill"),
    ("connect.served", "create", "raise"),
    ("change.defined", "change", "kill"),
    ("delete.stopped", "delete", "hang"),
    ("power.acted", "start", "kill"),
    ("peer.routed", "peer", "kill"),
    ("sweep.discarding", "clear a create", "kill"),
)
"""One for each phase."""

PAIRS = [
    (begun, name, point)
    for begun, name in (
        *((point, "create") for point in PASSES if point.startswith(("create", "volume", "connect", "plug"))),
        *((point, "change") for point in PASSES if point.startswith("change")),
        *((point, "delete") for point in PASSES if point.startswith("delete")),
        *((point, ways[0]) for point, ways in PASSES.items() if point.startswith("peer")),
    )
    for point in ("sweep.read", "sweep.settled", "sweep.converged", "network.removed", "delete.stopped")
]
"""Killed at a point of an operation, and again at one of the recovery that follows."""

green: Counter[tuple[str, str]] = Counter()


def test_every_point_has_an_operation_that_passes_it() -> None:
    assert set(PASSES) == set(POINTS)


@pytest.mark.parametrize(("point", "name", "action"), SAMPLE)
def test_a_fault_in_each_phase(faulty: Faulty, point: str, name: str, action: str) -> None:
    case(faulty, point, name, action)


def test_killed_once_more_while_it_recovers_a_sample(faulty: Faulty) -> None:
    case(faulty, "create.started", "create", "kill", again="sweep.read")


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prints the table when all cases were tried."""
    yield
    lines = [f"{point:20} " + " ".join(f"{action} {green[point, action]}" for action in ACTIONS) for point in POINTS]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines) + f"\n{sum(green.values())} of {len(CASES)} cases are green")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(("point", "name", "action"), CASES)
def test_the_whole_table(faulty: Faulty, table: None, point: str, name: str, action: str) -> None:
    case(faulty, point, name, action)
    green[point, action] += 1


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(("begun", "name", "point"), PAIRS)
def test_killed_again_while_it_recovers(faulty: Faulty, begun: str, name: str, point: str) -> None:
    case(faulty, begun, name, "kill", again=point)
