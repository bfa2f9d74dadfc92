"""Ports and subnets for the tests of the filter's text, chosen and generated."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from hypothesis import strategies as st

from lvagent.plan.resources import PortFilter, Subnet

VPC = "vpc-aaaaaaaaaa"

PLAIN = PortFilter(
    vpc=VPC,
    subnet="subnet-aaaaaaaaaa",
    tap="t0000000001-0",
    mac="06:00:00:00:00:01",
    ipv4="10.0.0.5",
    ipv6="fd00:a::5",
    gateway_v4="10.0.0.1",
    gateway_v6="fd00:a::1",
)
RICH = PortFilter(
    vpc=VPC,
    subnet="subnet-bbbbbbbbbb",
    tap="t0000000002-11",
    mac="06:00:00:00:00:02",
    ipv4=None,
    ipv6="2001:db8:ffff:ffff:ffff:ffff:ffff:fffe",
    gateway_v4=None,
    gateway_v6="2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    extra_macs=("02:00:00:00:00:99", "02:00:00:00:00:11"),
    extra_addresses=tuple(
        map(ip_network, ("10.9.1.0/24", "10.9.0.0/16", "0.0.0.0/0", "fd00:b::/48", "fd00:c::1/128", "192.0.2.1/32"))
    ),
)
SUBNET = Subnet(VPC, "subnet-aaaaaaaaaa", 1450, IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00:a::1/64"))
SUBNET4 = Subnet(VPC, "subnet-bbbbbbbbbb", 1450, IPv4Interface("10.1.0.1/24"), None)

macs = st.integers(0, 2**40 - 1).map(
    lambda number: ":".join(f"{octet:02x}" for octet in (6, *number.to_bytes(5, "big")))
)
addresses4 = st.ip_addresses(v=4).map(str)
addresses6 = st.ip_addresses(v=6).map(str)


def _networks4() -> st.SearchStrategy[IPv4Network]:
    return st.builds(
        lambda address, length: IPv4Network((address, length), strict=False), st.ip_addresses(v=4), st.integers(0, 32)
    )


def _networks6() -> st.SearchStrategy[IPv6Network]:
    return st.builds(
        lambda address, length: IPv6Network((address, length), strict=False), st.ip_addresses(v=6), st.integers(0, 128)
    )


ports = st.builds(
    PortFilter,
    vpc=st.just(VPC),
    subnet=st.from_regex(r"subnet-[0-9a-z]{10}", fullmatch=True),
    tap=st.from_regex(r"t[0-9]{10}-[0-9]", fullmatch=True),
    mac=macs,
    ipv4=st.none() | addresses4,
    ipv6=st.none() | addresses6,
    gateway_v4=st.none() | addresses4,
    gateway_v6=st.none() | addresses6,
    extra_macs=st.lists(macs, max_size=4).map(tuple),
    extra_addresses=st.lists(_networks4() | _networks6(), max_size=8).map(tuple),
)
