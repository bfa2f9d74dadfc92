"""Which prefixes are whose outside of VPCs: by what VMs carry, and by what they shall have when they start again.

A wish that waits for a restart counts from the beginning: when the restart comes nobody is there to be told of a
conflict.
"""

from __future__ import annotations

from collections.abc import Iterable

from lvagent.agent.index import Index
from lvagent.plan import uplinks
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
    """The prefixes that are routed to VPCs, each with the VPC, in order.

    :param besides: the VPC whose own are left out.
    """
    if policy.uplinks is None:
        return []
    nets: dict[str, set[Net]] = {}
    for one in specs(index):
        for vpc in one.vpcs:
            if vpc != besides:
                nets.setdefault(vpc, set()).update(uplinks.nets_of(one, vpc).values())
    return [
        (vpc, net)
        for vpc in sorted(nets)
        for net in sorted(uplinks.routable(policy.mode(vpc), nets[vpc], policy.uplinks), key=str)
    ]
