"""From a port through its VPC: what the sender may begin, where the packet goes, and what the gateway serves."""

from __future__ import annotations

from lvagent.plan.explain import inward, outside, peering, receiver
from lvagent.plan.explain.facts import METADATA, on_link
from lvagent.plan.explain.judge import judge
from lvagent.plan.explain.way import Way
from lvagent.spec.flow import Packet, Stage
from lvagent.spec.vm import Direction, Network, VmConfig

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_SERVERS = {4: 67, 6: 547}


def go_on(way: Way, vm: VmConfig, nic: Network) -> None:
    """The way of a packet that a port has let into its VPC."""
    facts, packet, vpc = way.facts, way.packet, nic.netname
    if facts.is_local(vpc, packet.destination):
        _to_gateway(way, vm, vpc)
        return
    way.go(judge(vm, Direction.EGRESS, packet, vpc, facts))
    if on_link(nic, packet.destination):
        segment = next(one for one in facts.segments(vpc) if one.name == nic.subnetname)
        way.passes(Stage.ROUTE, nic.subnetname, "", f"{packet.destination} is on the sender's own link")
        receiver.contain(way, segment.name)
        receiver.meet(way, vpc, segment, routed=False)
        return
    led = inward.floating_in(facts, vpc, packet.destination)
    if led is not None:
        inward.check_other(way, led)
        inward.turn(way, led)
        return
    there = facts.segment_of(vpc, packet.destination)
    if there is None:
        _out(way, vpc)
        return
    way.passes(Stage.ROUTE, vpc, "", f"the gateway routes it to {there.name}")
    receiver.meet(way, vpc, there, routed=True)


def _out(way: Way, vpc: str) -> None:
    other = way.facts.peer_of(vpc, way.packet.destination)
    if other is None:
        outside.leave(way, vpc)
    else:
        peering.cross(way, vpc, other)


# the gateway


def _to_gateway(way: Way, vm: VmConfig, vpc: str) -> None:
    facts, packet = way.facts, way.packet
    receiver.check_met(way, f"the gateway of {vpc}", "")
    if _always(packet):
        way.passes(Stage.EGRESS, vm.id, "", "DHCP, DNS and metadata of the VPC are open whatever the rules say")
    else:
        way.go(judge(vm, Direction.EGRESS, packet, vpc, facts))
    what, listening = _service(way, vpc)
    if not what:
        text = f"the gateway of {vpc} serves DHCP, DNS, metadata and ping, and nothing else"
        way.stop(Stage.GATEWAY, vpc, "gateway", text)
    if not listening:
        text = f"nobody listens there: {what}"
        way.stop(Stage.GATEWAY, vpc, "gateway", text)
    way.passes(Stage.GATEWAY, vpc, "gateway", f"the gateway of {vpc} answers it: {what}")


def _always(packet: Packet) -> bool:
    """What a guest gets of its own VPC whatever its rules say."""
    if packet.number == UDP and packet.port in _SERVERS.values():
        return True
    return packet.number in (TCP, UDP) and (packet.port == 53 or (packet.port == 80 and packet.destination in METADATA))


def _service(way: Way, vpc: str) -> tuple[str, bool]:
    """What of the gateway a packet is for, and whether somebody answers; '' if it is for nothing that it serves."""
    facts, packet = way.facts, way.packet
    gateways = {gateway for one in facts.segments(vpc) for gateway in one.gateways}
    if packet.number in (ICMP, ICMPV6):
        return "ping", True
    if packet.number == UDP and packet.port in _SERVERS.values():
        version = 4 if packet.port == _SERVERS[4] else 6
        serves = any(one.version == version for one in gateways)
        return "DHCP", serves and packet.version == version
    if packet.number in (TCP, UDP) and packet.port == 53:
        serves = packet.destination in gateways
        return "DNS" if serves else "DNS is at the addresses of the gateways", serves
    if packet.number in (TCP, UDP) and packet.port == 80 and packet.destination in METADATA:
        if facts.policy.config(vpc).metadata is False:
            return f"metadata is off in {vpc}", False
        return "metadata", packet.number == TCP
    return "", False
