"""Made-up requests while libvirt is away, and while the agent is not ready yet: a 503 that says so, never a 500."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.e2e.fuzz.bodies import no_bodies, own_id, sound_specs
from tests.e2e.fuzz.oracle import agrees, headers_agree, leaks
from tests.e2e.fuzz.routes import Route
from tests.e2e.fuzz.sent import Request, drawn, requests
from tests.e2e.fuzz.served import NAMES, Served
from tests.lab.host import Answer

pytestmark = pytest.mark.e2e

CASES = 15
SECONDS = 30


def check(served: Served, route: Route, request: Request, answer: Answer) -> None:
    """The answer is in the document; if it is a 5xx, then one that says what is away."""
    what = (route.key, request.target, dict(request.headers), answer.status, answer.text)
    assert agrees(served.document, route.told["responses"][str(answer.status)], answer) == [], what
    assert headers_agree(answer, request) == [], what
    assert leaks(route, request, answer) == [], what
    assert answer.status < 500 or (answer.status == 503 and answer.headers["retry-after"].isdigit()), what


def ask_all(served: Served, number: int) -> set[int]:
    """Requests to every route, all of them sound. The statuses that came back."""
    seen = set()
    for route in served.routes:
        bodies = sound_specs() if route.body else no_bodies()
        for request in drawn(requests(route, NAMES, bodies, own_id), CASES, number + route.number):
            answer = served.send(request)
            check(served, route, request, answer)
            seen.add(answer.status)
    return seen


def ready(served: Served) -> bool:
    """Whether the agent becomes ready."""
    deadline = time.monotonic() + SECONDS
    while served.lab.api("GET", "/readyz").status != 200:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_while_libvirt_is_away(served: Served, fuzz_seed: int) -> None:
    before = served.lab.snapshot()
    served.populate()
    served.lab.kill_libvirtd()
    assert 503 in ask_all(served, fuzz_seed)
    served.settle()
    served.lab.start_libvirtd()
    assert ready(served)
    assert [
        one["problem"]["status"] for one in served.operations() if one["problem"] and one["problem"]["status"] == 500
    ] == []
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}


def test_while_the_agent_has_not_seen_libvirt_yet(served: Served, fuzz_seed: int) -> None:
    before = served.lab.snapshot()
    served.lab.kill_agent()
    served.lab.kill_libvirtd()
    served.lab.start_agent(wait=0)
    assert listens(served)
    assert served.lab.api("GET", "/readyz").status == 503
    assert ask_all(served, fuzz_seed) >= {200, 422, 503}
    served.lab.start_libvirtd()
    assert ready(served)
    assert served.vms() == []
    assert before.difference(served.lab.snapshot()) == {}


def listens(served: Served) -> bool:
    """Whether the agent answers at all before long."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return served.lab.api("GET", "/healthz").status == 200
        time.sleep(0.05)
    return False
