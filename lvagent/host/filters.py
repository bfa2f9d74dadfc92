"""The filter of one VPC: its base, and the pieces of its subnets, ports, VMs, groups and peerings.

What the kernel holds is remembered, so that a port costs one transaction and no reading. It is read afresh when the
VPC is observed, and when a transaction that was made from memory is refused. Whoever changes it has the VPC's lock; who
only looks has none, and what he read while it was changed is not remembered.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping

from lvagent.config import FilterSettings
from lvagent.errors import HostError
from lvagent.host import nft_read
from lvagent.host.netspace import Netspace
from lvagent.host.nft import without
from lvagent.host.nft_read import BRIDGE, INET, Counted
from lvagent.plan.resources import Firewall
from lvagent.render.elements import RECEIVED, Chain, Piece, Rule, by_owner
from lvagent.render.firewall import number_of
from lvagent.render.nft import Part, base, base_digest, change, owner_of, pieces

Owned = Mapping[str, frozenset[Piece]]
"""Pieces by their owner: a tap, a subnet, a VM, a group, a VPC that is peered."""

NOTHING: frozenset[Piece] = frozenset()


class VpcFilter:
    """The tables of a VPC in its namespace.

    :param vpc: what errors are about.
    :param limits: what one guest may take of what all share.
    """

    def __init__(self, vpc: str, space: Netspace, limits: FilterSettings) -> None:
        self._vpc = vpc
        self._space = space
        self._limits = limits
        self._guard = threading.Lock()
        self._known: dict[str, frozenset[Piece]] | None = None
        self._turns = 0  # reads that were begun, and writes that were made
        self._known_from = 0  # the turn that what is known is from
        self._numbers: dict[str, int] = {}

    def digest(self) -> str | None:
        """Which base is loaded; None if there is none, '' if a part of it is missing."""
        found = [nft_read.table_comment(self._space.netfilter, family) for family in (BRIDGE, INET)]
        if found == [None, None]:
            return None
        return found[0] if found[0] is not None and found[0] == found[1] else ""

    def read(self) -> Owned:
        """The pieces of all owners, read now."""
        with self._guard:
            self._turns = turn = self._turns + 1
        found = by_owner(nft_read.pieces(self._space.netfilter))
        with self._guard:
            if turn > self._known_from:  # else it was written, or read anew, meanwhile
                self._known, self._known_from = found, turn
                numbers = ((owner, number_of(owned)) for owner, owned in found.items())
                self._numbers.update({owner: number for owner, number in numbers if number is not None})
        return found

    def _note(self, known: dict[str, frozenset[Piece]] | None) -> None:
        """This is what is there from now on; None: that is not known."""
        with self._guard:
            self._turns += 1
            self._known, self._known_from = known, self._turns

    def remembered(self) -> Owned:
        """The pieces of all owners, as they were when last read or written."""
        known = self._known
        return self.read() if known is None else known

    def counted(self) -> list[Counted]:
        """The rules of all VMs with what they have counted, read now."""
        return [one for one in nft_read.rules(self._space.netfilter) if one.rule.owner]

    def ensure_base(self, wanted: Iterable[Part], without: Iterable[str] = ()) -> None:
        """The base of this version, with what is wanted and what other owners have there.

        All in one transaction: no port is open or closed meanwhile.

        :param without: owners that shall have nothing.
        :raise HostError: nft refused; nothing was changed.
        """
        loaded = self.digest()
        if loaded == base_digest(limits=self._limits):
            self.put(wanted, without)
            return
        known = self.read() if loaded is not None else {}
        wish = self._wish(wanted, without)
        kept = {owner: owned for owner, owned in {**known, **wish}.items() if owned}
        self._note(None)
        self._run(base(limits=self._limits) + change((), NOTHING.union(*kept.values())))
        self._note(kept)

    def mend(self, rules: int) -> None:
        """Load the base anew, with what all owners have, if rules of it are missing.

        :param rules: how many it has.
        """
        if self.digest() == base_digest(limits=self._limits) and nft_read.fixed_rules(self._space.netfilter) != rules:
            known = dict(self.read())
            self._note(None)
            self._run(base(limits=self._limits) + change((), NOTHING.union(*known.values())))
            self._note(known)

    def put(self, wanted: Iterable[Part], without: Iterable[str] = ()) -> None:
        """Make sure of these and of nothing else of their owners, in one transaction.

        :param without: owners that shall have nothing.
        :raise HostError: nft refused; nothing was changed.
        """
        resources, gone = list(wanted), list(without)
        remembered = self._known is not None
        try:
            self._put(resources, gone)
        except HostError:
            if not remembered:
                raise
            self._note(None)
            self._put(resources, gone)

    def drop(self, owners: Iterable[str]) -> None:
        """Make sure that these owners have nothing."""
        self.put((), owners)

    def remove(self) -> None:
        """Take the tables away."""
        self._note(None)
        families = [(BRIDGE, "bridge"), (INET, "inet")]
        there = [name for family, name in families if nft_read.table_comment(self._space.netfilter, family) is not None]
        if there:
            self._run("".join(without(f"{name} lvagent") for name in there))
            self._note(None)

    def _put(self, wanted: list[Part], without: list[str]) -> None:
        known = self.remembered()
        wish = self._wish(wanted, without)
        there = NOTHING.union(*(known.get(owner, NOTHING) for owner in wish))
        want = NOTHING.union(*wish.values())
        if there != want:
            gone = there - want
            self._run(change(gone, want - there, self._handles(gone)))
            self._note({owner: owned for owner, owned in {**known, **wish}.items() if owned})

    def _handles(self, gone: Iterable[Piece]) -> dict[Rule, int]:
        """The kernel's numbers of rules that shall go while their chains stay.

        :raise HostError: one is not there any more.
        """
        chains = {piece.name for piece in gone if isinstance(piece, Chain)}
        doomed = {piece for piece in gone if isinstance(piece, Rule) and piece.chain not in chains}
        found: dict[Rule, int] = {}
        for chain in {rule.chain for rule in doomed}:
            found |= {one.rule: one.handle for one in nft_read.rules(self._space.netfilter, chain)}
        missing = doomed - found.keys()
        if missing:
            self._note(None)
            raise HostError(self._vpc, "filter", "a rule is gone that was there", hint="it is read again")
        return found

    def _run(self, text: str) -> None:
        self._space.nft.run(text, self._vpc)

    def _wish(self, wanted: Iterable[Part], without: Iterable[str]) -> dict[str, frozenset[Piece]]:
        """What each of these owners shall have."""
        resources, gone = list(wanted), list(without)
        for owner in gone:
            self._numbers.pop(owner, None)
        self._number([one.vm for one in resources if isinstance(one, Firewall)])
        return dict.fromkeys(gone, NOTHING) | {owner_of(one): pieces(one, self._numbers) for one in resources}

    def _number(self, vms: Iterable[str]) -> None:
        """Give each VM a number, unless it has one, or had before somebody took the tables away.

        Flows bear the number of who began them and may outlive him; so a number that is free comes to nobody else.
        """
        taken = set(self._numbers.values())
        for vm in vms:
            while vm not in self._numbers:
                number = 1 + secrets.randbelow(RECEIVED - 1)
                if number not in taken:
                    taken.add(number)
                    self._numbers[vm] = number
