"""Published ports and floating addresses in an agent: all or nothing, over restarts, and gone with their VM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path

import pytest

from lvagent.agent.core import Agent
from lvagent.errors import Conflict, HostError, NotFound, Superseded
from lvagent.host.listeners import Listener
from lvagent.host.wishes import WishFiles
from lvagent.plan.resources import Inward, Plug, Proxy, Uplink
from lvagent.render.inward import inward
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.publications import Floating, digest, parse_publications
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.unit.agent.fakes import FakeHost
from tests.unit.api.specs import vm
from tests.unit.plan.test_uplinks import WAYS

A = "vpc-aaaaaaaaaa"
ONE, TWO = "i-0000000001", "i-0000000002"
NAT = VpcConfig(uplink=UplinkMode.NAT)
PORTS = parse_publications([{"host_port": 8080, "port": 80}])
OTHER = parse_publications([{"host_port": 8081, "port": 80}])
FLOAT = Floating("203.0.113.50", ONE)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path / "locks")
    links = {"eth0": (ip_interface("203.0.113.1/24"), ip_interface("2001:db8::1/64"))}
    ways = dataclasses.replace(WAYS, links=links, ways={4: "eth0"})
    found.policy = dataclasses.replace(found.policy, uplinks=ways, led=inward)
    found.wishes = WishFiles(tmp_path / "vpcs", names.VPC_NAME)
    found.ports = WishFiles(tmp_path / "vpcs", names.VM_ID, "ports")
    found.floats = WishFiles(tmp_path / "vpcs", names.ADDRESS, "floating")
    return found


@pytest.fixture
def agent(fake: FakeHost) -> Agent:
    made = fake.agent()
    made.put_vpc(A, NAT)
    for number in (1, 2):
        made.put(parse_vm(vm(number)))
    return made


def led(fake: FakeHost) -> set[type]:
    return {type(one) for one in fake.wires.there if isinstance(one, Inward | Proxy)}


def files(fake: FakeHost) -> tuple[frozenset[str], frozenset[str]]:
    assert fake.ports is not None
    assert fake.floats is not None
    return fake.ports.keys(), fake.floats.keys()


def test_whoever_saw_other_ports_changes_none(agent: Agent) -> None:
    seen = digest(agent.ports(ONE))
    assert agent.put_ports(ONE, PORTS, {"", seen}) == PORTS
    with pytest.raises(Superseded, match="other ports"):
        agent.put_ports(ONE, (), {seen})
    assert agent.put_ports(ONE, (), {digest(PORTS)}) == ()


def test_they_are_there_after_a_restart_and_go_with_their_vm(fake: FakeHost, agent: Agent) -> None:
    assert agent.put_ports(ONE, PORTS) == PORTS
    assert agent.put_floating(FLOAT) == FLOAT
    assert led(fake) == {Inward, Proxy}
    state = fake.state()
    after = fake.agent()
    assert fake.state() == state
    assert (after.vm(ONE).published, after.vm(ONE).floating) == (PORTS, (FLOAT.address,))
    assert [one.implied for one in after.rules(ONE).rules][-1]
    after.delete(ONE)
    assert led(fake) == set()
    assert files(fake) == (frozenset(), frozenset())
    assert not any(isinstance(one, Uplink) and one.routes for one in fake.wires.there)
    with pytest.raises(NotFound):
        after.floating_address(FLOAT.address)
    with pytest.raises(NotFound):
        after.ports(ONE)


def test_a_new_vm_of_an_id_does_not_get_what_an_old_one_had(fake: FakeHost, agent: Agent) -> None:
    agent.put_ports(ONE, PORTS)
    agent.put_floating(FLOAT)
    agent.put_ports(TWO, OTHER)
    fake.wires.unplug(ONE)
    del fake.domains.found[ONE]  # virsh destroy, virsh undefine
    after = fake.agent()
    after.put(parse_vm(vm(1)))
    assert after.ports(ONE) == ()
    assert files(fake) == ({TWO}, frozenset())


CHANGES: dict[str, Callable[[Agent], object]] = {
    "ports": lambda agent: agent.put_ports(ONE, OTHER),
    "no ports": lambda agent: agent.put_ports(ONE, ()),
    "move": lambda agent: agent.put_floating(dataclasses.replace(FLOAT, vm=TWO)),
    "let go": lambda agent: agent.delete_floating(FLOAT.address),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_fails_at_any_step_leaves_what_was(fake: FakeHost, agent: Agent, change: str) -> None:
    agent.put_ports(ONE, PORTS)
    agent.put_floating(FLOAT)
    before, kept = fake.state(), files(fake)
    steps = 0
    while True:
        steps += 1
        fake.breaker.arm(steps)
        try:
            CHANGES[change](agent)
        except HostError:
            fake.breaker.arm(-1)
            assert (fake.state(), files(fake)) == (before, kept), steps
            assert (agent.ports(ONE), agent.floating()) == (PORTS, (FLOAT,))
            continue
        break
    fake.breaker.arm(-1)
    assert steps > 1
    after = fake.state()
    assert after != before
    fake.agent()
    assert fake.state() == after


def test_who_listens_is_named_and_who_answers_on_the_wire(fake: FakeHost, agent: Agent) -> None:
    fake.listeners = (Listener("tcp", "", 8081, 77),)
    with pytest.raises(Conflict, match="8081 of the host is program") as listens:
        agent.put_ports(ONE, OTHER)
    assert listens.value.other == "program (pid 77)"
    fake.wires.answering[FLOAT.address] = "02:00:00:00:00:01"
    with pytest.raises(Conflict, match="02:00:00:00:00:01 answers for"):
        agent.put_floating(FLOAT)
    assert led(fake) == set()
    fake.listeners, fake.wires.answering = (), {}
    agent.put_ports(ONE, OTHER)
    agent.put_floating(FLOAT)
    fake.listeners = (Listener("tcp", "", 8081, 77),)  # somebody who came later
    fake.wires.answering[FLOAT.address] = "02:00:00:00:00:01"
    agent.put_ports(ONE, (*OTHER, *PORTS))
    agent.put_floating(dataclasses.replace(FLOAT, vm=TWO))  # it is ours: nobody is asked again


def test_a_vm_that_is_reached_keeps_what_that_needs(fake: FakeHost, agent: Agent) -> None:
    agent.put_ports(ONE, PORTS)
    elsewhere = vm(1)
    elsewhere["networks"][0] |= {"netname": "vpc-bbbbbbbbbb", "subnetname": "subnet-bbbbbbbbbb", "vxlanid": 200}
    with pytest.raises(Conflict, match="it is published: vpc-bbbbbbbbbb has no uplink"):
        agent.put(parse_vm(elsewhere))
    with pytest.raises(Conflict, match="are published"):
        agent.delete_vpc(A)
    agent.put_ports(ONE, ())
    agent.put_floating(FLOAT)
    with pytest.raises(Conflict, match="floating addresses are led to it"):
        agent.delete_vpc(A)
    agent.delete_floating(FLOAT.address)
    agent.delete_vpc(A)
    with pytest.raises(Conflict, match="no uplink"):
        agent.put_ports(ONE, PORTS)


def test_while_a_tap_of_nobody_is_in_the_vpc_nothing_changes(fake: FakeHost, agent: Agent) -> None:
    agent.put_ports(ONE, PORTS)
    before = {one for one in fake.wires.there if isinstance(one, Inward)}
    fake.wires.there.add(Plug(A, "subnet-aaaaaaaaaa", "t0000000009-0", 1450))
    with pytest.raises(Conflict, match="t0000000009-0 is in it, which no VM known here has"):
        agent.put_ports(ONE, OTHER)
    assert agent.ports(ONE) == PORTS
    assert {one for one in fake.wires.there if isinstance(one, Inward)} == before


def test_a_file_that_cannot_be_read_publishes_nothing_and_is_told(fake: FakeHost, agent: Agent, tmp_path: Path) -> None:
    agent.put_ports(ONE, PORTS)
    (tmp_path / "vpcs" / f"{ONE}.ports.json").write_text("{")
    after = fake.agent()
    assert led(fake) == set()
    assert any(f"nothing of {ONE} is published" in why for why in after.vpc(A).uplink.trouble)
    after.put_ports(ONE, PORTS)
    assert led(fake) == {Inward}
    assert after.vpc(A).uplink.trouble == ()


def test_what_is_in_the_way_to_addresses_alone_is_told_of_who_has_one(fake: FakeHost, agent: Agent) -> None:
    fake.wires.unreachable = ("table inet firewalld, chain filter_FORWARD: a rule in chain filter_FWD_public",)
    assert agent.vpc(A).uplink.trouble == ()
    agent.put_floating(FLOAT)
    assert agent.vpc(A).uplink.trouble == fake.wires.unreachable
