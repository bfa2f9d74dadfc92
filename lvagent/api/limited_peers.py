"""The peerings of VPCs as a caller sees them who is limited to some VPCs.

A peering opens a way into both of its VPCs, so both must be his: who has one of them alone can neither make nor end it,
nor learn that it is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lvagent.api.problems import Forbidden
from lvagent.api.protocol import Peers
from lvagent.errors import NotFound
from lvagent.spec.access import Caller
from lvagent.spec.peerings import PeeringView, peering


class LimitedPeers:
    """See ``api.protocol.Peers``.

    :param shown: a text as he may be told it.
    """

    def __init__(self, peers: Peers, caller: Caller, shown: Callable[[str], str]) -> None:
        self._peers = peers
        self._caller = caller
        self._shown = shown

    def put(self, one: str, other: str) -> tuple[bool, PeeringView]:
        """Peer two VPCs of his.

        :raise Forbidden: one of them is not his.
        """
        wish = peering(one, other)
        if not self._caller.sees(wish.vpcs):
            hint = f"it is limited to {', '.join(sorted(self._caller.vpcs or ()))}"
            raise Forbidden("the token is not for both VPCs of the peering", hint=hint)
        new, view = self._peers.put(one, other)
        return new, self._view(view)

    def delete(self, one: str, other: str) -> None:
        """Peer two VPCs of his no more."""
        self._check(one, other)
        self._peers.delete(one, other)

    def one(self, one: str, other: str) -> PeeringView:
        """A peering of two VPCs of his."""
        self._check(one, other)
        return self._view(self._peers.one(one, other))

    def all(self) -> Sequence[PeeringView]:
        """The peerings of which both VPCs are his."""
        return tuple(self._view(view) for view in self._peers.all() if self._caller.sees(view.peering.vpcs))

    def _check(self, one: str, other: str) -> None:
        wish = peering(one, other)
        if not self._caller.sees(wish.vpcs):
            raise NotFound("peering", str(wish))

    def _view(self, view: PeeringView) -> PeeringView:
        return dataclasses.replace(view, reason=self._shown(view.reason))
