"""Behind an address of the host: VPCs reach the world, and never each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

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
