"""Which rule of a VM allows a packet, in the order in which the kernel asks them."""

from __future__ import annotations

from ipaddress import ip_network

from lvagent.plan.explain.facts import Facts
from lvagent.plan.firewall import directed, group, order
from lvagent.spec.addresses import Address, Net
from lvagent.spec.flow import PROTOCOLS, Packet, Stage, Step, proto_name
from lvagent.spec.rules import is_name
from lvagent.spec.vm import Direction, NetRule, VmConfig

PUBLISHED = "what is published"
"""The element of a rule that a publication implies."""

_STAGES = {Direction.INGRESS: Stage.INGRESS, Direction.EGRESS: Stage.EGRESS}


def judge(vm: VmConfig, way: Direction, packet: Packet, vpc: str, facts: Facts) -> Step:
    """What the rules of a VM say of a packet that it begins a flow with, or that begins one with it.

    :param packet: as the VM sees it.
    :param vpc: in which the VM is asked.
    """
    found = [(directed(rule, vm), f"rules[{index}]") for index, rule in enumerate(vm.rules)]
    found += [(rule, PUBLISHED) for rule in facts.policy.implied(vm, vpc)]
    asked = sorted((pair for pair in found if pair[0].direction is way), key=lambda pair: order(pair[0]))
    stage = _STAGES[way]
    if not asked and way is Direction.EGRESS:
        return Step(stage, vm.id, "no egress rule", f"{vm.id} has no egress rules: it may begin anything")
    for rule, element in asked:
        if allows(rule, packet, vpc, facts):
            return Step(stage, vm.id, element, f"{element} of {vm.id} allows it: {told(rule)}")
    what = f"{proto_name(packet.number)} {packet.port}" if packet.port else proto_name(packet.number)
    side = f"to {packet.destination}" if way is Direction.EGRESS else f"from {packet.source}"
    return Step(stage, vm.id, "no rule", f"no {way} rule of {vm.id} allows {what} {side}", False)


def allows(rule: NetRule, packet: Packet, vpc: str, facts: Facts) -> bool:
    """Whether a rule allows a packet."""
    return (
        _is_proto(rule.proto, packet)
        and (not rule.port or rule.port <= packet.port <= (rule.port_end or rule.port))
        and _covers(rule.source, packet.source, vpc, facts)
        and _covers(rule.destination, packet.destination, vpc, facts)
    )


def _is_proto(proto: str, packet: Packet) -> bool:
    if proto == "any":
        return True
    if {"icmp": 4, "icmpv6": 6}.get(proto, packet.version) != packet.version:
        return False
    return packet.number == (PROTOCOLS[proto] if proto in PROTOCOLS else int(proto))


def _covers(peer: str, address: Address, vpc: str, facts: Facts) -> bool:
    if not peer:
        return True
    nets = _group(vpc, peer, facts) if is_name(peer) else (ip_network(peer),)
    return any(net.version == address.version and address in net for net in nets)


def _group(vpc: str, name: str, facts: Facts) -> tuple[Net, ...]:
    """What a name stands for in a VPC, and in those that are peered with it."""
    return group(vpc, name, facts.members(vpc), [(one.vpc, one.members) for one in facts.near(vpc)]).nets


def told(rule: NetRule) -> str:
    """A rule in one line."""
    ports = "" if not rule.port else f" {rule.port}" + (f"-{rule.port_end}" if rule.port_end else "")
    source, destination = rule.source or "any", rule.destination or "any"
    return f"{rule.direction} {rule.proto}{ports}, from {source} to {destination}"
