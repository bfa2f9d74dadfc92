"""The links, addresses and default routes of this host, as the kernel tells them."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from lvagent.host import host, netns
from lvagent.host.run import run

pytestmark = pytest.mark.host

MADE = (
    "link set lo up",
    "link add one type bridge",
    "link add two type bridge",
    "link set one addrgenmode none up",
    "link set two addrgenmode none up",
    "addr add 192.0.2.2/24 dev one",
    "addr add 198.51.100.2/24 dev two",
    "-6 addr add 2001:db8::2/64 dev two nodad",
    "route add default via 192.0.2.1 dev one metric 200",
    "route add default via 198.51.100.1 dev two metric 100",
    "-6 route add default via 2001:db8::1 dev two",
    "route add default via 192.0.2.1 dev one table 77",
)


def test_links_addresses_and_the_best_default_route() -> None:
    def body() -> None:
        for line in MADE:
            run(["ip", *line.split()])
        assert host.links() == {
            "one": (ip_interface("192.0.2.2/24"),),
            "two": (ip_interface("198.51.100.2/24"), ip_interface("2001:db8::2/64")),
        }
        assert host.default_links() == {4: "two", 6: "two"}
        run(["ip", "route", "del", "default", "metric", "100"])
        assert host.default_links() == {4: "one", 6: "two"}
        assert {str(one) for one in host.addresses()} == {
            "127.0.0.1/8", "::1/128", "192.0.2.2/24", "198.51.100.2/24", "2001:db8::2/64",
        }  # fmt: skip

    netns.scratch(body)


def test_a_host_without_a_way_out() -> None:
    assert netns.scratch(lambda: (host.links(), host.default_links(), host.addresses())) == ({}, {}, ())
