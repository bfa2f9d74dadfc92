"""Out of a VPC by its uplink, and into one from the world: what is denied, translated, routed, and led to a VM."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

from lvagent.errors import SpecError
from lvagent.plan import uplinks
from lvagent.plan.explain import inward, receiver
from lvagent.plan.explain.facts import Facts
from lvagent.plan.explain.inward import Led
from lvagent.plan.explain.way import Way
from lvagent.spec.addresses import Address, Net
from lvagent.spec.flow import PINGS, WITH_PORTS, End, Goal, Packet, Stage, proto_name
from lvagent.spec.vpc import UplinkMode

TOLD_APART = WITH_PORTS | PINGS | {33, 136}
"""The protocols whose flows are told apart behind one address; beside the usual ones DCCP and UDP-Lite."""

NO_LINK = "no link"
"""The element of a floating address that nobody outside finds."""


def routes(facts: Facts, vpc: str) -> set[Net]:
    """The prefixes of a VPC that root routes to it."""
    mode, ways = facts.policy.mode(vpc), facts.policy.uplinks
    if mode is UplinkMode.NONE or ways is None or not ways.routed:
        return set()
    nets = {net for one in facts.segments(vpc) for net in one.nets if (vpc, net) not in facts.contested}
    return uplinks.routable(mode, nets, ways)


def routed_to(facts: Facts, vpc: str, address: Address) -> bool:
    """Whether root routes an address to a VPC."""
    return any(net.version == address.version and address in net for net in routes(facts, vpc))


def behind(facts: Facts, address: Address, besides: str = "") -> str | None:
    """The VPC to which root routes an address; None: to none."""
    return next((vpc for vpc in facts.vpcs() if vpc != besides and routed_to(facts, vpc, address)), None)


def end_of(facts: Facts, vpc: str, packet: Packet) -> End:
    """Where a packet is meant to arrive.

    :param vpc: where it is sent from; '': the world.
    """
    address = packet.destination
    if vpc and facts.is_local(vpc, address):
        return End(Goal.GATEWAY, vpc)
    segment = facts.segment_of(vpc, address) if vpc else None
    place = vpc
    if segment is None:
        led = inward.led(facts, packet)
        if led is not None:
            return End(Goal.PORT, led.vpc, led.holder.vm.id, led.holder.nic.subnetname)
        peer = facts.peer_of(vpc, address) if vpc else None
        place = peer or behind(facts, address, besides=vpc) or ""
        segment = facts.segment_of(place, address) if place else None
    if segment is None:
        return End(Goal.WORLD if vpc else Goal.NOBODY)
    if facts.is_local(place, address):
        return End(Goal.GATEWAY, place)
    holders = facts.holders(place, address)
    if holders:
        return End(Goal.PORT, place, holders[0].vm.id, segment.name)
    return End(Goal.SEGMENT if segment.vni else Goal.NOBODY, place, subnet=segment.name)


# out


def leave(way: Way, vpc: str) -> None:
    """The way of a packet that is for nobody in its VPC."""
    facts, packet = way.facts, way.packet
    mode, ways = facts.policy.mode(vpc), facts.policy.uplinks
    if mode is UplinkMode.NONE or ways is None:
        why = facts.unpeered(vpc, packet.destination)
        text = f"no route to {packet.destination}: it is in no subnet of {vpc}, and {vpc} has no uplink"
        way.stop(Stage.ROUTE, vpc, "no uplink", text + (why and f"; {why}"))
        return
    if packet.version == 6 and ways.ipv6 == "none":
        way.stop(Stage.ROUTE, vpc, "uplink.ipv6 none", f"no route to {packet.destination}: IPv6 has no uplink here")
    way.passes(Stage.ROUTE, vpc, "", f"{packet.destination} is in no subnet of {vpc}: by its uplink ({mode})")
    own = packet.destination in ways.own
    denied = None if own else next((one for one in ways.denied if one.covers(packet.destination)), None)
    if denied is not None:
        why = facts.unpeered(vpc, packet.destination)
        text = f"{packet.destination} is denied by {denied.said}" + (why and f"; {why}")
        way.stop(Stage.UPLINK, vpc, denied.said, text)
    _translate(way, vpc)
    led = inward.led(facts, way.packet)
    if led is not None:
        _lead(way, led)
        return
    if own:
        text = f"{packet.destination} is an address of this host, which no guest reaches but for what is published"
        way.stop(Stage.HOST, "root", "this host", text)
    other = behind(facts, packet.destination, besides=vpc)
    if other is None:
        _check_met(way)
        _check_told_apart(way)
        way.passes(Stage.ARRIVAL, "world", "", "it leaves this host")
        return
    way.passes(Stage.HOST, "root", "", f"root routes it to {other}")
    _enter(way, other)


def _translate(way: Way, vpc: str) -> None:
    facts, packet = way.facts, way.packet
    mode, ways, ends = facts.policy.mode(vpc), facts.policy.uplinks, facts.transits.get(vpc)
    assert ways is not None
    floating = next((one for one in facts.floats(vpc) if ip_address(one.to) == packet.source), None)
    if floating is not None:
        text = f"the uplink of {vpc} takes it out, as from the floating address {floating.address}"
        way.passes(Stage.UPLINK, vpc, "floating address", text)
        way.packet = dataclasses.replace(packet, source=ip_address(floating.address))
        return
    if packet.version not in ways.translated(mode) and packet.destination not in ways.own:
        if not routed_to(facts, vpc, packet.source):
            text = f"{packet.source} is not routed to {vpc}, so nothing comes from it (reverse path)"
            way.stop(Stage.HOST, "root", "reverse path", text)
        way.passes(Stage.UPLINK, vpc, f"uplink {mode}", f"the uplink of {vpc} takes it out as it is")
        return
    own = None if ends is None else (ends.vpc_v4 if packet.version == 4 else ends.vpc_v6)
    whose = f" {own.ip}" if own is not None else " the address of its uplink"
    way.passes(Stage.UPLINK, vpc, f"uplink {mode}", f"the uplink of {vpc} takes it out, behind{whose}")
    if own is not None:
        way.packet = dataclasses.replace(packet, source=own.ip)


def _check_told_apart(way: Way) -> None:
    """What leaves the host behind an address that is shared has ports, or is a ping."""
    packet, ways = way.packet, way.facts.policy.uplinks
    shared = ways is not None and any(one.version == packet.version and packet.source in one for one in ways.pools)
    if shared and packet.number not in TOLD_APART:
        text = f"{proto_name(packet.number)} has no ports: it does not go out behind a shared address (uplink nat)"
        way.stop(Stage.HOST, "root", "no ports", text)


def _check_met(way: Way) -> None:
    """What leaves the host does not get to a VM of it."""
    target = way.flow.target
    if isinstance(target, str):
        where = way.end.vpc if way.end is not None else ""
        text = f"another VPC: {target} is in {where}, and {way.packet.destination} is outside of this one"
        way.stop(Stage.HOST, "root", "another VPC", text)


# in


def come(way: Way) -> None:
    """The way of a packet that comes to this host from the world."""
    facts, packet = way.facts, way.packet
    ways = facts.policy.uplinks
    pools = () if ways is None else ways.pools
    if any(pool.version == packet.version and packet.source in pool for pool in pools):
        way.stop(Stage.HOST, "root", "reverse path", f"{packet.source} is of uplinks: nothing from there comes by wire")
    led = inward.led(facts, packet)
    if led is not None:
        _check_sender(way, led)
        _lead(way, led)
        return
    vpc = behind(facts, packet.destination)
    if vpc is not None and (ways is None or packet.destination not in ways.own):
        way.passes(Stage.HOST, "root", "", f"root routes {packet.destination} to {vpc}")
        _enter(way, vpc)
        return
    _refuse_unrouted(way)


def _check_sender(way: Way, led: Led) -> None:
    """See that what is led comes from elsewhere, and finds the way here.

    :raise SpecError: its sender is this host.
    """
    ways, source = way.facts.policy.uplinks, way.packet.source
    assert ways is not None
    if source in ways.own:
        hint = "ask as from another address; what programs of the host send is not walked"
        raise SpecError("query.from", f"{source} is an address of this host itself", hint)
    if led.publication is None and led.link not in ways.links:
        why = f"there is no link {led.link}" if led.link else "there is no default route"
        text = f"nobody outside finds {led.said} of {led.holder.vm.id}: {why}"
        way.stop(Stage.INWARD, "root", NO_LINK, text)


def _lead(way: Way, led: Led) -> None:
    """From root to a VM to which something is led, by its VPC."""
    inward.check_source(way, led)
    element = "published port" if led.publication else "floating address"
    way.passes(Stage.INWARD, "root", element, f"root leads {led.said} to {led.vpc}")
    packet, ends = way.packet, way.facts.transits.get(led.vpc)
    mine, host = (
        (None, None)
        if ends is None
        else ((ends.vpc_v4, ends.host_v4) if packet.version == 4 else (ends.vpc_v6, ends.host_v6))
    )
    if led.publication and mine and host and packet.source == mine.ip:  # back to the VPC that it is from
        way.packet = dataclasses.replace(packet, source=host.ip)
    _check_path(way, led.vpc)
    inward.turn(way, led)


def _refuse_unrouted(way: Way) -> None:
    """Say why the world does not get to what is not routed."""
    facts, target = way.facts, way.flow.target
    if not isinstance(target, str):
        own = facts.policy.uplinks.own if facts.policy.uplinks else frozenset()
        what = "nothing is published there" if target in own else "it is of no VPC of this host that is routed"
        way.stop(Stage.HOST, "root", "no route", f"no way to {target}: {what}")
        return
    vpc = way.end.vpc if way.end is not None else ""
    mode = facts.policy.mode(vpc)
    if mode is UplinkMode.NONE:
        way.stop(Stage.ROUTE, vpc, "no uplink", f"no way to {target}: {vpc} has no uplink")
    found = ", ".join(map(str, facts.policy.published(facts.vms[target])))
    what = f"of {target} are published {found}, and not this" if found else f"nothing of {target} is published"
    text = f"no way to {target}: {vpc} is behind its uplink ({mode}), and {what}"
    way.stop(Stage.HOST, "root", "no publication", text)


def _enter(way: Way, vpc: str) -> None:
    """From root into a VPC, to which the destination is routed."""
    _check_path(way, vpc)
    facts, packet = way.facts, way.packet
    if facts.is_local(vpc, packet.destination):
        text = f"the gateway of {vpc} answers nobody outside"
        way.stop(Stage.GATEWAY, vpc, "gateway", text)
    segment = facts.segment_of(vpc, packet.destination)
    assert segment is not None
    way.passes(Stage.ROUTE, vpc, "", f"{vpc} lets it in by its uplink, to {segment.name}")
    receiver.meet(way, vpc, segment, routed=True)


def _check_path(way: Way, vpc: str) -> None:
    """The strict reverse path of a VPC: by its uplink comes what it would answer by it."""
    facts, source = way.facts, way.packet.source
    if facts.segment_of(vpc, source) is not None:
        text = f"{source} is of {vpc} itself: nothing from there comes by its uplink"
        way.stop(Stage.UPLINK, vpc, "reverse path", text)
    peer = facts.peer_of(vpc, source)
    if peer is not None:
        text = f"{source} is of {peer}, with which {vpc} is peered: nothing from there comes by the uplink of {vpc}"
        way.stop(Stage.UPLINK, vpc, "reverse path", text)
