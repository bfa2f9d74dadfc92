"""A VPC's namespace with two subnets, and the DHCP server under test in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from lvagent.config import Paths, Settings
from lvagent.host.dnsmasq import DhcpServer
from lvagent.plan.resources import Dhcp, DhcpHost, DhcpSubnet
from tests.host.dhcp import wire

ONE = DhcpSubnet("subnet-aaaaaaaaaa", 1450, IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00:a::1/64"))
TWO = DhcpSubnet("subnet-bbbbbbbbbb", 1400, IPv4Interface("10.0.1.1/24"), IPv6Interface("fd00:b::1/64"))
BRIDGE_ONE, BRIDGE_TWO = "br-aaaaaaaaaa", "br-bbbbbbbbbb"


def host(number: int, subnet: DhcpSubnet = ONE, *, position: int = 0, mac: str = "") -> DhcpHost:
    third, letter = ("0", "a") if subnet is ONE else ("1", "b")
    return DhcpHost(
        vm=f"i-{number:010d}",
        position=position,
        subnet=subnet.name,
        mac=mac or f"06:00:00:00:{position:02x}:{number:02x}",
        ipv4=f"10.0.{third}.{number}",
        ipv6=f"fd00:{letter}::{number:x}",
        first=position == 0,
    )


@dataclass(frozen=True, slots=True)
class Site:
    """A VPC's namespace with two subnets, and the server under test."""

    vpc: str
    run: Path
    server: DhcpServer

    def wanted(self, *hosts: DhcpHost) -> Dhcp:
        return Dhcp(self.vpc, "vpc.internal", (ONE, TWO), tuple(sorted(hosts, key=lambda h: (h.vm, h.position))))

    def client(self, of: DhcpHost) -> contextlib.AbstractContextManager[wire.Client]:
        return wire.client(self.vpc, BRIDGE_ONE if of.subnet == ONE.name else BRIDGE_TWO, of.mac)

    def pid(self) -> int:
        return int((self.run / "dnsmasq" / self.vpc / "pid").read_text())


@contextlib.contextmanager
def a_site(folder: Path) -> Iterator[Site]:
    with wire.namespace(wire.name()) as vpc:
        wire.bridge(vpc, BRIDGE_ONE, "10.0.0.1/24", "fd00:a::1/64")
        wire.bridge(vpc, BRIDGE_TWO, "10.0.1.1/24", "fd00:b::1/64")
        server = DhcpServer(Settings(paths=Paths(run=str(folder))))
        try:
            yield Site(vpc, folder, server)
        finally:
            server.remove(vpc)
