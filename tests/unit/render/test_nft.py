"""The filter's text and elements: what they are, that they can be read back, that no value escapes its place."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.plan.resources import PortFilter
from lvagent.render import nft
from lvagent.render.elements import Element, by_owner
from tests.golden import golden
from tests.unit.render.nft_cases import PLAIN, RICH, SUBNET, SUBNET4, VPC, ports


def test_golden_texts() -> None:
    golden("nft/vpc.nft", nft.vpc_text([PLAIN, RICH]))
    golden("nft/fabric.nft", nft.base("fabric.nft.j2"))
    golden("nft/guard.nft", nft.base("guard.nft.j2"))
    golden("nft/subnets.nft", nft.change((), nft.gateway_elements(SUBNET) | nft.gateway_elements(SUBNET4)))


def test_golden_change_of_a_port() -> None:
    moved = dataclasses.replace(PLAIN, ipv4="10.0.0.6", ipv6=None, gateway_v6=None)
    before, after = nft.port_elements(PLAIN), nft.port_elements(moved)
    golden("nft/change.nft", nft.change(before - after, after - before))


def test_the_digest_is_that_of_the_text() -> None:
    for template in ("vpc.nft.j2", "fabric.nft.j2", "guard.nft.j2"):
        digest = nft.base_digest(template)
        assert re.fullmatch(r"[0-9a-f]{16}", digest)
        assert f'comment "{digest}"' in nft.base(template)
    assert len({nft.base_digest(name) for name in ("vpc.nft.j2", "fabric.nft.j2", "guard.nft.j2")}) == 3


def test_no_change_is_no_text() -> None:
    assert nft.change((), ()) == ""


@given(ports)
def test_a_port_is_read_back_from_its_elements(port: PortFilter) -> None:
    owned = by_owner(nft.port_elements(port))
    assert set(owned) == {port.tap}
    assert nft.port_filters(VPC, owned) == {port}


@given(ports, st.data())
def test_a_port_with_an_element_too_few_or_too_many_is_told_as_broken(port: PortFilter, data: st.DataObject) -> None:
    whole = nft.port_elements(port)
    missing = data.draw(st.sampled_from(sorted(whole)))
    broken = PortFilter(VPC, "", port.tap, "", None, None, None, None)
    assert nft.port_filters(VPC, {port.tap: whole - {missing}}) == {broken}
    more = Element("own4", (port.tap, "198.51.100.200"))
    if more not in whole:
        assert nft.port_filters(VPC, {port.tap: whole | {more}}) == {broken}


@given(ports)
def test_the_text_of_a_port_is_made_of_our_words_only(port: PortFilter) -> None:
    comment = r'"[0-9A-Za-z:.,/ \[\]-]{0,128}"'
    value = r'(?:"[t0-9-]+"|0x[0-9a-f]+(?:-0x[0-9a-f]+)?|[0-9a-f:./]+)'
    element = rf"{value}(?: \. {value})*(?: comment {comment})?"
    row = re.compile(rf"add element bridge lvagent [a-z_0-9]+ {{ {element}(?:, {element})* }}")
    for line in nft.change((), nft.port_elements(port)).splitlines():
        assert row.fullmatch(line), line


HOSTILE = st.sampled_from(
    ['" }', "}; flush ruleset", "x\nflush ruleset", "10.0.0.5, 0.0.0.0/0", "$x", "t1;", "\\", "${x}", "#", "'", '"']
) | st.text(min_size=1).filter(lambda text: re.search(r"[^0-9A-Za-z:.,/ \[\]-]", text) is not None)


@given(HOSTILE, st.sampled_from(["subnet", "tap", "mac", "ipv4", "ipv6", "gateway_v4", "gateway_v6", "extra_macs"]))
def test_no_value_escapes_its_place(hostile: str, field: str) -> None:
    value = (hostile,) if field == "extra_macs" else hostile
    with pytest.raises(ValueError):
        nft.change((), nft.port_elements(dataclasses.replace(PLAIN, **{field: value})))


def test_elements_of_a_gateway_belong_to_its_subnet() -> None:
    assert set(by_owner(nft.gateway_elements(SUBNET))) == {SUBNET.name}
    local = "fe80::63:6cff:fe78:15e6"
    assert nft.gateway_elements(SUBNET) == {
        Element("gateway_macs", ("02:63:6c:78:15:e6",), SUBNET.name),
        Element("local6", (local,), SUBNET.name),
        Element("local_target6", (local,), SUBNET.name),
        Element("gateway_target6", (local,), SUBNET.name),
        Element("gateway_target6", ("fd00:a::1",), SUBNET.name),
        Element("gateway4", ("10.0.0.1",), SUBNET.name),
    }
