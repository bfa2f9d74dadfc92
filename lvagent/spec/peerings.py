"""Peerings: pairs of VPCs that route to each other.

A peering has no direction: a/b and b/a are the same one, written with the name that sorts first in front. It is not
transitive, but it reaches further than its two VPCs in one respect: a VPC that is peered with two others has a route to
each, so the prefixes of those two must be disjoint as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lvagent.errors import SpecError
from lvagent.spec import names


@dataclass(frozen=True, slots=True, order=True)
class Peering:
    """Two VPCs, ``a`` the one whose name sorts first; ``peering`` makes one of any two names."""

    a: str
    b: str

    @property
    def vpcs(self) -> tuple[str, str]:
        """Both."""
        return self.a, self.b

    def __str__(self) -> str:
        return f"{self.a}/{self.b}"


def peering(one: str, other: str) -> Peering:
    """The peering of two VPCs, whichever is named first.

    :raise SpecError: they are the same, or one is no name of a VPC.
    """
    for vpc in (one, other):
        if not names.VPC_NAME.match(vpc):
            raise SpecError("", f"{vpc[:60]!r} is no name of a VPC", "vpc- and ten of 0-9, a-z")
    if one == other:
        raise SpecError("", f"{one} cannot be peered with itself", "its subnets route to each other anyway")
    return Peering(*sorted((one, other)))


class PeeringState(StrEnum):
    """How a peering stands: its two VPCs route to each other, or why they do not."""

    UP = "up"
    WAITING = "waiting"
    CONFLICT = "conflict"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class PeeringView:
    """A peering as callers see it. ``a_prefixes``, ``b_prefixes``: what each of the two VPCs has."""

    peering: Peering
    state: PeeringState
    reason: str
    a_prefixes: tuple[str, ...]
    b_prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rival:
    """A VPC whose prefixes must be disjoint from those of another; ``by``: the peering that brings it near."""

    vpc: str
    by: Peering


class Peerings:
    """Some peerings, to be asked who is peered with whom. A value: it never changes."""

    def __init__(self, peerings: Iterable[Peering] = ()) -> None:
        self._all = frozenset(peerings)
        self._of: dict[str, set[str]] = {}
        for one in self._all:
            self._of.setdefault(one.a, set()).add(one.b)
            self._of.setdefault(one.b, set()).add(one.a)

    def __contains__(self, one: object) -> bool:
        return one in self._all

    def all(self) -> tuple[Peering, ...]:
        """All, in order."""
        return tuple(sorted(self._all))

    def of(self, vpc: str) -> tuple[str, ...]:
        """The VPCs with which this one is peered, by name."""
        return tuple(sorted(self._of.get(vpc, ())))

    def rivals(self, vpc: str) -> tuple[Rival, ...]:
        """The VPCs whose prefixes must be disjoint from this one's: those peered with it, then those beside it.

        Those beside it are peered with one that it is peered with; the peering that is named is theirs.
        """
        near = self.of(vpc)
        beside: dict[str, Rival] = {}
        for other in near:
            for third in self.of(other):
                if third != vpc and third not in near:
                    beside.setdefault(third, Rival(third, peering(other, third)))
        return (*(Rival(other, peering(vpc, other)) for other in near), *(beside[name] for name in sorted(beside)))

    def plus(self, one: Peering) -> Peerings:
        """These and one more."""
        return Peerings(self._all | {one})

    def minus(self, one: Peering) -> Peerings:
        """These without one."""
        return Peerings(self._all - {one})
