"""Peerings as the agent keeps them: with VMs that come and go, errors at each step, restarts."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from lvagent.agent.core import Agent
from lvagent.agent.locks import VpcLocks
from lvagent.errors import Conflict, HostError, NotFound
from lvagent.plan import diff
from lvagent.plan.resources import Group, Peer
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import PeeringState, peering
from lvagent.spec.vm import VmConfig
from tests.unit.agent.fakes import FakeHost

A, B, C = (f"vpc-{letter * 10}" for letter in "abc")


def vm(number: int, vpc: str, net: int | None = None, **more: object) -> VmConfig:
    """A VM in a VPC, with the address .10 + its number in 10.0.<net>.0/24."""
    third = number if net is None else net
    nic = {
        "vxlanid": 0,
        "netname": vpc,
        "subnetname": f"subnet-{vpc[4:12]}{third:02}",
        "position": 0,
        "ipv4": f"10.0.{third}.{number + 10}/24",
        "gateway_v4": f"10.0.{third}.1",
    }
    return parse_vm({"id": f"i-{number:010}", "memory_mb": 64, "cpus": 1, "networks": [nic], **more})


ONE, TWO = vm(1, A), vm(2, B)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def ends(host: FakeHost) -> set[tuple[str, str]]:
    """Pairs (VPC, the other) of the ends that are there."""
    return {(one.vpc, one.other) for one in host.wires.there if isinstance(one, Peer)}


def both(*vpcs: str) -> set[tuple[str, str]]:
    return {(one, other) for one in vpcs for other in vpcs if one != other}


def test_the_link_is_there_while_both_vpcs_are(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(ONE)
    new, view = agent.peers.put(B, A)
    assert (new, view.state, ends(host)) == (True, PeeringState.WAITING, set())
    assert B in view.reason
    agent.put(TWO)
    assert ends(host) == both(A, B)
    assert agent.peers.one(A, B).state is PeeringState.UP
    agent.delete(TWO.id)
    assert ends(host) == set()
    agent.put(TWO)
    assert ends(host) == both(A, B)
    agent.delete(ONE.id)
    assert ends(host) == set()
    assert agent.peers.all()[0].state is PeeringState.WAITING


def test_it_is_made_at_once_and_taken_away_at_once(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(ONE)
    agent.put(TWO)
    before = host.state()
    assert agent.peers.put(A, B)[0] is True
    assert agent.peers.put(B, A)[0] is False
    assert ends(host) == both(A, B)
    agent.peers.delete(B, A)
    assert host.state() == before
    for call in (agent.peers.one, agent.peers.delete):
        with pytest.raises(NotFound):
            call(A, B)


def test_a_subnet_more_is_routed_by_the_other(host: FakeHost) -> None:
    agent = host.agent()
    for spec in (ONE, TWO):
        agent.put(spec)
    agent.peers.put(A, B)

    def nets() -> list[str]:
        found = (one for one in host.wires.there if isinstance(one, Peer) and one.vpc == A)
        return [str(net) for one in found for net in one.nets]

    agent.put(vm(3, B))
    assert nets() == ["10.0.2.0/24", "10.0.3.0/24"]
    agent.delete("i-0000000003")
    assert nets() == ["10.0.2.0/24"]


def test_a_name_in_a_rule_is_kept_up_to_date_across(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(vm(1, A, rules=[{"proto": "tcp", "source": TWO.id}]))
    agent.peers.put(A, B)

    def nets() -> list[str]:
        return [str(net) for one in host.wires.there if isinstance(one, Group) and one.vpc == A for net in one.nets]

    assert nets() == []
    agent.put(TWO)
    assert nets() == ["10.0.2.12/32"]
    agent.peers.delete(A, B)
    assert nets() == []


def test_overlaps_are_refused_whoever_comes_last(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(ONE)
    agent.put(vm(2, B, 1))
    with pytest.raises(Conflict, match=r"10\.0\.1\.0/24"):
        agent.peers.put(A, B)
    assert (host.peerings.documents, ends(host)) == ({}, set())
    agent.delete("i-0000000002")
    agent.peers.put(A, B)
    before = host.state()
    for attempt in (agent.put, agent.plan):
        with pytest.raises(Conflict) as raised:
            attempt(vm(2, B, 1))
        assert (raised.value.path, raised.value.other) == ("networks[0].ipv4", f"{A}/{B}")
    agent.put(TWO)
    with pytest.raises(Conflict):
        agent.put(vm(2, B, 1))
    agent.delete(TWO.id)
    assert host.state() == before


def test_overlaps_that_libvirt_brings_are_not_routed(host: FakeHost) -> None:
    agent = host.agent()
    for spec in (ONE, vm(2, B, 1)):
        agent.put(spec)
    host.peerings.documents[f"{A}_{B}"] = {}
    agent = host.agent()
    assert agent.peers.one(A, B).state is PeeringState.CONFLICT
    assert ends(host) == set()


def test_whatever_fails_there_is_a_peering_or_none(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(ONE)
    agent.put(TWO)
    before = host.state()
    for at in range(1, 20):
        host.breaker.arm(at)
        try:
            agent.peers.put(A, B)
        except HostError:
            host.breaker.arm(-1)
            assert host.state() == before, at
            with pytest.raises(NotFound):
                agent.peers.one(A, B)
        else:
            assert at > 3
            assert ends(host) == both(A, B)
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("change", ["put", "delete"])
def test_a_crash_at_any_step_leaves_a_peering_or_none(host: FakeHost, change: str) -> None:
    agent = host.agent()
    agent.put(ONE)
    agent.put(TWO)
    outcomes = set()
    for at in range(1, 20):
        if change == "delete":
            agent.peers.put(A, B)
        elif host.peerings.documents:
            agent.peers.delete(A, B)
        host.breaker.arm(at, lasting=True)  # nothing works from here on, the undoing neither: as if killed
        with contextlib.suppress(HostError):
            getattr(agent.peers, change)(A, B)
        ended = host.breaker.calls < at
        host.breaker.arm(-1)
        agent = host.agent()
        wished = bool(host.peerings.documents)
        outcomes.add(wished)
        assert ends(host) == (both(A, B) if wished else set()), at
        if ended:
            assert outcomes == {True, False}
            return
    raise AssertionError("it never ended")


def test_a_neighbour_that_cannot_be_linked_is_no_failure_of_a_vm(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(ONE)
    agent.peers.put(A, B)
    host.breaker.refuse = "ensure Peer"
    agent.put(TWO)
    assert ends(host) == set()
    assert agent.peers.one(A, B).state is PeeringState.DOWN
    host.breaker.refuse = ""
    assert agent.sweep()
    assert ends(host) == both(A, B)


def test_a_link_that_nobody_wants_is_told_of_and_swept(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(ONE)
    agent.put(TWO)
    agent.peers.put(A, B)
    host.peerings.documents.clear()
    there = {one for one in host.wires.there if isinstance(one, Peer)}
    agent = host.agent(sweep=False)
    host.wires.there |= there
    assert agent.sweep()
    assert ends(host) == set()
    host.wires.there |= there
    assert {one.name for one in agent.strays().objects if one.kind == "peer"} == {diff.describe(one) for one in there}


def test_two_vpcs_are_locked_in_one_order(tmp_path: Path) -> None:
    locks = VpcLocks(tmp_path)
    done = []

    def work(one: str, other: str) -> None:
        for _ in range(200):
            with locks.both(one, other, within=20):
                pass
        done.append(one)

    threads = [threading.Thread(target=work, args=pair) for pair in ((A, B), (B, A), (B, C), (C, A))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 4


def test_many_at_once(host: FakeHost) -> None:
    agent = host.agent()
    for spec in (ONE, TWO, vm(3, C)):
        agent.put(spec)

    def work(one: str, other: str, agent: Agent = agent) -> None:
        for _ in range(5):
            agent.peers.put(one, other)
            agent.peers.delete(other, one)
        agent.peers.put(one, other)

    threads = [threading.Thread(target=work, args=pair) for pair in ((A, B), (B, C), (C, A))]
    churn = threading.Thread(target=lambda: [(agent.delete(TWO.id), agent.put(TWO)) for _ in range(5)])
    for thread in (*threads, churn):
        thread.start()
    for thread in (*threads, churn):
        thread.join(60)
    assert agent.sweep()
    assert ends(host) == both(A, B, C)
    assert agent.peers.all()[0].peering == peering(A, B)


def test_nothing_is_done_to_a_vpc_that_comes_while_the_other_is_locked(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes it has its lock, and joins the two when he is done."""
    agent = host.agent()
    agent.put(ONE)
    agent.put(TWO)
    agent.peers.put(A, B)
    links, vpcs = agent._networks.links, host.wires.vpcs
    host.wires.there = {one for one in host.wires.there if not isinstance(one, Peer)}

    def not_yet() -> frozenset[str]:
        monkeypatch.setattr(host.wires, "vpcs", vpcs)
        return frozenset({A})

    monkeypatch.setattr(host.wires, "vpcs", not_yet)
    links.join(A, B, remove=True)
    assert ends(host) == set()
    links.join(A, B, remove=True)
    assert ends(host) == both(A, B)
