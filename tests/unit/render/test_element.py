"""The element in a domain's metadata: what goes in comes back, and what is not ours is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from lvagent.errors import SpecError
from lvagent.render.element import POWERS, Element, find_element, parse_element, read_xml, render_element
from lvagent.spec.parse import parse_vm
from tests.golden import golden
from tests.unit.render.domain_cases import CASES, HOSTILE, HOSTILE_VM, SEED, element, rendered, vm

PLAIN = element(vm())
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


def test_golden() -> None:
    created = replace(element(parse_vm(SEED)), revision=7, created="2026-11-23T21:00:00Z", has_user_data=True)
    golden("domain/element.xml", render_element(created))


@given(
    revision=st.integers(0, 10**18 - 1),
    power=st.sampled_from(POWERS),
    digest=words,
    boot_id=st.none() | words,
    created=st.none() | words,
    files=st.lists(st.text() | st.sampled_from(HOSTILE)).map(tuple),
    has_user_data=st.booleans(),
    making=st.lists(st.text() | st.sampled_from(HOSTILE)).map(tuple),
)
def test_what_goes_in_comes_back(
    revision: int,
    power: str,
    digest: str,
    boot_id: str | None,
    created: str | None,
    files: tuple[str, ...],
    has_user_data: bool,
    making: tuple[str, ...],
) -> None:
    given_element = Element(PLAIN.spec, digest, revision, power, boot_id, created, files, has_user_data, making)
    assert parse_element(render_element(given_element)) == given_element


def test_it_is_ascii_whatever_it_holds() -> None:
    text = render_element(replace(element(HOSTILE_VM), files=("\0\n\ud800\ufffe<&>\x7f",)))
    assert text.isascii()
    assert parse_element(text).files == ("\0\n\ud800\ufffe<&>\x7f",)
    assert parse_element(text).spec == replace(HOSTILE_VM, user_data=None)


def test_what_libvirt_returns_without_namespace_is_read() -> None:
    text = render_element(PLAIN).replace('xmlns="urn:lvagent:vm:1"', 'xmlns:lvagent="urn:lvagent:vm:1"')
    assert parse_element(text) == PLAIN


def test_a_prefix_is_as_good_as_none() -> None:
    text = render_element(PLAIN).replace("xmlns=", "xmlns:lvagent=").replace("</", "</lvagent:")
    for name in ("vm", "spec", "files"):
        text = text.replace(f"<{name}", f"<lvagent:{name}")
    assert parse_element(text) == PLAIN
    domain = rendered(vm()).replace(str(find_element(rendered(vm()))), "")
    assert parse_element(f"<domain><metadata>{text}</metadata></domain>") == PLAIN
    assert "urn:lvagent:vm:1" in domain


def test_it_is_found_in_a_domain() -> None:
    text = find_element(rendered(vm()))
    assert text is not None
    assert parse_element(text) == PLAIN
    assert etree.fromstring(text).tag == "{urn:lvagent:vm:1}vm"


@pytest.mark.parametrize(
    "domain",
    [
        "<domain/>",
        "<domain><metadata/></domain>",
        "<domain><metadata><vm/></metadata></domain>",
        "<domain><metadata><vm xmlns='urn:lvagent:vm:2'/></metadata></domain>",
        "<domain><metadata><a xmlns='urn:x'><vm xmlns='urn:lvagent:vm:1'/></a></metadata></domain>",
        "<domain><vm xmlns='urn:lvagent:vm:1'/></domain>",
        "<domain><!--<metadata><vm xmlns='urn:lvagent:vm:1'/></metadata>--></domain>",
    ],
)
def test_a_stranger_s_domain_has_none(domain: str) -> None:
    assert find_element(domain) is None
    with pytest.raises(SpecError, match="no element"):
        parse_element(domain)


def test_two_of_them_are_none() -> None:
    text = render_element(PLAIN)
    for read in (find_element, parse_element):
        with pytest.raises(SpecError, match="two elements"):
            read(f"<domain><metadata>{text}{text}</metadata></domain>")


GOOD = render_element(PLAIN)
SPEC = GOOD[GOOD.index("<spec>") : GOOD.index("</spec>") + len("</spec>")]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "metadata"),
        ("<vm", "metadata"),
        ("<other/>", "metadata"),
        ("<vm xmlns='urn:lvagent:vm:2'/>", "metadata"),
        (GOOD.replace('power="running"', 'power="dancing"'), "metadata.power"),
        (GOOD.replace('power="running"', ""), "metadata.power"),
        (GOOD.replace('revision="1"', 'revision="-1"'), "metadata.revision"),
        (GOOD.replace('revision="1"', 'revision="\u0661"'), "metadata.revision"),
        (GOOD.replace('revision="1"', ""), "metadata.revision"),
        (GOOD.replace("digest=", "other="), "metadata.digest"),
        (GOOD.replace('user-data="no"', 'user-data="maybe"'), "metadata.user-data"),
        (GOOD.replace(SPEC, ""), "metadata.spec"),
        (GOOD.replace(SPEC, SPEC * 2), "metadata.spec"),
        (GOOD.replace(SPEC, "<spec><a/></spec>"), "metadata.spec"),
        (GOOD.replace(SPEC, "<spec>[</spec>"), "metadata.spec"),
        (GOOD.replace(SPEC, "<spec>{}</spec>"), "metadata.spec"),
        (GOOD.replace('"memory_mb":64', '"memory_mb":64,"memory_mb":65'), "metadata.spec"),
        (GOOD.replace("<files>[]", "<files>{}"), "metadata.files"),
        (GOOD.replace("<files>[]", "<files>[1]"), "metadata.files"),
        (GOOD.replace("<files>[]", "<files>"), "metadata.files"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, path: str) -> None:
    assert text != GOOD
    with pytest.raises(SpecError) as error:
        parse_element(text)
    assert error.value.path == path


@pytest.mark.parametrize(
    "wrong",
    [
        {"power": "dancing"},
        {"revision": -1},
        {"digest": ""},
        {"boot_id": "a b"},
        {"created": "x\n"},
        {"digest": "\u00e9"},
    ],
)
def test_what_could_not_be_read_back_is_not_written(wrong: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        render_element(replace(PLAIN, **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>',
        '<!DOCTYPE a SYSTEM "http://192.0.2.1/a.dtd"><a/>',
        "<a>&x;</a>",
        "<a>\ud800</a>",
        "<a>\0</a>",
        "<a/><b/>",
    ],
)
def test_xml_that_reaches_out_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        read_xml(text)


@given(st.text() | st.sampled_from([GOOD, *(rendered(*case) for case in CASES.values())]), st.integers(0), st.text())
def test_damage_is_a_spec_error_or_nothing(text: str, place: int, more: str) -> None:
    at = place % (len(text) + 1)
    for read in (parse_element, find_element):
        try:
            read(text[:at] + more + text[at + 1 :])
        except SpecError:
            continue


def test_an_element_from_before_there_was_a_restart_policy_is_read() -> None:
    text = render_element(PLAIN)
    old = text.replace(',"restart":"on-failure"', "")
    assert old != text
    assert parse_element(old) == PLAIN
