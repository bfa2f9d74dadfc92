"""Many VPCs at once, from threads of one agent and beside a hook that works alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lvagent.config import Settings
from lvagent.host.network import Network
from lvagent.plan.resources import Fabric, Resource
from tests.host.net.conftest import Guest, base, open_port, plug, port, segment

pytestmark = pytest.mark.host

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
