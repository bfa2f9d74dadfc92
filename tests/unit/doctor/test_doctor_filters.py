"""Which chains of the root namespace drop, whose they are, and what it means for tenants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lvagent.doctor.bystanders import bridged, other_links, underlay, uplinks
from lvagent.doctor.findings import Level
from lvagent.errors import HostError
from lvagent.host.rootfilter import RootFilter, forwarder, parse

ON, OFF = {"iptables": 1, "ip6tables": 1}, {"iptables": 0, "ip6tables": 0}


def chain(name: str, hook: str = "", policy: str = "", *, family: str = "ip", table: str = "filter") -> dict[str, Any]:
    base = {"type": "filter", "hook": hook, "prio": 0, "policy": policy} if hook else {}
    return {"chain": {"family": family, "table": table, "name": name, "handle": 1, **base}}


def rule(name: str, *expr: Any, family: str = "ip", table: str = "filter") -> dict[str, Any]:  # noqa: ANN401
    return {"rule": {"family": family, "table": table, "chain": name, "handle": 2, "expr": list(expr)}}


def filters(*objects: dict[str, Any], legacy: tuple[str, ...] = ()) -> RootFilter:
    return parse(json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]}), legacy=legacy)


def dport(right: object, protocol: str = "udp") -> dict[str, Any]:
    left = {"payload": {"protocol": protocol, "field": "dport"}}
    return {"match": {"op": "==", "left": left, "right": right}}


def iifname(name: str) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}}


DROP, ACCEPT = {"drop": None}, {"accept": None}
DOCKER = (
    chain("FORWARD", "forward", "drop"),
    chain("DOCKER-USER"),
    rule("FORWARD", {"jump": {"target": "DOCKER-USER"}}),
)
UFW = (chain("FORWARD", "forward", "drop"), chain("ufw-before-forward"))
UFW_RULES = (rule("FORWARD", {"jump": {"target": "ufw-before-forward"}}),)
FIREWALLD = (
    chain("filter_FORWARD", "forward", "accept", family="inet", table="firewalld"),
    rule("filter_FORWARD", {"reject": {"type": "icmpx"}}, family="inet", table="firewalld"),
)
DEEP = (
    chain("fwd", "forward", "accept"),
    chain("deep"),
    rule("fwd", {"jump": {"target": "deep"}}),
    rule("deep", {"counter": {"packets": 0, "bytes": 0}}, DROP),
)
BRIDGE = (chain("fwd", "forward", "drop", family="bridge", table="other"),)


@pytest.mark.parametrize(
    ("objects", "calls", "text"),
    [
        (DOCKER, ON, "table ip filter, chain FORWARD: policy drop (Docker)"),
        ((*UFW, *UFW_RULES), ON, "table ip filter, chain FORWARD: policy drop (ufw)"),
        (FIREWALLD, ON, "table inet firewalld, chain filter_FORWARD: a rule that drops all (firewalld)"),
        (DEEP, ON, "table ip filter, chain fwd: a rule in chain deep"),
        (BRIDGE, OFF, "table bridge other, chain fwd: policy drop"),
    ],
)
def test_a_culprit_is_named_and_its_meaning_told(
    objects: tuple[dict[str, Any], ...], calls: dict[str, int], text: str
) -> None:
    (apart,) = bridged(filters(*objects), calls, "lvfabric")
    assert (apart.level, apart.text.startswith(f"{text}. tenants do not meet it")) == (Level.WARN, True), apart.text
    (shared,) = bridged(filters(*objects), calls, "")
    assert (shared.level, shared.text) == (Level.FAIL, f"{text}. It drops what tenants send between hosts")


@pytest.mark.parametrize(
    ("objects", "calls"),
    [
        (DOCKER, OFF),
        (DOCKER, {}),
        ((), ON),
        ((chain("FORWARD", "forward", "drop", family="ip6"),), {"iptables": 1, "ip6tables": 0}),
        ((chain("fwd", "forward", "accept"), rule("fwd", dport(22, "tcp"), DROP)), ON),
        ((chain("forward", "forward", "drop", family="bridge", table="lvagent"),), ON),
        ((chain("in", "input", "drop"),), ON),
        ((*DOCKER, rule("DOCKER-USER", iifname("lvb*"), ACCEPT)), ON),
    ],
)
def test_what_does_not_drop_bridged_frames(objects: tuple[dict[str, Any], ...], calls: dict[str, int]) -> None:
    assert [one.level for one in bridged(filters(*objects), calls, "")] == [Level.PASS]


def test_legacy_tables_are_told() -> None:
    found = list(bridged(filters(legacy=("filter", "nat")), OFF, ""))
    assert [one.level for one in found] == [Level.PASS, Level.WARN]
    assert "filter, nat" in found[1].text


CLOSED = chain("in", "input", "drop", family="inet", table="fw")


def admits(*expr: Any) -> dict[str, Any]:  # noqa: ANN401
    return rule("in", *expr, family="inet", table="fw")


@pytest.mark.parametrize(
    ("objects", "level"),
    [
        ((), Level.PASS),
        ((CLOSED,), Level.FAIL),
        ((CLOSED, admits(dport(4789), ACCEPT)), Level.PASS),
        ((CLOSED, admits(dport({"set": [53, 4789]}), ACCEPT)), Level.PASS),
        ((CLOSED, admits(dport({"range": [4000, 5000]}), ACCEPT)), Level.PASS),
        ((CLOSED, admits(dport({"set": [{"range": [4700, 4800]}]}, "th"), ACCEPT)), Level.PASS),
        ((CLOSED, admits(dport(4790), ACCEPT)), Level.FAIL),
        ((CLOSED, admits(dport(4789, "tcp"), ACCEPT)), Level.FAIL),
        ((CLOSED, admits(dport(4789), DROP)), Level.FAIL),
        ((CLOSED, admits({"xt": {"type": "match", "name": "udp"}}, ACCEPT)), Level.WARN),
        ((CLOSED, admits(ACCEPT)), Level.PASS),
        ((chain("in", "input", "drop", family="ip6"),), Level.PASS),
    ],
)
def test_vxlan_must_come_in(objects: tuple[dict[str, Any], ...], level: Level) -> None:
    (found,) = underlay(filters(*objects), 4789, segments=2)
    assert found.level is level, found
    (unused,) = underlay(filters(*objects), 4789, segments=0)
    assert unused.level is Level.PASS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nftables": 3}', '{"nftables": [{"rule": 1}]}'])
def test_what_is_no_list_of_rules(text: str) -> None:
    with pytest.raises(HostError, match="not understood"):
        parse(text)


def accept(key: str, name: str) -> tuple[dict[str, Any], ...]:
    match = {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": name}}
    return (match, ACCEPT)


def test_uplinks_are_told_of_who_drops_what_they_forward() -> None:
    (found,) = uplinks(filters(*DOCKER), there=2)
    assert (found.level, "policy drop (Docker) drops what VPCs send out" in found.text) == (Level.FAIL, True)
    assert "iptables -I DOCKER-USER -i ux-+ -j ACCEPT" in found.remedy
    (found,) = uplinks(filters(*DOCKER), there=0)
    assert found.level is Level.WARN
    half = (*DOCKER, rule("DOCKER-USER", *accept("iifname", "ux-*")))
    (found,) = uplinks(filters(*half), there=2)
    assert (found.level, "drops what comes to published ports" in found.text) == (Level.FAIL, True)
    opened = filters(*half, rule("DOCKER-USER", *accept("oifname", "ux-*")))
    assert [one.level for one in uplinks(opened, there=2)] == [Level.PASS]
    strange = filters(*DOCKER, rule("DOCKER-USER", *accept("iifname", "eth0")))
    assert [one.level for one in uplinks(strange, there=2)] == [Level.FAIL]


def test_what_matters_to_addresses_alone_is_a_warning() -> None:
    led = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
    some = (*DOCKER, rule("DOCKER-USER", *accept("iifname", "ux-*")), rule("DOCKER-USER", led, ACCEPT))
    (found,) = uplinks(filters(*some), there=2)
    assert (found.level, "drops what comes to floating addresses and routed prefixes" in found.text) == (
        Level.WARN,
        True,
    )


def nat(hook: str, table: str = "nat") -> dict[str, Any]:
    made = chain("hooked", hook, "accept", table=table)
    made["chain"]["type"] = "nat"
    return made


@pytest.mark.parametrize(
    ("objects", "who"),
    [
        ((), ""),
        ((nat("postrouting"),), ""),  # as iptables leaves it, empty
        ((nat("postrouting"), rule("hooked", {"masquerade": None}, table="nat")), "table ip nat, chain hooked"),
        (
            (nat("prerouting"), rule("hooked", {"dnat": {"addr": "10.0.0.2"}}, table="nat")),
            "table ip nat, chain hooked",
        ),
        ((nat("postrouting"), rule("hooked", {"xt": None}, table="nat")), "table ip nat, chain hooked"),  # MASQUERADE
        ((nat("output"), rule("hooked", {"dnat": {"addr": "10.0.0.2"}}, table="nat")), ""),
        ((nat("postrouting", "lvagent"), rule("hooked", {"masquerade": None}, table="lvagent")), ""),
        (DOCKER, "Docker"),
        ((*UFW, *UFW_RULES), ""),
        (FIREWALLD, ""),
        ((chain("hooked", "forward", "accept", table="incus", family="inet"),), "Incus"),
    ],
)
def test_who_needs_forwarding_shows_in_the_ruleset(objects: tuple[dict[str, Any], ...], who: str) -> None:
    found = forwarder(filters(*objects))
    assert who in found
    assert bool(found) == bool(who)


def test_whether_other_links_forward_is_told() -> None:
    def told(*comments: str) -> list[str]:
        rules = [rule("others", DROP, family="inet", table="lvagent") for _ in comments]
        for one, comment in zip(rules, comments, strict=True):
            one["rule"]["comment"] = comment
        return [one.text for one in other_links(filters(chain("others", family="inet", table="lvagent"), *rules))]

    assert list(other_links(filters())) == []
    assert "may forward" in told()[0]
    four, six = (f"forwarding is on for uplinks alone (IPv{version})" for version in (4, 6))
    assert "forward no IPv4 and IPv6 to each other" in told(four, six)[0]
    assert "forward no IPv6 to each other" in told(six)[0]
