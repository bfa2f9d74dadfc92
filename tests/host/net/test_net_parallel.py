"""Many VPCs at once, from threads of one agent and beside a hook that works alone."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.host import netns
from lvagent.host.netspace import open_named
from lvagent.host.network import Network
from lvagent.host.vpcs import VpcSides
from lvagent.plan.resources import Fabric, Resource
from tests.host.net.conftest import Guest, base, open_port, plug, port, segment

pytestmark = pytest.mark.host

COMINGS = 300
VPCS = range(1, 9)


def wanted(number: int) -> list[Resource]:
    vpc, subnet = f"vpc-{number:010d}", f"subnet-{number:010d}"
    return [*base(vpc), *segment(vpc, subnet, vni=number), *open_port(port(number, vpc, subnet))]


def test_vpcs_are_made_observed_and_removed_at_once(
    network: Network, settings: Settings, guest: Callable[[str], Guest]
) -> None:
    alone = Network(settings)
    ports = {number: port(number, f"vpc-{number:010d}", f"subnet-{number:010d}") for number in VPCS}
    taps = {number: guest(one.tap) for number, one in ports.items()}

    def make(number: int) -> frozenset[Resource]:
        side = alone if number % 2 else network
        side.ensure(wanted(number))
        side.plug(open_port(ports[number]), plug(ports[number]))
        return side.observe(f"vpc-{number:010d}")

    def take_away(number: int) -> frozenset[Resource]:
        side = network if number % 2 else alone
        side.remove([plug(ports[number]), *reversed(wanted(number))])
        return side.observe(f"vpc-{number:010d}")

    with ThreadPoolExecutor(len(VPCS)) as pool:
        assert list(pool.map(make, VPCS)) == [frozenset([*wanted(number), plug(ports[number])]) for number in VPCS]
        left = set().union(*pool.map(take_away, VPCS))
    assert left <= {Fabric("lvfabric")}
    assert network.vpcs() == frozenset()
    assert len(taps) == len(VPCS)
    alone.close()


def test_a_vpc_that_comes_and_goes_while_it_is_looked_for_is_there_or_is_not(settings: Settings) -> None:
    maker, looker = (VpcSides(settings.paths.netns, settings.filter) for _ in range(2))
    vpc = "vpc-aaaaaaaaaa"

    def come_and_go() -> None:
        for count in range(10 * COMINGS):
            if count >= COMINGS and seen:
                return
            netns.create(maker.path(vpc))
            netns.delete(maker.path(vpc))

    seen = 0
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(come_and_go)
        while not busy.done():
            seen += looker.find(vpc) is not None
        busy.result()
    assert seen
    assert looker.find(vpc) is None
    netns.create(maker.path(vpc))
    found = looker.find(vpc)
    assert found is not None
    assert looker.find(vpc) is found
    netns.delete(maker.path(vpc))
    with pytest.raises(netns.NameGone, match="there is no such namespace"):
        netns.inside(maker.path(vpc), os.getpid)
    Path(maker.path(vpc)).touch()  # as a crash between the two steps of making one leaves it
    with pytest.raises(netns.NameGone):
        netns.inside(maker.path(vpc), os.getpid)
    assert (looker.find(vpc), open_named(maker.path(vpc))) == (None, None)
    looker.close()


def test_that_there_is_no_room_for_its_sockets_is_told_at_once(settings: Settings) -> None:
    sides = VpcSides(settings.paths.netns, settings.filter)
    netns.create(sides.path("vpc-aaaaaaaaaa"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, limits[1]))
    try:
        with pytest.raises(HostError, match="Too many open files"):
            sides.find("vpc-aaaaaaaaaa")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(free)
    assert sides.find("vpc-aaaaaaaaaa") is not None
    sides.close()
