"""Whether others let pass what uplinks forward: their base chains, walked as three packets would. PURE.

A packet is what is known of it: whence and whither it goes, that its flow is new, of TCP, and whether it was led by a
publication. A rule that asks for more (an address, a port, a rate, a thing that nft cannot read) is not counted upon,
whichever verdict it has: a chain is told of if a packet of which no more is known would be dropped. What happens to one
real packet, ``explain --live`` says.

Sources: libnftables-json(5); nft(8) on verdicts; firewalld's own chains, which lead by names of links and end in a
reject, see docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lvagent.host.rootfilter import IP_FAMILIES, Chain, RootFilter, whose
from lvagent.host.rootrules import Match, Rule
from lvagent.render.nft import TABLE

UPLINK = "ux-"
"""How names of the ends of uplinks in root begin; for a name in a rule it stands for all of them."""
DEPTH = 16
"""As deep as nft lets chains lead (NFT_JUMP_STACK_SIZE)."""

NOWHERE = "?"
"""Stands for a link outside, on a host without a default route."""

ACCEPTED = ""
_FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}


REMEDIES = {
    "Docker": "iptables -I DOCKER-USER -i ux-+ -j ACCEPT, and the same with -o ux-+",
    "firewalld": "have firewalld forward what comes from and goes to the interfaces ux-+ (the commands: operations.md)",
    "ufw": "ufw route allow in on ux-+, and: ufw route allow out on ux-+",
}
"""By whose means it can be let pass; tried with the real ones, see docs/operations.md."""
REMEDY = 'accept iifname "ux-*" and oifname "ux-*" there'
RELOADING = "firewalld_policy_drop"
"""The table with which firewalld closes the host while it is reloaded; a reload that fails leaves it behind."""
RELOAD = (
    f"firewalld is being reloaded, or that failed half-way: restart it; if it stays, nft delete table inet {RELOADING}"
)


class Way(StrEnum):
    """What crosses, and for whom."""

    OUT = "what VPCs send out"
    PUBLISHED = "what comes to published ports"
    ADDRESSED = "what comes to floating addresses and routed prefixes"


@dataclass(frozen=True, slots=True)
class Closed:
    """A base chain of others that drops some of it. ``how``: by its policy, or by a rule. ``ways``: what is dropped."""

    chain: Chain
    how: str
    ways: tuple[Way, ...]
    owner: str

    @property
    def remedy(self) -> str:
        """What lets it pass, by the means of whose chain it is."""
        return RELOAD if self.chain.table == RELOADING else REMEDIES.get(self.owner, REMEDY)

    def __str__(self) -> str:
        by = f" ({self.owner})" if self.owner else ""
        return f"{self.chain}: {self.how}{by} drops {', and '.join(self.ways)}"


def closed_to_uplinks(filters: RootFilter) -> Iterator[Closed]:
    """The base chains of others that drop some of what uplinks forward."""
    for base in filters.base("forward"):
        if base.family not in IP_FAMILIES or base.table == TABLE:
            continue
        found = {way: how for way in Way if (how := _dropped(filters, base, way))}
        if found:
            yield Closed(base, next(iter(found.values())), tuple(found), whose(filters, base))


def _dropped(filters: RootFilter, base: Chain, way: Way) -> str:
    """How a chain drops what goes this way; '' if it does not."""
    hows = (_end(filters, base, packet) for packet in _packets(filters, base, way))
    return next((how for how in hows if how), ACCEPTED)


def _packets(filters: RootFilter, base: Chain, way: Way) -> Iterator[Mapping[str, str]]:
    for version in _FAMILIES[base.family]:
        for outside in filters.outside or (NOWHERE,):
            ends = (
                {"iifname": UPLINK, "oifname": outside} if way is Way.OUT else {"iifname": outside, "oifname": UPLINK}
            )
            status = {"status": "dnat"} if way is Way.PUBLISHED else {"status": ""}
            yield {
                **ends,
                **status,
                "state": "new",
                "direction": "original",
                "nfproto": f"ipv{version}",
                "l4proto": "tcp",
            }


def _end(filters: RootFilter, base: Chain, packet: Mapping[str, str]) -> str:
    found = _walk(filters.beside(base), base, packet, DEPTH)
    if found is None:
        return "policy drop" if base.policy == "drop" else ACCEPTED
    if found is base:
        return "a rule that drops all"
    return ACCEPTED if isinstance(found, str) else f"a rule in chain {found.name}"


def _walk(beside: Mapping[str, Chain], chain: Chain, packet: Mapping[str, str], deep: int) -> Chain | str | None:
    """Where a packet ends: the chain that drops it, ``ACCEPTED``, or None if it comes back from this chain."""
    for rule in chain.rules:
        if not _meets(rule, packet):
            continue
        if rule.verdicts & {"drop", "reject"}:
            return chain
        if "accept" in rule.verdicts:
            return ACCEPTED
        for name in rule.jumps if deep else ():
            found = _walk(beside, beside[name], packet, deep - 1) if name in beside else None
            if found is not None:
                return found
        if rule.last or "return" in rule.verdicts:
            return None
    return None


def _meets(rule: Rule, packet: Mapping[str, str]) -> bool:
    return not rule.opaque and all(_fits(match, packet) for match in rule.matches)


def _fits(match: Match, packet: Mapping[str, str]) -> bool:
    """Whether a packet is known to be what is asked for."""
    mine = packet.get(match.key)
    if mine is None:
        return False
    return any(_same(mine, one) for one in match.values) is not match.negated


def _same(mine: str, asked: str) -> bool:
    if not mine:
        return False
    if mine == UPLINK:  # whatever is behind it
        return asked.endswith("*") and UPLINK.startswith(asked[:-1])
    return mine.startswith(asked[:-1]) if asked.endswith("*") else mine == asked
