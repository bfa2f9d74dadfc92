"""Which prefixes are whose outside of VPCs: by what VMs carry, and by what they shall have when they start again.

A wish that waits for a restart counts from the beginning: when the restart comes nobody is there to be told of a
conflict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from lvagent.agent.index import Index
from lvagent.plan import uplinks
from lvagent.plan.resources import Resource, Uplink
from lvagent.plan.wanted import Policy
from lvagent.spec.addresses import Net
from lvagent.spec.vm import VmConfig


def specs(index: Index) -> list[VmConfig]:
    """What VMs carry, what they shall be, and what they may yet be again."""
    found = [each for entry in index.all() for each in (entry.spec, entry.applied, entry.former)]
    return list(dict.fromkeys(each for each in found if each is not None))


def nets_of(vpc: str, there: Iterable[VmConfig]) -> set[Net]:
    """The prefixes that these VMs say a VPC has."""
    return {net for one in there for net in uplinks.nets_of(one, vpc).values()}


def routed(index: Index, policy: Policy, besides: str) -> list[tuple[str, Net]]:
    """The prefixes that are routed to VPCs or shall be, each with the VPC, in order.

    :param besides: the VPC whose own are left out.
    """
    return _routed(specs(index), policy, besides)


def _routed(there: Iterable[VmConfig], policy: Policy, besides: str = "") -> list[tuple[str, Net]]:
    if policy.uplinks is None or not policy.uplinks.routed:
        return []
    nets: dict[str, set[Net]] = {}
    for one in there:
        for vpc in one.vpcs:
            if vpc != besides:
                nets.setdefault(vpc, set()).update(uplinks.nets_of(one, vpc).values())
    return [
        (vpc, net)
        for vpc in sorted(nets)
        for net in sorted(uplinks.routable(policy.mode(vpc), nets[vpc], policy.uplinks), key=str)
    ]


# who has one all the same: settings were changed, or libvirt brought a definition of its own


def apart(vpc: str, wish: frozenset[Resource], index: Index, policy: Policy) -> frozenset[Resource]:
    """The wish of a VPC without the routes of prefixes that another VPC has as well: none of the two is guessed."""
    gone = {net for one, net, _ in contested(index, policy) if one == vpc}
    return frozenset(_without(one, gone) for one in wish) if gone else wish


def _without(one: Resource, gone: set[Net]) -> Resource:
    if not isinstance(one, Uplink):
        return one
    return dataclasses.replace(one, routes=tuple(net for net in one.routes if net not in gone))


def trouble(index: Index, policy: Policy) -> Iterator[tuple[str, str]]:
    """The VPCs with a prefix that is routed to nobody for that reason, each with what to tell of it."""
    for vpc, net, other in contested(index, policy):
        yield vpc, f"{net} is not routed: it is in {other} too; change one of the two, or its uplink"


def contested(index: Index, policy: Policy) -> list[tuple[str, Net, str]]:
    """The VPCs with a prefix that is routed to neither of two, each with that, and the other one."""
    there = _routed((entry.carried for entry in index.all()), policy)
    pairs = sorted(there, key=lambda pair: (pair[1].version, int(pair[1].network_address), pair[1].prefixlen))
    found: list[tuple[str, Net, str]] = []
    for at, (vpc, net) in enumerate(pairs):
        for other, beside in pairs[at + 1 :]:
            if beside.version != net.version or not beside.overlaps(net):
                break  # in this order what overlaps one stands behind it, with nothing between
            if other != vpc:
                found += [(vpc, net, other), (other, beside, vpc)]
    return found
