"""What leads into VPCs: as planned, and who is in whose way."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

import pytest

from lvagent.errors import Conflict, SpecError
from lvagent.plan import wanted
from lvagent.plan.inward import check
from lvagent.plan.resources import Firewall, Inward, Router
from lvagent.plan.uplinks import Table, UplinkPolicy
from lvagent.plan.wanted import Policy
from lvagent.render import nft
from lvagent.render.inward import inward
from lvagent.spec.parse import parse_vm
from lvagent.spec.publications import Publication, parse_publications
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
OWN = frozenset(map(ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1", "198.19.0.2")))
KINDS = (frozenset({4, 6}), frozenset({4}), frozenset[int]())


def uplinks(ipv6: str = "nat66") -> UplinkPolicy:
    return UplinkPolicy(
        pools=(ip_network("198.19.0.0/16"), ip_network("fd6c::/112")),
        mtu=1500,
        ipv6=ipv6,
        routed=(),
        resolvers=(),
        own=OWN,
        private=(),
        router=Router("r", True),
        tables={kind: Table("t", "") for kind in KINDS},
    )


def policy(ports: Mapping[str, tuple[Publication, ...]], mode: UplinkMode = UplinkMode.NAT) -> Policy:
    config = VpcConfig(uplink=mode)
    return Policy(
        "lvfabric", 1500, "", 4789, "x", (), nft.base_digest(),
        uplinks=uplinks(), vpcs={A: config, B: config}, ports=ports, led=inward,
    )  # fmt: skip


def vm(number: int, vpc: str = A, *, v6: bool = True) -> VmConfig:
    nic: dict[str, object] = {
        "vxlanid": 0, "netname": vpc, "subnetname": f"subnet-{vpc[4:]}", "position": 0,
        "ipv4": f"10.0.0.{number}/24", "gateway_v4": "10.0.0.1",
    }  # fmt: skip
    nic |= {"ipv6": f"fd00:a::{number}/64", "gateway_v6": "fd00:a::1"} if v6 else {}
    return parse_vm({"id": f"i-{number:010}", "memory_mb": 64, "cpus": 1, "networks": [nic]})


def ports(*documents: dict[str, object]) -> tuple[Publication, ...]:
    return parse_publications(list(documents))


def led(members: list[VmConfig], found: Policy, vpc: str = A) -> Inward | None:
    return next((one for one in wanted.network(vpc, members, found) if isinstance(one, Inward)), None)


def test_nothing_published_nothing_led() -> None:
    assert led([vm(5)], policy({})) is None
    assert led([vm(5)], policy({"i-0000000006": ports({"host_port": 80})})) is None
    assert led([vm(5)], policy({"i-0000000005": ports({"host_port": 80})}, UplinkMode.NONE)) is None


def test_what_is_led_and_by_whom_it_may_be_asked() -> None:
    wish = ports(
        {"host_port": 8080, "port": 80, "sources": ["198.51.100.0/24"]},
        {"host_port": 9000, "host_port_end": 9009, "proto": "udp", "host_address": "192.0.2.1"},
    )
    found = led([vm(5)], policy({"i-0000000005": wish}))
    assert found is not None
    assert found.keys == (
        ("allowed4", ("17", "0.0.0.0-255.255.255.255", "192.0.2.1-192.0.2.1", "9000-9009")),
        ("allowed4", ("6", "198.51.100.0-198.51.100.255", "0.0.0.0-255.255.255.255", "8080-8080")),
        ("published4", ("17", "192.0.2.1-192.0.2.1", "9000-9009")),
        ("published4", ("6", "0.0.0.0-255.255.255.255", "8080-8080")),
        ("selves4", ()),
    )
    assert "6 . 8080 : 10.0.0.5 . 80 }" in found.text
    assert "17 . 9000-9009 : 10.0.0.5 }" in found.text
    assert "17 . 9000-9009 . 10.0.0.5 . 9000-9009, 6 . 8080 . 10.0.0.5 . 80 }" in found.text
    assert "fd00" not in found.text.replace("fd6c", "")
    walls = [one for one in wanted.network(A, [vm(5)], policy({"i-0000000005": wish})) if isinstance(one, Firewall)]
    assert {(rule.proto, rule.port, rule.port_end, rule.source) for rule in walls[0].rules} == {
        ("tcp", 80, None, "198.51.100.0/24"),
        ("udp", 9000, 9009, ""),
    }


def test_the_same_port_on_two_addresses_is_one_inside() -> None:
    wish = ports(
        {"host_port": 8000, "host_port_end": 8010, "host_address": "192.0.2.1"},
        {"host_port": 8005, "host_port_end": 8020, "host_address": "192.0.2.2"},
    )
    found = led([vm(5)], policy({"i-0000000005": wish}))
    assert found is not None
    assert "6 . 8000-8020 : 10.0.0.5 }" in found.text


def test_each_change_is_told_by_the_digest() -> None:
    wishes = [
        ports({"host_port": 80}),
        ports({"host_port": 80, "port": 81}),
        ports({"host_port": 80, "sources": ["192.0.2.0/24", "::/0"]}),
        ports({"host_port": 80, "host_address": "192.0.2.1"}),
        ports({"host_port": 80}, {"host_port": 81}),
    ]
    found = [led([vm(5)], policy({"i-0000000005": wish})) for wish in wishes]
    assert len({one.digest for one in found if one}) == len(wishes)


def refused(wish: tuple[Publication, ...], **others: tuple[Publication, ...]) -> tuple[str, str]:
    """Where and by whom publications of VM 5 in A are refused; others are 6 in A and 7 in B."""
    known = {"six": "i-0000000006", "seven": "i-0000000007"}
    taken = {known[name]: found for name, found in others.items()}
    with pytest.raises(Conflict) as error:
        check(vm(5), wish, [vm(5), vm(6), vm(7, B)], taken, UplinkMode.NAT, uplinks())
    return error.value.path, error.value.other


def test_who_has_a_port() -> None:
    one = ports({"host_port": 80})
    assert refused(one, seven=one) == ("[0].host_port", "i-0000000007")
    assert refused(ports({"host_port": 70}, {"host_port": 80}), seven=ports({"host_port": 1, "host_port_end": 79})) == (
        "[0].host_port",
        "i-0000000007",
    )
    here, there = (ports({"host_port": 80, "host_address": f"192.0.2.{n}"}) for n in (1, 2))
    assert refused(here, seven=one) == ("[0].host_port", "i-0000000007")
    assert refused(here, six=there) == ("[0].host_port", "i-0000000006")  # one VPC, one way
    check(vm(5), here, [vm(7, B)], {"i-0000000007": there}, UplinkMode.NAT, uplinks())
    check(vm(5), one, [vm(7, B)], {"i-0000000007": ports({"host_port": 80, "proto": "udp"})}, UplinkMode.NAT, uplinks())
    check(vm(5), one, [vm(5)], {"i-0000000005": one}, UplinkMode.NAT, uplinks())


@pytest.mark.parametrize("address", ["192.0.2.9", "198.19.0.2"])
def test_an_address_must_be_the_hosts_own(address: str) -> None:
    with pytest.raises(SpecError, match="no address of this host"):
        check(vm(5), ports({"host_port": 80, "host_address": address}), [], {}, UplinkMode.NAT, uplinks())


def test_a_vm_is_reached_by_the_versions_that_it_has() -> None:
    six = ports({"host_port": 80, "host_address": "2001:db8::1"})
    check(vm(5), six, [], {}, UplinkMode.NAT, uplinks())
    for spec, ways in ((vm(5, v6=False), uplinks()), (vm(5), uplinks("none"))):
        with pytest.raises(SpecError, match="cannot be reached by IPv6"):
            check(spec, six, [], {}, UplinkMode.NAT, ways)


def test_without_a_way_out_there_is_none_in() -> None:
    with pytest.raises(Conflict, match="has no uplink") as error:
        check(vm(5), ports({"host_port": 80}), [], {}, UplinkMode.NONE, uplinks())
    assert "PUT /v1/vpcs/vpc-aaaaaaaaaa" in error.value.hint
    check(vm(5), (), [], {}, UplinkMode.NONE, None)
