"""Which packets of uplinks the chains of others would drop: read as nft reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from lvagent.host.crossing import Way, closed_to_uplinks
from lvagent.host.rootfilter import RootFilter, parse

OUT, PUBLISHED, ADDRESSED = Way
ALL = tuple(Way)
DROP, ACCEPT, RETURN, REJECT = {"drop": None}, {"accept": None}, {"return": None}, {"reject": {"type": "icmpx"}}
COUNTER = {"counter": {"packets": 0, "bytes": 0}}


def meta(key: str, right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def ct(key: str, right: object, op: str = "in") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"ct": {"key": key}}, "right": right}}


def payload(protocol: str, field: str, right: object) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


def xt(name: str, kind: str = "match") -> dict[str, Any]:
    return {"xt": {"type": kind, "name": name}}


def jump(to: str) -> dict[str, Any]:
    return {"jump": {"target": to}}


def goto(to: str) -> dict[str, Any]:
    return {"goto": {"target": to}}


def vmap(key: dict[str, Any], *elements: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"vmap": {"key": key, "data": {"set": [list(one) for one in elements]}}}


FROM, TO = meta("iifname", "ux-*"), meta("oifname", "ux-*")
REPLIES = [ct("state", ["established", "related"]), ACCEPT]
Rules = list[list[dict[str, Any]]]


def filters(base: Rules, policy: str = "drop", family: str = "inet", **chains: Rules) -> RootFilter:
    """A table with a base chain at the forward hook, and other chains."""
    at = {"family": family, "table": "fw"}
    hook = {"type": "filter", "hook": "forward", "prio": 0, "policy": policy}
    objects: list[dict[str, Any]] = [{"chain": {**at, "name": "base", **hook}}]
    objects += [{"chain": {**at, "name": name}} for name in chains]
    for name, rules in {"base": base, **chains}.items():
        objects += [{"rule": {**at, "chain": name, "handle": 1, "expr": rule}} for rule in rules]
    return parse(json.dumps({"nftables": objects}), outside=["wan"])


def told(found: RootFilter) -> tuple[str, tuple[Way, ...]]:
    closed = list(closed_to_uplinks(found))
    assert len(closed) < 2
    return (closed[0].how, closed[0].ways) if closed else ("", ())


@pytest.mark.parametrize(
    ("rules", "ways"),
    [
        ([], ALL),
        ([REPLIES], ALL),
        ([[ACCEPT]], ()),
        ([[FROM, ACCEPT]], (PUBLISHED, ADDRESSED)),
        ([[FROM, COUNTER, ACCEPT], [TO, ACCEPT]], ()),
        ([[FROM, xt("comment"), ACCEPT], [TO, ACCEPT]], ()),
        ([[FROM, xt("limit"), ACCEPT], [TO, ACCEPT]], (OUT,)),
        ([[meta("iifname", "ux-aaaaaaaaaa"), ACCEPT], [TO, ACCEPT]], (OUT,)),  # one of many
        ([[meta("iifname", {"set": ["lo", "ux-*"]}), ACCEPT], [TO, ACCEPT]], ()),
        ([[meta("iifname", "u*"), ACCEPT], [TO, ACCEPT]], ()),
        ([[meta("iifname", "wan", "!="), ACCEPT]], (PUBLISHED, ADDRESSED)),
        ([[FROM, ACCEPT], [ct("status", "dnat"), ACCEPT]], (ADDRESSED,)),
        ([[FROM, meta("oifname", "wan"), ACCEPT], [TO, meta("iifname", "wan"), ACCEPT]], ()),
        ([[FROM, meta("oifname", "lan"), ACCEPT], [TO, ACCEPT]], (OUT,)),
        ([[FROM, ct("state", "new"), ACCEPT], [TO, ct("state", {"set": ["new", "related"]}), ACCEPT]], ()),
        ([[FROM, meta("nfproto", "ipv4"), ACCEPT], [TO, ACCEPT]], (OUT,)),  # and not IPv6
        ([[FROM, payload("ip", "saddr", "198.19.0.0"), ACCEPT], [TO, ACCEPT]], (OUT,)),
        ([[FROM, meta("l4proto", {"set": ["tcp", "udp"]}), ACCEPT], [TO, ACCEPT]], ()),
        ([[FROM, meta("l4proto", "icmp"), ACCEPT], [TO, ACCEPT]], (OUT,)),
        ([[FROM, {"limit": {"rate": 1, "per": "second"}}, ACCEPT], [TO, ACCEPT]], (OUT,)),
        ([[FROM, ACCEPT], [RETURN], [TO, ACCEPT]], (PUBLISHED, ADDRESSED)),  # to the policy
        ([[vmap({"meta": {"key": "iifname"}}, ("ux-*", ACCEPT), ("lo", DROP))], [TO, ACCEPT]], ()),
        ([[vmap({"ct": {"key": "state"}}, ("new", ACCEPT), ("invalid", DROP))]], ()),
        ([[{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@elsewhere"}}]], ALL),
    ],
)
def test_what_a_policy_of_drop_lets_pass(rules: Rules, ways: tuple[Way, ...]) -> None:
    assert told(filters(rules)) == (("policy drop", ways) if ways else ("", ()))


@pytest.mark.parametrize(
    ("rules", "ways"),
    [
        ([], ()),
        ([[DROP]], ALL),
        ([[REJECT]], ALL),
        ([[COUNTER, xt("REJECT", "target")]], ALL),  # as iptables-nft writes it
        ([[xt("comment"), DROP]], ALL),
        ([[xt("addrtype"), DROP]], ()),
        ([[payload("tcp", "dport", 25), DROP]], ()),
        ([[ct("state", "invalid"), DROP]], ()),
        ([[ct("state", ["established"], "!="), DROP]], ALL),
        ([[FROM, DROP]], (OUT,)),
        ([[meta("iifname", "wan"), DROP]], (PUBLISHED, ADDRESSED)),
        ([[meta("iif", "wan"), DROP]], (PUBLISHED, ADDRESSED)),
        ([[meta("iifname", "docker0"), meta("oifname", "docker0", "!="), DROP]], ()),
        ([[meta("nfproto", "ipv6"), DROP]], ALL),
        ([[payload("ip6", "daddr", "2002::"), REJECT]], ()),
        ([[ACCEPT], [DROP]], ()),
        ([[FROM, ACCEPT], [TO, ACCEPT], [DROP]], ()),
        ([[DROP], [FROM, ACCEPT], [TO, ACCEPT]], ALL),  # too late
    ],
)
def test_what_rules_drop(rules: Rules, ways: tuple[Way, ...]) -> None:
    assert told(filters(rules, "accept")) == (("a rule that drops all", ways) if ways else ("", ()))


def test_chains_are_followed_as_nft_follows_them() -> None:
    deep: Rules = [[jump("one")], [FROM, ACCEPT], [TO, ACCEPT]]
    assert told(filters(deep, one=[[jump("two")]], two=[[DROP]])) == ("a rule in chain two", ALL)
    assert told(filters(deep, one=[[jump("two")]], two=[[RETURN], [DROP]])) == ("", ())
    assert told(filters(deep, one=[[goto("two")], [DROP]], two=[])) == ("", ())
    assert told(filters([[goto("one")], [ACCEPT]], one=[])) == ("policy drop", ALL)
    assert told(filters([[TO, jump("one")], [ACCEPT]], one=[[DROP]])) == ("a rule in chain one", (PUBLISHED, ADDRESSED))
    assert told(filters([[payload("ip", "saddr", "10.0.0.0"), jump("one")], [ACCEPT]], one=[[DROP]])) == ("", ())
    assert told(filters([[jump("gone")], [ACCEPT]])) == ("", ())
    assert told(filters([[jump("one")], [ACCEPT]], one=[[jump("one")]])) == ("", ())  # nft has none such


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_chain_sees_its_own_family(family: str) -> None:
    other = "ipv6" if family == "ip" else "ipv4"
    assert told(filters([[meta("nfproto", other), DROP]], "accept", family)) == ("", ())
    assert told(filters([], "drop", family)) == ("policy drop", ALL)
    assert told(filters([], "drop", "bridge")) == ("", ())


def test_firewalld_leads_by_links_and_rejects_the_rest() -> None:
    def ruled(zone: Rules, *, forward: Iterable[Rules] = ()) -> tuple[str, tuple[Way, ...]]:
        ends: Rules = [REPLIES, [ct("status", "dnat"), ACCEPT], [jump("ZONES")], [REJECT]]
        pre: Rules = [rule for more in forward for rule in more]
        chains: dict[str, Rules] = {
            "ZONES": [*zone, [goto("public")]],
            "PRE": pre,
            "public": [[jump("PRE")], [REJECT]],
            "own": [[jump("PRE")], [REJECT]],
            "trusted": [[jump("PRE")], [TO, ACCEPT], [ACCEPT]],
        }
        return told(filters(ends, "accept", **chains))

    assert ruled([]) == ("a rule in chain public", (OUT, ADDRESSED))
    assert ruled([[FROM, goto("trusted")]]) == ("a rule in chain public", (ADDRESSED,))
    policies: Rules = [[FROM, jump("trusted")], [TO, jump("trusted")]]
    assert ruled([[FROM, goto("own")]], forward=[policies]) == ("", ())


def test_a_reload_of_firewalld_that_failed_is_told_apart() -> None:
    base = {"family": "inet", "table": "firewalld_policy_drop", "name": "f", "hook": "forward", "policy": "drop"}
    text = json.dumps({"nftables": [{"chain": base}]})
    (found,) = closed_to_uplinks(parse(text))
    assert (found.owner, "nft delete table inet firewalld_policy_drop" in found.remedy) == ("firewalld", True)
