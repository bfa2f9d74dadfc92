"""The ends of peerings as resources: which prefixes of the other VPC each end leads to, and by which address it speaks.

Pure functions of the peerings and of the members of VPCs. Both VPCs of a peering come to the same conclusion, each for
its own end. Prefixes that overlap are refused before; where they come in all the same (libvirt brings a definition of
its own), the peering is not made, and neither is another of the VPC between the two: no route is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from lvagent.plan.firewall import in_order
from lvagent.plan.resources import Peer
from lvagent.spec.addresses import Net
from lvagent.spec.peerings import Peering, Peerings, peering
from lvagent.spec.vm import VmConfig

Members = Callable[[str], Sequence[VmConfig]]
"""The members of a VPC."""

Gateway = tuple[Net, IPv4Address | IPv6Address]
"""A prefix of a subnet, with the gateway's address in it."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A VPC that is peered with the one in question and that has members, and their prefixes with the gateways."""

    vpc: str
    members: tuple[VmConfig, ...]
    gateways: tuple[Gateway, ...]


def gateways_of(vpc: str, members: Iterable[VmConfig]) -> tuple[Gateway, ...]:
    """The prefixes of the subnets of a VPC with their gateways, by subnet and family."""
    found: dict[tuple[str, int], Gateway] = {}
    for nic in (nic for vm in members for nic in vm.networks if nic.netname == vpc):
        for address, gateway in ((nic.ipv4, nic.gateway_v4), (nic.ipv6, nic.gateway_v6)):
            if address is not None and gateway is not None:
                found.setdefault((nic.subnetname, gateway.version), (address.network, gateway))
    return tuple(found[key] for key in sorted(found))


def beside(vpc: str, peerings: Peerings, members: Members) -> tuple[Beside, ...]:
    """The VPCs to which this one leads now: peered with it, both with members, and with no prefix that overlaps."""
    found = []
    for other in peerings.of(vpc) if members(vpc) else ():
        there = tuple(members(other))
        if there and not clash(peering(vpc, other), peerings, members):
            found.append(Beside(other, there, gateways_of(other, there)))
    return tuple(found)


def clash(one: Peering, peerings: Peerings, members: Members) -> str:
    """Why a peering cannot be made now: which prefixes overlap; empty: none do."""
    for mine, other in ((one.a, one.b), (one.b, one.a)):
        own = [net for net, _ in gateways_of(mine, members(mine))]
        for rival in dict.fromkeys((other, *peerings.of(other))):
            for net in (net for net, _ in gateways_of(rival, members(rival)) if rival != mine):
                met = next((each for each in own if each.version == net.version and each.overlaps(net)), None)
                if met is not None:
                    return f"{met} of {mine} overlaps {net} of {rival}"
    return ""


def peers(vpc: str, members: Iterable[VmConfig], near: Iterable[Beside]) -> frozenset[Peer]:
    """This VPC's end of each of its peerings."""
    own = gateways_of(vpc, members)
    return frozenset(_peer(vpc, own, one) for one in near)


def _peer(vpc: str, own: Sequence[Gateway], other: Beside) -> Peer:
    """What both have in common: a prefix of a family that this VPC has not got could not be used."""
    there = {net.version for net, _ in other.gateways}
    sources = {address.version: address for _, address in reversed(own) if address.version in there}
    nets = {net for net, _ in other.gateways if net.version in sources}
    return Peer(
        vpc=vpc,
        other=other.vpc,
        nets=in_order(nets),
        sources=tuple(sources[version] for version in sorted(sources)),
    )
