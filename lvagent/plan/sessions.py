"""Whose the flows are that go by a VPC's uplink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lvagent.plan.explain.facts import Facts
from lvagent.spec.addresses import Address, Net
from lvagent.spec.status import SessionsView, VmSessions

MOST = 10_000
"""Flows that are looked at, of those of a VPC."""


@dataclass(frozen=True, slots=True)
class Tuple:
    """A flow in one of its directions. ``sport``: of echo requests their identification."""

    source: Address
    destination: Address
    number: int
    sport: int = 0
    dport: int = 0


@dataclass(frozen=True, slots=True)
class KeptFlow:
    """A flow that is kept: as it began, and as answers to it come. ``bytes``: both ways, 0 if they are not counted."""

    flow: Tuple
    answer: Tuple
    bytes: int


def sessions(vpc: str, kept: Iterable[KeptFlow], facts: Facts) -> SessionsView:
    """The flows that go by a VPC's uplink, by the VM that began them or with which they were begun.

    :param kept: the flows that its namespace keeps, at most MOST.
    """
    there = list(kept)
    owners = {address: vm for vm, address in _addresses(vpc, facts)}
    found: dict[str, tuple[int, int]] = {}
    peered = tuple(net for net, _ in facts.beyond(vpc))
    for one in there:
        vm = _owner(vpc, one, owners, facts, peered)
        if vm is not None:
            count, size = found.get(vm, (0, 0))
            found[vm] = count + 1, size + one.bytes
    by_vm = tuple(VmSessions(vm, *found[vm]) for vm in sorted(found))
    total = sum(one.sessions for one in by_vm), sum(one.bytes for one in by_vm)
    return SessionsView(total[0], total[1], len(there) < MOST, by_vm)


def _addresses(vpc: str, facts: Facts) -> Iterable[tuple[str, Address]]:
    for spec in facts.members(vpc):
        for nic in spec.networks:
            if nic.netname == vpc:
                yield from ((spec.id, one.ip) for one in (nic.ipv4, nic.ipv6) if one is not None)


def _owner(vpc: str, one: KeptFlow, owners: dict[Address, str], facts: Facts, peered: Sequence[Net]) -> str | None:
    """The VM of a flow of which the other end is outside; None: it is no such flow, or of no VM that is known.

    :param peered: prefixes to which the VPC leads by its peerings, and not by its uplink.
    """
    begun, met = one.flow.source, one.answer.source
    if any(net.version == end.version and end in net for net in peered for end in (begun, met)):
        return None
    inside = [_is_inside(vpc, end, owners, facts) for end in (begun, met)]
    if inside == [True, False]:
        return owners.get(begun) or _extra(vpc, begun, facts)
    if inside == [False, True]:
        return owners.get(met) or _extra(vpc, met, facts)
    return None


def _is_inside(vpc: str, address: Address, owners: dict[Address, str], facts: Facts) -> bool:
    if address in owners:
        return True
    return facts.is_local(vpc, address) or facts.segment_of(vpc, address) is not None


def _extra(vpc: str, address: Address, facts: Facts) -> str | None:
    return next((holder.vm.id for holder in facts.holders(vpc, address)), None)
