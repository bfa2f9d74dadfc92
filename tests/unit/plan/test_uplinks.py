"""Uplinks as resources: what a wish makes of a VPC, and which addresses of the pools it gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.errors import Conflict
from lvagent.plan import diff, uplinks, wanted
from lvagent.plan.resources import Metadata, Netns, Router, Subnet, Uplink
from lvagent.plan.uplinks import Table, UplinkPolicy, allocate, slot_of, slots, transit
from lvagent.plan.wanted import Policy
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.unit.plan.test_wanted import ONE, POLICY, A

POOLS = (ip_network("198.19.0.0/16"), ip_network("fd6c:76a1:93d0:1::/112"))
SMALL = (ip_network("198.19.0.0/28"), ip_network("fd6c::/124"))
ROUTER = Router("r", ipv6=True, text="table")
TABLES: Mapping[frozenset[int], Table] = {
    frozenset({4, 6}): Table("both", "b"),
    frozenset({4}): Table("four", "f"),
    frozenset(): Table("none", "n"),
}
WAYS = UplinkPolicy(
    pools=POOLS,
    mtu=1500,
    ipv6="nat66",
    routed=(ip_network("10.0.0.0/8"), ip_network("fd00:a::/32")),
    resolvers=("192.0.2.53",),
    own=frozenset({ip_address("203.0.113.1")}),
    private=("corp.example",),
    router=ROUTER,
    tables=TABLES,
)


def policy(mode: str, **more: object) -> Policy:
    ways = dataclasses.replace(WAYS, **more)  # type: ignore[arg-type]
    wish = VpcConfig(uplink=UplinkMode(mode))
    return dataclasses.replace(POLICY, forwarders=(), uplinks=ways, vpcs={A: wish})


def ways_of(rules: Policy) -> set[object]:
    return {one for one in wanted.network(A, [ONE], rules) if isinstance(one, Router | Uplink)}


def test_without_a_wish_there_is_no_way_out_and_nobody_is_asked() -> None:
    rules = dataclasses.replace(policy("none"), vpcs={})
    assert ways_of(rules) == set()
    served = wanted.dhcp(A, [ONE], rules)
    assert served is not None
    assert (served.forwarders, served.private) == ((), ())


@pytest.mark.parametrize(
    ("mode", "ipv6", "digest", "routes"),
    [
        ("nat", "nat66", "both", []),
        ("nat", "routed", "four", ["fd00:a::/64"]),
        ("nat", "none", "four", []),
        ("routed", "nat66", "none", ["10.0.0.0/24", "fd00:a::/64"]),
        ("routed", "none", "none", ["10.0.0.0/24"]),
    ],
)
def test_a_way_out_is_a_link_with_its_table_and_routes(mode: str, ipv6: str, digest: str, routes: list[str]) -> None:
    expected = Uplink(A, 1500, ipv6 != "none", tuple(map(ip_network, routes)), digest)
    assert ways_of(policy(mode, ipv6=ipv6)) == {ROUTER, expected}


def test_dns_is_asked_by_the_uplink_of_who_the_wish_or_the_settings_or_the_host_says() -> None:
    def asked(rules: Policy) -> tuple[str, ...]:
        served = wanted.dhcp(A, [ONE], rules)
        assert served is not None
        return served.forwarders

    rules = policy("nat")
    assert asked(rules) == ("192.0.2.53",)
    assert asked(dataclasses.replace(rules, forwarders=("192.0.2.1",))) == ("192.0.2.1",)
    said = VpcConfig(uplink=UplinkMode.NAT, forwarders=())
    assert asked(dataclasses.replace(rules, vpcs={A: said})) == ()


def test_domain_mtu_and_metadata_are_the_vpcs() -> None:
    wish = VpcConfig(domain="shop.internal", mtu=1300, metadata=False)
    rules = dataclasses.replace(POLICY, vpcs={A: wish})
    served = wanted.dhcp(A, [ONE], rules)
    assert served is not None
    assert (served.domain, served.subnets[0].mtu) == ("shop.internal", 1300)
    assert {one.mtu for one in wanted.network(A, [ONE], rules) if isinstance(one, Subnet)} == {1300}
    assert wanted.metadata(A, [ONE], rules) is None
    assert isinstance(wanted.metadata(A, [ONE], POLICY), Metadata)
    wide = dataclasses.replace(POLICY, vpcs={A: VpcConfig(mtu=9000)})
    assert wanted.nic_mtu(ONE.networks[0], wide) == 1450  # what the segment carries


def test_the_router_goes_when_no_member_needs_it_and_by_no_vpcs_steps() -> None:
    assert diff.identity(ROUTER) in wanted.crossed([ONE], policy("nat"))
    assert diff.identity(ROUTER) not in wanted.crossed([ONE], policy("none"))
    gone = diff.subtract([], [ROUTER, Netns(A), Uplink(A, 1500, True, (), "both")]).remove
    assert [type(one).__name__ for one in gone] == ["Uplink", "Netns"]


def test_a_wish_that_cannot_be_read_keeps_what_is_there() -> None:
    there = {Uplink(A, 1500, True, (), "both"), ROUTER, Netns(A)}
    assert uplinks.keeping([Netns(A)], there) == there
    assert uplinks.keeping([Netns(A), Uplink(A, 1, False, (), "x")], [Netns(A)]) == {Netns(A)}


# addresses


@given(st.sets(st.integers(1, slots(SMALL)), max_size=slots(SMALL) - 1))
def test_a_slot_is_free_and_the_same_for_the_same_host(taken: set[int]) -> None:
    slot = allocate(A, taken, SMALL)
    assert 1 <= slot <= slots(SMALL)
    assert slot not in taken
    assert slot == allocate(A, taken, SMALL)


def test_all_slots_are_given_and_then_no_more() -> None:
    taken: set[int] = set()
    for number in range(slots(SMALL)):
        taken.add(allocate(f"vpc-{number:010}", taken, SMALL))
    assert taken == set(range(1, slots(SMALL) + 1)) == set(range(1, 8))
    with pytest.raises(Conflict, match=r"all 7 of 198.19.0.0/28 and fd6c::/124 are taken") as caught:
        allocate(A, taken, SMALL)
    assert caught.value.path == "uplink"
    assert "uplink.pool_v4" in caught.value.hint


@given(st.integers(1, slots(POOLS)))
def test_the_addresses_of_a_slot_tell_it(slot: int) -> None:
    ends = transit(slot, POOLS)
    assert ends.host_v6 is not None
    assert ends.vpc_v6 is not None
    for one in (ends.host_v4, ends.vpc_v4, ends.host_v6, ends.vpc_v6):
        assert slot_of(one, POOLS) == slot
    assert ends.host_v4.network == ends.vpc_v4.network
    assert ends.host_v6.network == ends.vpc_v6.network
    assert ends.vpc_v4.ip - 1 == ends.host_v4.ip


def test_an_address_of_no_pool_has_no_slot() -> None:
    assert slot_of(transit(1, SMALL).vpc_v4, [ip_network("198.18.0.0/16")]) is None


# what cannot go out


def check(mode: str, net: str, others: list[tuple[str, str]] = [], ipv6: str = "nat66") -> None:  # noqa: B006 - only read
    routed = [(vpc, ip_network(text)) for vpc, text in others]
    ways = dataclasses.replace(WAYS, ipv6=ipv6)
    uplinks.check(A, UplinkMode(mode), {"networks[0].ipv4": ip_network(net)}, routed, ways)


@pytest.mark.parametrize(
    ("mode", "net", "others", "message"),
    [
        ("nat", "198.19.4.0/24", [], "overlaps 198.19.0.0/16, the pool of uplinks"),
        ("nat", "198.16.0.0/12", [], "overlaps 198.19.0.0/16"),
        ("routed", "192.168.0.0/24", [], "may not be routed here"),
        ("routed", "fd00:b::/64", [], "may not be routed here"),
        ("routed", "10.0.0.0/24", [("vpc-b", "10.0.0.128/25")], "which is routed to vpc-b"),
    ],
)
def test_a_prefix_that_cannot_go_out_is_refused(
    mode: str, net: str, others: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(Conflict, match=message) as caught:
        check(mode, net, others)
    assert caught.value.path == "networks[0].ipv4"


def test_other_prefixes_go() -> None:
    check("none", "198.19.4.0/24")
    check("nat", "192.168.0.0/24", [("vpc-b", "192.168.0.0/24")])  # behind other addresses they never meet
    check("routed", "10.0.1.0/24", [("vpc-b", "10.0.0.0/24")])
    check("nat", "fd00:b::/64")
    check("nat", "fd00:b::/64", ipv6="routed")  # but it is routed nowhere
    check("nat", "fd00:a::/64", [("vpc-b", "fd00:a::/64")])


def test_ipv6_that_is_routed_beside_translated_ipv4_goes_to_one_vpc() -> None:
    check("nat", "fd00:a::/64", [("vpc-b", "fd00:a:1::/64")], ipv6="routed")
    check("nat", "10.0.0.0/24", [("vpc-b", "10.0.0.0/24")], ipv6="routed")
    with pytest.raises(Conflict, match="which is routed to vpc-b"):
        check("nat", "fd00:a::/64", [("vpc-b", "fd00:a::/64")], ipv6="routed")
