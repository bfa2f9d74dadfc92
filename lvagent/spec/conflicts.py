"""Contradictions: between the parts of one VM, and between VMs.

The claims of all VMs are kept in an index: a look-up for each statement, a binary search in each length of prefix in
use for each range. A check costs the same beside ten VMs or ten thousand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lvagent.errors import Conflict, SpecError
from lvagent.spec.claims import (
    APART,
    RIVALS,
    About,
    Below,
    Claim,
    Kind,
    Range,
    Statement,
    of_nic,
    of_vm,
    of_volume,
)
from lvagent.spec.peerings import Peering, Peerings, Rival
from lvagent.spec.vm import Network, VmConfig, Volume

_SAID = {
    About.SUBNET_VPC: ("{name} is in {theirs}, not in {mine}", "a subnet is in one VPC: choose another subnetname"),
    About.SUBNET_VNI: ("{name} has VNI {theirs}, not {mine}", "a subnet has one VNI"),
    About.SUBNET_V4: ("{name} has the gateway {theirs}, not {mine}", "a subnet has one IPv4 gateway and one prefix"),
    About.SUBNET_V6: ("{name} has the gateway {theirs}, not {mine}", "a subnet has one IPv6 gateway and one prefix"),
    About.SUBNET_MTU: (
        "the MTU of {name} is {theirs}, not {mine}",
        "say the same mtu in each NIC of a subnet, or in none",
    ),
    About.VNI: ("VNI {name} is that of {theirs}, not of {mine}", "a VNI belongs to one subnet: choose another vxlanid"),
    About.MAC: ("the MAC {name} is taken", "choose another, or leave it out"),
    About.MAC_IN_VPC: ("the MAC {name} is taken", "choose another: only extra_macs may be shared"),
    About.VOLUME: ("the volume {name} is in use", "choose another path, or make it readonly everywhere"),
}
_MET = {
    (Kind.PREFIX, Kind.PREFIX): "{mine} of {subnet} overlaps {theirs} of {their_subnet}",
    (Kind.PREFIX, Kind.EXTRA): "{mine} of {subnet} overlaps the extra address {theirs}",
    (Kind.ADDRESS, Kind.ADDRESS): "the address {mine} is taken",
    (Kind.ADDRESS, Kind.EXTRA): "the address {mine} is among the extra addresses {theirs}",
    (Kind.EXTRA, Kind.PREFIX): "the extra address {mine} overlaps {theirs} of {their_subnet}",
    (Kind.EXTRA, Kind.ADDRESS): "the extra address {mine} covers the address {theirs}",
}
_APART_HINT = "prefixes of peered VPCs are disjoint: choose another, or DELETE /v1/peerings/{by}"
_MET_HINT = "within a VPC an address belongs to one NIC, and prefixes of subnets are disjoint"


@dataclass(frozen=True, slots=True)
class Clash:
    """A claim that contradicts what ``other`` claims."""

    path: str
    message: str
    hint: str
    other: str


class _Statements:
    """By what they are about: each value with those who say it."""

    def __init__(self) -> None:
        self._values: dict[tuple[About, str, str], dict[str, dict[str, None]]] = defaultdict(dict)

    def add(self, owner: str, said: Statement) -> None:
        self._values[said.about, said.vpc, said.name].setdefault(said.value, {})[owner] = None

    def drop(self, owner: str, said: Statement) -> None:
        key = (said.about, said.vpc, said.name)
        values = self._values[key]
        values.get(said.value, {}).pop(owner, None)
        if not values.get(said.value):
            values.pop(said.value, None)
        if not values:
            del self._values[key]

    def clash(self, owner: str, said: Statement) -> Clash | None:
        for value, owners in self._values.get((said.about, said.vpc, said.name), {}).items():
            other = next((name for name in owners if name != owner), None)
            if value != said.value and other is not None:
                message, hint = _SAID[said.about]
                return Clash(said.path, message.format(name=said.name, mine=said.value, theirs=value), hint, other)
        return None


class _Ranges:
    """The ranges of one kind in one VPC and family: by prefix length, in order of address; each by subnet and owner."""

    def __init__(self) -> None:
        self._starts: dict[int, list[int]] = {}
        self._claims: dict[tuple[int, int], dict[str, dict[str, Range]]] = {}

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[str, Range]]:
        """Each range once, with one of its owners."""
        for subnets in self._claims.values():
            yield from (next(iter(claims.items())) for claims in subnets.values())

    def add(self, owner: str, claim: Range) -> None:
        length, start = _place(claim)
        if (length, start) not in self._claims:
            insort(self._starts.setdefault(length, []), start)
        self._claims.setdefault((length, start), {}).setdefault(claim.subnet, {})[owner] = claim

    def drop(self, owner: str, claim: Range) -> None:
        length, start = _place(claim)
        subnets = self._claims.get((length, start))
        if subnets is None:
            return
        subnets.get(claim.subnet, {}).pop(owner, None)
        if not subnets.get(claim.subnet):
            subnets.pop(claim.subnet, None)
        if not subnets:
            del self._claims[length, start]
            self._forget(length, start)

    def _forget(self, length: int, start: int) -> None:
        starts = self._starts[length]
        del starts[bisect_left(starts, start)]
        if not starts:
            del self._starts[length]

    def rival(self, owner: str | None, mine: Range, spared: str | None) -> tuple[str, Range] | None:
        """Another owner's range that meets this one; those of the subnet ``spared`` may."""
        for subnets in self._meeting(mine):
            for subnet, claims in subnets.items():
                other = next((name for name in claims if name != owner), None)
                if subnet != spared and other is not None:
                    return other, claims[other]
        return None

    def _meeting(self, mine: Range) -> Iterator[dict[str, dict[str, Range]]]:
        first, last = int(mine.net.network_address), int(mine.net.broadcast_address)
        for length, starts in self._starts.items():
            host_bits = mine.net.max_prefixlen - length
            lowest = first >> host_bits << host_bits
            for start in starts[bisect_left(starts, lowest) : bisect_right(starts, last)]:
                yield self._claims[length, start]


def _place(claim: Range) -> tuple[int, int]:
    return claim.net.prefixlen, int(claim.net.network_address)


class _Book:
    """All claims by owner: a VM among VMs, or a part of a VM among its parts."""

    def __init__(self) -> None:
        self._statements = _Statements()
        self._ranges: dict[tuple[Kind, str, int], _Ranges] = defaultdict(_Ranges)

    def add(self, owner: str, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if isinstance(claim, Statement):
                self._statements.add(owner, claim)
            else:
                self._ranges[claim.kind, claim.vpc, claim.net.version].add(owner, claim)

    def drop(self, owner: str, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if isinstance(claim, Statement):
                self._statements.drop(owner, claim)
                continue
            key = (claim.kind, claim.vpc, claim.net.version)
            self._ranges[key].drop(owner, claim)
            if not self._ranges[key]:
                del self._ranges[key]

    def clash(self, owner: str, claims: Iterable[Claim]) -> Clash | None:
        """The first contradiction with another owner."""
        for claim in claims:
            found = self._statements.clash(owner, claim) if isinstance(claim, Statement) else self._rival(owner, claim)
            if found is not None:
                return found
        return None

    def _rival(self, owner: str, mine: Range) -> Clash | None:
        for kind in RIVALS[mine.kind]:
            ranges = self._ranges.get((kind, mine.vpc, mine.net.version))
            spared = mine.subnet if Kind.PREFIX in (mine.kind, kind) else None
            found = ranges.rival(owner, mine, spared) if ranges else None
            if found is not None:
                other, theirs = found
                return Clash(mine.path, _met(mine, theirs), _MET_HINT, other)
        return None

    def ranges(self, vpc: str) -> Iterator[tuple[str, Range]]:
        """What of a VPC must not meet what of another is beside it; each range with one of its owners."""
        for (kind, there, _), ranges in self._ranges.items():
            if there == vpc and kind in APART:
                yield from ranges

    def meets(self, owner: str | None, mine: Range, vpc: str) -> tuple[str, Range] | None:
        """A range of another VPC, not this owner's, that meets one which must be apart from it."""
        for kind in APART.get(mine.kind, ()):
            ranges = self._ranges.get((kind, vpc, mine.net.version))
            found = ranges.rival(owner, mine, None) if ranges else None
            if found is not None:
                return found
        return None


def _met(mine: Range, theirs: Range) -> str:
    return _MET[mine.kind, theirs.kind].format(
        mine=_shown(mine), theirs=_shown(theirs), subnet=mine.subnet, their_subnet=theirs.subnet
    )


def _shown(claim: Range) -> str:
    return str(claim.net.network_address if claim.kind is Kind.ADDRESS else claim.net)


class Claims:
    """The claims of many VMs. It believes what it is told: ``add`` checks nothing. Not for several threads at once."""

    def __init__(self, vms: Iterable[VmConfig] = ()) -> None:
        self._book = _Book()
        self._claims: dict[str, tuple[Claim, ...]] = {}
        for vm in vms:
            self.add(vm)

    def add(self, vm: VmConfig, below: Iterable[Below] = ()) -> None:
        """Take the VM in, in place of its older self.

        :param below: what its volumes stand on.
        """
        self.drop(vm.id)
        self._claims[vm.id] = tuple(of_vm(vm, below))
        self._book.add(vm.id, self._claims[vm.id])

    def drop(self, vm: str) -> None:
        """Forget the VM of this id, if it is there."""
        self._book.drop(vm, self._claims.pop(vm, ()))

    def check(self, vm: VmConfig, below: Iterable[Below] = ()) -> None:
        """Compare a VM with all others; never with its own older self.

        :param below: what its volumes stand on.
        :raise Conflict: it contradicts ``other``; ``path`` counts NICs and volumes in the order of their positions.
        """
        clash = self._book.clash(vm.id, of_vm(vm, below))
        if clash is not None:
            message = f"{clash.message}: see {clash.other}"
            raise Conflict(message, path=clash.path, other=clash.other, hint=clash.hint)

    def check_apart(self, vm: VmConfig, peerings: Peerings) -> None:
        """Compare the prefixes of a VM with those of the VPCs to which its own are peered.

        :raise Conflict: two overlap; ``path`` as for ``check``, ``other`` is the peering that forbids it.
        """
        own = _Book()
        mine = [claim for claim in of_vm(vm) if isinstance(claim, Range)]
        own.add(vm.id, mine)
        for claim in mine:
            for rival in peerings.rivals(claim.vpc):
                found = self._book.meets(vm.id, claim, rival.vpc) or own.meets(None, claim, rival.vpc)
                if found is not None:
                    raise _too_near(claim, found, rival)

    def ranges(self, vpc: str) -> Iterator[tuple[str, Range]]:
        """The prefixes and extra addresses in a VPC, each with a VM that has it."""
        return self._book.ranges(vpc)

    def meets(self, mine: Range, vpc: str) -> tuple[str, Range] | None:
        """A prefix or extra address in a VPC, and a VM that has it, that may not be there if that VPC were peered."""
        return self._book.meets(None, mine, vpc)


def _too_near(mine: Range, found: tuple[str, Range], rival: Rival) -> Conflict:
    other, theirs = found
    near = f"{rival.by} are peered" if mine.vpc in rival.by.vpcs else f"{mine.vpc} is peered with one of {rival.by}"
    message = f"{_place_of(mine)} overlaps {_place_of(theirs)} in {theirs.vpc}, and {near}: see {other}"
    return Conflict(message, path=mine.path, other=str(rival.by), hint=_APART_HINT.format(by=rival.by))


def _place_of(claim: Range) -> str:
    return f"{claim.net} of {claim.subnet}" if claim.kind is Kind.PREFIX else f"the extra address {claim.net}"


def check_peering(new: Peering, peerings: Peerings, books: Sequence[Claims]) -> None:
    """See whether two VPCs can be peered.

    :param peerings: those that there are.
    :param books: all claims that count.
    :raise Conflict: a prefix of the one overlaps one of the other, or of a VPC to which the other is peered; ``other``
        is the VPC that has it.
    """
    for vpc in new.vpcs:
        known = {rival.vpc for rival in peerings.rivals(vpc)}
        for rival in (one for one in peerings.plus(new).rivals(vpc) if one.vpc not in known):
            for _, mine in (pair for book in books for pair in book.ranges(vpc)):
                for book in books:
                    found = book.meets(mine, rival.vpc)
                    if found is not None:
                        raise _not_apart(mine, found, rival, new)


def _not_apart(mine: Range, found: tuple[str, Range], rival: Rival, new: Peering) -> Conflict:
    other, theirs = found
    also = "" if rival.vpc in new.vpcs else f", and {rival.by} are peered"
    message = f"{_place_of(mine)} in {mine.vpc} overlaps {_place_of(theirs)} in {theirs.vpc}{also}: see {other}"
    hint = "VPCs that are peered, with each other or with the same third one, have disjoint prefixes"
    return Conflict(message, other=theirs.vpc, hint=hint)


def check(new: VmConfig, others: Iterable[VmConfig]) -> None:
    """Compare a VM with others once; for many checks keep ``Claims``.

    :raise Conflict: as ``Claims.check``.
    """
    Claims(others).check(new)


def check_parts(networks: Sequence[Network], volumes: Sequence[Volume]) -> None:
    """Compare the parts of one VM with each other.

    :raise SpecError: two of them contradict each other; the path is that of the later one, in the order given.
    """
    book = _Book()
    parts = {f"networks[{i}]": tuple(of_nic(nic, f"networks[{i}]", f"networks[{i}]")) for i, nic in enumerate(networks)}
    parts |= {f"volumes[{i}]": (of_volume(item, f"volumes[{i}]", f"volumes[{i}]"),) for i, item in enumerate(volumes)}
    for owner, claims in parts.items():
        clash = book.clash(owner, claims)
        if clash is not None:
            raise SpecError(clash.path, f"{clash.message}: see {clash.other}", clash.hint)
        book.add(owner, claims)
