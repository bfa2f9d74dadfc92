"""The rules of VMs as nft: what they are, that they can be read back, that no value escapes its place."""

from __future__ import annotations

import dataclasses
import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.plan import firewall as plan
from lvagent.plan.resources import Extras, Firewall, Group
from lvagent.render import nft
from lvagent.render.elements import EXTRAS, Chain, Element, NetElement, Rule, by_owner
from lvagent.render.firewall import (
    comment_of,
    extras_of,
    extras_pieces,
    families,
    firewall_pieces,
    firewalls,
    group_of,
    group_pieces,
    match_of,
    rule_of,
)
from lvagent.spec.vm import Direction, NetRule, VmConfig
from tests.golden import golden
from tests.unit.render import firewall_cases as cases
from tests.unit.render.firewall_cases import VPC

IN, OUT = Direction.INGRESS, Direction.EGRESS
DOCUMENTS: list[dict[str, object]] = [
    {"proto": "tcp", "port": 22},
    {"proto": "tcp", "port": 8000, "port_end": 8080, "source": "10.0.0.0/8"},
    {"proto": "udp", "port": 53, "source": "i-0000000006"},
    {"proto": "icmp"},
    {"proto": "icmpv6", "source": "fe80::/10"},
    {"proto": "any", "source": "subnet-aaaaaaaaaa", "destination": "fd00:a::5"},
    {"proto": "sctp", "destination": "192.0.2.0/24"},
    {"proto": 47, "direction": "egress", "destination": "i-0000000006"},
]


SHARED = (("10.0.9.0/24",), ("10.0.9.128/25", "fd00:b::/64"))


def with_shared(specs: list[VmConfig]) -> list[VmConfig]:
    """The specs with extra addresses, of which some are those of both."""
    found = []
    for one, nets in zip(specs, SHARED, strict=True):
        nic = dataclasses.replace(one.networks[0], extra_addresses=tuple(map(ip_network, nets)))
        found.append(dataclasses.replace(one, networks=(nic,)))
    return found


def test_golden_texts() -> None:
    parts = sorted(plan.filters(VPC, with_shared([cases.spec(5, DOCUMENTS), cases.spec(6, [])])), key=repr)
    numbers = {"i-0000000005": 1, "i-0000000006": 2}
    pieces = {piece for part in parts for piece in nft.pieces(part, numbers)}
    golden("nft/rules.nft", nft.change((), pieces))
    handles = {piece: at for at, piece in enumerate(sorted(p for p in pieces if isinstance(p, Rule)), 100)}
    golden("nft/rules-gone.nft", nft.change(pieces, (), handles))
    one = firewall_pieces(Firewall(VPC, "i-0000000005", (), (), (NetRule("tcp", 22, direction=IN),)), 1)
    other = firewall_pieces(Firewall(VPC, "i-0000000005", (), (), (NetRule("tcp", 23, direction=IN),)), 1)
    golden("nft/rules-change.nft", nft.change(one - other, other - one, handles | dict.fromkeys(_rules(one), 7)))


def _rules(pieces: frozenset[object]) -> list[Rule]:
    return [piece for piece in pieces if isinstance(piece, Rule)]


@given(cases.rules)
def test_a_rule_is_read_back_from_its_comment(rule: NetRule) -> None:
    assert {rule_of(comment_of(rule, family)) for family in families(rule)} == {rule}


@given(cases.firewalls, st.integers(1, 1 << 29))
def test_a_firewall_is_read_back_from_its_pieces(wall: Firewall, number: int) -> None:
    owned = by_owner(firewall_pieces(wall, number))
    assert set(owned) == {wall.vm}
    assert list(firewalls(VPC, owned.items())) == [wall]


@given(cases.firewalls, st.data())
def test_a_firewall_with_a_piece_too_few_or_too_many_is_told_as_broken(wall: Firewall, data: st.DataObject) -> None:
    whole = firewall_pieces(wall, 7)
    missing = data.draw(st.sampled_from(sorted(whole, key=repr)))
    more = data.draw(
        st.sampled_from([Rule(f"in-{wall.vm[2:]}", "ingress 7 tcp any any any"), Rule(f"eg-{wall.vm[2:]}", "hm"),
                         Element("vms", ("8",), wall.vm), Element("known4", ("192.0.2.99",), wall.vm)])
    )  # fmt: skip
    for pieces in (whole - {missing}, whole | {more}):
        assert list(firewalls(VPC, [(wall.vm, pieces)])) != [wall]


def test_groups_and_extra_addresses_are_read_back() -> None:
    specs = [cases.spec(5, DOCUMENTS), cases.spec(6, [])]
    for part in plan.filters(VPC, specs):
        if isinstance(part, Group):
            assert group_of(VPC, part.name, group_pieces(part)) == part
            more = NetElement(part.name, 4, "10.0.0.1", "10.0.0.2")
            assert group_of(VPC, part.name, group_pieces(part) | {more}) != part
    extras = next(part for part in plan.filters(VPC, with_shared(specs)) if isinstance(part, Extras))
    pieces = extras_pieces(extras)
    assert set(by_owner(pieces)) == {EXTRAS}
    assert extras_of(VPC, pieces) == extras
    assert all(extras_of(VPC, pieces - {piece}) != extras for piece in pieces)


def test_the_rest_is_dropped_by_the_last_rule() -> None:
    closed = firewall_pieces(Firewall(VPC, "i-0000000005", (), (), ()), 1)
    assert _rules(closed) == [Rule("in-0000000005", "closed")]
    both = firewall_pieces(Firewall(VPC, "i-0000000005", (), (), (NetRule("any", direction=OUT),)), 1)
    assert {rule.chain for rule in _rules(both) if rule.comment == "closed"} == {"in-0000000005", "eg-0000000005"}
    lines = nft.change((), both).splitlines()
    assert [line.split()[0] for line in lines if "counter drop" in line] == ["add", "add"]
    assert [line.split()[0] for line in lines if "counter return" in line] == ["insert"]


MATCH = re.compile(
    r"(?:meta nfproto ipv[46] )?(?:ct protocol \d+ )?(?:meta l4proto \{ \d+, 1, 58 \} "
    r"ct (?:reply proto-src|original proto-dst) \d+(?:-\d+)? )?"
    r"(?:ct original ip6? saddr (?:@[a-z0-9-]+|[0-9a-f:./]+) )?"
    r"(?:ct (?:reply ip6? saddr|original ip6? daddr) (?:@[a-z0-9-]+|[0-9a-f:./]+) )?counter return\Z"
)


@given(cases.rules)
def test_the_text_of_a_rule_is_made_of_our_words_only(rule: NetRule) -> None:
    for family in families(rule):
        assert MATCH.match(match_of(comment_of(rule, family)))


HOSTILE = [
    'tcp"',
    "x; flush ruleset",
    "a\nflush ruleset",
    "@all",
    "10.0.0.0/8, ::/0",
    "{ 1 }",
    "any any",
    "",
    "-1",
    "$a",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", ["proto", "source", "destination", "direction", "port", "vm"])
def test_no_value_escapes_its_place(hostile: str, field: str) -> None:
    rule = NetRule("tcp", 22, 25, "10.0.0.0/8", "10.0.0.5", IN)
    vm = hostile if field == "vm" else "i-0000000005"
    if field != "vm":
        rule = dataclasses.replace(rule, **{field: hostile})
    if (field, hostile) in (("source", ""), ("destination", ""), ("port", "")):
        return  # these say: any
    with pytest.raises((ValueError, KeyError)):
        nft.change((), firewall_pieces(Firewall(VPC, vm, ("t0000000005-0",), ("10.0.0.5",), (rule,)), 1))


@pytest.mark.parametrize("chain", ["sent", "in-000000000", "in-0000000005 }", "in-all-xyz", ""])
def test_only_chains_of_vms_are_written(chain: str) -> None:
    for piece in (Chain(chain), Rule(chain, "closed"), Element("sent_by", ("1", "original"), "", chain or "x")):
        with pytest.raises(ValueError):
            nft.change((), [piece])
