"""Behind an address of the host: VPCs reach the world, and never each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lvagent.errors import Conflict
from lvagent.plan.resources import Uplink
from tests.host.uplink.conftest import NAT, A, B, Site
from tests.host.uplink.world import HOST, HOST6, PORT, WEB, WEB6

pytestmark = pytest.mark.host


def test_two_vpcs_with_equal_addresses_fetch_at_once_and_none_is_crossed(site: Site) -> None:
    for vpc in (A, B):
        site.wishes.put(vpc, NAT)
    guests = [site.guest(A, 5), site.guest(B, 5)]
    site.world.serve("web", WEB, PORT)
    with ThreadPoolExecutor(2) as pool:  # each from the same source ports
        asked = [pool.submit(one.ask_many, WEB, PORT, 200, first=20_000) for one in guests]
        seen = [one.result() for one in asked]
    assert seen == [[HOST] * 200, [HOST] * 200]


def test_ipv6_goes_out_behind_an_address_of_the_host(site: Site) -> None:
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    site.world.serve("web", WEB6, PORT)
    assert guest.ask(WEB6, PORT, "six") == HOST6


@pytest.mark.parametrize("address", [WEB, WEB6])
def test_path_mtu_discovery_works(site: Site, address: str) -> None:
    """The hop between far and isp carries 1280 bytes; both ends send large segments."""
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    site.world.serve("web", address, PORT)
    assert guest.ask(address, PORT, "large", size=300_000) in (HOST, HOST6)


def test_without_an_uplink_nothing_goes_out(site: Site) -> None:
    guest = site.guest(A, 5)
    site.world.serve("web", WEB, PORT)
    assert guest.ask(WEB, PORT, "none", patience=1) == ""
    site.wishes.put(A, NAT)
    assert guest.ask(WEB, PORT, "nat") == HOST
    site.wishes.drop(A)
    assert guest.ask(WEB, PORT, "none", patience=1) == ""


def test_ipv6_stays_inside_by_setting(sites: Callable[..., Site]) -> None:
    site = sites(ipv6="none")
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    site.world.serve("web", WEB, PORT)
    site.world.serve("web", WEB6, PORT)
    assert guest.ask(WEB, PORT, "four") == HOST
    assert guest.ask(WEB6, PORT, "six", patience=1) == ""


def test_by_setting_ipv6_goes_as_it_is_beside_ipv4_behind_an_address_of_the_host(sites: Callable[..., Site]) -> None:
    site = sites(ipv6="routed", routed=("fd00:a::/32",))
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5, rules=[{"proto": "tcp", "port": PORT, "direction": "ingress"}])
    for address in (WEB, WEB6):
        site.world.serve("web", address, PORT)
    for place, way in (("isp", "2001:db8:1::1"), ("far", "2001:db8:2::1"), ("web", "2001:db8:5::1")):
        site.world.run(place, "ip", "-6", "route", "add", "fd00:a::/64", "via", way)
    assert guest.ask(WEB, PORT, "four") == HOST
    assert guest.ask(WEB6, PORT, "six") == "fd00:a::5"
    site.world.serve(guest.name, "fd00:a::5", PORT)
    site.world.serve(guest.name, "fd00:a::5", PORT + 1)
    caller = dataclasses.replace(guest, name="web")
    assert caller.ask("fd00:a::5", PORT, "in") == "2001:db8:5::10"
    assert caller.ask("fd00:a::5", PORT + 1, "in", patience=0.5) == ""
    routes = {one for one in site.network.observe(A) if isinstance(one, Uplink)}.pop().routes
    assert [str(net) for net in routes] == ["fd00:a::/64"]
    site.wishes.drop(A)
    assert guest.ask(WEB6, PORT, "six", patience=0.5) == ""


def test_ipv6_that_may_not_be_routed_stays_inside(sites: Callable[..., Site]) -> None:
    site = sites(ipv6="routed", routed=("fd00:b::/32",))
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    for address in (WEB, WEB6):
        site.world.serve("web", address, PORT)
    assert guest.ask(WEB, PORT, "four") == HOST
    assert guest.ask(WEB6, PORT, "six", patience=0.5) == ""
    assert {one for one in site.network.observe(A) if isinstance(one, Uplink)}.pop().routes == ()


def test_ipv6_of_two_vpcs_is_not_routed_to_both(sites: Callable[..., Site]) -> None:
    site = sites(ipv6="routed", routed=("fd00:a::/32",))
    for vpc in (A, B):
        site.guest(vpc, 5)
    site.wishes.put(A, NAT)
    with pytest.raises(
        Conflict, match=r"fd00:a::/64 of vpc-bbbbbbbbbb overlaps fd00:a::/64, which is routed to vpc-aaaaaaaaaa"
    ):
        site.wishes.put(B, NAT)
    assert site.networks.configs.get(B) is None
