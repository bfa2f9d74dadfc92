"""What ``explain`` says of flows between peered VPCs, of published ports and of floating addresses."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from lvagent.errors import SpecError
from lvagent.plan.explain.facts import Facts
from lvagent.plan.explain.probe import Arrival, Leg, Probe, probe
from lvagent.plan.sessions import sessions
from lvagent.plan.uplinks import ALWAYS_DENIED, Denied, transit
from lvagent.spec.flow import Goal, Stage
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import Peerings, peering
from lvagent.spec.publications import Floating, parse_publications
from lvagent.spec.status import SessionsView, VmSessions
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.e2e.specs import nic, vm
from tests.unit.plan.test_explain import walked
from tests.unit.plan.test_sessions import flow
from tests.unit.plan.test_uplinks import POOLS, WAYS
from tests.unit.plan.test_wanted import POLICY

A, B, P, Q = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-pppppppppp", "vpc-qqqqqqqqqq"
A1, A2, B1, P1, P2, Q1 = (f"i-{number:010}" for number in range(1, 7))
HOST, OTHER, FLOAT, LATER, LOST = "203.0.113.1", "203.0.113.2", "203.0.113.50", "203.0.113.51", "203.0.113.52"
WEB, STRANGER = "198.51.100.10", "198.51.100.1"
SEEN = ("198.51.100.0/24", "198.19.0.0/16")
FROM_A2 = {"proto": "tcp", "port": 22, "source": A2, "direction": "ingress"}
FROM_P = {"proto": "tcp", "port": 5000, "source": "subnet-pppppppppp", "direction": "ingress"}
TO_P1 = {"proto": "any", "destination": P1, "direction": "egress"}


def members() -> list[VmConfig]:
    """A with an uplink; P, which is peered with it and has none; B with A's prefixes; Q, peered with A, with B's."""
    loose = nic(A, host=6) | {"extra_addresses": ["192.168.9.9"]}
    pods = [nic(P, "subnet-pppppppppp", net=20, host=host, vni=0) for host in (5, 6)]
    documents = (
        vm(1, nic(A, host=5), rules=[FROM_P, TO_P1]),
        vm(2, loose, rules=[]),
        vm(3, nic(B, "subnet-bbbbbbbbbb", host=5, vni=0), rules=[]),
        vm(4, pods[0], rules=[FROM_A2, {"proto": "icmp"}]),
        vm(5, pods[1], rules=[]),
        vm(6, nic(Q, "subnet-qqqqqqqqqq", net=20, host=9, vni=0), rules=[FROM_A2]),
    )
    return [parse_vm(one) for one in documents]


@pytest.fixture
def facts() -> Facts:
    links = {"wan": (ip_interface(f"{HOST}/24"),)}
    denied = (
        Denied(ip_network("203.0.113.0/28"), "uplink.underlay deny"),
        *(Denied(one, "x") for one in ALWAYS_DENIED),
    )
    own = frozenset(map(ip_address, (HOST, OTHER)))
    ways = dataclasses.replace(WAYS, own=own, links=links, ways={4: "wan"}, denied=denied)
    ports = {
        A1: parse_publications(
            [{"host_port": 8080, "port": 80, "sources": [*SEEN, "203.0.113.48/28"]}, {"host_port": 7000}]
        ),
        A2: parse_publications([{"host_port": 9000, "host_port_end": 9009, "proto": "udp", "host_address": OTHER}]),
    }
    floating = {FLOAT: Floating(FLOAT, A1), LATER: Floating(LATER, B1), LOST: Floating(LOST, A2, "gone")}
    policy = dataclasses.replace(
        POLICY,
        uplinks=ways,
        vpcs={A: VpcConfig(uplink=UplinkMode.NAT), B: VpcConfig(uplink=UplinkMode.NAT)},
        ports=ports,
        floating=floating,
    )
    vms = {one.id: one for one in members()}
    transits = {A: transit(1, POOLS), B: transit(2, POOLS)}
    return Facts(vms, frozenset(vms), policy, transits, Peerings([peering(A, P)]))


@pytest.mark.parametrize(
    ("words", "element", "stages"),
    [
        (f"{A2} {P1} tcp 22", "rules[0]", "guest port egress peering ingress arrival"),
        (f"{A1} {P1} icmp", "rules[1]", "guest port egress peering ingress arrival"),
        (f"{P2} {A1} tcp 5000", "rules[0]", "guest port egress peering ingress arrival"),
        (f"{P2} {A1} tcp 7000", "what is published", "guest port egress peering ingress arrival"),
        (f"world {HOST} tcp 8080", "what is published", "host inward inward ingress arrival"),
        (f"world {A1} tcp 8080 198.51.100.9", "what is published", "host inward inward ingress arrival"),
        (f"world {OTHER} udp 9004", "what is published", "host inward inward ingress arrival"),
        (f"{B1} {HOST} tcp 8080", "what is published", "guest port egress route uplink inward inward ingress arrival"),
        (f"{A2} {HOST} tcp 8080", "what is published", "guest port egress route uplink inward inward ingress arrival"),
        (f"world {FLOAT} tcp 80", "what is published", "host inward inward ingress arrival"),
        (f"{A2} {FLOAT} tcp 7000", "what is published", "guest port egress inward ingress arrival"),
        (f"{A2} {WEB} tcp 443", "floating address", "guest port egress route uplink arrival"),
    ],
)
def test_what_is_allowed(facts: Facts, words: str, element: str, stages: str) -> None:
    walk = walked(facts, words)
    assert walk.allowed, walk.why
    assert walk.decider.element == element
    assert [step.stage.value for step in walk.steps] == stages.split()


@pytest.mark.parametrize(
    ("words", "element", "stage", "said"),
    [
        (f"{A1} {P2} tcp 22", "no rule", Stage.EGRESS, f"no egress rule of {A1}"),
        (f"{A1} {P1} tcp 22", "no rule", Stage.INGRESS, f"no ingress rule of {P1} allows tcp 22 from 10.0.0.5"),
        (f"{A2} {P2} tcp 22", "no rule", Stage.INGRESS, f"no ingress rule of {P2}"),
        (f"{A2} {P1} tcp 22 192.168.9.9", "reverse path", Stage.PEERING, f"{P} lets in nothing else"),
        (f"{A2} 10.0.20.1 icmp", "gateway", Stage.GATEWAY, f"the gateway of {P} answers nobody outside"),
        (f"{A2} 10.0.20.99 tcp 22", "nobody has it", Stage.ROUTE, "no VM of this host"),
        (f"{P1} {WEB} tcp 80", "no uplink", Stage.ROUTE, f"{P} has no uplink"),
        (f"{P1} {HOST} tcp 8080", "no uplink", Stage.ROUTE, f"{P} has no uplink"),
        (f"{P1} {FLOAT} tcp 80", "no uplink", Stage.ROUTE, f"{P} has no uplink"),
        (f"world:192.0.2.9 {HOST} tcp 8080", "sources", Stage.INWARD, "192.0.2.9 is not among the sources"),
        (f"world {HOST} tcp 8081", "no route", Stage.HOST, "nothing is published there"),
        (f"world {HOST} udp 9004", "no route", Stage.HOST, "nothing is published there"),
        (f"world {OTHER} udp 9010", "no route", Stage.HOST, "nothing is published there"),
        (f"{B1} {HOST} tcp 8081", "this host", Stage.HOST, "no guest reaches but for what is published"),
        (f"world:10.0.20.7 {FLOAT} tcp 80", "reverse path", Stage.UPLINK, f"10.0.20.7 is of {P}"),
        (f"world:10.0.0.9 {FLOAT} tcp 80", "reverse path", Stage.UPLINK, f"10.0.0.9 is of {A} itself"),
        (f"world {FLOAT} tcp 22", "no rule", Stage.INGRESS, f"no ingress rule of {A1} allows tcp 22 from {STRANGER}"),
        (f"world {LOST} tcp 22", "no link", Stage.INWARD, f"nobody outside finds the floating address {LOST} of {A2}"),
        (f"world {B1} tcp 22", "no rule", Stage.INGRESS, f"no ingress rule of {B1}"),
        (f"{A2} {LATER} tcp 22", "no rule", Stage.INGRESS, f"no ingress rule of {B1} allows tcp 22 from {LOST}"),
        (f"{A2} {FLOAT} tcp 80", "no rule", Stage.INGRESS, f"no ingress rule of {A1} allows tcp 80 from 10.0.0.6"),
    ],
)
def test_what_is_refused(facts: Facts, words: str, element: str, stage: Stage, said: str) -> None:
    walk = walked(facts, words)
    assert not walk.allowed, walk.why
    assert (walk.decider.element, walk.decider.stage) == (element, stage), walk.why
    assert said in walk.why


def test_without_the_peering_there_is_no_way(facts: Facts) -> None:
    apart = dataclasses.replace(facts, peerings=Peerings())
    assert "by its uplink" in walked(apart, f"{A2} {P1} tcp 22").steps[3].text
    assert walked(apart, f"{P2} {A1} tcp 5000").decider.element == "no uplink"


def test_a_peering_with_prefixes_that_overlap_is_not_made(facts: Facts) -> None:
    both = dataclasses.replace(facts, peerings=Peerings([peering(A, P), peering(A, Q)]))
    told = walked(both, f"{P2} {A1} tcp 5000").why
    assert f"the peering with {A} is not made: " in told
    assert "10.0.20.0/24" in told


def test_a_name_of_a_peered_vpc_is_nobody_without_the_peering(facts: Facts) -> None:
    assert walked(facts, f"{A1} {P1} icmp").allowed
    apart = dataclasses.replace(facts, peerings=Peerings())
    assert walked(apart, f"{A1} {P1} icmp").decider.stage is Stage.EGRESS


@pytest.mark.parametrize("mode", [UplinkMode.NAT, UplinkMode.ROUTED])
def test_how_a_packet_is_seen_by_whom_it_is_led_to(facts: Facts, mode: UplinkMode) -> None:
    vpcs = dict(facts.policy.vpcs) | {A: VpcConfig(uplink=mode)}
    plain = dataclasses.replace(facts, policy=dataclasses.replace(facts.policy, floating={}, vpcs=vpcs))
    words = f"{A2} {HOST} tcp 8080"
    assert walked(plain, words).allowed
    closed = parse_publications([{"host_port": 8080, "port": 80, "sources": ["198.19.0.3"]}])
    narrow = dataclasses.replace(plain, policy=dataclasses.replace(plain.policy, ports={A1: closed}))
    # Root compares the VPC's end of the uplink, the VM sees the host's.
    seen = narrow.transits[A].host_v4.ip
    assert walked(narrow, words).why == f"refused: no ingress rule of {A1} allows tcp 80 from {seen}"


def test_what_leads_back_to_the_sender_is_not_asked_about(facts: Facts) -> None:
    with pytest.raises(SpecError, match="the sender itself"):
        walked(facts, f"{B1} {LATER} tcp 22")
    with pytest.raises(SpecError, match="of this host itself"):
        walked(facts, f"world:{OTHER} {HOST} tcp 8080")


def test_a_vm_that_is_asked_about_from_the_world(facts: Facts) -> None:
    asked = (f"world {A1} tcp 80", f"world {A2} udp 9001", f"world {A2} tcp 22")
    sent = [walked(facts, words).packet for words in asked]
    assert [str(one.destination) for one in sent if one] == [FLOAT, OTHER, LOST]
    plain = dataclasses.replace(facts, policy=dataclasses.replace(facts.policy, floating={}))
    found = walked(plain, f"world {A1} tcp 8080")
    assert (found.allowed, found.packet and str(found.packet.destination)) == (True, HOST)
    other = walked(plain, f"world {A1} tcp 80")
    assert other.decider.element == "no publication"
    assert f"of {A1} are published tcp port 7000, tcp port 8080, and not this" in other.why


def test_where_a_probe_is_looked_for(facts: Facts) -> None:
    found = probe(walked(facts, f"{A2} {P1} tcp 22"), facts)
    assert isinstance(found, Probe)
    assert found.legs == (Leg(A, frozenset({"px-pppppppppp"})), Leg(P))
    assert Arrival(P, "t0000000004-0") in found.goal
    world = probe(walked(facts, f"world {HOST} tcp 8080"), facts)
    assert isinstance(world, Probe)
    assert world.legs == (Leg("", frozenset({"ux-aaaaaaaaaa"})), Leg(A))
    assert Arrival(A, "t0000000001-0") in world.goal
    own = probe(walked(facts, f"{A2} {HOST} tcp 8080"), facts)
    assert isinstance(own, Probe)
    assert own.legs == (Leg(A, frozenset({"ui-aaaaaaaaaa"})), Leg("", frozenset({"ux-aaaaaaaaaa"})))
    lost = probe(walked(facts, f"world {LOST} tcp 22"), facts)
    assert isinstance(lost, str)
    assert walked(facts, f"world {LOST} tcp 22").end.goal is Goal.PORT


def test_flows_to_peers_are_not_those_of_the_uplink(facts: Facts) -> None:
    kept = [
        flow("10.0.0.5", "10.0.20.5"),
        flow("10.0.20.6", "10.0.0.5"),
        flow("10.0.0.5", WEB, FLOAT, size=7),
        flow(WEB, FLOAT, met="10.0.0.5", size=3),
        flow("10.0.0.6", FLOAT, met="10.0.0.5"),
    ]
    assert sessions(A, kept, facts) == SessionsView(2, 10, True, (VmSessions(A1, 2, 10),))
    apart = dataclasses.replace(facts, peerings=Peerings())
    assert sessions(A, kept, apart).sessions == 4
