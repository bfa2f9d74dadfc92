"""Out of a VPC by its uplink, and into one from the world: what is denied, what is translated, what is routed."""

from __future__ import annotations

import dataclasses

from lvagent.plan import uplinks
from lvagent.plan.explain import receiver
from lvagent.plan.explain.facts import Facts
from lvagent.plan.explain.way import Way
from lvagent.spec.addresses import Address, Net
from lvagent.spec.flow import End, Goal, Stage
from lvagent.spec.vpc import UplinkMode


def routes(facts: Facts, vpc: str) -> set[Net]:
    """The prefixes of a VPC that root routes to it."""
    mode, ways = facts.policy.mode(vpc), facts.policy.uplinks
    if mode is UplinkMode.NONE or ways is None or not ways.routed:
        return set()
    return uplinks.routable(mode, [net for one in facts.segments(vpc) for net in one.nets], ways)


def routed_to(facts: Facts, vpc: str, address: Address) -> bool:
    """Whether root routes an address to a VPC."""
    return any(net.version == address.version and address in net for net in routes(facts, vpc))


def behind(facts: Facts, address: Address, besides: str = "") -> str | None:
    """The VPC to which root routes an address; None: to none."""
    return next((vpc for vpc in facts.vpcs() if vpc != besides and routed_to(facts, vpc, address)), None)


def end_of(facts: Facts, vpc: str, address: Address) -> End:
    """Where what is sent to an address is meant to arrive.

    :param vpc: where it is sent from; '': the world.
    """
    if vpc and facts.is_local(vpc, address):
        return End(Goal.GATEWAY, vpc)
    segment = facts.segment_of(vpc, address) if vpc else None
    place = vpc
    if segment is None:
        place = behind(facts, address, besides=vpc) or ""
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
        text = f"no route to {packet.destination}: it is in no subnet of {vpc}, and {vpc} has no uplink"
        way.stop(Stage.ROUTE, vpc, "no uplink", text)
        return
    if packet.version == 6 and ways.ipv6 == "none":
        way.stop(Stage.ROUTE, vpc, "uplink.ipv6 none", f"no route to {packet.destination}: IPv6 has no uplink here")
    way.passes(Stage.ROUTE, vpc, "", f"{packet.destination} is in no subnet of {vpc}: by its uplink ({mode})")
    denied = next((one for one in ways.denied if one.covers(packet.destination)), None)
    if denied is not None:
        way.stop(Stage.UPLINK, vpc, denied.said, f"{packet.destination} is denied by {denied.said}")
    _translate(way, vpc)
    if packet.destination in ways.own:
        text = f"{packet.destination} is an address of this host, which no guest reaches"
        way.stop(Stage.HOST, "root", "this host", text)
    other = behind(facts, packet.destination, besides=vpc)
    if other is None:
        _check_met(way)
        way.passes(Stage.ARRIVAL, "world", "", "it leaves this host")
        return
    way.passes(Stage.HOST, "root", "", f"root routes it to {other}")
    _enter(way, other)


def _translate(way: Way, vpc: str) -> None:
    facts, packet = way.facts, way.packet
    mode, ways, ends = facts.policy.mode(vpc), facts.policy.uplinks, facts.transits.get(vpc)
    assert ways is not None
    if packet.version not in ways.translated(mode):
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
    vpc = behind(facts, packet.destination)
    if vpc is not None:
        way.passes(Stage.HOST, "root", "", f"root routes {packet.destination} to {vpc}")
        _enter(way, vpc)
        return
    _refuse_unrouted(way)


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
    what = f"{vpc} is behind its uplink ({mode}), and nothing of {target} is published"
    way.stop(Stage.HOST, "root", "no publication", f"no way to {target}: {what}")


def _enter(way: Way, vpc: str) -> None:
    """From root into a VPC, to which the destination is routed."""
    facts, packet = way.facts, way.packet
    if facts.segment_of(vpc, packet.source) is not None:
        text = f"{packet.source} is of {vpc} itself: nothing from there comes by its uplink"
        way.stop(Stage.UPLINK, vpc, "reverse path", text)
    if facts.is_local(vpc, packet.destination):
        text = f"the gateway of {vpc} answers nobody outside"
        way.stop(Stage.GATEWAY, vpc, "gateway", text)
    segment = facts.segment_of(vpc, packet.destination)
    assert segment is not None
    way.passes(Stage.ROUTE, vpc, "", f"{vpc} lets it in by its uplink, to {segment.name}")
    receiver.meet(way, vpc, segment, routed=True)
