"""A filter that somebody changed: that VPC is put right, and nothing is removed."""

from __future__ import annotations

import pytest

from lvagent.agent.turns import each, first
from lvagent.errors import HostError
from lvagent.plan.resources import Bridge, Fabric, Netns, PortFilter, Ruleset
from tests.e2e.specs import nic
from tests.unit.agent.fakes import FakeHost
from tests.unit.agent.test_agent import spec

A, B, C = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-cccccccccc"


def lose(host: FakeHost, *kinds: type) -> None:
    host.wires.there = {one for one in host.wires.there if not isinstance(one, kinds)}


def test_a_vpc_is_put_right_alone(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic()))
    agent.put(spec(2, nic(B, "subnet-bbbbbbbbbb", net=1, vni=7)))
    whole = set(host.wires.there)
    lose(host, Ruleset, PortFilter)
    agent.heal(A)
    assert host.wires.mended == [A]
    assert {one for one in whole if getattr(one, "vpc", A) == A} <= host.wires.there
    assert not [one for one in host.wires.there if isinstance(one, Ruleset) and one.vpc == B]
    agent.heal(B)
    assert host.wires.there == whole


def test_the_underlay_side_is_put_right(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(vni=0)))
    agent.heal("lvfabric")
    assert not [one for one in host.wires.there if isinstance(one, Fabric)]
    agent.put(spec(2, nic(B, "subnet-bbbbbbbbbb", net=1, vni=7)))
    whole = set(host.wires.there)
    lose(host, Fabric)
    agent.heal("lvfabric")
    assert host.wires.there == whole


def test_the_underlay_side_is_put_right_by_the_first_vpc_that_can(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(vni=6)))
    agent.put(spec(2, nic(B, "subnet-bbbbbbbbbb", net=1, vni=7)))
    lose(host, Fabric)
    host.breaker.arm(1)
    agent.heal("lvfabric")
    assert [one for one in host.wires.there if isinstance(one, Fabric)]


def test_one_that_fails_keeps_none_of_the_others_from_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def do(vpc: str) -> None:
        if vpc == A:
            raise HostError(vpc, "wire", "told to fail")
        done.append(vpc)

    each((A, B, C), do)
    assert done == [B, C]
    first((A, B, C), do)
    assert done == [B, C, B]
    assert [one.getMessage().split(":")[0] for one in caplog.records] == [A, A]


def test_nothing_is_removed_and_nothing_made_for_who_is_not_known(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic()))
    host.wires.there |= {Netns(B), Bridge(99, 1500)}
    before = set(host.wires.there)
    for name in (A, B, "vpc-zzzzzzzzzz", "lvfabric", ""):
        agent.heal(name)
    assert host.wires.there == before
    blind = host.agent(sweep=False)
    lose(host, Ruleset)
    blind.heal(A)
    assert not [one for one in host.wires.there if isinstance(one, Ruleset)]


def test_an_error_is_for_the_log(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic()))
    lose(host, Ruleset)
    host.breaker.arm(1)
    agent.heal(A)
    agent.heal(A)
    assert [one for one in host.wires.there if isinstance(one, Ruleset)]
