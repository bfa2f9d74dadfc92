"""What an agent measures: as it is, gone with what it is of, and never late, whoever hangs."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvagent.agent.core import Agent
from lvagent.agent.looks import Looks
from lvagent.errors import Conflict, HostError, Unavailable
from lvagent.host.nft_read import Counted
from lvagent.plan.sessions import KeptFlow, Tuple
from lvagent.render.elements import Rule
from lvagent.spec.metrics import Amount, Metrics, Traffic, VmMetrics, VpcMetrics
from lvagent.spec.parse import parse_vm
from lvagent.spec.publications import parse_publications
from lvagent.spec.status import Action, State
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.unit.agent.fakes import FakeHost
from tests.unit.api.specs import vm
from tests.unit.plan.test_uplinks import WAYS

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
ONE, TWO = "i-0000000001", "i-0000000002"
SIZE = vm(1)["memory_mb"] << 20


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path / "locks")
    found.policy = dataclasses.replace(found.policy, uplinks=WAYS)
    return found


@pytest.fixture
def agent(host: FakeHost) -> Iterator[Agent]:
    made = host.agent()
    made.put_vpc(A, VpcConfig(uplink=UplinkMode.NAT))
    for number in (1, 2):
        made.put(parse_vm(vm(number)))
    yield made
    made.close()


def seen(agent: Agent, enough: Callable[[Metrics], object]) -> Metrics:
    """What is measured once it is so; looks are made beside, and of a busy machine."""
    deadline = time.monotonic() + 40
    while not enough(found := agent.metrics()):
        assert time.monotonic() < deadline, found
        due(agent)
        time.sleep(0.01)
    return found


def due(agent: Agent) -> None:
    """Have all looked at again."""
    for looks in (agent._measures._vpcs, agent._measures._peers):
        looks._rests_until = 0.0
        for key, found in looks._found.items():
            looks._found[key] = dataclasses.replace(found, due=0.0)


def of(metrics: Metrics, vm: str = ONE) -> VmMetrics:
    return next(one for one in metrics.vms if one.id == vm)


def vpc(metrics: Metrics, name: str = A) -> VpcMetrics:
    return next(one for one in metrics.vpcs if one.name == name)


def test_vms_as_they_are_and_as_they_shall_be(agent: Agent, host: FakeHost) -> None:
    assert [(one.id, one.state, one.wanted, one.vpcs) for one in agent.metrics().vms] == [
        (ONE, State.RUNNING, "running", (A,)),
        (TWO, State.RUNNING, "running", (A,)),
    ]
    agent.power(TWO, Action.STOP)
    agent.put(parse_vm(vm(1, memory_mb=999)))
    found = agent.metrics()
    assert (of(found, TWO).state, of(found, TWO).wanted) == (State.STOPPED, "stopped")
    assert (of(found).drift, of(found).memory_bytes) == (1, SIZE), "what runs has the old size"


def test_what_is_looked_at_of_a_vpc(agent: Agent, host: FakeHost) -> None:
    host.wires.counters[A] = [Counted(Rule("in-0000000001", "closed"), 1, 7, 420)]
    host.wires.traffic[A] = {"t0000000001-0": Traffic(Amount(5, 500), Amount(7, 700))}
    host.wires.traffic[""] = {"ux-aaaaaaaaaa": Traffic(Amount(1, 10), Amount(2, 20))}
    host.dhcp.leases = {"10.0.0.5": time.time()}
    own, web = ip_address("10.0.0.5"), ip_address("198.51.100.9")
    out = Tuple(own, web, 6, 40_000, 80), Tuple(web, ip_address("198.19.0.3"), 6, 80, 40_000)
    host.wires.kept_flows[A] = [KeptFlow(*out, 1234)]
    found = seen(agent, lambda found: of(found).refused_in.packets and vpc(found).traffic)
    assert of(found).refused_in == Amount(7, 420)
    assert of(found).ports[0].traffic == Traffic(Amount(5, 500), Amount(7, 700))
    assert (of(found).ports[0].leased, of(found).sessions) == (1, {A: (1, 1234)})
    assert (of(found, TWO).ports[0].traffic, of(found, TWO).sessions) == (None, {A: (0, 0)})
    assert (vpc(found).flows, vpc(found).most_flows, vpc(found).counted) == (1, 1 << 18, True)
    assert (vpc(found).up, vpc(found).mode) == (True, "nat")
    assert vpc(found).traffic == Traffic(Amount(1, 10), Amount(2, 20))
    assert abs((vpc(found).looked_at or 0) - time.time()) < 60
    assert found.host is not None
    assert (found.host.slots, found.host.slots_used) == (32767, 1)


def test_an_uplink_that_is_in_trouble_is_not_up(agent: Agent, host: FakeHost) -> None:
    host.wires.troubles = ("table ip filter, chain FORWARD: policy drop",)
    found = agent.metrics()
    assert (vpc(found).up, vpc(found).troubles) == (False, 1)


def test_published_ports_are_counted_with_their_vm(agent: Agent) -> None:
    wish = parse_publications([{"host_port": 8080, "host_port_end": 8089}, {"host_port": 9000}])
    agent.put_ports(ONE, wish)
    assert [one.published for one in agent.metrics().vms] == [{A: 11}, {}]


def test_peerings_by_state(agent: Agent, host: FakeHost) -> None:
    agent.peers.put(A, B)
    found = seen(agent, lambda found: found.peerings)
    assert [(str(one.peering), one.state.value) for one in found.peerings] == [(f"{A}/{B}", "waiting")]


def test_crashes_and_restarts_are_counted_and_go_with_the_vm(agent: Agent, host: FakeHost) -> None:
    for _ in range(2):
        host.domains.end(ONE, State.CRASHED, "qemu ended unexpectedly")
        agent.observe(ONE)
        agent.observe(ONE)
        agent.revival.work()
        host.now += 60
        agent.revival.work()
        deadline = time.monotonic() + 30
        while not agent.revival.idle:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert of(agent.metrics()).state is State.RUNNING
    found = agent.metrics()
    assert [(one.crashes, one.restarts) for one in found.vms] == [(2, 2), (0, 0)]
    assert found.host is not None
    assert {key: sum(one.counts) for key, one in found.host.counted.operations.items()} == {
        ("create", "done"): 2,
        ("restart", "done"): 2,
    }
    agent.delete(ONE)
    assert [one.id for one in agent.metrics().vms] == [TWO]
    assert set(agent._measures.lives.all()) == {TWO}
    agent._measures.lives.restarted(ONE)
    assert agent._measures.lives._restarts == {}


def test_nothing_of_a_vpc_outlives_it(agent: Agent) -> None:
    seen(agent, lambda found: vpc(found).looked_at)
    for one in (ONE, TWO):
        agent.delete(one)
    agent.delete_vpc(A)
    assert agent.sweep()
    assert set(agent._measures._vpcs.known()) <= {""}
    found = agent.metrics()
    assert (found.vms, found.vpcs) == ((), ())


def test_how_operations_end(agent: Agent, host: FakeHost) -> None:
    with pytest.raises(Conflict):
        agent.put(parse_vm({**vm(3), "networks": vm(1)["networks"]}))
    host.breaker.refuse = "destroy"
    with pytest.raises(HostError):
        agent.power(ONE, Action.STOP)
    host.breaker.refuse = ""
    found = agent.metrics().host
    assert found is not None
    assert found.counted.operations.keys() == {("create", "done"), ("create", "refused"), ("stop", "failed")}
    assert found.counted.happened["operation",] == 4


def test_sweeps_what_they_repair_and_what_is_healed(agent: Agent, host: FakeHost) -> None:
    before = agent.metrics().host
    assert before is not None
    assert before.counted.repaired == 0
    gone = next(one for one in host.wires.there if type(one).__name__ == "Subnet")
    host.wires.there.discard(gone)
    assert agent.sweep()
    agent.heal(A)
    after = agent.metrics().host
    assert after is not None
    assert (after.counted.repaired, after.counted.healed) == (1, {("vpc",): 1})
    assert sum(after.counted.sweeps["done",].counts) == sum(before.counted.sweeps["done",].counts) + 1
    assert after.swept_at is not None


def test_while_libvirt_is_away_the_last_known_is_told_and_that_it_is_old(agent: Agent, host: FakeHost) -> None:
    def away() -> tuple[object, ...]:
        raise Unavailable("libvirtd")

    host.domains.records = away  # type: ignore[method-assign,assignment]
    assert not agent.sweep()
    found = agent.metrics()
    assert found.host is not None
    assert (found.host.ready, sum(found.host.counted.sweeps["failed",].counts)) == (False, 1)
    assert found.at - (found.host.stale_since or 0) < 60
    assert [one.state for one in found.vms] == [State.RUNNING] * 2


def test_before_the_first_sweep_there_is_the_agent_alone(host: FakeHost) -> None:
    agent = host.agent(sweep=False)
    found = agent.metrics()
    assert (found.vms, found.vpcs, found.host is not None and found.host.ready) == ((), (), False)
    agent.close()


def test_a_look_that_hangs_holds_no_scrape_up(agent: Agent, host: FakeHost) -> None:
    first = seen(agent, lambda found: vpc(found).looked_at)
    go_on = threading.Event()
    host.wires.when_carried = lambda _vpc: assert_(go_on.wait(30))
    due(agent)
    try:
        for _ in range(3):
            begun = time.monotonic()
            found = agent.metrics()
            assert time.monotonic() - begun < 20  # the look hangs for 30
            assert vpc(found).looked_at == vpc(first).looked_at, "as it was seen last"
            assert len(found.vms) == 2
    finally:
        go_on.set()
    seen(agent, lambda found: (vpc(found).looked_at or 0) > (vpc(first).looked_at or 0))


def assert_(true: bool) -> None:
    assert true


# looks


class Eyes:
    """Looks at numbers; those in ``broken`` cannot be looked at."""

    def __init__(self, budget: float = 60) -> None:
        self.looked: list[str] = []
        self.slow = 0.0
        self.broken: set[str] = set()
        self.executor = ThreadPoolExecutor(max_workers=1)
        self.looks: Looks[str, int] = Looks(self._look, self.executor, budget)

    def _look(self, key: str) -> int:
        self.looked.append(key)
        time.sleep(self.slow)
        if key in self.broken:
            raise HostError(key, "look at", "it is not there")
        return len(self.looked)

    def refresh(self, *keys: str, anew: tuple[str, ...] = ()) -> dict[str, int | None]:
        self.looks._rests_until = 0.0
        future = self.looks.refresh(keys, anew)
        if future is not None:
            future.result(30)
        return {key: found.value for key, found in self.looks.known().items()}


@pytest.fixture
def eyes() -> Iterator[Eyes]:
    made = Eyes()
    yield made
    made.executor.shutdown()


def test_what_was_found_a_moment_ago_is_told_again(eyes: Eyes) -> None:
    assert eyes.refresh("a", "b") == {"a": 1, "b": 2}
    assert eyes.refresh("a", "b") == {"a": 1, "b": 2}
    assert eyes.refresh("a", "b", "c") == {"a": 1, "b": 2, "c": 3}
    assert eyes.refresh("a", "b", "c", anew=("a",)) == {"a": 4, "b": 2, "c": 3}
    assert eyes.looked == ["a", "b", "c", "a"]


def test_what_nobody_wants_is_forgotten(eyes: Eyes) -> None:
    eyes.refresh("a", "b")
    assert eyes.refresh("b") == {"b": 2}
    eyes.looks.keep(())
    assert eyes.looks.known() == {}


def test_one_that_cannot_be_looked_at_is_in_nobodys_way(eyes: Eyes) -> None:
    eyes.broken = {"a"}
    assert eyes.refresh("a", "b") == {"a": None, "b": 2}


def test_who_has_looked_for_long_rests_and_goes_on_with_what_was_not_seen_for_longest() -> None:
    eyes = Eyes(budget=0)
    eyes.slow = 0.1
    assert [set(eyes.refresh("a", "b", "c")) for _ in range(3)] == [{"a"}, {"a", "b"}, {"a", "b", "c"}]
    assert eyes.looks.refresh(("a", "b", "c", "d")) is None, "it rests"
    eyes.executor.shutdown()


def test_nothing_is_looked_at_after_the_end(eyes: Eyes) -> None:
    eyes.looks.close()
    assert eyes.refresh("a") == {}
