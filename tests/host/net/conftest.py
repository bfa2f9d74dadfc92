"""A host of its own for each test: root's network and the names of namespaces are private to it, and vanish with it."""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path

import pytest

from lvagent.config import FabricSettings, Paths, Settings
from lvagent.host import netns
from lvagent.host.network import Network
from lvagent.plan.firewall import order
from lvagent.plan.resources import (
    Bridge,
    Fabric,
    Firewall,
    Netns,
    Plug,
    PortFilter,
    Resource,
    Ruleset,
    Subnet,
    Veth,
    Vxlan,
)
from lvagent.render import nft
from lvagent.spec import names
from lvagent.spec.vm import Direction, NetRule

VPC, SUBNET = "vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa"
LOCAL = "192.0.2.1"
MTU = 1450
LONG, SHORT = 15.0, 0.5
"""Seconds that are waited for what must come, on a machine that may be busy; and for what must not."""

_CLONE_NEWNS = 0x20000
_PRIVATE = (1 << 18) | 0x4000
_TUNSETIFF = 0x400454CA
_TAP = 0x1002
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Put the test into a network and a mount namespace of its own; yields a folder for names and locks."""
    folder = os.getcwd()
    kept = [(os.open(f"/proc/self/ns/{kind}", os.O_RDONLY), flag) for kind, flag in NAMESPACES]
    try:
        assert _libc.unshare(netns.CLONE_NEWNET | _CLONE_NEWNS) == 0
        assert _libc.mount(b"none", b"/", None, _PRIVATE, None) == 0
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")  # else it is as on the machine, which may have Docker
        yield tmp_path
    finally:
        for descriptor, flag in kept:
            back(descriptor, flag)
            os.close(descriptor)
        os.chdir(folder)


def back(descriptor: int, flag: int) -> None:
    """Return to a namespace; for a moment refused while a thread that was joined is still ending in the kernel."""
    end = time.monotonic() + 30
    while _libc.setns(descriptor, flag):
        assert time.monotonic() < end
        time.sleep(0.005)


NAMESPACES = (("net", netns.CLONE_NEWNET), ("mnt", _CLONE_NEWNS))


def settings_for(folder: Path, fabric: str = "lvfabric") -> Settings:
    """Settings with all paths in the folder."""
    paths = dataclasses.replace(Paths(), run=f"{folder}/run", netns=f"{folder}/netns")
    return Settings(paths=paths, fabric=FabricSettings(netns=fabric, local=LOCAL))


@pytest.fixture
def settings(place: Path) -> Settings:
    """Settings of the test's own host."""
    return settings_for(place)


@pytest.fixture
def network(settings: Settings) -> Iterator[Network]:
    """The network of the test's own host."""
    made = Network(settings)
    yield made
    made.close()


class Guest:
    """A tap, seen from the side of qemu: what it writes comes out of the guest's NIC."""

    def __init__(self, name: str) -> None:
        self._descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP))

    def send(self, frame: bytes) -> None:
        """Send a frame as the guest."""
        os.write(self._descriptor, frame)

    def frames(self, seconds: float) -> Iterator[bytes]:
        """The frames that come to the guest within this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._descriptor], [], [], left)[0]:
                yield os.read(self._descriptor, 65_536)

    def gets(self, wanted: bytes | Callable[[bytes], bool], seconds: float = LONG) -> bool:
        """Whether such a frame comes within this time: ``SHORT`` for one that must not."""
        accept = wanted if callable(wanted) else wanted.__eq__
        return any(accept(frame) for frame in self.frames(seconds))

    def burst(self) -> Iterator[bytes]:
        """The frames that come to the guest until no more come for a while."""
        while select.select([self._descriptor], [], [], SHORT)[0]:
            yield os.read(self._descriptor, 65_536)

    def drain(self) -> None:
        """Forget what came so far."""
        for _ in self.frames(0.02):
            pass

    def close(self) -> None:
        """End qemu: the tap goes."""
        os.close(self._descriptor)


@pytest.fixture
def guest() -> Iterator[Callable[[str], Guest]]:
    """Makes taps in the calling namespace; all are gone after the test."""
    made: list[Guest] = []

    def make(name: str) -> Guest:
        made.append(Guest(name))
        return made[-1]

    yield make
    for one in made:
        try:
            one.close()
        except OSError:
            continue


def base(vpc: str = VPC, fabric: str = "lvfabric") -> list[Resource]:
    """The resources of a VPC without subnets, and the underlay side."""
    return [Fabric(fabric), Netns(vpc), Ruleset(vpc, nft.base_digest())]


def segment(vpc: str = VPC, subnet: str = SUBNET, vni: int = 100, third: int = 0, mtu: int = MTU) -> list[Resource]:
    """The resources of a subnet; ``third``: of 10.0.x.0/24 and fd00:x::/64. VNI 0: no way to the underlay side."""
    made = Subnet(vpc, subnet, mtu, IPv4Interface(f"10.0.{third}.1/24"), IPv6Interface(f"fd00:{third}::1/64"))
    if vni == 0:
        return [made]
    return [Bridge(vni, mtu), Vxlan(vni, mtu, LOCAL, 4789), made, Veth(vpc, subnet, vni, mtu)]


def port(vm: int, vpc: str = VPC, subnet: str = SUBNET, third: int = 0) -> PortFilter:
    """The port of VM number ``vm``: the last part of its addresses."""
    ident = f"i-{vm:010d}"
    return PortFilter(
        vpc=vpc,
        subnet=subnet,
        tap=names.tap(ident, 0),
        mac=names.nic_mac(ident, 0),
        ipv4=f"10.0.{third}.{vm}",
        ipv6=f"fd00:{third}::{vm}",
        gateway_v4=f"10.0.{third}.1",
        gateway_v6=f"fd00:{third}::1",
    )


ANYTHING = NetRule("any", direction=Direction.INGRESS)


def wall(*ports: PortFilter, rules: Iterable[NetRule] = (ANYTHING,)) -> Firewall:
    """The firewall of the VM with these ports; unless told otherwise it lets anything in."""
    addresses = [address for of in ports for address in (of.ipv4, of.ipv6) if address]
    canonical = [str(ip_address(address)) for address in addresses]
    owner = names.tap_owner(ports[0].tap)
    assert owner is not None
    taps = sorted(of.tap for of in ports)
    return Firewall(ports[0].vpc, owner[0], tuple(taps), tuple(sorted(canonical)), tuple(sorted(set(rules), key=order)))


def open_port(of: PortFilter) -> list[PortFilter | Firewall]:
    """A port and a firewall that lets anything in."""
    return [of, wall(of)]


def plug(of: PortFilter, mtu: int = MTU) -> Plug:
    """The place of a port's tap."""
    return Plug(of.vpc, of.subnet, of.tap, mtu)
