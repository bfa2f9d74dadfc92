"""From a VPC into one that is peered with it: from its subnets to subnets there, and to nothing else."""

from __future__ import annotations

from lvagent.plan.explain import receiver
from lvagent.plan.explain.way import Way
from lvagent.spec.flow import Stage


def cross(way: Way, vpc: str, other: str) -> None:
    """The way of a packet that a VPC leads to another one, by their peering.

    :param other: the VPC that has the destination.
    """
    facts, packet = way.facts, way.packet
    text = f"{packet.destination} is in {other}, with which {vpc} is peered"
    way.passes(Stage.PEERING, vpc, "peering", text)
    if facts.peer_of(other, packet.source) != vpc:
        text = f"{packet.source} is in no subnet of {vpc}, and {other} lets in nothing else by their peering"
        way.stop(Stage.PEERING, other, "reverse path", text)
    if facts.is_local(other, packet.destination):
        way.stop(Stage.GATEWAY, other, "gateway", f"the gateway of {other} answers nobody outside")
    segment = facts.segment_of(other, packet.destination)
    assert segment is not None
    receiver.meet(way, other, segment, routed=True)
