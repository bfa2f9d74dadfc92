"""The table of vectors in docs/security.md says what the tests try, no more and no less.

``pytest --regenerate tests/host/net/test_isolation_table.py`` writes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests import golden
from tests.host.net import test_net_rules as rules
from tests.host.net import test_net_spoofing as spoofing

PAGE = Path(__file__).parents[3] / "docs/security.md"
BEGIN, END = "<!-- vectors -->\n", "<!-- end of vectors -->\n"

GROUPS = {
    "MACs and IPv4 addresses": r"IPv4 from|ICMP echo",
    "IPv6 addresses": r"IPv6 from",
    "ARP": r"(gratuitous )?ARP|reverse ARP",
    "neighbour discovery": r"(advertisement|solicitation|DAD)",
    "routers and queriers": r"router|redirect|ICMP r|MLD|IGMP",
    "DHCP": r"DHCP",
    "tags and other protocols": r"",
}
"""Kinds of vectors by how their names begin; the first that fits."""


ELSEWHERE = {
    spoofing.test_a_router_solicitation_reaches_the_gateway: (
        "routers and queriers",
        "router solicitation to the gateway",
    ),
    spoofing.test_dhcp_reaches_the_gateway_for_ones_own_hardware_address_only: (
        "DHCP",
        "DHCP request to the gateway",
    ),
    spoofing.test_what_is_its_own_reaches_the_neighbour: (
        "tags and other protocols",
        "IPv4 from its own address, untagged",
    ),
}
"""Twins that are tests of their own, or those of another kind."""


def by_group(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in names:
        group = next(group for group, begins in GROUPS.items() if re.match(begins, name))
        found[group].append(name)
    return found


def twins() -> dict[str, list[str]]:
    found = by_group(spoofing.PASSED)
    for group, name in ELSEWHERE.values():
        found[group].append(name)
    return found


def spoofed() -> list[str]:
    lines = ["| from a guest's port | is dropped | its twins pass |", "|---|---|---|"]
    dropped, passed = by_group(spoofing.DROPPED), twins()
    for group in GROUPS:
        if dropped[group] or passed[group]:
            lines.append(f"| {group} | {'; '.join(dropped[group])} | {'; '.join(passed[group])} |")
    lines += ["", "| from another host's segment | |", "|---|---|"]
    lines.append(f"| is dropped | {'; '.join(spoofing.OVERLAY_DROPPED)} |")
    lines.append(f"| its twins pass | {'; '.join(spoofing.OVERLAY_PASSED)} |")
    return lines


def ruled() -> list[str]:
    ways = list(rules.WAYS)
    lines = [
        f"| to a guest, closed: dropped; opened by a rule: passes | {' | '.join(ways)} |",
        "|---|" + "---|" * len(ways),
    ]
    tried: dict[str, list[str]] = {}
    for case in rules.CASES:
        way, name = case.values
        tried.setdefault(str(name), []).append(str(way))
    for name, there in tried.items():
        lines.append(f"| {name} | {' | '.join('both' if way in there else '' for way in ways)} |")
    return lines


def table() -> str:
    count = len(spoofing.DROPPED) + len(spoofing.OVERLAY_DROPPED) + len(rules.CASES)
    twins = len(spoofing.PASSED) + len(spoofing.OVERLAY_PASSED) + len(rules.CASES)
    head = [f"{count} vectors are dropped, {twins} twins pass:", ""]
    return "\n".join([*head, *spoofed(), "", *ruled()]) + "\n"


def test_the_page_says_what_is_tried() -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    told, after = rest.split(END)
    if golden.regenerate:
        PAGE.write_text(before + BEGIN + table() + END + after)
        return
    assert told == table()


def test_there_are_enough_of_each_kind_each_with_twins() -> None:
    dropped, passed = by_group(spoofing.DROPPED), twins()
    assert sum(map(len, dropped.values())) >= 40
    assert [group for group in GROUPS if not dropped[group] or not passed[group]] == []
