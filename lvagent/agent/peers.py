"""The links between VPCs that are peered: observed, subtracted, applied, under the locks of both.

All else of a VPC is its own and is brought to what is wanted under its lock alone; there it is only seen that a link is
not as it should be. A link has two ends, and each end is a resource of its VPC.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lvagent.agent.index import Index
from lvagent.agent.locks import VpcLocks
from lvagent.agent.wires import Wires
from lvagent.failpoints import point
from lvagent.plan import diff, peers
from lvagent.plan.resources import Peer
from lvagent.spec.peerings import Peering, PeeringState, PeeringView

log = logging.getLogger(__name__)


class Links:
    """Makes and removes them."""

    def __init__(self, index: Index, wires: Wires, locks: VpcLocks) -> None:
        self._index = index
        self._wires = wires
        self._locks = locks

    def join(self, one: str, other: str, *, remove: bool) -> None:
        """Bring the link between two VPCs to what is wanted.

        :param remove: also away, if it is not wanted.
        :raise LvagentError: it could not be done.
        """
        with self._locked(one, other) as held:
            wish, there = self._wanted(one, other, held), self._there(one, other, held)
            steps = diff.subtract(wish, there)
            if steps.ensure:
                log.info("make %s", "; ".join(map(diff.describe, sorted(wish, key=diff.identity))))
                self._wires.ensure(sorted(wish, key=diff.identity))
                point("peer.made")
            if steps.remove and remove:
                log.info("remove %s", "; ".join(map(diff.describe, steps.remove)))
                self._wires.remove(steps.remove)
                point("peer.removed")

    @contextmanager
    def _locked(self, one: str, other: str) -> Iterator[frozenset[str]]:
        """The locks of those of the two that are there; one that was only named leaves no file of a lock.

        :return: whose are held: to one that came meanwhile nothing is done, for whoever makes it joins it.
        """
        here = sorted({one, other} & self._wires.vpcs())
        with ExitStack() as stack:
            if len(here) > 1:
                stack.enter_context(self._locks.both(one, other))
            elif here:
                stack.enter_context(self._locks.wires(here[0]))
            yield self._wires.vpcs().intersection(here)

    def _wanted(self, one: str, other: str, there: frozenset[str]) -> frozenset[Peer]:
        """Both ends as they should be; none while one of the VPCs is not there."""
        if not {one, other} <= there:
            return frozenset()
        ends = [self._end(vpc, peer) for vpc, peer in ((one, other), (other, one))]
        return frozenset(end for end in ends if end is not None) if None not in ends else frozenset()

    def _end(self, vpc: str, other: str) -> Peer | None:
        found = peers.peers(vpc, self._index.members(vpc), self._index.near(vpc))
        return next((peer for peer in found if peer.other == other), None)

    def _there(self, one: str, other: str, there: frozenset[str]) -> frozenset[Peer]:
        pairs = [(vpc, peer) for vpc, peer in ((one, other), (other, one)) if vpc in there]
        found = ((end, peer) for vpc, peer in pairs for end in self._wires.observe(vpc))
        return frozenset(end for end, peer in found if isinstance(end, Peer) and end.other == peer)

    def view(self, peering: Peering) -> PeeringView:
        """How a peering stands, looked at now.

        :raise HostError: it could not be read.
        """
        nets = {
            vpc: tuple(str(net) for net, _ in peers.gateways_of(vpc, self._index.members(vpc))) for vpc in peering.vpcs
        }
        state, reason = self._state(peering)
        return PeeringView(peering, state, reason, nets[peering.a], nets[peering.b])

    def _state(self, peering: Peering) -> tuple[PeeringState, str]:
        absent = [vpc for vpc in peering.vpcs if not self._index.members(vpc)]
        if absent:
            return PeeringState.WAITING, f"there is no VM in {' and '.join(absent)} on this host"
        if clash := peers.clash(peering, self._index.peerings, self._index.members):
            return PeeringState.CONFLICT, clash
        there = self._wires.vpcs()
        wish = self._wanted(*peering.vpcs, there)
        if wish and wish == self._there(*peering.vpcs, there):
            return PeeringState.UP, "they route to each other"
        return PeeringState.DOWN, "its link is not there or not as it should be; the next sweep makes it"
