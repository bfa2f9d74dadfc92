"""The filter of one VPC: its base, and the elements of its subnets and ports.

What the kernel holds is remembered, so that a port costs one transaction and no reading. It is read afresh when the
VPC is observed, and when a transaction that was made from memory is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lvagent.errors import HostError
from lvagent.host import nft
from lvagent.host.netspace import Netspace
from lvagent.render.nft import SETS, Element, base, base_digest, by_owner, change

Owned = Mapping[str, frozenset[Element]]
"""Elements by their owner: a tap or a subnet."""


class VpcFilter:
    """The table of a VPC in its namespace.

    :param vpc: what errors are about.
    """

    def __init__(self, vpc: str, space: Netspace) -> None:
        self._vpc = vpc
        self._space = space
        self._known: dict[str, frozenset[Element]] | None = None

    def digest(self) -> str | None:
        """Which base is loaded; None if there is none."""
        return nft.table_comment(self._space.netfilter)

    def read(self) -> Owned:
        """The elements of subnets and ports, read now."""
        self._known = by_owner(nft.elements(self._space.netfilter, SETS))
        return self._known

    def remembered(self) -> Owned:
        """The elements of subnets and ports, as they were when last read or written."""
        return self.read() if self._known is None else self._known

    def ensure_base(self, wanted: Owned) -> None:
        """The base of this version, with these elements and those of other owners that are there.

        All in one transaction: no port is open or closed meanwhile.

        :raise HostError: nft refused; nothing was changed.
        """
        loaded = self.digest()
        if loaded == base_digest():
            self.put(wanted)
            return
        kept = {**(self.read() if loaded is not None else {}), **wanted}
        self._known = None
        self._run(base() + change((), frozenset().union(*kept.values())))
        self._known = kept

    def put(self, wanted: Owned) -> None:
        """Give these owners these elements and no others, in one transaction.

        :raise HostError: nft refused; nothing was changed.
        """
        remembered = self._known is not None
        try:
            self._put(wanted)
        except HostError:
            if not remembered:
                raise
            self._known = None
            self._put(wanted)

    def drop(self, owners: Iterable[str]) -> None:
        """Make sure that these owners have no elements."""
        self.put({owner: frozenset() for owner in owners})

    def remove(self) -> None:
        """Take the whole table away."""
        self._known = None
        if self.digest() is not None:
            self._run("delete table bridge lvagent\n")

    def _put(self, wanted: Owned) -> None:
        known = self.remembered()
        there = frozenset[Element]().union(*(known.get(owner, frozenset()) for owner in wanted))
        wish = frozenset[Element]().union(*wanted.values())
        if there != wish:
            self._run(change(there - wish, wish - there))
            self._known = {owner: owned for owner, owned in {**known, **wanted}.items() if owned}

    def _run(self, text: str) -> None:
        self._space.nft.run(text, self._vpc)
