"""A VPC's filter as nft text, and the elements that bind its ports.

The base of the filter (``vpc.nft.j2``) is the same for every VPC and holds no name or address. What differs are
elements of its sets: those of a subnet (its gateway) and those of a port (MACs, addresses). They are values here, so a
change is the difference of two sets of elements, given to nft as one transaction, and what the kernel holds can be
compared with what is wanted element by element.

A port's elements do not tell everything that made them (ranges are collapsed, order is lost). So the filter is also
noted down whole, in the comments of the set ``notes``, and believed only if the elements are those it calls for.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network

from lvagent.plan.resources import PortFilter, Subnet
from lvagent.render import render
from lvagent.render.dnsmasq import ROUTER_LIFETIME
from lvagent.spec import names

TABLE = "lvagent"
FAMILY = "bridge"

SETS: dict[str, tuple[str, ...]] = {
    "ports": ("device",),
    "macs": ("device", "mac"),
    "hardware": ("device", "mac_field"),
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
}
"""The sets of a VPC's filter and the fields of their keys. ``_field``: read at an offset in the packet, so nft knows it
as a number only."""

GUARD_SETS: dict[str, tuple[str, ...]] = {"links": ("device",)}
"""The sets of the guard in a namespace that we share."""

_COMMENT = re.compile(r"[0-9A-Za-z:.,/ \[\]-]{0,128}\Z")

_CHUNK = 100
"""Characters of a note in one comment; nft takes 128."""


@dataclass(frozen=True, slots=True, order=True)
class Element:
    """An element of a set: the fields of its key as people write them, and its comment."""

    set: str
    key: tuple[str, ...]
    comment: str = ""

    @property
    def owner(self) -> str:
        """The tap or subnet to which it belongs ('' for those of the base)."""
        return self.key[0] if SETS[self.set][0] == "device" else self.comment


@functools.cache
def base_digest(template: str = "vpc.nft.j2") -> str:
    """What stands in the comment of the table: a digest of its text."""
    blank = render(template, digest="", **_constants())
    return hashlib.blake2b(blank.encode(), digest_size=8).hexdigest()


@functools.cache
def base(template: str = "vpc.nft.j2") -> str:
    """The text that puts this table in the place of whatever table of this name is there.

    :param template: ``vpc.nft.j2``, ``fabric.nft.j2`` (a namespace of our own) or ``guard.nft.j2`` (one we share).
    """
    return render(template, digest=base_digest(template), **_constants())


def vpc_text(filters: Iterable[PortFilter]) -> str:
    """The whole filter of a VPC with these ports in it, as one transaction."""
    return base() + change((), (element for port in filters for element in port_elements(port)))


def _constants() -> dict[str, object]:
    return {
        "metadata_v4": names.METADATA_V4,
        "metadata_v6": _number6(names.METADATA_V6),
        "router_lifetime": ROUTER_LIFETIME,
    }


def change(removed: Iterable[Element], added: Iterable[Element]) -> str:
    """The transaction that takes some elements out and puts others in."""
    return render("elements.nft.j2", removed=_by_set(removed), added=_by_set(added))


def _by_set(elements: Iterable[Element]) -> list[tuple[str, list[dict[str, str]]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for element in sorted(elements):
        found.setdefault(element.set, []).append({"key": _key(element), "comment": _comment(element)})
    return sorted(found.items())


def _key(element: Element) -> str:
    fields = (SETS | GUARD_SETS)[element.set]
    return " . ".join(_field(kind, value) for kind, value in zip(fields, element.key, strict=True))


def _comment(element: Element) -> str:
    if not _COMMENT.match(element.comment):
        raise ValueError(f"{element.comment!r} is no comment of ours")
    return element.comment


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
        case "ipv6_field":
            return _number6(value)
        case "ipv6_field_range":
            return _range6(IPv6Network(value))
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


def _number6(value: str | IPv6Address) -> str:
    return f"0x{int(IPv6Address(value)):032x}"


def _range6(network: IPv6Network) -> str:
    if network.prefixlen == 128:
        return _number6(network.network_address)
    return f"{_number6(network.network_address)}-{_number6(network.broadcast_address)}"


def gateway_elements(subnet: Subnet) -> frozenset[Element]:
    """The elements by which the filter knows the gateway of a subnet."""
    mac = names.gateway_mac(subnet.name)
    local = names.link_local(mac)
    found = [Element("gateway_macs", (mac,), subnet.name), Element("local6", (local,), subnet.name)]
    found += [Element(name, (local,), subnet.name) for name in ("local_target6", "gateway_target6")]
    if subnet.gateway_v4:
        found.append(Element("gateway4", (str(subnet.gateway_v4.ip),), subnet.name))
    if subnet.gateway_v6:
        found.append(Element("gateway_target6", (str(subnet.gateway_v6.ip),), subnet.name))
    return frozenset(found)


def port_elements(port: PortFilter) -> frozenset[Element]:
    """The elements that bind a port to its MACs and addresses."""
    tap, local = port.tap, names.link_local(port.mac)
    found = {Element("ports", (tap,), port.subnet)}
    owner = names.tap_owner(tap)
    if owner is not None and owner[1] > 0:
        found.add(Element("later", (tap,)))
    found |= {Element(name, (local,), tap) for name in ("local6", "local_target6")}
    for mac in (port.mac, *port.extra_macs):
        found |= {Element("macs", (tap, mac)), Element("hardware", (tap, mac))}
        found |= _own6(tap, names.link_local(mac))
    if port.ipv4:
        found.add(Element("own4", (tap, str(ip_address(port.ipv4)))))
    if port.ipv6:
        found |= _own6(tap, str(ip_address(port.ipv6)))
    return frozenset(found | _extras(port) | _notes(port))


def _own6(tap: str, address: str) -> set[Element]:
    return {Element("own6", (tap, address)), Element("target6", (tap, address))}


def _extras(port: PortFilter) -> set[Element]:
    wide4 = collapse_addresses(net for net in port.extra_addresses if isinstance(net, IPv4Network))
    wide6 = [str(net) for net in collapse_addresses(n for n in port.extra_addresses if isinstance(n, IPv6Network))]
    found = {Element("extra4", (port.tap, str(net))) for net in wide4}
    return found | {Element(name, (port.tap, net)) for net in wide6 for name in ("extra6", "extra_target6")}


def _notes(port: PortFilter) -> set[Element]:
    fields = (port.ipv4, port.ipv6, port.gateway_v4, port.gateway_v6)
    lists = (",".join(port.extra_macs), ",".join(map(str, port.extra_addresses)))
    whole = " ".join((port.subnet, port.mac, *(field or "-" for field in (*fields, *lists))))
    if whole.count(" ") != 7:
        raise ValueError(f"{whole!r} is no filter of a port")
    chunks = [whole[at : at + _CHUNK] for at in range(0, len(whole), _CHUNK)]
    return {Element("notes", (port.tap, str(number)), f"[{chunk}]") for number, chunk in enumerate(chunks)}


def by_owner(elements: Iterable[Element]) -> dict[str, frozenset[Element]]:
    """Elements by the tap or subnet to which they belong, without those of the base."""
    found: dict[str, set[Element]] = {}
    for element in elements:
        if element.owner:
            found.setdefault(element.owner, set()).add(element)
    return {owner: frozenset(owned) for owner, owned in found.items()}


def port_filters(vpc: str, owned: Mapping[str, frozenset[Element]]) -> frozenset[PortFilter]:
    """The filters of the ports to which these elements belong.

    A port whose elements are not those that its note calls for is told with an empty MAC, which nobody wants.

    :param owned: elements by owner.
    """
    return frozenset(_port_filter(vpc, tap, mine) for tap, mine in owned.items() if names.tap_owner(tap))


@functools.lru_cache(maxsize=1 << 12)
def _port_filter(vpc: str, tap: str, owned: frozenset[Element]) -> PortFilter:
    try:
        noted = _noted(vpc, tap, owned)
        whole = port_elements(noted) == owned
    except ValueError:
        whole = False
    return noted if whole else PortFilter(vpc, "", tap, "", None, None, None, None)


def _noted(vpc: str, tap: str, owned: frozenset[Element]) -> PortFilter:
    chunks = sorted((int(element.key[1]), element.comment) for element in owned if element.set == "notes")
    words = "".join(chunk[1:-1] for _, chunk in chunks).split(" ")
    if len(words) != 8:
        raise ValueError("no whole note")
    subnet, mac, *rest = words
    ipv4, ipv6, gateway_v4, gateway_v6, macs, addresses = (None if word == "-" else word for word in rest)
    return PortFilter(
        vpc=vpc,
        subnet=subnet,
        tap=tap,
        mac=mac,
        ipv4=ipv4,
        ipv6=ipv6,
        gateway_v4=gateway_v4,
        gateway_v6=gateway_v6,
        extra_macs=tuple(macs.split(",")) if macs else (),
        extra_addresses=tuple(map(ip_network, addresses.split(","))) if addresses else (),
    )
