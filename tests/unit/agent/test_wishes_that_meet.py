"""Wishes that stand in each other's way, whichever comes first, and also if both come at once or wait for a restart."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from lvagent.agent.core import Agent
from lvagent.errors import Conflict, HostError
from lvagent.host.wishes import WishFiles
from lvagent.plan.resources import Uplink
from lvagent.render.inward import inward
from lvagent.spec import names
from lvagent.spec.flow import parse_flow
from lvagent.spec.parse import parse_vm
from lvagent.spec.publications import Floating, parse_publications
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.unit.agent.fakes import FakeHost
from tests.unit.api.specs import vm
from tests.unit.plan.test_uplinks import WAYS

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
ONE, TWO = "i-0000000001", "i-0000000002"
NAT, ROUTED = VpcConfig(uplink=UplinkMode.NAT), VpcConfig(uplink=UplinkMode.ROUTED)
FLOAT = Floating("10.9.0.50", ONE)
"""Of the network of eth0, parts of which may be routed to VPCs too."""


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path / "locks")
    links = {"eth0": (ip_interface("10.9.0.1/16"), ip_interface("10.9.0.2/16"))}
    own = frozenset(one.ip for one in links["eth0"])
    ways = dataclasses.replace(WAYS, links=links, ways={4: "eth0"}, own=own)
    found.policy = dataclasses.replace(found.policy, uplinks=ways, led=inward)
    found.wishes = WishFiles(tmp_path / "vpcs", names.VPC_NAME)
    found.ports = WishFiles(tmp_path / "vpcs", names.VM_ID, "ports")
    found.floats = WishFiles(tmp_path / "vpcs", names.ADDRESS, "floating")
    return found


@pytest.fixture
def agent(fake: FakeHost) -> Agent:
    return fake.agent()


def spec(number: int, vpc: str = A, net: str = "10.0.0", *more: dict[str, Any], **fields: object) -> VmConfig:
    """A VM with one NIC in a subnet of a VPC that has this /24, and perhaps with other NICs."""
    short = f"{vpc[4]}{net.split('.')[2].zfill(3)}{net.split('.')[1].zfill(3)}"
    nic = {
        "vxlanid": 0,
        "netname": vpc,
        "subnetname": f"subnet-{short:0<10}",
        "position": 0,
        "ipv4": f"{net}.{number + 4}/24",
        "gateway_v4": f"{net}.1",
    }
    return parse_vm({**vm(number), "networks": [nic, *more], **fields})


def nic_of(vpc: str, net: str, position: int = 1) -> dict[str, Any]:
    """Another NIC."""
    return {
        "vxlanid": 0,
        "netname": vpc,
        "subnetname": "subnet-ffffffffff",
        "position": position,
        "ipv4": f"{net}.9/24",
        "gateway_v4": f"{net}.1",
    }


def test_a_subnet_that_comes_later_does_not_cover_a_floating_address(fake: FakeHost, agent: Agent) -> None:
    agent.put_vpc(A, NAT)
    agent.put(spec(1))
    agent.put(spec(2))
    agent.put_floating(FLOAT)
    text = r"10.9.0.0/24 of vpc-aaaaaaaaaa covers the floating address 10.9.0.50"
    with pytest.raises(Conflict, match=text) as found:
        agent.put(spec(3, A, "10.9.0"))
    assert (found.value.path, found.value.other) == ("networks[0].ipv4", ONE)
    for number in (1, 2):
        with pytest.raises(Conflict, match=text) as found:
            agent.put(spec(number, A, "10.0.0", nic_of(A, "10.9.0")))
        assert found.value.path == "networks[1].ipv4"
    agent.put(spec(4, B, "10.9.0"))  # what another VPC has inside is its own matter
    agent.put(spec(3, A, "10.9.1"))


def test_a_prefix_that_is_routed_and_a_floating_address_of_another_vpc(fake: FakeHost, agent: Agent) -> None:
    agent.put_vpc(A, NAT)
    agent.put_vpc(B, ROUTED)
    agent.put(spec(1))
    agent.put(spec(2, B, "10.9.0"))
    with pytest.raises(Conflict, match=r"10.9.0.50 is in 10.9.0.0/24, which is routed to vpc-bbbbbbbbbb") as found:
        agent.put_floating(FLOAT)
    assert (found.value.path, found.value.other) == ("address", B)
    agent.delete(TWO)
    agent.put_floating(FLOAT)
    text = r"10.9.0.0/24 of vpc-bbbbbbbbbb covers the floating address 10.9.0.50"
    with pytest.raises(Conflict, match=text) as found:
        agent.put(spec(2, B, "10.9.0"))
    assert found.value.path == "networks[0].ipv4"
    agent.put_vpc(B, NAT)
    agent.put(spec(2, B, "10.9.0"))
    with pytest.raises(Conflict, match=text) as found:
        agent.put_vpc(B, ROUTED)
    assert found.value.path == "uplink"
    assert agent.vpc(B).uplink.mode == "nat"


def routed(fake: FakeHost) -> list[str]:
    """The prefixes that are routed to VPCs."""
    return sorted(str(net) for one in fake.wires.there if isinstance(one, Uplink) for net in one.routes)


def between(monkeypatch: pytest.MonkeyPatch, part: object, step: str, other: Callable[[], object]) -> None:
    """Have another call come in the midst of the next one: when this step of it is done for the first time."""
    once = getattr(part, step)

    def twice(*args: object) -> object:
        found = once(*args)
        monkeypatch.setattr(part, step, once)
        other()
        return found

    monkeypatch.setattr(part, step, twice)


def test_of_two_vms_at_once_one_has_the_prefix_routed(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vpc in (A, B):
        agent.put_vpc(vpc, ROUTED)
    between(monkeypatch, agent._vms, "prepare", lambda: agent.put(spec(2, B)))
    with pytest.raises(Conflict, match="which is routed to vpc-bbbbbbbbbb"):
        agent.put(spec(1, A))
    assert routed(fake) == ["10.0.0.0/24"]
    assert [one.spec.id for one in agent.vms()] == [TWO]


def test_a_change_at_once_with_a_new_vm_has_no_prefix_of_its(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vpc in (A, B):
        agent.put_vpc(vpc, ROUTED)
    agent.put(spec(1, A))
    between(monkeypatch, agent._vms, "check_uuid", lambda: agent.put(spec(2, B, "10.0.7")))
    with pytest.raises(Conflict, match="which is routed to vpc-bbbbbbbbbb"):
        agent.put(spec(1, A, "10.0.7"))
    assert agent.vm(ONE).spec == spec(1, A)


def test_of_many_vpcs_at_once_one_has_the_prefix_routed(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    vpcs = [f"vpc-{letter * 10}" for letter in "abcd"]
    for number, vpc in enumerate(vpcs, 1):
        agent.put(spec(number, vpc))
    check = agent._wishes._check

    def slowly(vpc: str, config: VpcConfig) -> None:
        check(vpc, config)
        time.sleep(0.02)

    monkeypatch.setattr(agent._wishes, "_check", slowly)
    barrier = threading.Barrier(len(vpcs))

    def put(vpc: str) -> bool:
        barrier.wait()
        try:
            agent.put_vpc(vpc, ROUTED)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(len(vpcs)) as pool:
        done = list(pool.map(put, vpcs))
    assert (sum(done), routed(fake)) == (1, ["10.0.0.0/24"])


def test_what_waits_for_a_restart_has_its_prefix_already(fake: FakeHost, agent: Agent) -> None:
    for vpc in (A, B):
        agent.put_vpc(vpc, ROUTED)
    agent.put(spec(1, A))
    agent.put(spec(1, A, "10.0.7"))  # it runs with the other until it is started again
    with pytest.raises(Conflict, match=r"overlaps 10.0.7.0/24, which is routed to vpc-aaaaaaaaaa"):
        agent.put(spec(2, B, "10.0.7"))
    agent.put_vpc(A, NAT)
    agent.put(spec(2, B, "10.0.7"))
    with pytest.raises(Conflict, match=r"overlaps 10.0.7.0/24, which is routed to vpc-bbbbbbbbbb"):
        agent.put_vpc(A, ROUTED)


def test_what_is_published_of_a_vm_that_moves_at_its_restart(fake: FakeHost, agent: Agent) -> None:
    for vpc in (A, B):
        agent.put_vpc(vpc, NAT)
    agent.put(spec(1, A))
    agent.put(spec(2, B))
    here = parse_publications([{"host_port": 80, "host_address": "10.9.0.1"}])
    there = parse_publications([{"host_port": 80, "host_address": "10.9.0.2"}])
    agent.put_ports(TWO, here)
    agent.put(spec(1, B))  # at its next start
    with pytest.raises(Conflict, match="in vpc-bbbbbbbbbb a port leads to one VM"):
        agent.put_ports(ONE, there)
    agent.put(spec(1, A))
    agent.put_ports(ONE, there)
    with pytest.raises(Conflict, match="in vpc-bbbbbbbbbb a port leads to one VM"):
        agent.put(spec(1, B))


def test_a_vpc_loses_its_way_out_or_something_is_led_to_it_but_not_both(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.put_vpc(A, NAT)
    agent.put(spec(1))
    none = VpcConfig(uplink=UplinkMode.NONE)
    published = agent._published, "_check_host", lambda: agent.put_ports(ONE, parse_publications([{"host_port": 80}]))
    floating = agent._floating, "_probe", lambda: agent.put_floating(FLOAT)
    for part, step, act in (published, floating):
        between(monkeypatch, part, step, lambda: agent.put_vpc(A, none))
        with pytest.raises(Conflict, match="has no uplink"):
            act()
        agent.put_vpc(A, NAT)
        assert (agent.ports(ONE), agent.floating()) == ((), ())


def test_a_vm_whose_published_address_the_host_lost_can_be_changed(fake: FakeHost, agent: Agent) -> None:
    agent.put_vpc(A, NAT)
    agent.put(spec(1))
    agent.put_ports(ONE, parse_publications([{"host_port": 80, "host_address": "10.9.0.2"}]))
    assert fake.policy.uplinks is not None
    ways = dataclasses.replace(fake.policy.uplinks, own=frozenset({ip_interface("10.9.0.1/16").ip}))
    fake.policy = dataclasses.replace(fake.policy, uplinks=ways)
    after = fake.agent()
    after.put(spec(1, memory_mb=256))
    with pytest.raises(Conflict, match=r"it is published: 10.9.0.2 is no address of this host") as found:
        after.put(spec(1, A, "10.0.7"))
    assert found.value.path == "networks[0]"
    with pytest.raises(Conflict, match=r"it is published: 10.9.0.2 is no address of this host"):
        after.plan(spec(1, A, "10.0.7"))


def test_the_port_of_the_overlay_is_not_published(fake: FakeHost, agent: Agent) -> None:
    agent.put_vpc(A, NAT)
    agent.put(spec(1))
    port = fake.policy.port
    with pytest.raises(Conflict, match=f"udp port {port} is that of the overlay") as found:
        agent.put_ports(ONE, parse_publications([{"host_port": port - 4, "host_port_end": port, "proto": "udp"}]))
    assert found.value.path == "[0].host_port"
    agent.put_ports(ONE, parse_publications([{"host_port": port}]))
    assert [str(one) for one in agent.ports(ONE)] == [f"tcp port {port}"]


def test_an_address_does_not_come_back_to_a_vm_that_went_while_it_moved(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.put_vpc(A, NAT)
    agent.put(spec(1))
    agent.put(spec(2))
    agent.put_floating(FLOAT)

    def meanwhile(name: str) -> None:
        if name == "floating.converged":
            monkeypatch.setattr("lvagent.agent.floating.point", lambda _name: None)
            agent.delete(ONE)
            raise HostError("the disk", "write", "it is full")

    monkeypatch.setattr("lvagent.agent.floating.point", meanwhile)
    with pytest.raises(HostError, match="it is full"):
        agent.put_floating(dataclasses.replace(FLOAT, vm=TWO))
    assert agent.floating() == ()
    assert fake.floats is not None
    assert fake.floats.keys() == frozenset()
    assert fake.agent().floating() == ()


def test_a_prefix_that_two_vpcs_have_since_the_settings_changed_is_routed_to_none(fake: FakeHost, agent: Agent) -> None:
    for number, vpc, net in ((1, A, "10.0.0"), (2, B, "10.0.0"), (3, B, "10.0.1"), (4, "vpc-cccccccccc", "10.0.2")):
        agent.put_vpc(vpc, VpcConfig())
        agent.put(spec(number, vpc, net))
    fake.policy = dataclasses.replace(fake.policy, uplink=UplinkMode.ROUTED)
    after = fake.agent()
    assert routed(fake) == ["10.0.1.0/24", "10.0.2.0/24"]
    told = [after.vpc(vpc).uplink.trouble for vpc in (A, B, "vpc-cccccccccc")]
    assert [[text[:48] for text in texts] for texts in told] == [
        ["10.0.0.0/24 is not routed: it is in vpc-bbbbbbbb"],
        ["10.0.0.0/24 is not routed: it is in vpc-aaaaaaaa"],
        [],
    ]
    out = parse_flow(ONE, "203.0.113.77", "tcp", 80)
    assert "10.0.0.5 is not routed to vpc-aaaaaaaaaa" in after.explain(out).walk.decider.text
    state = fake.state()
    after.sweep()
    assert fake.state() == state
    after.put(spec(1, A, "10.0.0", memory_mb=256))  # what stands already is in nobody's way
    with pytest.raises(Conflict, match="which is routed to"):
        after.put(spec(4, "vpc-cccccccccc", "10.0.0"))
    after.put_vpc(A, NAT)
    after.sweep()
    assert routed(fake) == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
    assert after.vpc(B).uplink.trouble == ()


def test_a_dns_server_that_does_not_answer_now_is_no_floating_address(fake: FakeHost, agent: Agent) -> None:
    agent.put_vpc(A, NAT)
    agent.put(spec(1))
    assert fake.policy.uplinks is not None
    fake.policy = dataclasses.replace(
        fake.policy, uplinks=dataclasses.replace(fake.policy.uplinks, resolvers=("10.9.0.53",))
    )
    after = fake.agent()
    with pytest.raises(Conflict, match=r"10\.9\.0\.53 is a DNS server of this host"):
        after.put_floating(dataclasses.replace(FLOAT, address="10.9.0.53"))


def test_a_vm_of_which_the_former_ports_cannot_be_forgotten_is_not_half_there(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = agent._networks

    def unpublish(vm: str) -> None:
        raise HostError(vm, "forget", "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(networks, "unpublish", unpublish)
        with pytest.raises(HostError, match="the disk is full"):
            agent.put(spec(1))
    assert agent.vms() == ()
    assert agent.vpcs() == ()
