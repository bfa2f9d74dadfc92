"""Rules as ``nft -j`` shows them: what they ask for, and what they say. PURE.

Rules that iptables-nft wrote are among them; some of their parts are opaque to nft (``xt``), but what kind of thing an
opaque part is, it tells. Source: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Json = Mapping[str, object]

VERDICTS = ("accept", "drop", "reject", "return")
_KEYS = {"meta": ("iifname", "oifname", "iif", "oif", "nfproto", "l4proto"), "ct": ("state", "status", "direction")}
_SAME = {"iif": "iifname", "oif": "oifname"}
_PAYLOADS = {
    "ip": ("nfproto", "ipv4"), "ip6": ("nfproto", "ipv6"), "tcp": ("l4proto", "tcp"), "udp": ("l4proto", "udp"),
    "sctp": ("l4proto", "sctp"), "icmp": ("l4proto", "icmp"), "icmpv6": ("l4proto", "ipv6-icmp"),
}  # fmt: skip
"""What a look into a header says of the packet already."""


@dataclass(frozen=True, slots=True)
class Match:
    """Something that a rule asks for. ``key``: of nft's expression; '' if it is of another kind. ``values``: what it
    may be, names with a * at their end among them; or may not be, if ``negated``."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. ``verdicts``: accept, drop, reject or return; ``jumps``: chains it leads to; ``last``: not to come back;
    ``ports``: UDP ports that it asks for, as pairs (first, last); ``links``: names (or patterns) of links that it asks
    for; ``matches``: all that it asks for; ``opaque``: a part of it cannot be read; ``translates``: it gives packets
    other addresses; ``handle``: its number in its table; ``comment``: of nft's own."""

    verdicts: frozenset[str] = frozenset()
    jumps: tuple[str, ...] = ()
    last: bool = False
    ports: tuple[tuple[int, int], ...] = ()
    links: tuple[str, ...] = ()
    matches: tuple[Match, ...] = ()
    opaque: bool = False
    translates: bool = False
    handle: int = 0
    comment: str = ""

    @property
    def bare(self) -> bool:
        """Whether it asks for nothing."""
        return not self.matches and not self.opaque


def rules(one: Json) -> Iterator[Rule]:
    """A rule of nft's list; as several if it leads by a map of its own (``vmap``)."""
    parts = one.get("expr")
    handle = one.get("handle")
    for branch in _branches(parts if isinstance(parts, list) else []):
        yield _rule(branch, handle if isinstance(handle, int) else 0, str(one.get("comment", "")))


def _branches(parts: Sequence[object]) -> Iterator[list[object]]:
    """The parts of a rule, once for each element of its map."""
    at = next((number for number, part in enumerate(parts) if isinstance(part, dict) and "vmap" in part), None)
    vmap = None if at is None else member(parts[at], "vmap")
    elements = member(member(vmap, "data"), "set")
    if at is None or not isinstance(elements, list):
        yield list(parts)
        return
    for element in elements:
        if isinstance(element, list) and len(element) == 2:
            match = {"match": {"op": "==", "left": member(vmap, "key"), "right": element[0]}}
            yield [*parts[:at], match, element[1], *parts[at + 1 :]]


def _rule(parts: Sequence[object], handle: int, comment: str) -> Rule:
    verdicts: set[str] = set()
    jumps: list[str] = []
    ports: list[tuple[int, int]] = []
    links: list[str] = []
    matches: list[Match] = []
    opaque = last = translates = False
    for part in parts:
        name = next(iter(part), "") if isinstance(part, dict) else ""
        value = member(part, name)
        if name in VERDICTS:
            verdicts.add(name)
        elif name in ("jump", "goto"):
            jumps.append(str(member(value, "target")))
            last = last or name == "goto"
        elif name == "match" and isinstance(value, dict):
            ports += _udp_ports(value)
            links += _link_names(value)
            matches += _matches(value)
        elif name == "xt":
            verdicts |= _target(value)
            opaque = opaque or not (_target(value) or member(value, "name") == "comment")
        elif name not in ("counter", "comment", "log"):
            translates = translates or name in ("masquerade", "snat", "dnat")
            matches.append(Match(""))
            opaque = opaque or name in ("", "vmap")
    return Rule(
        frozenset(verdicts),
        tuple(jumps),
        last,
        tuple(ports),
        tuple(links),
        tuple(matches),
        opaque,
        translates,
        handle,
        comment,
    )


def _target(value: object) -> set[str]:
    """What a target of iptables says that nft has another form of."""
    return {"reject"} if member(value, "type") == "target" and member(value, "name") == "REJECT" else set()


def _matches(match: Json) -> Iterator[Match]:
    left, negated = match.get("left"), match.get("op") == "!="
    kind = next(iter(left), "") if isinstance(left, dict) else ""
    key = str(member(member(left, kind), "key"))
    if kind == "payload":
        yield from _payload(member(left, kind), _values(match.get("right")), negated=negated)
    elif key in _KEYS.get(kind, ()) and match.get("op") in ("==", "in", "!="):
        yield Match(_SAME.get(key, key), _values(match.get("right")), negated)
    else:
        yield Match("")


def _payload(payload: object, values: tuple[str, ...], *, negated: bool) -> Iterator[Match]:
    protocol = str(member(payload, "protocol"))
    if protocol in _PAYLOADS:
        key, value = _PAYLOADS[protocol]
        yield Match(key, (value,))
    if member(payload, "field") in ("protocol", "nexthdr") and protocol in ("ip", "ip6"):
        yield Match("l4proto", values, negated)
    else:
        yield Match("")


def _values(right: object) -> tuple[str, ...]:
    """The single values on the right side of a match; a range is none of ours to read."""
    members = member(right, "set") or right
    return tuple(str(one) for one in (members if isinstance(members, list) else [members]))


def _udp_ports(match: Json) -> list[tuple[int, int]]:
    payload = member(match.get("left"), "payload")
    if member(payload, "field") != "dport" or member(payload, "protocol") not in ("udp", "th"):
        return []
    if match.get("op") not in ("==", "in"):
        return []
    right = match.get("right")
    members = member(right, "set") or right
    return [pair for one in (members if isinstance(members, list) else [members]) for pair in _range(one)]


def _link_names(match: Json) -> list[str]:
    key = member(member(match.get("left"), "meta"), "key")
    if key not in ("iifname", "oifname") or match.get("op") not in ("==", "in"):
        return []
    members = member(match.get("right"), "set") or match.get("right")
    return [one for one in (members if isinstance(members, list) else [members]) if isinstance(one, str)]


def _range(value: object) -> list[tuple[int, int]]:
    if isinstance(value, int):
        return [(value, value)]
    bounds = member(value, "range")
    if isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(one, int) for one in bounds):
        return [(bounds[0], bounds[1])]
    return []


def member(value: object, name: str) -> object:
    """A member of an object of JSON; None if it has none, or is no object."""
    return value.get(name) if isinstance(value, dict) else None
