"""Requests made up from the agent's own OpenAPI document, sent to a real agent: it keeps every promise of the document.

Two makers take turns. Ours asks about VMs that exist, with specs that can be or nearly can; schemathesis goes through
all that the schemas allow and forbid. The same requests are made in each run (``--fuzz-seed`` changes that), but what
they meet is the agent as those before left it. In the end the host is as it was before.
"""

from __future__ import annotations

import pytest

from tests.e2e.fuzz.bodies import no_bodies, own_id, spec_bodies
from tests.e2e.fuzz.oracle import check
from tests.e2e.fuzz.routes import Route
from tests.e2e.fuzz.sent import Request, drawn, requests
from tests.e2e.fuzz.served import CANARY, IDS, NAMES, Served
from tests.e2e.fuzz.wild import Wild
from tests.lab.host import Answer

pytestmark = pytest.mark.e2e

CASES, MANY = 30, 2000
BLOCK = 100
"""Requests that are made up before any is sent."""

AT_ONCE = 5
"""Requests to one route before the next has its turn."""

ELSEWHERE: set[str] = {"showFloating", "putFloating", "deleteFloating", "showPeering", "explain", "explainLive"}
"""Operations that made-up requests may never see succeed: a floating address needs a VM, a way out and a free address
of the link's network at once, a flow two ends that are there and a port that fits, a peering one made just before.
tests/e2e/test_uplink.py, test_guests.py, test_peering.py and the table of faults see them succeed."""


@pytest.fixture
def wild(served: Served) -> Wild:
    """Schemathesis for this agent."""
    return Wild(served)


def own_requests(wild: Wild, route: Route, count: int, number: int) -> list[Request]:
    """Requests of ours to a route."""
    bodies = wild.bodies(route) if route.body else no_bodies()
    if route.takes_spec:
        bodies = spec_bodies(bodies)
    return drawn(requests(route, NAMES, bodies, own_id), count, number + route.number)


def run(served: Served, wild: Wild, cases: int, seed: int) -> None:
    """So many requests to each route by each maker."""
    print(f"{cases} cases for each route and maker, --fuzz-seed {seed}")
    for beginning in range(0, cases, BLOCK):
        count, number = min(BLOCK, cases - beginning), (seed << 32) + (beginning << 20)
        ours = {route.key: own_requests(wild, route, count, number) for route in served.routes}
        theirs = {route.key: drawn(wild.cases(route), count, number + route.number) for route in served.routes}
        for turn in range(0, count, AT_ONCE):
            served.populate()
            for route in served.routes:
                for request in ours[route.key][turn : turn + AT_ONCE]:
                    check(served, route, request, served.send(request))
                for case in theirs[route.key][turn : turn + AT_ONCE]:
                    judge(served, route, *wild.send(case))
    print(served.told())
    assert defects(served) == []


def judge(served: Served, route: Route, request: Request, answer: Answer) -> None:
    """Check an answer to a request of schemathesis, and take away the VM that it made, if it made one."""
    if request.method == route.method:
        check(served, route, request, answer)
    else:
        assert answer.status in (404, 405), (request.method, request.target, answer.text)
    if answer.status in (201, 202) and request.method in ("PUT", "POST"):
        served.settle()
        for one in served.vms():
            if one["id"] not in IDS:
                assert served.lab.api("DELETE", f"/v1/vms/{one['id']}?volumes=delete").status == 204


def defects(served: Served) -> list[object]:
    """Problems of operations that nobody asking for them could be blamed for."""
    return [problem for problem in served.settle() if problem["status"] >= 500]


def leaves_nothing(served: Served, wild: Wild, cases: int, seed: int) -> None:
    before = served.lab.snapshot()
    run(served, wild, cases, seed)
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}
    log = served.lab.agent_log(1 << 30)
    assert CANARY not in log
    assert "Traceback" not in log


def test_every_answer_is_as_the_document_says(served: Served, wild: Wild, fuzz_seed: int) -> None:
    leaves_nothing(served, wild, CASES, fuzz_seed)
    went = {name for name, status in served.statuses if status < 300}
    assert {route.told["operationId"] for route in served.routes} - went <= ELSEWHERE, "the requests have no teeth"


@pytest.mark.slow
@pytest.mark.fuzz
def test_every_answer_to_many_more(served: Served, wild: Wild, fuzz_seed: int, fuzz_cases: int) -> None:
    leaves_nothing(served, wild, fuzz_cases or MANY, fuzz_seed + 1)


def test_at_the_bounds_of_every_schema(served: Served, wild: Wild) -> None:
    before = served.lab.snapshot()
    for route in served.routes:
        for case in wild.bounds(route):
            judge(served, route, *wild.send(case))
    assert defects(served) == []
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}
