"""Allow rules: what each field may say, what goes together, and which way a rule looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network

from lvagent.errors import SpecError
from lvagent.spec import names
from lvagent.spec.addresses import Net, parse_net, within
from lvagent.spec.json import quoted
from lvagent.spec.schema import RuleModel
from lvagent.spec.vm import Direction, NetRule, VmConfig

_NUMBERS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
"""Protocols that have a name here (IANA protocol numbers); any other stays a number."""
_NAMED = ("any", *_NUMBERS.values())
_WITH_PORTS = ("tcp", "udp", "sctp")
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,2})\Z")
_VERSION = {"icmp": 4, "icmpv6": 6}
_PROTO_HINT = f"{', '.join(_NAMED)}, or a number from 0 to 255"


def parse_rule(model: RuleModel, path: str) -> NetRule:
    """A rule with its protocol by name where it has one, and its nets in canonical spelling.

    :raise SpecError: under ``path``.
    """
    proto = _proto(model.proto, f"{path}.proto")
    port = model.port or 0
    port_end = _port_end(proto, port, model.port_end, path)
    source = _peer(model.source or "", f"{path}.source")
    destination = _peer(model.destination or "", f"{path}.destination")
    _check_families(proto, source, destination, path)
    direction = Direction(model.direction) if model.direction else None
    return NetRule(proto, port, port_end, source, destination, direction)


def direction_of(rule: NetRule, vm: VmConfig) -> Direction:
    """Which way a rule looks, seen from the VM it belongs to.

    As the rule says; else egress if its source is the VM itself (its id, or within its own addresses) or if it has a
    destination that does not cover the VM (its id, one of its subnets, or a net that meets its own addresses).
    """
    if rule.direction is not None:
        return rule.direction
    own = tuple(_own_nets(vm))
    if rule.source == vm.id or _is_own(rule.source, own):
        return Direction.EGRESS
    if rule.destination and not _covers(rule.destination, vm, own):
        return Direction.EGRESS
    return Direction.INGRESS


def _own_nets(vm: VmConfig) -> Iterator[Net]:
    for nic in vm.networks:
        yield from (ip_network(address.ip) for address in (nic.ipv4, nic.ipv6) if address is not None)
        yield from nic.extra_addresses


def _is_own(peer: str, own: tuple[Net, ...]) -> bool:
    net = _net(peer)
    return net is not None and any(within(net, mine) for mine in own)


def _covers(peer: str, vm: VmConfig, own: tuple[Net, ...]) -> bool:
    net = _net(peer)
    if net is None:
        return peer == vm.id or any(peer == nic.subnetname for nic in vm.networks)
    return any(within(mine, net) or within(net, mine) for mine in own)


def _net(peer: str) -> Net | None:
    return ip_network(peer) if peer and not is_name(peer) else None


def is_name(peer: str) -> bool:
    """Whether what a rule names is a VM or a subnet, not a net."""
    return bool(names.VM_ID.match(peer) or names.SUBNET_NAME.match(peer))


def _proto(value: int | str, path: str) -> str:
    text = str(value).lower()
    if text in _NAMED:
        return text
    if not _NUMBER.match(text) or int(text) > 255:
        raise SpecError(path, f"{quoted(str(value))} is no protocol", _PROTO_HINT)
    return _NUMBERS.get(int(text), text)


def _port_end(proto: str, port: int, end: int | None, path: str) -> int | None:
    """The end of the range, None if it is one port (or all)."""
    if proto not in _WITH_PORTS and (port or end):
        at = f"{path}.port" if port else f"{path}.port_end"
        raise SpecError(at, f"{proto} has no ports", f"only {', '.join(_WITH_PORTS)} have; leave it out")
    if end is None:
        return None
    if port == 0:
        raise SpecError(f"{path}.port", "a range without its first port", "port_end is the last port of a range")
    if end < port:
        raise SpecError(f"{path}.port_end", f"{end} is below port {port}", "a range goes from port up to port_end")
    return end if end > port else None


def _peer(text: str, path: str) -> str:
    """A VM id or a subnet's name as it is; a net or an address in canonical spelling."""
    if not text or is_name(text):
        return text
    if text.startswith(("i-", "subnet-")):
        raise SpecError(
            path, f"{quoted(text)} is no id", 'a VM is "i-" and 10 digits, a subnet "subnet-" and 10 of 0-9, a-z'
        )
    if not re.match(r"[0-9A-Fa-f:.]+(?:/[0-9]+|%.*)?\Z", text):
        raise SpecError(
            path,
            f"{quoted(text)} is neither a net nor an id",
            "a CIDR, an address, a VM id, a subnet's name, or nothing",
        )
    net = parse_net(text, path)
    return str(net) if "/" in text else str(net.network_address)


def _check_families(proto: str, source: str, destination: str, path: str) -> None:
    nets = {"source": _net(source), "destination": _net(destination)}
    versions = {name: net.version for name, net in nets.items() if net is not None}
    wanted = _VERSION.get(proto)
    for name, version in versions.items():
        if wanted is not None and version != wanted:
            raise SpecError(
                f"{path}.{name}", f"{nets[name]} is IPv{version}, and {proto} is of IPv{wanted}", _other(proto)
            )
    if len(set(versions.values())) == 2:
        raise SpecError(
            f"{path}.destination", f"source is IPv{versions['source']}, destination is not", "a rule for each"
        )


def _other(proto: str) -> str:
    return f"use {'icmp' if proto == 'icmpv6' else 'icmpv6'}, or leave the net out"
