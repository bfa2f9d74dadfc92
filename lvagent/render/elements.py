"""What a VPC's filter holds besides its base: elements of sets and maps, chains with their rules, sets of groups.

They are values, so that a change is the difference of two sets of them, and what the kernel holds can be compared with
what is wanted piece by piece. Each belongs to an owner: a subnet, a tap, a VM (``i-...``), a group (``@...``), a VPC
that is peered, or all VMs with extra addresses (``all``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

from lvagent.spec import names

BRIDGE_SETS: dict[str, tuple[str, ...]] = {
    "ports": ("device",),
    "macs": ("device", "mac"),
    "hardware": ("device", "mac_field"),
    "optmacs": ("device", "mac_field"),
    "own4": ("device", "ipv4"),
    "extra4": ("device", "ipv4_range"),
    "own6": ("device", "ipv6"),
    "extra6": ("device", "ipv6_range"),
    "target6": ("device", "ipv6_field"),
    "extra_target6": ("device", "ipv6_field_range"),
    "later": ("device",),
    "notes": ("device", "number"),
    "local6": ("ipv6",),
    "local_target6": ("ipv6_field",),
    "gateway4": ("ipv4",),
    "gateway_target6": ("ipv6_field",),
    "gateway_macs": ("mac",),
    "senders": ("device",),
    "receivers": ("device",),
}
"""The sets and maps of table ``bridge`` and the fields of their keys. ``_field``: read at an offset in the packet, so
nft knows it as a number only."""

INET_SETS: dict[str, tuple[str, ...]] = {
    "sent_by": ("number", "direction"),
    "received_by": ("number", "direction"),
    "vms": ("number",),
    "began": ("number", "number"),
    "began4": ("ipv4", "number"),
    "began6": ("ipv6", "number"),
    "routed4": ("ipv4", "direction"),
    "routed6": ("ipv6", "direction"),
    "extra_routed4": ("ipv4_span", "direction"),
    "extra_routed6": ("ipv6_span", "direction"),
    "known4": ("ipv4",),
    "known6": ("ipv6",),
    "extra_known4": ("ipv4_span",),
    "extra_known6": ("ipv6_span",),
    "peers4": ("device", "ipv4_range"),
    "peers6": ("device", "ipv6_range"),
}
"""Those of table ``inet``."""

GUARD_SETS: dict[str, tuple[str, ...]] = {"links": ("device",)}
"""The sets of the guard in a namespace that we share."""

SETS = BRIDGE_SETS | INET_SETS
MARKS = ("senders", "receivers")
"""The maps whose values are marks; the values of other maps are chains."""

EXTRAS = "all"
"""The owner of what belongs to all VMs with extra addresses."""

RECEIVED = 0x4000_0000
"""Added to the number of a VM: the mark of what goes to it. Without: of what comes from it."""

_COMMENT = re.compile(r"[0-9A-Za-z:.,/ \[\]-]{0,128}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Element:
    """An element of a set or map: the fields of its key as people write them, its comment, and what it maps to."""

    set: str
    key: tuple[str, ...]
    comment: str = ""
    value: str = ""

    @property
    def owner(self) -> str:
        """The tap, subnet, VM or peered VPC to which it belongs ('' for those of the base)."""
        if self.set in GUARD_SETS:
            return ""
        if self.set in MARKS:
            owner = names.tap_owner(self.key[0])
            return owner[0] if owner else ""
        if self.set in INET_SETS:
            return self.comment
        return self.key[0] if SETS[self.set][0] == "device" else self.comment


@dataclass(frozen=True, slots=True, order=True)
class Chain:
    """A chain of ours in table ``inet``."""

    name: str

    @property
    def owner(self) -> str:
        """The VM whose rules are in it."""
        return chain_owner(self.name)


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """A rule in such a chain. ``comment`` says all that it does; the text of its match is made from that."""

    chain: str
    comment: str

    @property
    def owner(self) -> str:
        """The VM whose rule it is."""
        return chain_owner(self.chain)


@dataclass(frozen=True, slots=True, order=True)
class NetSet:
    """The set of a group's nets of one family (``4`` or ``6``)."""

    group: str
    family: int

    @property
    def name(self) -> str:
        """Its name in the kernel."""
        return f"{self.group}-{self.family}"

    @property
    def owner(self) -> str:
        """The group."""
        return f"@{self.group}"


@dataclass(frozen=True, slots=True, order=True)
class NetElement:
    """A range in the set of a group."""

    group: str
    family: int
    first: str
    last: str

    @property
    def owner(self) -> str:
        """The group."""
        return f"@{self.group}"


Piece = Element | Chain | Rule | NetSet | NetElement
"""One piece of what a filter holds."""


def chain_owner(chain: str) -> str:
    """The VM to which a chain belongs by its name; chains of several VMs belong to ``EXTRAS``; others to none ('')."""
    match = re.fullmatch(r"(?:in|eg)-([0-9]{10})", chain)
    if match:
        return f"i-{match[1]}"
    return EXTRAS if re.fullmatch(r"(?:in|eg)-all-[0-9a-f]{16}", chain) else ""


def net_set(name: str) -> NetSet | None:
    """The set of a group that has this name in the kernel, if it is one."""
    group, _, family = name.rpartition("-")
    known = names.VM_ID.match(group) or names.SUBNET_NAME.match(group)
    return NetSet(group, int(family)) if known and family in ("4", "6") else None


def by_owner(pieces: Iterable[Piece]) -> dict[str, frozenset[Piece]]:
    """Pieces by the subnet, tap, VM, group or peered VPC to which they belong, without those of the base."""
    found: dict[str, set[Piece]] = {}
    for piece in pieces:
        if piece.owner:
            found.setdefault(piece.owner, set()).add(piece)
    return {owner: frozenset(owned) for owner, owned in found.items()}


def table_of(name: str) -> str:
    """The set's or map's place as nft names it."""
    return f"{'inet' if name in INET_SETS else 'bridge'} lvagent {name}"


def key_text(element: Element) -> str:
    """The key as nft reads it.

    :raise ValueError: a field is not what it has to be.
    """
    fields = (SETS | GUARD_SETS)[element.set]
    return " . ".join(_field(kind, value) for kind, value in zip(fields, element.key, strict=True))


def value_text(element: Element) -> str:
    """What the element maps to as nft reads it; '' for an element of a set.

    :raise ValueError: it is neither a number nor a chain of ours.
    """
    if not element.value:
        return ""
    return str(int(element.value)) if element.set in MARKS else f"jump {checked_chain(element.value)}"


def checked_chain(name: str) -> str:
    """The name of a chain of ours.

    :raise ValueError: it is none.
    """
    if not chain_owner(name):
        raise ValueError(f"{name!r} is no chain of ours")
    return name


def checked_comment(text: str) -> str:
    """A comment that needs no quoting.

    :raise ValueError: it does.
    """
    if not _COMMENT.match(text):
        raise ValueError(f"{text!r} is no comment of ours")
    return text


def span_text(first: str, last: str) -> str:
    """A range of addresses as nft reads it."""
    low, high = ip_address(first), ip_address(last)
    return str(low) if low == high else f"{low}-{high}"


def _field(kind: str, value: str) -> str:
    """One field as nft reads it; what is no address, MAC, device name or number does not get through."""
    match kind:
        case "device":
            return f'"{_device(value)}"'
        case "mac":
            return _mac(value)
        case "mac_field":
            return f"0x{_mac(value).replace(':', '')}"
        case "ipv4" | "ipv6":
            return str(ip_address(value))
        case "ipv4_range" | "ipv6_range":
            return str(ip_network(value))
        case "ipv4_span" | "ipv6_span":
            first, _, last = value.partition("-")
            return span_text(first, last)
        case "ipv6_field":
            return number6(value)
        case "ipv6_field_range":
            return _range6(IPv6Network(value))
        case "direction":
            return {"original": "original", "reply": "reply"}[value]
        case _:
            return str(int(value))


def _device(value: str) -> str:
    if not value or len(value) > 15 or not all(char.isascii() and (char.isalnum() or char == "-") for char in value):
        raise ValueError(f"{value!r} is not the name of a device of ours")
    return value


def _mac(value: str) -> str:
    if not names.MAC.match(value):
        raise ValueError(f"{value!r} is not a MAC")
    return value


def number6(value: str | IPv6Address) -> str:
    """An IPv6 address as a number."""
    return f"0x{int(IPv6Address(value)):032x}"


def _range6(network: IPv6Network) -> str:
    if network.prefixlen == 128:
        return number6(network.network_address)
    return f"{number6(network.network_address)}-{number6(network.broadcast_address)}"
