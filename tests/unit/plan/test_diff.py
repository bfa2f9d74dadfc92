"""Wanted minus actual: the steps lead there, in the order of layers, and no further."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvagent.plan import diff
from lvagent.plan.diff import Steps
from lvagent.plan.resources import (
    Bridge,
    Dhcp,
    Fabric,
    Metadata,
    Netns,
    Plug,
    PortFilter,
    Resource,
    Ruleset,
    Subnet,
    Veth,
    Vxlan,
)

A, SA, TAP = "vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", "t0000000001-0"


def port(tap: str = TAP, mac: str = "06:00:00:00:00:01", ipv4: str = "10.0.0.5") -> PortFilter:
    return PortFilter(A, SA, tap, mac, ipv4, None, "10.0.0.1", None)


WHOLE: tuple[Resource, ...] = (
    Fabric("lvfabric"),
    Netns(A),
    Ruleset(A, "r1"),
    Bridge(100, 1450),
    Vxlan(100, 1450, "192.0.2.10", 4789),
    Subnet(A, SA, 1450, IPv4Interface("10.0.0.1/24")),
    Veth(A, SA, 100, 1450),
    port(),
    Dhcp(A, "vpc.internal", (), ()),
    Metadata(A, ()),
    Plug(A, SA, TAP, 1450),
)
LINES = (
    "underlay side in namespace lvfabric",
    "namespace vpc-aaaaaaaaaa",
    "filter of vpc-aaaaaaaaaa",
    "bridge of VNI 100, MTU 1450",
    "VXLAN 100 from 192.0.2.10",
    "subnet subnet-aaaaaaaaaa in vpc-aaaaaaaaaa, gateway 10.0.0.1/24",
    "veth of subnet-aaaaaaaaaa in vpc-aaaaaaaaaa to VNI 100",
    "filter of port t0000000001-0, 06:00:00:00:00:01",
    "dnsmasq of vpc-aaaaaaaaaa, 0 reservations",
    "metadata of vpc-aaaaaaaaaa, 0 addresses",
    "tap t0000000001-0 in vpc-aaaaaaaaaa on subnet-aaaaaaaaaa",
)


def test_from_nothing_all_is_made_lowest_layer_first() -> None:
    assert diff.subtract(reversed(WHOLE), ()) == Steps(remove=(), ensure=WHOLE)


def test_to_nothing_all_goes_highest_layer_first_but_taps_and_the_underlay_side() -> None:
    gone = tuple(one for one in reversed(WHOLE) if not isinstance(one, Plug | Fabric))
    assert diff.subtract((), WHOLE) == Steps(remove=gone, ensure=())


def test_what_is_there_already_needs_no_step() -> None:
    steps = diff.subtract(WHOLE, reversed(WHOLE))
    assert (steps, bool(steps)) == (Steps((), ()), False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Ruleset(A, "r0"), Ruleset(A, "r1")),
        (Bridge(100, 0), Bridge(100, 1450)),
        (Vxlan(100, 1450, "", 4789), Vxlan(100, 1450, "192.0.2.10", 4789)),
        (Subnet(A, SA, 1450), Subnet(A, SA, 1450, IPv4Interface("10.0.0.1/24"))),
        (Veth(A, SA, 0, 0), Veth(A, SA, 100, 1450)),
        (port(ipv4="10.0.0.9"), port()),
        (Plug(A, "", TAP, 0), Plug(A, SA, TAP, 1450)),
    ],
)
def test_another_shape_of_a_thing_is_a_change_and_nothing_is_removed(old: Resource, new: Resource) -> None:
    assert diff.subtract([new], [old]) == Steps(remove=(), ensure=(new,))


def test_things_of_a_layer_come_in_the_order_of_their_names() -> None:
    taps = [port(f"t000000000{number}-0") for number in (3, 1, 2)]
    assert [one.tap for one in diff.subtract(taps, ()).ensure if isinstance(one, PortFilter)] == [
        "t0000000001-0",
        "t0000000002-0",
        "t0000000003-0",
    ]


@pytest.mark.parametrize(("resource", "line"), list(zip(WHOLE, LINES, strict=True)), ids=lambda one: type(one).__name__)
def test_each_is_told_in_a_line(resource: Resource, line: str) -> None:
    assert diff.describe(resource) == line


def test_what_is_not_there_is_told_too() -> None:
    assert diff.describe(Fabric("")) == "underlay side in the root namespace"
    assert diff.describe(Vxlan(7, 1500, "", 4789)) == "VXLAN 7 from any address"


mtus = st.sampled_from([0, 1450, 1500])
vnis = st.integers(1, 3)
taps = st.sampled_from([TAP, "t0000000002-0"])
resources: st.SearchStrategy[Resource] = st.one_of(
    st.just(Fabric("lvfabric")),
    st.just(Netns(A)),
    st.builds(Ruleset, st.just(A), st.sampled_from(["", "r1"])),
    st.builds(Bridge, vnis, mtus),
    st.builds(Vxlan, vnis, mtus, st.just(""), st.just(4789)),
    st.builds(Subnet, st.just(A), st.sampled_from([SA, "subnet-bbbbbbbbbb"]), mtus),
    st.builds(port, taps, st.just("06:00:00:00:00:01"), st.sampled_from(["10.0.0.5", "10.0.0.6"])),
    st.builds(Plug, st.just(A), st.just(SA), taps, mtus),
)
hosts = st.lists(resources, unique_by=diff.identity).map(frozenset)


def applied(there: frozenset[Resource], steps: Steps) -> frozenset[Resource]:
    """A host after these steps: to ensure a thing is to replace whatever shape of it was there."""
    found = {diff.identity(one): one for one in there - set(steps.remove)}
    return frozenset((found | {diff.identity(one): one for one in steps.ensure}).values())


@settings(deadline=None, max_examples=60)
@given(hosts, hosts)
def test_the_steps_lead_to_what_is_wanted_and_then_there_are_none(
    wish: frozenset[Resource], there: frozenset[Resource]
) -> None:
    after = applied(there, diff.subtract(wish, there))
    kinds = {diff.identity(one) for one in wish}
    stays = {one for one in there if isinstance(one, Plug | Fabric) and diff.identity(one) not in kinds}
    assert after == wish | stays
    assert diff.subtract(wish, after) == Steps((), ())


@settings(deadline=None, max_examples=60)
@given(hosts, hosts)
def test_steps_are_in_the_order_of_layers(wish: frozenset[Resource], there: frozenset[Resource]) -> None:
    steps = diff.subtract(wish, there)
    assert [one.layer for one in steps.ensure] == sorted(one.layer for one in steps.ensure)
    assert [-one.layer for one in steps.remove] == sorted(-one.layer for one in steps.remove)
