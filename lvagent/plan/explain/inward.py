"""What is led into VPCs: who is behind a port of the host that is published, and behind a floating address."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from lvagent.errors import SpecError
from lvagent.plan.explain import receiver
from lvagent.plan.explain.facts import Facts, Holder
from lvagent.plan.explain.way import Way
from lvagent.plan.inward import target
from lvagent.spec.addresses import Address
from lvagent.spec.flow import Flow, Packet, Stage
from lvagent.spec.publications import Publication

_PROTOCOLS = {"tcp": 6, "udp": 17}


@dataclass(frozen=True, slots=True)
class Led:
    """Where something is led: the address of a VM in a VPC.

    ``said``: what is led there, in plain words. ``publication``: None: it is a floating address, on the link ``link``.
    """

    vpc: str
    to: Address
    holder: Holder
    said: str
    publication: Publication | None = None
    link: str = ""

    def port(self, port: int) -> int:
        """The port of the VM for one that is asked for."""
        one = self.publication
        return port if one is None else port - one.first + one.port


def floating_in(facts: Facts, vpc: str, address: Address) -> Led | None:
    """Where a floating address is led in a VPC; None: it is none of that VPC."""
    for one in facts.floats(vpc):
        if ip_address(one.address) == address:
            to = ip_address(one.to)
            return Led(vpc, to, _holder(facts, vpc, to), f"the floating address {address}", None, one.link)
    return None


def floating(facts: Facts, address: Address) -> Led | None:
    """Where a floating address is led; None: it is none."""
    wish = facts.policy.floating.get(str(address))
    vpc = "" if wish is None else _home(facts, wish.vm)
    return floating_in(facts, vpc, address) if vpc else None


def published(facts: Facts, packet: Packet) -> Led | None:
    """Where a port of the host is led; None: it is not published, or not of the host.

    Who may come by it is not asked.
    """
    ways, address = facts.policy.uplinks, packet.destination
    if ways is None or address not in ways.own or _is_transit(facts, address):
        return None
    for vpc in facts.vpcs():
        for one in facts.openings(vpc):
            pub, to = one.publication, one.address(packet.version)
            if to is not None and _is_for(pub, packet.number, packet.port) and pub.address in ("", str(address)):
                there = ip_address(to)
                return Led(vpc, there, _holder(facts, vpc, there), f"{pub} of the host", pub)
    return None


def led(facts: Facts, packet: Packet) -> Led | None:
    """Where what is sent to an address outside of VPCs is led; None: nowhere."""
    ways = facts.policy.uplinks
    if ways is not None and packet.destination in ways.own:
        return published(facts, packet)
    return floating(facts, packet.destination)


def _home(facts: Facts, vm: str) -> str:
    """The VPC in which it is led to a VM; '': there is none."""
    spec = facts.vms.get(vm)
    nic = None if spec is None else target(spec)
    return "" if nic is None else nic.netname


def _holder(facts: Facts, vpc: str, address: Address) -> Holder:
    return facts.holders(vpc, address)[0]


def _is_transit(facts: Facts, address: Address) -> bool:
    pools = facts.policy.uplinks.pools if facts.policy.uplinks else ()
    return any(pool.version == address.version and address in pool for pool in pools)


def _is_for(one: Publication, number: int, port: int) -> bool:
    return _PROTOCOLS[one.proto] == number and one.first <= port <= one.last


# on the way


def turn(way: Way, led: Led) -> None:
    """The way of a packet that the VPC leads to a VM of its own."""
    vm, packet = led.holder.vm.id, way.packet
    port = led.port(packet.port) if packet.port else 0
    where = f"{led.to} port {port}" if led.publication else str(led.to)
    way.packet = dataclasses.replace(packet, destination=led.to, port=port)
    way.passes(Stage.INWARD, led.vpc, "", f"{led.vpc} leads {led.said} to {vm}, {where}")
    segment = way.facts.segment_of(led.vpc, led.to)
    assert segment is not None
    receiver.meet(way, led.vpc, segment, routed=True)


def check_other(way: Way, led: Led) -> None:
    """Refuse to say what becomes of a packet that a VPC leads back to its sender: that is the guest's matter.

    :raise SpecError: it is led there.
    """
    vm = led.holder.vm.id
    if vm == way.flow.origin:
        hint = "ask about a floating address of another VM"
        raise SpecError("query.to", f"{led.said} is led to {vm}, which is the sender itself", hint)


def check_source(way: Way, led: Led) -> None:
    """See that the sender is among those who may come by a published port."""
    one, packet = led.publication, way.packet
    if one is None:
        return
    if not any(packet.source in net for net in one.sources_of(packet.version)):
        text = f"{packet.source} is not among the sources of {led.said}, which leads to {led.holder.vm.id}"
        way.stop(Stage.INWARD, "root", "sources", text)


# how the world knows a VM


def doors(facts: Facts, vm: str, flow: Flow) -> Iterator[tuple[int, Address]]:
    """The addresses by which what is led to a VM can be asked for, each with its rank: published ports first."""
    vpc = _home(facts, vm)
    for one in facts.floats(vpc):
        if _holder(facts, vpc, ip_address(one.to)).vm.id == vm:
            yield 1, ip_address(one.address)
    yield from ((0, address) for address in _own(facts) if _leads(facts, vm, flow, address))


def _leads(facts: Facts, vm: str, flow: Flow, address: Address) -> bool:
    found = published(facts, Packet(address, address, flow.number, flow.port))
    return found is not None and found.holder.vm.id == vm


def _own(facts: Facts) -> list[Address]:
    """The addresses of this host, those of the links that lead out first."""
    ways = facts.policy.uplinks
    if ways is None:
        return []
    first = {one.ip for link in ways.ways.values() for one in ways.links.get(link, ())}
    there = [one for one in ways.own if not (one.is_loopback or one.is_link_local)]
    return sorted(there, key=lambda one: (one not in first, one.version, int(one)))
