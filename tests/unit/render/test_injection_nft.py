"""No value begins a statement of nft's: through the functions that make all of its texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st
from jinja2 import meta

from lvagent.plan import wanted
from lvagent.plan.resources import Extras, Firewall, Group, PortFilter, Span
from lvagent.render import environment, nft, templates_folder
from lvagent.render.elements import Element, Piece
from lvagent.render.firewall import extras_pieces, firewall_pieces, group_pieces
from lvagent.spec.vm import Direction, NetRule
from tests.unit.render import hostile as words
from tests.unit.render.hostile import TAME, hostile, lines

_SPEC = words.tame_but(TAME)
TAME_PORT = wanted.port_filter(_SPEC, _SPEC.networks[0])
STRINGS = [one.name for one in fields(PortFilter) if isinstance(getattr(TAME_PORT, one.name), str)]
SYNTAX = re.compile(r'[{}";\n#]')
"""What ends or begins something in a text of nft's."""


def skeleton(text: str) -> tuple[int, dict[str, int]]:
    """The lines of a text, and how often it has each character of the syntax."""
    found = SYNTAX.findall(text)
    return lines(text), {char: found.count(char) for char in '{}";\n#'}


def change_of(port: PortFilter) -> str:
    return nft.change((), nft.port_elements(port))


@given(hostile, st.sampled_from(STRINGS))
def test_port(text: str, place: str) -> None:
    wrong = replace(TAME_PORT, **{place: text})
    for made in (change_of, lambda port: nft.vpc_text([port])):
        try:
            found = made(wrong)
        except ValueError:
            continue
        same_but_for_values(found, made(replace(TAME_PORT, **{place: as_long_as(text, place)})), of=text)


def as_long_as(text: str, place: str) -> str:
    """A tame value: long ones are noted in several comments."""
    return "b" * len(text) if place in ("subnet", "gateway_v4", "gateway_v6") else getattr(TAME_PORT, place)


@given(hostile)
def test_elements(text: str) -> None:
    tame = sorted(nft.port_elements(TAME_PORT))
    for one in tame:
        for place in range(len(one.key)):
            wrong = replace(one, key=(*one.key[:place], text, *one.key[place + 1 :]))
            for made in (as_added, as_removed):
                try:
                    found = made([wrong])
                except ValueError:
                    continue
                same_but_for_values(found, made([one]), of=text)
        try:
            found = as_added([replace(one, comment=text)])
        except ValueError:
            continue
        assert lines(found) == lines(as_added([one]))
        assert found.count('"') <= as_added([one]).count('"') + 2


def as_added(elements: Iterable[Piece]) -> str:
    return nft.change((), elements)


def as_removed(elements: Iterable[Piece]) -> str:
    return nft.change(elements, ())


WALL = Firewall(
    "vpc-aaaaaaaaaa",
    "i-0000000005",
    ("t0000000005-0",),
    ("10.0.0.5", "fd00:a::5"),
    (
        NetRule("tcp", 22, 25, "10.0.0.0/8", "i-0000000006", Direction.INGRESS),
        NetRule("any", source="subnet-aaaaaaaaaa", direction=Direction.EGRESS),
    ),
)
GROUP = Group("vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", (ip_network("10.0.0.5/32"), ip_network("fd00:a::/64")))
EXTRAS = Extras("vpc-aaaaaaaaaa", (Span("10.0.0.9", "10.0.0.11", ("i-0000000005", "i-0000000006")),))


@given(hostile)
def test_rules(text: str) -> None:
    """Each string in each piece of a firewall, of a group and of extra addresses."""
    tame = {*firewall_pieces(WALL, 1), *group_pieces(GROUP), *extras_pieces(EXTRAS)}
    for piece in sorted(tame, key=repr):
        for place in [one.name for one in fields(piece) if isinstance(getattr(piece, one.name), str)]:
            try:
                found = as_added([replace(piece, **{place: text})])
            except (ValueError, KeyError):
                continue
            same = replace(piece, comment="b") if place == "comment" and isinstance(piece, Element) else piece
            assert skeleton(found) == skeleton(as_added([same])) or text in ("", getattr(piece, place)), (piece, place)


@given(hostile, st.sampled_from(["proto", "source", "destination"]))
def test_rule_of_a_spec(text: str, place: str) -> None:
    wrong = replace(WALL, rules=(replace(WALL.rules[0], **{place: text}),))
    try:
        found = as_added(firewall_pieces(wrong, 1))
    except ValueError:
        return
    assert lines(found) in (lines(as_added(firewall_pieces(replace(WALL, rules=rules), 1))) for rules in PLAIN)


PLAIN = (
    (NetRule("tcp", 22, 25, "10.0.0.0/8", "10.0.0.5", Direction.INGRESS),),
    (NetRule("tcp", 22, 25, "i-0000000006", "i-0000000006", Direction.INGRESS),),
    (NetRule("tcp", 22, 25, "", "", Direction.INGRESS),),
)


def test_the_base_of_the_rules_takes_settings_and_no_value_of_a_spec() -> None:
    source = (templates_folder() / "firewall.nft.j2").read_text()
    constants = {"digest", "limits", "marks", "metadata_address_v4", "metadata_address_v6", "shares"}
    assert meta.find_undeclared_variables(environment().parse(source)) == constants


def same_but_for_values(found: str, tame: str, *, of: str) -> None:
    """Whether two texts differ in values alone. An absent address takes its elements with it."""
    if of == "":
        assert lines(found) <= lines(tame)
    else:
        assert skeleton(found) == skeleton(tame)


def test_what_is_below_the_elements_takes_no_value_of_a_spec() -> None:
    """The other namespaces' tables take a digest alone, and a VPC's begins with what is the same for all."""
    for template in ("fabric.nft.j2", "guard.nft.j2"):
        source = (templates_folder() / template).read_text()
        assert meta.find_undeclared_variables(environment().parse(source)) == {"digest"}
        assert re.fullmatch("[0-9a-f]+", nft.base_digest(template))
    assert nft.vpc_text([TAME_PORT]).startswith(nft.base())
