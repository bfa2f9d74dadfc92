"""Links of the host that are nobody's of ours: forwarding is on for uplinks, and they go on as they did before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.host.uplink.conftest import NAT, A, Site
from tests.host.uplink.test_uplink_host import DOCKER, state
from tests.host.uplink.world import HOST, ISP, PORT, WEB, Guest

pytestmark = pytest.mark.host

PER_LINK = ["net.ipv4.conf.lan.forwarding=1", "net.ipv4.conf.wan.forwarding=1"]
MASQUERADE = (
    "table ip others {\n chain post {\n type nat hook postrouting priority srcnat; policy accept;\n"
    "ip saddr 192.0.2.0/24 counter masquerade\n }\n}\n"
)


SHORT = 1.0
"""Seconds that are waited for an answer that must not come."""


def passes(site: Site, seconds: float = 10) -> bool:
    """Whether the host forwards between two links of its own."""
    return Guest(site.world, "peer").pings(ISP, seconds=seconds)


@pytest.fixture
def reached(site: Site) -> Site:
    """A host whose neighbours know a way to each other through it."""
    return _reached(site)


def _reached(site: Site) -> Site:
    site.world.run("isp", "ip", "route", "add", "192.0.2.0/24", "via", HOST)
    return site


def uplink(site: Site) -> Guest:
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    site.world.serve("web", WEB, PORT)
    assert guest.ask(WEB, PORT, "out") == HOST
    return guest


def test_what_nobody_forwarded_nobody_forwards(reached: Site) -> None:
    before = state(reached)
    assert not passes(reached, SHORT)
    guest = uplink(reached)
    assert not passes(reached, SHORT)
    assert "forwarding is on for uplinks alone (IPv4)" in str(state(reached)["tables"])
    made = state(reached)
    reached.world.run("host", "nft", "flush", "chain", "inet", "lvagent", "others")
    assert passes(reached)
    reached.networks.heal_router()
    assert state(reached) == made
    reached.world.run("host", "nft", "flush", "ruleset")
    reached.networks.heal_router()
    assert not passes(reached, SHORT)
    reached.restart()
    reached.networks.heal_router()
    assert state(reached) == made
    assert guest.ask(WEB, PORT, "out") == HOST
    reached.wishes.drop(A)
    assert state(reached) == before


def test_what_was_forwarded_goes_on(reached: Site) -> None:
    reached.world.run("host", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert passes(reached)
    before = state(reached)
    uplink(reached)
    assert passes(reached)
    tables = str(state(reached)["tables"])
    assert "(IPv6)" in tables
    assert "(IPv4)" not in tables
    reached.wishes.drop(A)
    assert state(reached) == before
    assert passes(reached)


def test_links_that_forward_by_switches_of_their_own_go_on(reached: Site) -> None:
    reached.world.run("host", "sysctl", "-qw", *PER_LINK)
    names = [one.partition("=")[0] for one in PER_LINK]
    assert passes(reached)
    uplink(reached)
    assert passes(reached)
    reached.wishes.drop(A)
    assert passes(reached)
    assert reached.world.run("host", "sysctl", "-n", "net.ipv4.ip_forward", *names) == "0\n1\n1\n"


def test_by_setting_all_may_forward(sites: Callable[..., Site]) -> None:
    site = _reached(sites(others="forward"))
    uplink(site)
    assert passes(site)


@pytest.mark.parametrize("ruleset", [MASQUERADE, DOCKER.replace("policy drop", "policy accept")])
def test_whoever_needs_forwarding_by_now_has_it(reached: Site, ruleset: str) -> None:
    uplink(reached)
    reached.world.run("host", "nft", ruleset)
    reached.networks.heal_router()
    assert passes(reached)
    reached.wishes.drop(A)
    assert passes(reached)
    reached.world.run("host", "nft", "flush", "ruleset")
    reached.world.run("host", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    reached.wishes.put(A, NAT)
    assert not passes(reached, SHORT)


def test_frames_that_a_bridge_passes_on_are_not_forwarded_packets(site: Site) -> None:
    uplink(site)
    world = site.world
    world.run("host", "ip", "link", "add", "br0", "type", "bridge")
    world.run("host", "ip", "link", "set", "br0", "up")
    for name, address in (("left", "10.99.0.1/24"), ("right", "10.99.0.2/24")):
        inside = world.space(name)
        world.run("host", "ip", "link", "add", f"p-{name}", "type", "veth", "peer", "name", "eth0", "netns", inside)
        world.run("host", "ip", "link", "set", f"p-{name}", "master", "br0", "up")
        world.run(name, "ip", "link", "set", "eth0", "up")
        world.run(name, "ip", "address", "add", address, "dev", "eth0")
    world.run("host", "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    assert Guest(world, "left").pings("10.99.0.2")
    assert not Guest(world, "peer").pings(ISP, seconds=SHORT)
