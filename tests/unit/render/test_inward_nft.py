"""What leads into VPCs as nft texts: golden, and nothing but numbers and addresses in root's elements."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from lvagent.plan.inward import Float, Opening
from lvagent.render.inward import inward, root_text
from lvagent.spec.publications import parse_publications
from tests.golden import golden

FLOATS = [Float("203.0.113.50", "10.0.0.5", "eth0"), Float("203.0.113.51", "10.0.0.5", "eth0")]
VPC = "vpc-aaaaaaaaaa"
POOLS = (ip_network("198.19.0.0/16"), ip_network("fd6c::/112"))
PORTS = parse_publications(
    [
        {"host_port": 8080, "port": 80, "sources": ["198.51.100.0/24", "2001:db8::/32"]},
        {"host_port": 7000, "host_port_end": 7999, "host_address": "192.0.2.1"},
        {"proto": "udp", "host_port": 5000, "host_port_end": 5002, "port": 6000},
    ]
)


def test_the_table_of_a_vpc() -> None:
    made = inward(VPC, [Opening(one, "10.0.0.5", None if one.address else "fd00:a::5") for one in PORTS], FLOATS, POOLS)
    golden("nft/inward.nft", made.text)


def test_the_elements_of_root() -> None:
    made = inward(VPC, [Opening(one, "10.0.0.5", None if one.address else "fd00:a::5") for one in PORTS], FLOATS, POOLS)
    ends = {"4": "198.19.0.3", "6": "fd6c::3"}
    placed = [(name, key, ends[name[-1]]) for name, key in made.keys]
    golden("nft/inward-root.nft", root_text(VPC, placed[:2], placed))


@pytest.mark.parametrize(
    ("name", "key", "end"),
    [
        ("published4", ("6", "0.0.0.0-255.255.255.255", "80 } x"), "198.19.0.3"),
        ("published4", ("6", "0.0.0.0/0", "80-80"), "198.19.0.3"),
        ("published4", ("6 . 7", "192.0.2.1-192.0.2.1", "80-80"), "198.19.0.3"),
        ("published4", ("6", "192.0.2.1-192.0.2.1", "80-80"), "198.19.0.3 }"),
        ("selves4", (), "x"),
    ],
)
def test_what_is_no_number_and_no_address_gets_nowhere(name: str, key: tuple[str, ...], end: str) -> None:
    with pytest.raises(ValueError):
        root_text(VPC, [], [(name, key, end)])
    with pytest.raises(ValueError):
        root_text('vpc"', [], [])
