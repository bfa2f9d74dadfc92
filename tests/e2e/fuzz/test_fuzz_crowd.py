"""Made-up requests from a crowd at once: all about the same three VMs, their addresses and their volumes."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.fuzz.bodies import no_bodies, own_id, sound_specs
from tests.e2e.fuzz.oracle import check
from tests.e2e.fuzz.routes import Route
from tests.e2e.fuzz.sent import Request, drawn, requests
from tests.e2e.fuzz.served import CANARY, NAMES, Served
from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

CROWD = 24
CHANGES, READS = 40, 10
FLOOD = 30
"""Creates at once, of which two may run and six wait."""


def wishes(served: Served, number: int) -> list[tuple[Route, Request]]:
    """Sound requests to every route, most of them changes, in a random order."""
    found = []
    for route in served.routes:
        count = READS if route.method == "GET" else CHANGES
        bodies = sound_specs() if route.body else no_bodies()
        found += [(route, one) for one in drawn(requests(route, NAMES, bodies, own_id), count, number + route.number)]
    random.Random(number).shuffle(found)
    return found


def test_a_crowd_is_served_as_one_would_be(served: Served, fuzz_seed: int) -> None:
    before = served.lab.snapshot()
    with ThreadPoolExecutor(CROWD) as crowd:
        for checked in [crowd.submit(ask, served, *wish) for wish in wishes(served, fuzz_seed)]:
            checked.result()
    print(served.told())
    assert [problem for problem in served.settle(120) if problem["status"] >= 500] == []
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}
    assert "Traceback" not in served.lab.agent_log(1 << 30)


def ask(served: Served, route: Route, request: Request) -> None:
    """Send a request and check the answer."""
    check(served, route, request, served.send(request))


def test_a_flood_of_changes_ends_at_the_limit(served: Served) -> None:
    """Those beyond the limit are told so at once, others are answered meanwhile, and no VM is half there."""

    def post(number: int) -> int:
        spec = vm(number, nic(host=10 + number), memory_mb=16, user_data=CANARY)
        answer = served.lab.api("POST", "/v1/vms", spec, Prefer="respond-async")
        assert answer.status == 202 or (answer.status, answer.headers.get("retry-after")) == (503, "2"), answer.text
        return answer.status

    before = served.lab.snapshot()
    with other_limit(served.lab, 2), ThreadPoolExecutor(CROWD) as crowd:
        seen = Counter(crowd.map(post, range(FLOOD)))
        assert served.lab.api("GET", "/healthz").status == 200
        assert seen[503] > 0
        assert seen[202] >= 4 * 2
        assert served.settle(120) == []
        assert [one["state"] for one in served.vms()] == ["running"] * seen[202]
        served.clear()
    assert before.difference(served.lab.snapshot()) == {}


@contextlib.contextmanager
def other_limit(lab: LabHost, operations: int) -> Iterator[None]:
    """The agent started anew with another limit; and again, as it was."""
    lab.kill_agent()
    lab.start_agent({"LVAGENT_API_OPERATIONS": str(operations)})
    try:
        yield
    finally:
        lab.kill_agent()
        lab.start_agent()
