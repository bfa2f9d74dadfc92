"""Strings that want to be more than a value, and what a text has of structure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from hypothesis import strategies as st
from lxml import etree

from lvagent.spec.vm import NetRule, Network, VmConfig, Volume

SEPARATORS = ("\n", "\r", "\r\n", "\x00", "\x0b", "\x0c", "\x1c", "\x1e", "\x7f", "\x85", "\u2028", "\u2029")
"""What some reader takes for the end of a line or a text."""

PIECES = (
    "x",
    *SEPARATORS,
    *(f"a{end}dhcp-script=/bin/evil" for end in SEPARATORS),
    "a\nserver=/#/10.0.0.66\n",
    "a\n  ExecStartPre=/bin/evil",
    "10.0.0.5,set:first,10.0.0.6",
    "tag:first,option:router,10.0.0.66",
    "#",
    "'; touch /x; '",
    '"; touch /x; "',
    "$(touch /x)`touch /x`${IFS}$HOME%n%%",
    "\\",
    "\\\n",
    "}; flush ruleset; table x {",
    '" } ; delete table inet x #',
    "{{ 7 * 7 }}{% for x in y %}{# x #}",
    "x</name><devices><hostdev/></devices>",
    "\"'><disk/><x y='",
    "]]><![CDATA[<evil/>]]>",
    "<!-- --><?pi?><!DOCTYPE x>&lt;&#60;&undefined;",
    "<script>alert(1)</script>",
    "#cloud-config\nruncmd: [evil]",
    '", "evil": "',
    "../../../etc/passwd",
    "\ud800",
    "\udc80\udfff",
    "\ufffe\uffff",
    "\u202e\u200b",
    "\U0001f600\u4e2d",
    "a" * 5000,
    "",
    " ",
    "\t",
)

hostile = (
    st.sampled_from(PIECES)
    | st.lists(st.sampled_from(PIECES), min_size=2, max_size=3).map("".join)
    | st.text(st.characters(exclude_categories=()), max_size=30)
)
"""Any such string, and any text at all, halves of surrogate pairs among them."""

TAME = "benign"


def structure(xml: str) -> list[tuple[str, list[str]]]:
    """What a parser sees of XML apart from the values: each element's path, and its attributes' names."""
    tree = etree.fromstring(xml.encode()).getroottree()
    return [(tree.getelementpath(node), sorted(map(str, node.attrib))) for node in tree.getroot().iter()]


def lines(text: str) -> int:
    """The lines of a text, as the reader sees it that knows most ends of lines."""
    return len(text.encode().decode().splitlines())


def vm(text: str) -> VmConfig:
    """A VM with this text in every field that can hold one, also where parsing never lets it in."""
    four, six = IPv4Interface("10.0.0.5/24"), IPv6Interface("fd00::5/64")
    gateways = (IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
    nic = Network(1, text, text, 0, text, four, gateways[0], six, gateways[1], extra_macs=(text,), mtu=1400)
    volumes = (Volume(text, 0, 1, text), Volume(text, 1, readonly=True))
    rules = (NetRule(text, source=text, destination=text),)
    data = text.encode(errors="replace")
    return VmConfig(text, 64, 1, networks=(nic,), volumes=volumes, rules=rules, keys=(text,), user_data=data)


def tame_but(text: str) -> VmConfig:
    """A VM as it comes out of the parser at worst: the text in all that is free there, the rest in order."""
    found = vm(text)
    (nic,) = found.networks
    proper = replace(
        nic, netname="vpc-aaaaaaaaaa", subnetname="subnet-aaaaaaaaaa", mac="06:00:00:00:00:01", extra_macs=()
    )
    return replace(found, id="i-0000000001", networks=(proper,))
