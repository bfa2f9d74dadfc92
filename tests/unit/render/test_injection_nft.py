"""No value begins a statement of nft's: through the functions that make all of its texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st
from jinja2 import meta

from lvagent.plan import wanted
from lvagent.plan.resources import PortFilter
from lvagent.render import environment, nft, templates_folder
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


def as_added(elements: Iterable[nft.Element]) -> str:
    return nft.change((), elements)


def as_removed(elements: Iterable[nft.Element]) -> str:
    return nft.change(elements, ())


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
