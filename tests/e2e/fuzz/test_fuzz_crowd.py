"""Made-up requests from a crowd at once: all about the same three VMs, their addresses, volumes, ways in and out.

Every route that ends is asked, so that whatever is looked at comes and goes meanwhile: VMs, VPCs and their uplinks,
peerings, published ports, floating addresses.
"""

from __future__ import annotations

import contextlib
import random
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st

from tests.e2e.fuzz.bodies import FLOATING, flows, no_bodies, own_id, sound_bodies
from tests.e2e.fuzz.oracle import check
from tests.e2e.fuzz.routes import Route, routes_of
from tests.e2e.fuzz.sent import Request, drawn, requests
from tests.e2e.fuzz.served import CANARY, IDS, NAMES, NETS, Served
from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

CROWD = 24
CHANGES, READS = 30, 10
FEW = {
    **dict.fromkeys(("putFloating", "deleteFloating", "explainLive", "sweep", "askQmp", "askHmp", "killStray"), 10),
    **dict.fromkeys(("putVpc", "deleteVpc", "putPorts", "putPeering", "deletePeering", "plan"), 20),
}
"""How often something is asked for that takes long, or where one waits for the other."""

ENDLESS = {"followEvents"}
MANY = 10
"""So many times as many requests, where there is time."""

FLOOD = 30
"""Creates at once, of which two may run and six wait."""


def wishes(served: Served, number: int) -> list[tuple[Route, Request]]:
    """Sound requests to every route, most of them changes, in a random order."""
    found = []
    for route in routes_of(served.document):
        operation = route.told["operationId"]
        if operation not in ENDLESS:
            count = FEW.get(operation, READS if route.method == "GET" else CHANGES)
            found += [(route, one) for one in drawn(sound(route), count, number + route.number)]
    random.Random(number).shuffle(found)
    return found


def sound(route: Route) -> st.SearchStrategy[Request]:
    """Sound requests to a route."""
    operation = route.told["operationId"]
    if operation in ("explain", "explainLive"):
        return flows().map(lambda flow: Request(route.method, f"{route.path}?{urllib.parse.urlencode(flow)}", {}))
    bodies = sound_bodies(operation) if route.body else no_bodies()
    return requests(route, (*NAMES, *FLOATING, "4242"), bodies, own_id)


def crowd(served: Served, number: int) -> None:
    """Send them all at once, and check the answers; in the end the host is as it was."""
    before = served.lab.snapshot()
    with ThreadPoolExecutor(CROWD) as pool:
        for checked in [pool.submit(ask, served, *wish) for wish in wishes(served, number)]:
            checked.result()
    print(served.told())
    assert [problem for problem in served.settle(120) if problem["status"] >= 500] == []
    served.clear()
    assert before.difference(served.lab.snapshot()) == {}
    assert "Traceback" not in served.lab.agent_log(1 << 30)


def test_a_crowd_is_served_as_one_would_be(served: Served, fuzz_seed: int) -> None:
    crowd(served, fuzz_seed)


@pytest.mark.slow
@pytest.mark.fuzz
def test_crowds_are_served_as_one_would_be(served: Served, fuzz_seed: int, fuzz_cases: int) -> None:
    for turn in range(1, 1 + (fuzz_cases or MANY)):
        print(f"--fuzz-seed {fuzz_seed + 1000 * turn}")
        crowd(served, fuzz_seed + 1000 * turn)


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


HANDS = (
    "ip netns delete {vpc}",
    "ip -n {vpc} link delete {bridge}",
    "ip -n {vpc} link delete $(ip -n {vpc} -br link | grep -o '^px-[a-z]*' | head -1)",
    "ip -n {vpc} link set {bridge} down",
    "ip -n lvfabric link delete lvb100",
    "ip link delete $(ip -br link | grep -o '^ux-[a-z]*' | head -1)",
    "ip netns exec {vpc} nft flush ruleset",
    "ip netns exec {vpc} nft delete table inet lvagent",
    "nft delete table inet lvagent",
    "rm -rf /run/lvagent/dnsmasq/{vpc}",
    "kill $(cat /run/lvagent/dnsmasq/{vpc}/pid)",
    "virsh destroy {vm}",
    "virsh suspend {vm}",
    "virsh start {vm}",
    "virsh undefine {vm}",
    "rm -f /var/log/lvagent/{vm}.log /var/lib/lvagent/state/timelines/{vm}.jsonl",
)
"""What somebody with a shell does to what is the agent's, at any moment."""

DEFECT = "urn:lvagent:error:internal"


@pytest.mark.slow
@pytest.mark.fuzz
def test_a_crowd_is_served_while_hands_meddle(served: Served, fuzz_seed: int, fuzz_cases: int) -> None:
    """Something may fail then, but never for a reason that nobody thought of; and it comes right again."""
    for turn in range(fuzz_cases or 3):
        number = fuzz_seed + 1000 * turn
        print(f"--fuzz-seed {number}")
        before = served.lab.snapshot()
        over = threading.Event()
        with ThreadPoolExecutor(CROWD) as pool, ThreadPoolExecutor(1) as hands:
            meddling = hands.submit(meddle, served, random.Random(number), over)
            answers = [pool.submit(served.send, request) for _, request in wishes(served, number)]
            told = Counter((one.result().status, one.result().text) for one in answers if one.result().status >= 500)
            over.set()
            meddling.result()
        print("\n".join(f"{times}x{status} {text}" for (status, text), times in sorted(told.items())))
        assert [text for _, text in told if DEFECT in text] == []
        assert "Traceback" not in served.lab.agent_log(1 << 30)
        settled(served)
        assert before.difference(served.lab.snapshot()) == {}


def meddle(served: Served, chance: random.Random, over: threading.Event) -> None:
    """Do one of those things after the other, until it is over."""
    while not over.is_set():
        vpc, subnet, *_ = chance.choice(NETS)
        bridge = subnet.replace("subnet-", "br-")
        command = chance.choice(HANDS).format(vpc=vpc, bridge=bridge, vm=chance.choice(IDS))
        served.lab.run(["sh", "-c", command], check=False)
        over.wait(chance.uniform(0, 0.2))


def settled(served: Served) -> None:
    """Let there be nothing again. What hands undefined runs on, and is theirs to end; what was published of it is kept
    for who defines it again, and goes with the next VM of that id."""
    for one in IDS:
        served.lab.virsh("destroy", one, check=False)
    served.settle(120)
    for _ in range(2):
        assert served.lab.api("POST", "/v1/sweep?force=true").status == 200
    served.clear()
    for one in served.lab.api("GET", "/v1/floating").json["items"]:
        assert served.lab.api("DELETE", f"/v1/floating/{one['address']}").status == 204
    for one in IDS:
        if served.lab.path(f"/var/lib/lvagent/vpcs/{one}.ports.json").exists():
            assert served.lab.api("POST", "/v1/vms", {**vm(0, nic(), memory_mb=16), "id": one}).status == 201
            served.clear()
    assert served.lab.api("POST", "/v1/sweep?force=true").status == 200
