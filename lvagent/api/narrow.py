"""What is shown of networks to who is limited to some VPCs: without the VMs that are not his.

``mine``: ids of the VMs that he sees.
"""

from __future__ import annotations

import dataclasses

from lvagent.spec.access import Caller
from lvagent.spec.status import SessionsView, SubnetView, VpcView


def narrow_subnet(view: SubnetView, mine: set[str]) -> SubnetView:
    """A subnet with his VMs alone."""
    return dataclasses.replace(view, vms=tuple(vm for vm in view.vms if vm in mine))


def narrow_vpc(view: VpcView, mine: set[str], caller: Caller) -> VpcView:
    """A VPC with his VMs alone, without VPCs that he does not see, and nothing of the host."""
    subnets = tuple(narrow_subnet(one, mine) for one in view.subnets)
    trouble = ("something on the host is in its way: ask who runs it",) if view.uplink.trouble else ()
    uplink = dataclasses.replace(view.uplink, trouble=trouble)
    vms = tuple(vm for vm in view.vms if vm in mine)
    flows = None if view.sessions is None else narrow_sessions(view.sessions, mine)
    peers = tuple(one for one in view.peers if caller.sees({one}))
    return dataclasses.replace(view, subnets=subnets, vms=vms, uplink=uplink, sessions=flows, peers=peers)


def narrow_sessions(view: SessionsView, mine: set[str]) -> SessionsView:
    """The flows of his VMs alone."""
    his = tuple(one for one in view.vms if one.vm in mine)
    return SessionsView(sum(one.sessions for one in his), sum(one.bytes for one in his), view.complete, his)
