"""The packet that is sent to see whether a walk is right: where it comes in, where it is looked for."""

from __future__ import annotations

from dataclasses import dataclass

from lvagent.plan.explain import inward, outside
from lvagent.plan.explain.facts import Facts, on_link
from lvagent.spec import names
from lvagent.spec.flow import Goal, Packet, Walk
from lvagent.spec.vm import Network
from lvagent.spec.vpc import UplinkMode

ROOT = ""
NOBODY = "06:ff:ff:ff:ff:fe"
"""The MAC to which a frame is sent that is for an address that nobody here has."""

UNSENDABLE = frozenset({33, 136})
"""DCCP and UDP-Lite: conntrack checks more of these than the probe is able to make."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A place that counts as the goal: ``netns`` ('' is root), the link by which the packet goes out of it.

    ``link`` empty: it goes to that namespace itself; '*': by any link but an uplink. ``port``: the port of the bridge
    ``link`` by which it would go on; it must be there.
    """

    netns: str
    link: str
    port: str = ""


@dataclass(frozen=True, slots=True)
class Leg:
    """A namespace on the way, and the links by which the packet may leave it for the next one."""

    netns: str
    onward: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Probe:
    """``entry``: the tap as whose guest it is sent, in the first leg; '' is from the world: by the link to its source.

    ``source_mac``, ``target_mac``: of the frame; '' of what comes from the world. ``goal``: what counts as arrived.
    ``listener``: whether somebody must listen at the goal.
    """

    packet: Packet
    entry: str
    source_mac: str
    target_mac: str
    legs: tuple[Leg, ...]
    goal: frozenset[Arrival]
    listener: bool = False


def probe(walk: Walk, facts: Facts) -> Probe | str:
    """What to send for a walk, or why nothing can be sent."""
    packet = walk.packet
    if packet is None:
        return "nothing can be sent: there is no address to send from or to"
    if packet.number in UNSENDABLE:
        return f"nothing was sent: protocol {packet.number} is not among those that can be"
    if walk.decider.element == outside.NO_LINK:
        return f"nothing was sent: {walk.decider.text}"
    owner = names.tap_owner(walk.entry)
    if owner is not None and owner[0] not in facts.running:
        return f"nothing can be sent: {owner[0]} does not run, so it has no port"
    nic = None if owner is None else next(one for one in facts.vms[owner[0]].networks if one.position == owner[1])
    return Probe(
        packet=packet,
        entry=walk.entry,
        source_mac="" if nic is None else nic.mac,
        target_mac="" if nic is None else _target_mac(nic, packet, facts),
        legs=_legs(walk.vpc, packet, facts),
        goal=frozenset(_goal(walk, packet, facts)),
        listener=walk.end.goal is Goal.GATEWAY and bool(packet.port),
    )


def _target_mac(nic: Network, packet: Packet, facts: Facts) -> str:
    """To whom a guest would send the frame: to who has the address on its link, else to the gateway."""
    vpc = nic.netname
    if not on_link(nic, packet.destination) or facts.is_local(vpc, packet.destination):
        return names.gateway_mac(nic.subnetname)
    holders = [one for one in facts.holders(vpc, packet.destination) if one.nic.subnetname == nic.subnetname]
    return holders[0].nic.mac if holders else NOBODY


def _legs(vpc: str, packet: Packet, facts: Facts) -> tuple[Leg, ...]:
    """The namespaces that the packet might get to."""
    peer = facts.peer_of(vpc, packet.destination) if vpc else None
    if peer is not None:
        return Leg(vpc, frozenset({names.peer_link(peer)})), Leg(peer)
    if vpc and facts.policy.mode(vpc) is UplinkMode.NONE:
        return (Leg(vpc),)
    led = inward.led(facts, packet)
    other = led.vpc if led is not None else outside.behind(facts, packet.destination, besides=vpc)
    first = (Leg(vpc, frozenset({names.uplink_inner(vpc)})),) if vpc else ()
    onward = frozenset() if other is None else frozenset({names.uplink_outer(other)})
    return (*first, Leg(ROOT, onward), *(() if other in (None, vpc) else (Leg(other),)))


def _goal(walk: Walk, packet: Packet, facts: Facts) -> list[Arrival]:
    end = walk.end
    if end.goal is Goal.WORLD:
        return [Arrival(ROOT, "*")]
    if end.goal is Goal.GATEWAY:
        return [Arrival(end.vpc, "")]
    if end.goal is Goal.SEGMENT:
        return [Arrival(end.vpc, names.veth_inner(end.subnet))]
    if end.goal is Goal.NOBODY:
        return []
    found = []
    led = inward.led(facts, packet)
    holders = facts.holders(end.vpc, packet.destination) or (() if led is None else (led.holder,))
    for holder in holders:
        if holder.vm.id == end.vm:
            tap, bridge = names.tap(end.vm, holder.nic.position), names.subnet_bridge(holder.nic.subnetname)
            found += [Arrival(end.vpc, tap), Arrival(end.vpc, bridge, tap)]
    return found
