"""Who has an address in a subnet, and what he lets in."""

from __future__ import annotations

from lvagent.plan.explain.facts import Holder, Segment
from lvagent.plan.explain.judge import judge
from lvagent.plan.explain.way import Way
from lvagent.spec import names
from lvagent.spec.flow import Stage
from lvagent.spec.vm import Direction

_UDP = 17
_DHCP = {4: range(67, 69), 6: range(546, 548)}


def meet(way: Way, vpc: str, segment: Segment, *, routed: bool) -> None:
    """Whoever has the address in a subnet, and what he lets in.

    :param routed: whether the gateway sends it, and not somebody on the same link.
    """
    facts, packet = way.facts, way.packet
    holders = [one for one in facts.holders(vpc, packet.destination) if one.nic.subnetname == segment.name]
    if not holders:
        _to_nobody(way, segment, routed=routed)
        return
    met = _whose(way, holders)
    tap = names.tap(met.vm.id, met.nic.position)
    if met.vm.id not in facts.running:
        way.stop(Stage.INGRESS, met.vm.id, "it does not run", f"{met.vm.id} does not run")
    for one in holders:
        way.go(judge(one.vm, Direction.INGRESS, packet, vpc, facts))
    way.passes(Stage.ARRIVAL, tap, "", f"it arrives at {tap}")


def _whose(way: Way, holders: list[Holder]) -> Holder:
    """Of those who have the address the one that was asked about; another is not."""
    target = way.flow.target
    for one in holders:
        if not isinstance(target, str) or one.vm.id == target:
            return one
    check_met(way, holders[0].vm.id, holders[0].vm.id)
    return holders[0]


def check_met(way: Way, who: str, vm: str) -> None:
    """See that who was met is who was asked about."""
    target = way.flow.target
    if isinstance(target, str) and target != vm:
        where = way.end.vpc if way.end is not None else ""
        here = way.packet.destination
        text = f"another VPC with equal prefixes: {here} is {who} here, and {target} is in {where}"
        way.stop(Stage.ROUTE, way.vpc, "another VPC with equal prefixes", text)


def _to_nobody(way: Way, segment: Segment, *, routed: bool) -> None:
    destination = way.packet.destination
    check_met(way, f"nobody's in {segment.name}", "")
    nets = [net for net in segment.nets if net.version == destination.version and net.version == 4]
    if any(destination in (net.network_address, net.broadcast_address) for net in nets):
        way.stop(Stage.ROUTE, segment.name, "no such address", f"{destination} is the address of no host")
    if not segment.vni:
        text = f"no VM of this host has {destination}, and {segment.name} is on this host alone"
        way.stop(Stage.ROUTE, segment.name, "nobody has it", text)
    if routed:
        text = f"no VM of this host has {destination}, and a gateway asks no other host who has"
        way.stop(Stage.ROUTE, segment.name, "nobody has it", text)
    text = f"no VM of this host has {destination}: it goes out by VXLAN {segment.vni}; the host that has it decides"
    way.passes(Stage.SEGMENT, segment.name, f"VXLAN {segment.vni}", text)


def contain(way: Way, subnet: str) -> None:
    """What is for the gateway of this host goes to no other port."""
    packet = way.packet
    if packet.number == _UDP and packet.port in _DHCP[packet.version]:
        way.stop(Stage.ROUTE, subnet, "DHCP", f"udp {packet.port} is DHCP, which is the gateway's alone")
