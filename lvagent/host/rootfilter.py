"""What filters packets in the root namespace: base chains that drop, as ``nft -j list ruleset`` shows them; and whose.

Rules that iptables-nft wrote are among them; some of their parts are opaque to nft (``xt``). Those of iptables-legacy
are not, and are only told by the tables that the kernel has (/proc/net/ip_tables_names).

Source: libnftables-json(5).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from lvagent.errors import HostError
from lvagent.host.run import run

Json = Mapping[str, object]

IP_FAMILIES = ("ip", "ip6", "inet")

WHOSE = (
    ("DOCKER", "Docker"),
    ("ufw", "ufw"),
    ("firewalld", "firewalld"),
    ("KUBE-", "Kubernetes"),
    ("CNI-", "a CNI plugin"),
    ("LIBVIRT_", "libvirt's own networks"),
    ("libvirt_network", "libvirt's own networks"),
    ("NETAVARK", "podman"),
    ("ts-forward", "Tailscale"),
    ("incus", "Incus"),
    ("lxd", "LXD"),
    ("nm-shared-", "a shared connection of NetworkManager"),
)
"""Beginnings of names of tables and chains, and who makes them."""

FORWARDERS = frozenset(owner for _, owner in WHOSE) - {"ufw", "firewalld"}
"""Those of them that need forwarding: they switch it on where it is off, and where it is on rely on it."""

UPLINK_COMMENT = "lvagent uplinks"
"""By which our rules in chains of others are known."""

OTHERS, OTHERS_COMMENT = "others", "forwarding is on for uplinks alone"
"""The chain in our table that what other links forward to each other comes by; how rules that drop it begin."""

LEGACY = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. ``verdicts``: accept, drop, reject or return; ``jumps``: chains it leads to; ``ports``: UDP ports that it
    asks for, as pairs (first, last); ``links``: names (or patterns) of links that it asks for; ``bare``: it asks for
    nothing; ``opaque``: a part of it cannot be read; ``handle``: its number in its table; ``comment``: of nft's own;
    ``translates``: it gives packets other addresses."""

    verdicts: frozenset[str]
    jumps: tuple[str, ...]
    ports: tuple[tuple[int, int], ...]
    links: tuple[str, ...]
    bare: bool
    opaque: bool
    handle: int = 0
    comment: str = ""
    translates: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain with its rules. ``hook``, ``policy`` and ``kind`` (filter, nat, route) are only those of base chains."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: tuple[Rule, ...]
    kind: str = ""

    def __str__(self) -> str:
        return f"table {self.family} {self.table}, chain {self.name}"


@dataclass(frozen=True, slots=True)
class RootFilter:
    """All chains in a namespace, and the tables of iptables-legacy."""

    chains: tuple[Chain, ...]
    legacy: tuple[str, ...] = ()

    def base(self, hook: str) -> tuple[Chain, ...]:
        """The base chains at a hook."""
        return tuple(chain for chain in self.chains if chain.hook == hook)

    def reached(self, chain: Chain) -> tuple[Chain, ...]:
        """A chain and all that its rules lead to."""
        known = {(one.family, one.table, one.name): one for one in self.chains}
        found, left = {chain.name: chain}, [chain]
        while left:
            for rule in left.pop().rules:
                for name in rule.jumps:
                    there = known.get((chain.family, chain.table, name))
                    if there is not None and name not in found:
                        found[name] = there
                        left.append(there)
        return tuple(found.values())


def read() -> RootFilter:
    """The filter of the namespace that the calling thread is in.

    :raise CommandError: nft is not there, or refuses.
    :raise HostError: its answer cannot be read.
    """
    return parse(run(["nft", "-j", "list", "ruleset"]), legacy=_legacy())


def _legacy() -> tuple[str, ...]:
    found = []
    for path in LEGACY:
        try:
            found += Path(path).read_text().split()
        except OSError:
            continue
    return tuple(dict.fromkeys(found))


def parse(text: str, *, legacy: Sequence[str] = ()) -> RootFilter:
    """The chains in nft's JSON.

    :raise HostError: it is none.
    """
    try:
        objects = cast(list[Json], json.loads(text)["nftables"])
        return RootFilter(tuple(_chains(objects)), tuple(legacy))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HostError("nft", "read", f"its list of rules is not understood: {error}") from error


def _chains(objects: Sequence[Json]) -> Iterator[Chain]:
    rules: dict[tuple[str, str, str], list[Rule]] = defaultdict(list)
    for one in objects:
        if "rule" in one:
            rule = cast(Json, one["rule"])
            key = (str(rule["family"]), str(rule["table"]), str(rule["chain"]))
            told = _rule(cast(list[object], rule.get("expr") or []))
            handle = rule.get("handle")
            comment = str(rule.get("comment", ""))
            rules[key].append(replace(told, handle=handle if isinstance(handle, int) else 0, comment=comment))
    for one in objects:
        if "chain" in one:
            chain = cast(Json, one["chain"])
            key = (str(chain["family"]), str(chain["table"]), str(chain["name"]))
            yield Chain(
                *key,
                str(chain.get("hook", "")),
                str(chain.get("policy", "")),
                tuple(rules[key]),
                str(chain.get("type", "")),
            )


def _rule(parts: Sequence[object]) -> Rule:
    verdicts: set[str] = set()
    jumps: list[str] = []
    ports: list[tuple[int, int]] = []
    links: list[str] = []
    bare, opaque, translates = True, False, False
    for part in parts:
        if not isinstance(part, dict):
            opaque = True
            continue
        name = next(iter(part), "")
        value = part.get(name)
        if name in ("accept", "drop", "reject", "return"):
            verdicts.add(name)
        elif name in ("jump", "goto") and isinstance(value, dict):
            jumps.append(str(value.get("target", "")))
        elif name == "match" and isinstance(value, dict):
            bare = False
            ports += _udp_ports(value)
            links += _link_names(value)
        elif name in ("masquerade", "snat", "dnat"):
            bare, translates = False, True
        elif name not in ("counter", "comment", "log"):
            bare, opaque = False, opaque or name in ("xt", "vmap")
    return Rule(frozenset(verdicts), tuple(jumps), tuple(ports), tuple(links), bare, opaque, translates=translates)


def _udp_ports(match: Json) -> list[tuple[int, int]]:
    payload = _member(match.get("left"), "payload")
    if _member(payload, "field") != "dport" or _member(payload, "protocol") not in ("udp", "th"):
        return []
    if match.get("op") not in ("==", "in"):
        return []
    right = match.get("right")
    members = _member(right, "set") or right
    return [pair for one in (members if isinstance(members, list) else [members]) for pair in _range(one)]


def _link_names(match: Json) -> list[str]:
    key = _member(_member(match.get("left"), "meta"), "key")
    if key not in ("iifname", "oifname") or match.get("op") not in ("==", "in"):
        return []
    members = _member(match.get("right"), "set") or match.get("right")
    return [one for one in (members if isinstance(members, list) else [members]) if isinstance(one, str)]


def _range(value: object) -> list[tuple[int, int]]:
    if isinstance(value, int):
        return [(value, value)]
    bounds = _member(value, "range")
    if isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(one, int) for one in bounds):
        return [(bounds[0], bounds[1])]
    return []


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def whose(filters: RootFilter, chain: Chain) -> str:
    """Who made a chain, by the names around it; '' if nothing tells."""
    names = [chain.table, *(one.name for one in filters.reached(chain))]
    found = (owner for start, owner in WHOSE for name in names if name.startswith(start))
    return next(found, "")


def culprits(filters: RootFilter, hook: str, families: tuple[str, ...]) -> Iterator[tuple[Chain, str]]:
    """The base chains at a hook that drop, each with how: by policy, or by a rule of this or that chain."""
    for base in filters.base(hook):
        if base.family not in families or base.table == "lvagent":
            continue
        if base.policy == "drop":
            yield base, "policy drop"
            continue
        dropping = [chain for chain in filters.reached(base) if any(map(_drops_all, chain.rules))]
        if dropping:
            yield base, "a rule that drops all" if dropping[0] is base else f"a rule in chain {dropping[0].name}"


def _drops_all(rule: Rule) -> bool:
    return rule.bare and bool(rule.verdicts & {"drop", "reject"})


def forwarder(filters: RootFilter) -> str:
    """Who else forwards here, by the look of the filter; '' if nobody does.

    Known software that does, and whoever translates addresses of what passes.
    """
    for chain in filters.chains:
        owner = whose(filters, chain)
        if owner in FORWARDERS:
            return owner
    for chain in filters.chains:
        translating = chain.kind == "nat" and chain.hook in ("prerouting", "postrouting") and chain.table != "lvagent"
        if translating and any(rule.translates or rule.opaque for one in filters.reached(chain) for rule in one.rules):
            return f"who translates addresses in {chain}"
    return ""


def held(filters: RootFilter) -> tuple[int, ...] | None:
    """The IP versions of which other links of this host forward nothing, by rules of ours; None: there is no chain for
    them. A rule in it that is not ours counts as 0."""
    ours = ("inet", "lvagent", OTHERS)
    chain = next((one for one in filters.chains if (one.family, one.table, one.name) == ours), None)
    return None if chain is None else tuple(_version(rule.comment) for rule in chain.rules)


def _version(comment: str) -> int:
    known = {f"{OTHERS_COMMENT} (IPv{version})": version for version in (4, 6)}
    return known.get(comment, 0)


def closed_to_uplinks(filters: RootFilter) -> Iterator[tuple[Chain, str]]:
    """The base chains of others that drop what is forwarded and let no uplink pass; each with how."""
    for chain, how in culprits(filters, "forward", IP_FAMILIES):
        rules = [rule for one in filters.reached(chain) for rule in one.rules if "accept" in rule.verdicts]
        if not any(
            rule.comment == UPLINK_COMMENT or any(name.startswith("ux-") for name in rule.links) for rule in rules
        ):
            yield chain, how
