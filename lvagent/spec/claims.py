"""What a VM lays claim to, as values that can be compared with another's.

A **statement** gives one value to one name: "subnet-x has VNI 100", "MAC m is mine", "I read volume v". Two owners
contradict each other when they give different values to one name; so what is shared (a subnet's VNI, a volume that
both only read) has an equal value, and what is exclusive has its owner for a value. A **range** is a net within a VPC;
ranges contradict by what they are (see ``RIVALS``).

An extra address or MAC may be claimed by several VMs, so that they can hand it to each other (VRRP); only nobody's own
address, own MAC or subnet may be among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from lvagent.spec.vm import Network, VmConfig, Volume


class About(StrEnum):
    """What a statement gives a value to."""

    SUBNET_VPC = "VPC of a subnet"
    SUBNET_VNI = "VNI of a subnet"
    SUBNET_V4 = "IPv4 gateway of a subnet"
    SUBNET_V6 = "IPv6 gateway of a subnet"
    SUBNET_MTU = "MTU of a subnet"
    VNI = "subnet of a VNI"
    MAC = "owner of a MAC on this host"
    MAC_IN_VPC = "owner of a MAC in a VPC"
    VOLUME = "owner of a volume"


class Kind(StrEnum):
    """What a range is: a subnet's prefix, a NIC's own address, or an extra address."""

    PREFIX = "prefix"
    ADDRESS = "address"
    EXTRA = "extra"


RIVALS: dict[Kind, tuple[Kind, ...]] = {
    Kind.PREFIX: (Kind.PREFIX, Kind.EXTRA),
    Kind.ADDRESS: (Kind.ADDRESS, Kind.EXTRA),
    Kind.EXTRA: (Kind.PREFIX, Kind.ADDRESS),
}
"""Which ranges of another owner may not meet one of this kind; with a prefix on either side, if the subnets differ."""

APART: dict[Kind, tuple[Kind, ...]] = {Kind.PREFIX: (Kind.PREFIX, Kind.EXTRA), Kind.EXTRA: (Kind.PREFIX,)}
"""Likewise for ranges of two VPCs that are peered: what is routed to the one must not be in the other."""


@dataclass(frozen=True, slots=True)
class Statement:
    """``name`` (scoped by ``about`` and ``vpc``) has ``value``; said at the JSON path ``path``."""

    about: About
    name: str
    value: str
    path: str
    vpc: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """A net in a VPC, claimed for a subnet; said at the JSON path ``path``."""

    kind: Kind
    vpc: str
    subnet: str
    net: IPv4Network | IPv6Network
    path: str


Claim = Statement | Range


@dataclass(frozen=True, slots=True)
class Below:
    """A volume that another one stands on (its backing file). ``at``: JSON path of the one above.

    Only the host can tell. It is read, as by a VM that has it read-only: nobody may write to it.
    """

    path: str
    at: str


def of_vm(vm: VmConfig, below: Iterable[Below] = ()) -> Iterator[Claim]:
    """All claims of a VM; paths count in the order of positions.

    :param below: what its volumes stand on.
    """
    for index, nic in enumerate(vm.networks):
        yield from of_nic(nic, vm.id, f"networks[{index}]")
    for index, volume in enumerate(vm.volumes):
        yield of_volume(volume, vm.id, f"volumes[{index}]")
    for one in below:
        yield Statement(About.VOLUME, one.path, "read-only", one.at)


def of_nic(nic: Network, owner: str, path: str) -> Iterator[Claim]:
    """All claims of a NIC: its subnet's first, since those explain the others."""
    yield from _subnet(nic, path)
    yield from _ranges(nic, path)
    yield Statement(About.MAC, nic.mac, owner, f"{path}.mac")
    yield Statement(About.MAC_IN_VPC, nic.mac, owner, f"{path}.mac", nic.netname)
    for index, mac in enumerate(nic.extra_macs):
        yield Statement(About.MAC_IN_VPC, mac, "shared", f"{path}.extra_macs[{index}]", nic.netname)


def of_volume(volume: Volume, owner: str, path: str) -> Claim:
    """The claim of a volume: alone, or to read it."""
    return Statement(About.VOLUME, volume.path, "read-only" if volume.readonly else owner, f"{path}.path")


def _subnet(nic: Network, path: str) -> Iterator[Claim]:
    name = nic.subnetname
    yield Statement(About.SUBNET_VPC, name, nic.netname, f"{path}.netname")
    yield Statement(About.SUBNET_VNI, name, str(nic.vxlanid), f"{path}.vxlanid")
    if nic.vxlanid:
        yield Statement(About.VNI, str(nic.vxlanid), name, f"{path}.vxlanid")
    for about, address, gateway, field in (
        (About.SUBNET_V4, nic.ipv4, nic.gateway_v4, "gateway_v4"),
        (About.SUBNET_V6, nic.ipv6, nic.gateway_v6, "gateway_v6"),
    ):
        if address is not None:
            yield Statement(about, name, f"{gateway}/{address.network.prefixlen}", f"{path}.{field}")
    yield Statement(About.SUBNET_MTU, name, str(nic.mtu or "unset"), f"{path}.mtu")


def _ranges(nic: Network, path: str) -> Iterator[Claim]:
    own: Sequence[tuple[IPv4Interface | IPv6Interface | None, str]] = ((nic.ipv4, "ipv4"), (nic.ipv6, "ipv6"))
    for address, field in own:
        if address is not None:
            yield Range(Kind.PREFIX, nic.netname, nic.subnetname, address.network, f"{path}.{field}")
            yield Range(Kind.ADDRESS, nic.netname, nic.subnetname, ip_network(address.ip), f"{path}.{field}")
    for index, net in enumerate(nic.extra_addresses):
        yield Range(Kind.EXTRA, nic.netname, nic.subnetname, net, f"{path}.extra_addresses[{index}]")
