"""Made-up requests to the routes that the general run leaves alone, each with what is safe to ask there.

An agent without such a route must say so.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.e2e.fuzz.bodies import own_id
from tests.e2e.fuzz.oracle import check
from tests.e2e.fuzz.routes import Json, routes_of
from tests.e2e.fuzz.sent import Request, drawn, garbage, mostly, requests
from tests.e2e.fuzz.served import IDS, NAMES, Served
from tests.lab.stream import Stream

pytestmark = pytest.mark.e2e

CASES = 60
QMP = ("query-status", "query-name", "query-version", "query-block", "query-cpus-fast", "no-such-command", "quit\n")
HMP = ("info status", "info name", "info block", "info nothing", "nonsense", "info status\nquit", "info status\0quit")
ODD: tuple[object, ...] = (
    None,
    1,
    True,
    [],
    {},
    "",
    " ",
    "\t",
    "x" * 5000,
    "é",
    "\u202equery-status",
    ["query-status"],
    {"execute": "quit"},
)


def qmp_bodies() -> st.SearchStrategy[object]:
    """QMP commands that only look, and such as are none."""
    execute = mostly(st.sampled_from(QMP), of=3, other=st.sampled_from(ODD))
    arguments: st.SearchStrategy[object] = st.sampled_from([{}, {"x": 1}, None, 1, [], {"x": {"y": [None] * 50}}])
    ident = st.sampled_from([{}, 1, "x"])
    return st.fixed_dictionaries({"execute": execute}, optional={"arguments": arguments, "id": ident})


def hmp_bodies() -> st.SearchStrategy[object]:
    """HMP commands that only look, and such as are none."""
    command = mostly(st.sampled_from(HMP), of=3, other=st.sampled_from(ODD))
    return st.fixed_dictionaries({"command": command}, optional={"execute": st.just("query-status")})


@pytest.mark.parametrize(("monitor", "bodies"), [("qmp", qmp_bodies()), ("hmp", hmp_bodies())])
def test_monitors(served: Served, monitor: str, bodies: st.SearchStrategy[object], fuzz_seed: int) -> None:
    before = served.lab.snapshot()
    served.populate()
    built = {route.key: route for route in routes_of(served.document)}
    if route := built.get(f"POST /v1/vms/{{id}}/{monitor}"):
        for request in drawn(requests(route, NAMES, mostly(bodies, of=5, other=garbage()), own_id), CASES, fuzz_seed):
            check(served, route, request, served.send(request))
        print(served.told())
        assert served.statuses[route.told["operationId"], 200]
    else:
        answer = served.send(
            Request("POST", f"/v1/vms/{IDS[0]}/{monitor}", {}, b'{"execute": "quit", "command": "quit"}')
        )
        assert (answer.status, answer.json["detail"]) == (404, "there is no such action")
    assert running(served) == {IDS[0], IDS[1]}
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}


LASTS = ("", "0", "00000000.0", "ffffffff.999999999999999", "1f2e3d4c.-1", "1f2e3d4c.17\t", "x" * 4000, "%00", "1.1.1")
QUERIES = ("", f"?vm={IDS[0]}", "?vm=", "?vm=x", f"?vm={IDS[0]}&vm={IDS[1]}", "?after=1", "?vm=i-000000000%D9%A1")


@pytest.mark.parametrize("query", QUERIES)
def test_streams(served: Served, query: str) -> None:
    route = next(one for one in routes_of(served.document) if one.key == "GET /v1/events")
    socket = str(served.lab.path("/run/lvagent/api.sock"))
    for last in LASTS:
        with Stream(socket, query, last.strip()) as stream:
            refused = stream.status != 200
            assert str(stream.status) in route.told["responses"]
            assert refused == (query not in ("", f"?vm={IDS[0]}")), (query, stream.status)
            if not refused and last:
                assert "reason" in stream.wait("reset").detail
    with Stream(socket, f"?vm={IDS[0]}") as stream:
        served.populate()
        served.clear()
        assert stream.wait("deleted").told["vm"] == IDS[0]
        assert {seen.told["vm"] for seen in stream.events} == {IDS[0]}


def test_kill(served: Served, fuzz_seed: int) -> None:
    """Pids that nobody has, or that are no strays: init, the agent, a guest; and bodies of every kind."""
    before = served.lab.snapshot()
    served.populate()
    pids = ["1", "2", "9999999", str(served.vms()[0]["pid"]), "0", "-1", "x", "01"]
    body = st.fixed_dictionaries(
        {"identity": mostly(st.sampled_from(["1", "123456"]), of=3, other=st.sampled_from(ODD))}
    )
    [route] = [one for one in routes_of(served.document) if one.key == "POST /v1/strays/{pid}/kill"]
    made = requests(route, pids, mostly(body, of=5, other=garbage()), own_id)
    for request in drawn(made, CASES, fuzz_seed):
        answer = served.send(request)
        check(served, route, request, answer)
        assert answer.status >= 400
    assert running(served) == {IDS[0], IDS[1]}
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}


def running(served: Served) -> set[str]:
    """The VMs that run."""
    found: list[Json] = served.vms()
    return {one["id"] for one in found if one["state"] == "running"}
