"""Peerings as they are asked for: kept, made, told, taken away.

A peering is wanted while it has its file, whether its VPCs are there or not. A crash between two steps leaves a wish
that the sweep makes true, or none.
"""

from __future__ import annotations

import datetime
import logging
import re
import threading
from collections.abc import Callable, Sequence

from lvagent.agent.configs import Kept
from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.undo import Undo
from lvagent.errors import NotFound
from lvagent.failpoints import point
from lvagent.spec.peerings import Peering, PeeringView, peering

log = logging.getLogger(__name__)

KEY = re.compile(r"(vpc-[0-9a-z]{10})_(vpc-[0-9a-z]{10})\Z")
"""How a peering is named where it is kept."""


class Peers:
    """The peerings of this host. Every method may be called by many threads.

    :param kept: None: in memory alone.
    :param ready: refuses before the first sweep.
    """

    def __init__(self, index: Index, networks: Networks, kept: Kept | None, ready: Callable[[], None]) -> None:
        self._index = index
        self._networks = networks
        self._kept = kept
        self._ready = ready
        self._guard = threading.Lock()
        self._loaded = False

    def load(self) -> None:
        """Read, once, which peerings are wanted.

        :raise HostError: they cannot be read.
        """
        with self._guard:
            if self._loaded or self._kept is None:
                return
            self._index.adopt_peerings(stored(self._kept))
            self._loaded = True

    def put(self, one: str, other: str) -> tuple[bool, PeeringView]:
        """Peer two VPCs; all or nothing.

        :return: whether that is new, and how it stands.
        :raise Conflict: prefixes overlap.
        """
        self._ready()
        wish = peering(one, other)
        with self._guard:
            new = self._index.peer(wish)
            if new:
                self._make(wish)
        return new, self._networks.links.view(wish)

    def _make(self, wish: Peering) -> None:
        with Undo() as undo:
            undo.ground(self._networks.meet, *wish.vpcs)
            undo.add(self._index.part, wish)
            point("peer.wished")
            if self._kept is not None:
                undo.add(self._kept.remove, _key(wish))
                self._kept.write(_key(wish), _document(wish))
            point("peer.stored")
            self._networks.meet(*wish.vpcs)
            undo.forget()
        log.info("%s are peered", wish)

    def delete(self, one: str, other: str) -> None:
        """Peer two VPCs no more; flows between them end. What cannot be done now the sweep goes on with.

        :raise NotFound: they are not peered.
        """
        self._ready()
        wish = peering(one, other)
        with self._guard:
            if wish not in self._index.peerings:
                raise NotFound("peering", str(wish))
            if self._kept is not None:
                self._kept.remove(_key(wish))
            self._index.part(wish)
            point("peer.unwished")
            self._networks.meet(*wish.vpcs)
        log.info("%s are not peered any more", wish)

    def one(self, one: str, other: str) -> PeeringView:
        """How a peering stands.

        :raise NotFound: they are not peered.
        """
        self._ready()
        wish = peering(one, other)
        if wish not in self._index.peerings:
            raise NotFound("peering", str(wish))
        return self._networks.links.view(wish)

    def all(self) -> Sequence[PeeringView]:
        """All peerings, in order."""
        self._ready()
        return tuple(self._networks.links.view(one) for one in self._index.peerings.all())


def stored(kept: Kept) -> list[Peering]:
    """The peerings that are kept. The name of a file says it all; what is in it is for people.

    :raise HostError: they cannot be read.
    """
    found = (match for key in sorted(kept.keys()) if (match := KEY.match(key)))
    return [Peering(match[1], match[2]) for match in found if match[1] < match[2]]


def _key(wish: Peering) -> str:
    return f"{wish.a}_{wish.b}"


def _document(wish: Peering) -> dict[str, object]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"a": wish.a, "b": wish.b, "created_at": now}
