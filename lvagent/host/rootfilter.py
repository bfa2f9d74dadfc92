"""What filters packets in the root namespace: base chains that drop, as ``nft -j list ruleset`` shows them; and whose.

Rules that iptables-nft wrote are among them; some of their parts are opaque to nft (``xt``). Those of iptables-legacy
are not, and are only told by the tables that the kernel has (/proc/net/ip_tables_names).

Source: libnftables-json(5).
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lvagent.errors import CommandError, HostError
from lvagent.host.rootrules import Json, Rule, rules
from lvagent.host.run import run

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

GONE = "No such file or directory"
"""What nft says of a table or chain that is not there."""

LEGACY = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


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
    """All chains in a namespace, the tables of iptables-legacy, and the links by which default routes leave."""

    chains: tuple[Chain, ...]
    legacy: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    def base(self, hook: str) -> tuple[Chain, ...]:
        """The base chains at a hook."""
        return tuple(chain for chain in self.chains if chain.hook == hook)

    def beside(self, chain: Chain) -> dict[str, Chain]:
        """The chains of the same table, by name."""
        return {one.name: one for one in self.chains if (one.family, one.table) == (chain.family, chain.table)}

    def reached(self, chain: Chain) -> tuple[Chain, ...]:
        """A chain and all that its rules lead to."""
        known = self.beside(chain)
        found, left = {chain.name: chain}, [chain]
        while left:
            for rule in left.pop().rules:
                for name in rule.jumps:
                    there = known.get(name)
                    if there is not None and name not in found:
                        found[name] = there
                        left.append(there)
        return tuple(found.values())


def read() -> RootFilter:
    """The filter of the namespace that the calling thread is in.

    The JSON of nft 1.0.6 is spoilt by a table that has a flag, such as ``owner``, for nft frees the flag's name too
    early. What is spoilt is listed in smaller parts.

    :raise CommandError: nft is not there, or refuses.
    :raise HostError: its answer cannot be read.
    """
    try:
        objects = _list("ruleset")
    except HostError as error:
        if not _is_spoilt(error):
            raise
        objects = list(_in_parts())
    return _filter(objects, _legacy(), _outside())


def _list(*what: str) -> list[Json]:
    return _objects(run(["nft", "-j", "list", *what]))


def _is_spoilt(error: HostError) -> bool:
    """Whether nft gave no JSON, or was ended for what it did to its memory."""
    return not isinstance(error, CommandError) or (error.code is not None and error.code < 0)


def _in_parts() -> Iterator[Json]:
    """All chains and their rules, table by table; of a table that is spoilt, chain by chain."""
    chains = [cast(Json, one["chain"]) for one in _list("chains") if "chain" in one]
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for chain in chains:
        names[str(chain["family"]), str(chain["table"])].append(str(chain["name"]))
    for table, inside in names.items():
        try:
            yield from _there("table", *table)
        except HostError as error:
            if not _is_spoilt(error):
                raise
            for name in inside:
                yield from _there("chain", *table, name)


def _there(*what: str) -> list[Json]:
    """What is listed; nothing if it went since its name was."""
    try:
        return _list(*what)
    except CommandError as error:
        if GONE in error.stderr:
            return []
        raise


def _legacy() -> tuple[str, ...]:
    found = []
    for path in LEGACY:
        try:
            found += Path(path).read_text().split()
        except OSError:
            continue
    return tuple(dict.fromkeys(found))


def _outside() -> tuple[str, ...]:
    """Source: net/ipv4/fib_trie.c and net/ipv6/route.c, which write these files."""
    v4, v6 = (_rows(f"/proc/thread-self/net/{name}") for name in ("route", "ipv6_route"))
    found = [row[0] for row in v4 if len(row) > 7 and (row[1], row[7]) == ("00000000", "00000000")]
    found += [row[9] for row in v6 if len(row) > 9 and row[1] == "00" and row[9] != "lo"]
    return tuple(dict.fromkeys(found))


def _rows(path: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return []


def parse(text: str, *, legacy: Sequence[str] = (), outside: Sequence[str] = ()) -> RootFilter:
    """The chains in nft's JSON.

    :raise HostError: it is none.
    """
    return _filter(_objects(text), legacy, outside)


def _objects(text: str) -> list[Json]:
    with _understood():
        return cast(list[Json], json.loads(text)["nftables"])


def _filter(objects: Sequence[Json], legacy: Sequence[str], outside: Sequence[str]) -> RootFilter:
    with _understood():
        return RootFilter(tuple(_chains(objects)), tuple(legacy), tuple(outside))


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HostError("nft", "read", f"its list of rules is not understood: {error}") from error


def _chains(objects: Sequence[Json]) -> Iterator[Chain]:
    rules_of: dict[tuple[str, str, str], list[Rule]] = defaultdict(list)
    for one in objects:
        if "rule" in one:
            rule = cast(Json, one["rule"])
            key = (str(rule["family"]), str(rule["table"]), str(rule["chain"]))
            rules_of[key] += rules(rule)
    for one in objects:
        if "chain" in one:
            chain = cast(Json, one["chain"])
            key = (str(chain["family"]), str(chain["table"]), str(chain["name"]))
            hook, policy, kind = (str(chain.get(name, "")) for name in ("hook", "policy", "type"))
            yield Chain(*key, hook, policy, tuple(rules_of[key]), kind)


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
