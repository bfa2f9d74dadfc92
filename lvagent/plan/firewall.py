"""The rules of VMs as resources: what each VM allows, what the names in rules stand for, whose the extra addresses are.

Pure functions of the members of a VPC. A name in a rule (a VM, a subnet) becomes a ``Group`` of its own, so that a VM
that comes or goes changes a few elements of sets, and no rule of any other VM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network, summarize_address_range
from types import MappingProxyType

from lvagent.plan.resources import Extras, Filter, Firewall, Group, Resource, Span
from lvagent.spec import names
from lvagent.spec.addresses import Net, within
from lvagent.spec.rules import direction_of, is_name
from lvagent.spec.vm import NetRule, Network, VmConfig

Ranges = Mapping[str, frozenset[Net]]
"""The extra addresses of each VM."""

Near = Sequence[tuple[str, Sequence[VmConfig]]]
"""VPCs that are peered with the one in question, each with its members."""

Implied = Mapping[str, Sequence[NetRule]]
"""Rules of each VM beside those of its spec."""


def filters(
    vpc: str, members: Iterable[VmConfig], near: Near = (), implied: Implied = MappingProxyType({})
) -> frozenset[Filter]:
    """The firewalls of these members, the groups that their rules name, and the extra addresses.

    :param near: what is in VPCs that are peered with this one; rules may name it too.
    """
    there = [vm for vm in members if vpc in vm.vpcs]
    walls = {firewall(vpc, vm, implied.get(vm.id, ())) for vm in there}
    called = {name for vm in there for rule in vm.rules for name in named(rule)}
    groups = {group(vpc, name, there, near) for name in called}
    spans = _spans({vm.id: _extra_nets(vpc, vm) for vm in there})
    return frozenset(walls | groups | ({Extras(vpc, spans)} if spans else set()))


def firewall(vpc: str, vm: VmConfig, implied: Sequence[NetRule] = ()) -> Firewall:
    """What a VM allows in a VPC.

    :param implied: rules beside those of its spec, with their direction.
    """
    nics = _nics(vpc, vm)
    return Firewall(
        vpc=vpc,
        vm=vm.id,
        taps=tuple(sorted(names.tap(vm.id, nic.position) for nic in nics)),
        addresses=tuple(sorted(str(address.ip) for nic in nics for address in (nic.ipv4, nic.ipv6) if address)),
        rules=tuple(sorted({*implied, *(directed(rule, vm) for rule in vm.rules)}, key=order)),
    )


def directed(rule: NetRule, vm: VmConfig) -> NetRule:
    """The rule with its direction said."""
    return dataclasses.replace(rule, direction=direction_of(rule, vm))


def order(rule: NetRule) -> tuple[str, ...]:
    """By what the rules of a firewall are sorted."""
    return (str(rule.direction), rule.proto, f"{rule.port:05}", str(rule.port_end or ""), rule.source, rule.destination)


def named(rule: NetRule) -> Iterator[str]:
    """The VMs and subnets that a rule names."""
    return (peer for peer in (rule.source, rule.destination) if is_name(peer))


def group(vpc: str, name: str, members: Iterable[VmConfig], near: Near = ()) -> Group:
    """What a name stands for among these members, and those near; a VM or a subnet that is not there has no nets."""
    found = {net for vm in members for nic in _nics(vpc, vm) if name in (vm.id, nic.subnetname) for net in _nets(nic)}
    for other, beside in near:
        nics = (nic for vm in beside for nic in _nics(other, vm) if name in (vm.id, nic.subnetname))
        found |= {net for nic in nics for net in _routed(nic)}
    return Group(vpc, name, in_order(net for net in found if not any(net != o and within(net, o) for o in found)))


def _nics(vpc: str, vm: VmConfig) -> list[Network]:
    return [nic for nic in vm.networks if nic.netname == vpc]


def _routed(nic: Network) -> Iterator[Net]:
    """All that a NIC may send from to where it is routed."""
    yield from (ip_network(address.ip) for address in (nic.ipv4, nic.ipv6) if address)
    yield from nic.extra_addresses


def _nets(nic: Network) -> Iterator[Net]:
    """All that a NIC may send from. Of its link-local addresses only the one that the port's filter keeps for it."""
    yield from _routed(nic)
    yield ip_network(names.link_local(nic.mac))


def _extra_nets(vpc: str, vm: VmConfig) -> frozenset[Net]:
    return frozenset(net for nic in _nics(vpc, vm) for net in nic.extra_addresses)


def in_order(nets: Iterable[Net]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Nets in the order in which a group has them."""
    return tuple(sorted(nets, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))


def _spans(ranges: Ranges) -> tuple[Span, ...]:
    """The ranges cut where they begin and end, so that they do not overlap; each piece with those who have it."""
    return tuple(span for version in (4, 6) for span in _cut(ranges, version))


def _cut(ranges: Ranges, version: int) -> Iterator[Span]:
    edges: dict[int, tuple[set[str], set[str]]] = {}
    for vm, nets in ranges.items():
        for first, last in _merged(nets, version):
            edges.setdefault(first, (set(), set()))[0].add(vm)
            edges.setdefault(last + 1, (set(), set()))[1].add(vm)
    make = IPv4Network if version == 4 else IPv6Network
    owners: set[str] = set()
    began = 0
    for edge in sorted(edges):
        if owners:
            ends = [str(make(number).network_address) for number in (began, edge - 1)]
            yield Span(ends[0], ends[1], tuple(sorted(owners)))
        began, (begin, end) = edge, edges[edge]
        owners = (owners - end) | begin


def _merged(nets: Iterable[Net], version: int) -> Iterator[tuple[int, int]]:
    """The nets of one VM as ranges that neither overlap nor touch."""
    found = sorted((int(n.network_address), int(n.broadcast_address)) for n in nets if n.version == version)
    while found:
        first, last = found.pop(0)
        while found and found[0][0] <= last + 1:
            last = max(last, found.pop(0)[1])
        yield first, last


def joined(wish: frozenset[Resource], there: frozenset[Resource], members: Iterable[VmConfig]) -> frozenset[Resource]:
    """The wish of one who does not know all members: what others brought stays, and what is his is added to it."""
    mine = list(members)
    kept: dict[str, Group] = {one.name: one for one in there if isinstance(one, Group)}
    groups = {one.name: one for one in wish if isinstance(one, Group)}
    groups |= {name: group(one.vpc, name, mine) for name, one in kept.items()}
    united = {
        dataclasses.replace(one, nets=_united(one, kept[name])) if name in kept else one for name, one in groups.items()
    }
    extras = [one for one in (*wish, *there) if isinstance(one, Extras)]
    spans = _spans(_ranges(extras))
    rest = {one for one in wish if not isinstance(one, Group | Extras)}
    return frozenset(rest | united | ({Extras(extras[0].vpc, spans)} if spans else set()))


def _united(one: Group, other: Group) -> tuple[IPv4Network | IPv6Network, ...]:
    nets = {*one.nets, *other.nets}
    return in_order(net for net in nets if not any(net != wide and within(net, wide) for wide in nets))


def _ranges(extras: Iterable[Extras]) -> dict[str, frozenset[Net]]:
    found: dict[str, set[Net]] = {}
    for span in (span for one in extras for span in one.spans):
        for vm in span.vms:
            found.setdefault(vm, set()).update(_summary(span))
    return {vm: frozenset(nets) for vm, nets in found.items()}


def _summary(span: Span) -> Iterator[Net]:
    return summarize_address_range(ip_address(span.first), ip_address(span.last))
