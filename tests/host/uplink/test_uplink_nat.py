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
