"""What ``explain`` says of flows between two VPCs with equal prefixes and one that is routed, and what decides."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network

import pytest

from lvagent.plan.explain.facts import Facts
from lvagent.plan.explain.probe import NOBODY, Arrival, Leg, Probe, probe
from lvagent.plan.explain.walk import explain
from lvagent.plan.uplinks import ALWAYS_DENIED, Denied, transit
from lvagent.spec import names
from lvagent.spec.flow import Goal, Stage, Walk, parse_flow
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.e2e.specs import nic, vm
from tests.unit.plan.test_uplinks import POOLS, WAYS
from tests.unit.plan.test_wanted import POLICY

NAT, NONE, ROUTED = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-cccccccccc"
A1, A2, A3, B1, C1, IDLE, TWO, V4 = (f"i-{number:010}" for number in range(1, 9))
WEB, HOST = "198.51.100.10", "203.0.113.1"
TCP22 = {"proto": "tcp", "port": 22, "direction": "ingress"}


def routed(host: int) -> dict[str, object]:
    """A NIC with addresses that are routed."""
    there = {"ipv4": f"172.20.0.{host}/24", "gateway_v4": "172.20.0.1"}
    return {**nic(ROUTED, "subnet-cccccccccc", vni=0), **there, "ipv6": f"fd20::{host}/64", "gateway_v6": "fd20::1"}


def members() -> list[VmConfig]:
    far = nic(NAT, "subnet-a000000001", net=1, host=7, vni=0)
    four = {**nic(NAT, host=9), "ipv6": None, "gateway_v6": None}
    return [
        parse_vm(one)
        for one in (
            vm(1, nic(NAT, host=5), rules=[TCP22, {"proto": "any", "destination": "198.51.100.0/24"}, *out(NAT)]),
            vm(
                2,
                nic(NAT, host=6) | {"extra_addresses": ["10.0.0.66"]},
                rules=[{"proto": "icmp"}, {"proto": "udp", "port": 7}, {**TCP22, "source": A1}],
            ),
            vm(3, far, rules=[{**TCP22, "source": "subnet-aaaaaaaaaa"}]),
            vm(4, nic(NONE, "subnet-bbbbbbbbbb", host=5), rules=[TCP22]),
            vm(5, routed(5), rules=[TCP22]),
            vm(6, nic(NAT, host=8), rules=[TCP22]),
            vm(7, nic(NAT, "subnet-a000000001", net=1, host=8, vni=0), nic(NAT, host=20, position=1)),
            vm(8, four, rules=[TCP22]),
        )
    ]


def out(_vpc: str) -> list[dict[str, object]]:
    """Egress rules for what is near."""
    return [
        {"proto": "any", "destination": net, "direction": "egress"}
        for net in ("10.0.0.0/8", "fd00::/8", "172.20.0.0/16")
    ]


@pytest.fixture
def facts() -> Facts:
    wishes = {
        NAT: VpcConfig(uplink=UplinkMode.NAT),
        NONE: VpcConfig(metadata=False),
        ROUTED: VpcConfig(uplink=UplinkMode.ROUTED),
    }
    denied = (Denied(ip_network("10.0.0.0/8"), "uplink.deny 10.0.0.0/8"), *(Denied(one, "x") for one in ALWAYS_DENIED))
    ways = dataclasses.replace(WAYS, routed=(ip_network("172.20.0.0/16"), ip_network("fd20::/16")), denied=denied)
    vms = {one.id: one for one in members()}
    policy = dataclasses.replace(POLICY, uplinks=ways, vpcs=wishes)
    return Facts(vms, frozenset(vms) - {IDLE}, policy, {NAT: transit(1, POOLS), ROUTED: transit(2, POOLS)})


def walked(facts: Facts, words: str) -> Walk:
    """The walk of ``from to proto [port] [source]``."""
    origin, target, proto, *more = words.split()
    port = next((int(word) for word in more if word.isdecimal()), None)
    source = next((word for word in more if not word.isdecimal()), "")
    return explain(parse_flow(origin, target, proto, port, source), facts)


@pytest.mark.parametrize(
    ("words", "element", "stage"),
    [
        (f"{A1} {A2} tcp 22", "rules[2]", Stage.INGRESS),
        (f"{A1} {A3} tcp 22", "rules[0]", Stage.INGRESS),
        (f"{A2} {A1} tcp 22", "rules[0]", Stage.INGRESS),
        (f"{A1} 10.0.0.66 icmp", "rules[0]", Stage.INGRESS),
        (f"{A1} 10.0.0.1 icmp", "gateway", Stage.GATEWAY),
        (f"{A1} 10.0.1.1 udp 53", "gateway", Stage.GATEWAY),
        (f"{A1} 10.0.0.1 udp 67", "gateway", Stage.GATEWAY),
        (f"{A1} fd00:a:0:0::1 udp 547", "gateway", Stage.GATEWAY),
        (f"{A1} 169.254.169.254 tcp 80", "gateway", Stage.GATEWAY),
        (f"{A1} {WEB} tcp 443", "uplink nat", Stage.UPLINK),
        (f"{C1} {WEB} tcp 443", "uplink routed", Stage.UPLINK),
        (f"{C1} {WEB} 47", "uplink routed", Stage.UPLINK),
        (f"{A2} {WEB} sctp 443", "uplink nat", Stage.UPLINK),
        (f"{C1} 2001:db8::1 tcp 443", "uplink routed", Stage.UPLINK),
        (f"{A1} {C1} tcp 22", "rules[0]", Stage.INGRESS),
        (f"world {C1} tcp 22", "rules[0]", Stage.INGRESS),
        ("world:192.0.2.9 172.20.0.5 tcp 22", "rules[0]", Stage.INGRESS),
        (f"{A1} 10.0.0.99 tcp 22", "VXLAN 100", Stage.SEGMENT),
        (f"{A2} {A1} tcp 22 ", "rules[0]", Stage.INGRESS),
        (f"{TWO} {A1} tcp 22", "rules[0]", Stage.INGRESS),
    ],
)
def test_what_is_allowed(facts: Facts, words: str, element: str, stage: Stage) -> None:
    walk = walked(facts, words)
    assert walk.allowed, walk.why
    assert (walk.decider.element, walk.decider.stage) == (element, stage)
    assert walk.why.startswith("allowed: ")


@pytest.mark.parametrize(
    ("words", "element", "stage", "said"),
    [
        (f"{A1} {A2} tcp 23", "no rule", Stage.INGRESS, f"no ingress rule of {A2} allows tcp 23 from 10.0.0.5"),
        (f"{A3} {A2} tcp 22", "no rule", Stage.INGRESS, f"no ingress rule of {A2} allows tcp 22 from 10.0.1.7"),
        (f"{A1} {A2} icmpv6", "no rule", Stage.INGRESS, "allows icmpv6 from fd00:a::5"),
        (f"{A1} 9.9.9.9 tcp 53", "no rule", Stage.EGRESS, f"no egress rule of {A1} allows tcp 53 to 9.9.9.9"),
        (f"{A2} {A1} tcp 22 10.0.0.7", "anti-spoof", Stage.PORT, "may send from 10.0.0.6"),
        (f"{A2} {A1} udp 68", "DHCP", Stage.PORT, "a guest is none"),
        (f"{A2} {A1} udp 67", "DHCP", Stage.ROUTE, "the gateway's alone"),
        (f"{A1} {IDLE} tcp 22", "it does not run", Stage.INGRESS, f"{IDLE} does not run"),
        (f"{IDLE} {A1} tcp 22", "it does not run", Stage.GUEST, "it sends nothing"),
        (f"{A1} 10.0.0.1 tcp 22", "gateway", Stage.GATEWAY, "nothing else"),
        (f"{A1} 169.254.169.254 tcp 81", "no rule", Stage.EGRESS, f"no egress rule of {A1} allows"),
        (f"{A2} 169.254.169.254 tcp 53", "gateway", Stage.GATEWAY, "at the addresses of the gateways"),
        (f"{B1} 169.254.169.254 tcp 80", "gateway", Stage.GATEWAY, f"metadata is off in {NONE}"),
        (f"{B1} {WEB} tcp 80", "no uplink", Stage.ROUTE, "no route to 198.51.100.10"),
        (f"{A2} 10.9.9.9 tcp 80", "uplink.deny 10.0.0.0/8", Stage.UPLINK, "denied by uplink.deny 10.0.0.0/8"),
        (f"{A2} {HOST} tcp 80", "this host", Stage.HOST, "an address of this host"),
        (f"{A2} {WEB} 47", "no ports", Stage.HOST, "47 has no ports"),
        (f"{A2} 10.0.0.66 tcp 22", "the sender itself", Stage.GUEST, "stays in the guest"),
        (f"{A1} {B1} tcp 22", "another VPC with equal prefixes", Stage.ROUTE, f"10.0.0.5 is {A1} here"),
        (f"{B1} {C1} tcp 22", "no uplink", Stage.ROUTE, "has no uplink"),
        (f"{C1} {B1} tcp 22", "uplink.deny 10.0.0.0/8", Stage.UPLINK, ""),
        (f"world {A1} tcp 22", "no publication", Stage.HOST, f"nothing of {A1} is published"),
        (f"world {B1} tcp 22", "no uplink", Stage.ROUTE, "has no uplink"),
        (f"world {C1} tcp 23", "no rule", Stage.INGRESS, "from 198.51.100.1"),
        (f"world {HOST} tcp 22", "no route", Stage.HOST, "nothing is published there"),
        ("world 172.20.0.1 icmp", "gateway", Stage.GATEWAY, "answers nobody outside"),
        ("world:172.20.0.9 172.20.0.5 tcp 22", "reverse path", Stage.UPLINK, ""),
        ("world:198.19.0.3 172.20.0.5 tcp 22", "reverse path", Stage.HOST, "of uplinks"),
        ("world 172.20.0.77 tcp 22", "nobody has it", Stage.ROUTE, "on this host alone"),
        (f"{A3} 10.0.0.99 tcp 22", "nobody has it", Stage.ROUTE, "asks no other host"),
        (f"{A3} 10.0.1.99 tcp 22", "nobody has it", Stage.ROUTE, "on this host alone"),
        (f"{A3} 10.0.0.255 tcp 22", "no such address", Stage.ROUTE, "of no host"),
        (f"{A1} {V4} icmpv6", "no address", Stage.ARRIVAL, f"{V4} has no IPv6 address"),
        (f"{V4} {A1} icmpv6", "no default route", Stage.GUEST, "IPv6"),
    ],
)
def test_what_is_refused(facts: Facts, words: str, element: str, stage: Stage, said: str) -> None:
    walk = walked(facts, words)
    assert not walk.allowed, walk.why
    assert (walk.decider.element, walk.decider.stage) == (element, stage), walk.why
    assert said in walk.why
    assert walk.steps[-1] == walk.decider
    assert all(step.passed for step in walk.steps[:-1])


def test_a_host_without_uplinks_and_one_without_ipv6(facts: Facts) -> None:
    alone = dataclasses.replace(facts, policy=dataclasses.replace(facts.policy, uplinks=None))
    assert walked(alone, f"{A1} {WEB} tcp 80").decider.element == "no uplink"
    assert facts.policy.uplinks is not None
    ways = dataclasses.replace(facts.policy.uplinks, ipv6="none")
    four = dataclasses.replace(facts, policy=dataclasses.replace(facts.policy, uplinks=ways))
    assert walked(four, f"{A2} 2001:db8::1 tcp 80").decider.element == "uplink.ipv6 none"


def test_a_whole_walk_in_words(facts: Facts) -> None:
    walk = walked(facts, f"{A1} {A3} tcp 22")
    assert [(step.stage.value, step.where, step.text) for step in walk.steps] == [
        ("guest", A1, f"{A1} sends it from 10.0.0.5, by its NIC 0 in subnet-aaaaaaaaaa"),
        ("port", "t0000000001-0", f"the port is bound to 10.0.0.5 and {names.nic_mac(A1, 0)}"),
        ("egress", A1, f"rules[2] of {A1} allows it: egress any, from any to 10.0.0.0/8"),
        ("route", NAT, "the gateway routes it to subnet-a000000001"),
        ("ingress", A3, f"rules[0] of {A3} allows it: ingress tcp 22, from subnet-aaaaaaaaaa to any"),
        ("arrival", "t0000000003-0", "it arrives at t0000000003-0"),
    ]


def test_a_probe_is_looked_for_where_it_may_come_to(facts: Facts) -> None:
    near = probe(walked(facts, f"{A1} {A2} tcp 22"), facts)
    assert isinstance(near, Probe)
    uplink = Leg(NAT, frozenset({"ui-aaaaaaaaaa"}))
    assert near.legs == (uplink, Leg(""))
    assert (near.entry, near.target_mac) == ("t0000000001-0", names.nic_mac(A2, 0))
    tap = "t0000000002-0"
    assert near.goal == {Arrival(NAT, tap), Arrival(NAT, "br-aaaaaaaaaa", tap)}
    far = probe(walked(facts, f"{A1} {C1} tcp 22"), facts)
    assert isinstance(far, Probe)
    assert far.legs == (uplink, Leg("", frozenset({"ux-cccccccccc"})), Leg(ROUTED))
    assert far.target_mac == names.gateway_mac("subnet-aaaaaaaaaa")
    lost = probe(walked(facts, f"{A1} 10.0.0.99 tcp 22"), facts)
    assert isinstance(lost, Probe)
    assert (lost.target_mac, lost.goal) == (NOBODY, {Arrival(NAT, "vi-aaaaaaaaaa")})
    served = probe(walked(facts, f"{A1} 10.0.0.1 tcp 53"), facts)
    assert isinstance(served, Probe)
    assert (served.goal, served.listener) == ({Arrival(NAT, "")}, True)
    alone = probe(walked(facts, f"{B1} {WEB} tcp 80"), facts)
    assert isinstance(alone, Probe)
    assert (alone.legs, alone.goal) == ((Leg(NONE),), {Arrival("", "*")})
    world = probe(walked(facts, f"world {A1} tcp 22"), facts)
    assert isinstance(world, Probe)
    assert (world.entry, world.legs[0]) == ("", Leg(""))


def test_what_cannot_be_sent(facts: Facts) -> None:
    for words, why in (
        (f"{IDLE} {A1} tcp 22", "does not run"),
        (f"{A1} {V4} icmpv6", "no address"),
        (f"{A1} {A2} 33", "protocol 33"),
    ):
        found = probe(walked(facts, words), facts)
        assert isinstance(found, str)
        assert why in found


def test_the_goal_of_what_is_asked_about(facts: Facts) -> None:
    goals = {
        f"{A1} {A2} tcp 22": Goal.PORT,
        f"{A1} 10.0.0.6 tcp 22": Goal.PORT,
        f"{A1} 10.0.0.1 tcp 22": Goal.GATEWAY,
        f"{A1} 10.0.0.99 tcp 22": Goal.SEGMENT,
        f"{A1} 10.0.1.99 tcp 22": Goal.NOBODY,
        f"{A1} {WEB} tcp 22": Goal.WORLD,
        f"{A1} 172.20.0.5 tcp 22": Goal.PORT,
        f"world {WEB} tcp 22": Goal.NOBODY,
    }
    assert {words: walked(facts, words).end.goal for words in goals} == goals
