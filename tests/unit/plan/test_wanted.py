"""From specs to resources: whole values, and what holds for any set of VMs."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvagent.errors import SpecError
from lvagent.plan import wanted
from lvagent.plan.resources import (
    Bridge,
    Dhcp,
    DhcpHost,
    DhcpSubnet,
    Fabric,
    Firewall,
    Guest,
    GuestNic,
    Metadata,
    Netns,
    Plug,
    PortFilter,
    Ruleset,
    Subnet,
    Veth,
    Vxlan,
)
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig
from tests.e2e.specs import nic, vm

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
SA, SB = "subnet-aaaaaaaaaa", "subnet-bbbbbbbbbb"
POLICY = Policy(
    fabric="lvfabric",
    underlay_mtu=1500,
    local="192.0.2.10",
    port=4789,
    domain="vpc.internal",
    forwarders=("192.0.2.53",),
    ruleset="r1",
)
V6 = dataclasses.replace(POLICY, local="2001:db8::1")


def spec(number: int, *nics: dict[str, Any], **more: object) -> VmConfig:
    return parse_vm(vm(number, *nics, **more))


ONE = spec(1, user_data="#!/bin/sh\n")
TWO = spec(2, nic(host=6), {**nic(B, SB, net=1, vni=0, position=1)})
PORT_1 = PortFilter(
    vpc=A,
    subnet=SA,
    tap="t0000000001-0",
    mac=names.nic_mac("i-0000000001", 0),
    ipv4="10.0.0.5",
    ipv6="fd00:a::5",
    gateway_v4="10.0.0.1",
    gateway_v6="fd00:a::1",
)
GATEWAYS = (IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00:a::1/64"))


def test_the_network_of_a_vpc_with_an_overlay() -> None:
    assert wanted.network(A, [ONE], POLICY) == {
        Netns(A),
        Ruleset(A, "r1"),
        Fabric("lvfabric"),
        Bridge(100, 1450),
        Vxlan(100, 1450, "192.0.2.10", 4789),
        Subnet(A, SA, 1450, *GATEWAYS),
        Veth(A, SA, 100, 1450),
        PORT_1,
        Firewall(A, "i-0000000001", ("t0000000001-0",), ("10.0.0.5", "fd00:a::5"), ()),
    }


def test_a_vni_of_0_needs_nothing_of_the_underlay_and_loses_no_bytes() -> None:
    assert wanted.network(B, [ONE, TWO], POLICY) == {
        Netns(B),
        Ruleset(B, "r1"),
        Subnet(B, SB, 1500, IPv4Interface("10.0.1.1/24"), IPv6Interface("fd00:a:0:1::1/64")),
        PortFilter(
            vpc=B,
            subnet=SB,
            tap="t0000000002-1",
            mac=names.nic_mac("i-0000000002", 1),
            ipv4="10.0.1.5",
            ipv6="fd00:a:0:1::5",
            gateway_v4="10.0.1.1",
            gateway_v6="fd00:a:0:1::1",
        ),
        Firewall(B, "i-0000000002", ("t0000000002-1",), ("10.0.1.5", "fd00:a:0:1::5"), ()),
    }


def test_a_vpc_without_members_wants_nothing() -> None:
    assert (wanted.network(B, [ONE], POLICY), wanted.dhcp(B, [ONE], POLICY), wanted.metadata(B, [ONE], POLICY)) == (
        frozenset(),
        None,
        None,
    )


def test_dhcp_serves_each_nic_and_only_position_0_is_first() -> None:
    both = spec(3, nic(host=7, position=0), nic(A, SB, net=1, vni=7, position=1))
    assert wanted.dhcp(A, [both, ONE], POLICY) == Dhcp(
        vpc=A,
        domain="vpc.internal",
        subnets=(
            DhcpSubnet(SA, 1450, *GATEWAYS),
            DhcpSubnet(SB, 1450, IPv4Interface("10.0.1.1/24"), IPv6Interface("fd00:a:0:1::1/64")),
        ),
        hosts=(
            DhcpHost("i-0000000001", 0, SA, PORT_1.mac, "10.0.0.5", "fd00:a::5", first=True),
            DhcpHost("i-0000000003", 0, SA, names.nic_mac("i-0000000003", 0), "10.0.0.7", "fd00:a::7", first=True),
            DhcpHost("i-0000000003", 1, SB, names.nic_mac("i-0000000003", 1), "10.0.1.5", "fd00:a:0:1::5", first=False),
        ),
        forwarders=(),  # there is no way out
    )


def test_metadata_tells_one_guest_at_each_of_its_addresses() -> None:
    guest = Guest(
        vm="i-0000000001",
        hostname="i-0000000001",
        keys=(),
        nics=(GuestNic(0, PORT_1.mac, 1450, SA, A, "10.0.0.5/24", "10.0.0.1", "fd00:a::5/64", "fd00:a::1"),),
        user_data=b"#!/bin/sh\n",
    )
    assert wanted.metadata(A, [ONE], POLICY) == Metadata(A, (("10.0.0.5", guest), ("fd00:a::5", guest)))


def test_a_guest_of_two_vpcs_hears_of_both_nics_in_each() -> None:
    served = {vpc: wanted.metadata(vpc, [TWO], POLICY) for vpc in (A, B)}
    assert {vpc: [address for address, _ in share.guests] for vpc, share in served.items() if share} == {
        A: ["10.0.0.6", "fd00:a::6"],
        B: ["10.0.1.5", "fd00:a:0:1::5"],
    }
    assert {guest.nics for share in served.values() if share for _, guest in share.guests} == {
        wanted.guest(TWO, POLICY).nics
    }


def test_a_subnet_takes_each_gateway_from_whoever_has_one() -> None:
    v4 = {key: value for key, value in nic(host=5).items() if "v6" not in key}
    v6 = {key: value for key, value in nic(host=6).items() if "v4" not in key}
    first, second = spec(1, v4), spec(2, v6)
    assert wanted.gateways([*first.networks, *second.networks]) == GATEWAYS
    assert Subnet(A, SA, 1450, *GATEWAYS) in wanted.network(A, [first, second], POLICY)
    assert Subnet(A, SA, 1450, GATEWAYS[0], None) in wanted.network(A, [first], POLICY)


def test_what_a_port_may_send_beside_its_own() -> None:
    extra = spec(1, {**nic(), "extra_macs": ["02:00:00:00:00:99"], "extra_addresses": ["10.9.0.0/24"]})
    assert wanted.port_filter(extra, extra.networks[0]) == dataclasses.replace(
        PORT_1, extra_macs=("02:00:00:00:00:99",), extra_addresses=(IPv4Network("10.9.0.0/24"),)
    )


def test_the_place_of_a_tap() -> None:
    assert [wanted.plug(TWO, one, POLICY) for one in TWO.networks] == [
        Plug(A, SA, "t0000000002-0", 1450),
        Plug(B, SB, "t0000000002-1", 1500),
    ]


@pytest.mark.parametrize(
    ("vni", "policy", "mtu"),
    [(0, POLICY, 1500), (1, POLICY, 1450), (0, V6, 1500), (1, V6, 1430), (1, dataclasses.replace(V6, local=""), 1450)],
)
def test_what_a_segment_carries(vni: int, policy: Policy, mtu: int) -> None:
    assert wanted.segment_mtu(vni, policy) == mtu


def test_an_mtu_that_its_segment_does_not_carry_is_refused_with_the_most_it_does() -> None:
    fits = spec(1, {**nic(), "mtu": 1450})
    wanted.check_mtu(fits, POLICY)
    with pytest.raises(SpecError) as caught:
        wanted.check_mtu(fits, V6)
    assert (caught.value.path, caught.value.hint) == ("networks[0].mtu", "at most 1430: the underlay's MTU is 1500")


specs = st.lists(
    st.builds(
        lambda number, places: spec(
            number,
            *(
                nic(vpc, subnet, net=net, vni=vni, host=4 + number, position=position)
                for position, (vpc, subnet, net, vni) in enumerate(places)
            ),
        ),
        st.integers(1, 200),
        st.lists(
            st.sampled_from([(A, SA, 0, 100), (A, SB, 1, 0), (B, "subnet-cccccccccc", 2, 7)]),
            min_size=1,
            max_size=3,
            unique=True,
        ),
    ),
    max_size=6,
    unique_by=lambda one: one.id,
)


@settings(deadline=None, max_examples=60)
@given(specs, st.randoms(use_true_random=False))
def test_the_order_of_the_members_means_nothing(members: list[VmConfig], random: Any) -> None:  # noqa: ANN401
    mixed = random.sample(members, len(members))
    for vpc in (A, B):
        assert wanted.network(vpc, mixed, POLICY) == wanted.network(vpc, members, POLICY)
        assert wanted.dhcp(vpc, mixed, POLICY) == wanted.dhcp(vpc, members, POLICY)
        assert wanted.metadata(vpc, mixed, POLICY) == wanted.metadata(vpc, members, POLICY)


@settings(deadline=None, max_examples=60)
@given(specs)
def test_what_is_wanted_of_all_is_what_is_wanted_of_each(members: list[VmConfig]) -> None:
    for vpc in (A, B):
        each = [wanted.network(vpc, [member], POLICY) for member in members]
        assert wanted.network(vpc, members, POLICY) == frozenset().union(*each)
