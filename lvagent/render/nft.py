"""A VPC's filter as nft text, and the elements that bind its ports.

The base of the filter (``vpc.nft.j2``) is the same for every VPC and holds no name or address. What differs are pieces
(``render.elements``): those of a subnet (its gateway), of a port (MACs, addresses), of a VM (its rules), of groups, of
peerings. They are values, so a change is the difference of two sets of them, given to nft as one transaction, and what
the kernel holds can be compared with what is wanted piece by piece.

A port's elements do not tell everything that made them (ranges are collapsed, order is lost). So the filter is also
noted down whole, in the comments of the set ``notes``, and believed only if the elements are those it calls for.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

from lvagent.config import FilterSettings
from lvagent.memo import remembered
from lvagent.plan.resources import Extras, Filter, Firewall, Group, Peer, PortFilter, Subnet
from lvagent.render import render
from lvagent.render.dnsmasq import ROUTER_LIFETIME
from lvagent.render.elements import (
    EXTRAS,
    RECEIVED,
    Chain,
    Element,
    NetElement,
    NetSet,
    Piece,
    Rule,
    checked_chain,
    checked_comment,
    key_text,
    number6,
    span_text,
    table_of,
    value_text,
)
from lvagent.render.firewall import CLOSED, extras_pieces, firewall_pieces, group_pieces, match_of
from lvagent.spec import names

TABLE = "lvagent"

Part = Filter | Subnet | Peer
"""A resource that has pieces in the filter of its VPC."""

_MARKS = {"closed": 0x8000_0000, "fabric": 0x8000_0001, "bridged": 0x8000_0000 | RECEIVED}
"""Marks of what goes to no port, and to the underlay side; and the bits of which what is bridged has one."""

_SHARES = 6143
"""Ports or VMs of one VPC on one host whose shares are counted; those beyond would have no limits. The kernel makes
room for all of a set at once, in powers of two that 4/3 of this just fit (nft_set_hash.c): 128 KiB a set."""

_WORDS, _END = 9, "."
"""The words of a note; the last one says that no chunk of it is missing."""
_CHUNK = 100
"""Characters of a note in one comment; nft takes 128."""


@functools.cache
def base_digest(template: str = "vpc.nft.j2", limits: FilterSettings | None = None) -> str:
    """What stands in the comment of the table: a digest of its text."""
    blank = render(template, digest="", **_constants(limits))
    return hashlib.blake2b(blank.encode(), digest_size=8).hexdigest()


@functools.cache
def base(template: str = "vpc.nft.j2", limits: FilterSettings | None = None) -> str:
    """The text that puts these tables in the place of whatever tables of this name are there.

    :param template: ``vpc.nft.j2``, ``fabric.nft.j2`` (a namespace of our own) or ``guard.nft.j2`` (one we share).
    :param limits: None: the settings' own defaults.
    """
    return render(template, digest=base_digest(template, limits), **_constants(limits))


def vpc_text(resources: Iterable[Part], limits: FilterSettings | None = None) -> str:
    """The whole filter of a VPC with these in it, as one transaction."""
    wanted = list(resources)
    numbers = {one.vm: at for at, one in enumerate((o for o in wanted if isinstance(o, Firewall)), 1)}
    found = (piece for one in wanted for piece in pieces(one, numbers))
    return base(limits=limits) + change((), found)


def pieces(resource: Part, numbers: Mapping[str, int]) -> frozenset[Piece]:
    """What a resource is in the kernel.

    :param numbers: of VMs.
    """
    match resource:
        case Subnet():
            return frozenset[Piece](gateway_elements(resource))
        case PortFilter():
            return frozenset[Piece](port_elements(resource))
        case Firewall():
            return firewall_pieces(resource, numbers[resource.vm])
        case Group():
            return group_pieces(resource)
        case Extras():
            return extras_pieces(resource)
        case Peer():
            return frozenset[Piece](peer_elements(resource))


def owner_of(resource: Part) -> str:
    """To whom the pieces of a resource belong."""
    match resource:
        case Subnet(name=name):
            return name
        case PortFilter(tap=tap):
            return tap
        case Firewall(vm=vm):
            return vm
        case Group(name=name):
            return f"@{name}"
        case Extras():
            return EXTRAS
        case Peer(other=other):
            return other


def _constants(limits: FilterSettings | None) -> dict[str, object]:
    return {
        "metadata_v4": names.METADATA_V4,
        "metadata_v6": number6(names.METADATA_V6),
        "metadata_address_v4": names.METADATA_V4,
        "metadata_address_v6": names.METADATA_V6,
        "router_lifetime": ROUTER_LIFETIME,
        "marks": _MARKS,
        "limits": limits or FilterSettings(),
        "shares": _SHARES,
    }


def change(removed: Iterable[Piece], added: Iterable[Piece], handles: Mapping[Rule, int] | None = None) -> str:
    """The transaction that takes some pieces out and puts others in.

    :param handles: of the rules that are removed, as the kernel numbers them; not of those whose chain goes.
    """
    old, new = sorted(removed, key=_sorting), sorted(added, key=_sorting)
    gone = {piece.name for piece in old if isinstance(piece, Chain)}
    return render(
        "elements.nft.j2",
        new_sets=[_set(piece) for piece in new if isinstance(piece, NetSet)],
        new_chains=[checked_chain(piece.name) for piece in new if isinstance(piece, Chain)],
        new_rules=[_rule(piece) for piece in new if isinstance(piece, Rule)],
        removed=_by_set(old, {piece.name for piece in old if isinstance(piece, NetSet)}),
        added=_by_set(new, set()),
        old_rules=[
            {"chain": checked_chain(piece.chain), "handle": int((handles or {})[piece])}
            for piece in old
            if isinstance(piece, Rule) and piece.chain not in gone
        ],
        old_chains=sorted(map(checked_chain, gone)),
        old_sets=[_set(piece)["name"] for piece in old if isinstance(piece, NetSet)],
    )


def _sorting(piece: Piece) -> tuple[str, tuple[object, ...]]:
    match piece:
        case Element(set=name, key=key, comment=comment, value=value):
            return ("element", (name, key, comment, value))
        case Chain(name=name):
            return ("chain", (name,))
        case Rule(chain=chain, comment=comment):
            return ("rule", (chain, comment != CLOSED, comment))
        case NetSet(group=group, family=family):
            return ("set", (group, family))
        case NetElement(group=group, family=family, first=first, last=last):
            return ("net", (group, family, int(ip_address(first)), int(ip_address(last))))


def _set(piece: NetSet) -> dict[str, str]:
    known = names.VM_ID.match(piece.group) or names.SUBNET_NAME.match(piece.group)
    if not known:
        raise ValueError(f"{piece.group!r} is no VM and no subnet")
    return {"name": piece.name, "type": f"ipv{int(piece.family)}_addr"}


def _rule(piece: Rule) -> dict[str, object]:
    """The rule that drops the rest stands last; the others in any order before it, for all of them allow."""
    comment = checked_comment(piece.comment)
    return {
        "chain": checked_chain(piece.chain),
        "match": match_of(comment),
        "comment": comment,
        "last": comment == CLOSED,
    }


def _by_set(found: Iterable[Piece], without: set[str]) -> list[tuple[str, list[dict[str, str]]]]:
    """The elements by the place of their set; a set that goes takes its elements along."""
    sets: dict[str, list[dict[str, str]]] = {}
    for piece in found:
        if isinstance(piece, Element):
            told = {"key": key_text(piece), "comment": checked_comment(piece.comment), "value": value_text(piece)}
            sets.setdefault(table_of(piece.set), []).append(told)
        elif isinstance(piece, NetElement) and (name := _set(NetSet(piece.group, piece.family))["name"]) not in without:
            told = {"key": span_text(piece.first, piece.last), "comment": "", "value": ""}
            sets.setdefault(f"inet lvagent {name}", []).append(told)
    return sorted(sets.items())


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


def peer_elements(peer: Peer) -> frozenset[Element]:
    """The elements that open a VPC's filter to the prefixes of one that is peered with it, at their link."""
    device = names.peer_link(peer.other)
    return frozenset(Element(f"peers{net.version}", (device, str(net)), peer.other) for net in peer.nets)


def port_elements(port: PortFilter) -> frozenset[Element]:
    """The elements that bind a port to its MACs and addresses."""
    tap, local = port.tap, names.link_local(port.mac)
    found = {Element("ports", (tap,), port.subnet)}
    owner = names.tap_owner(tap)
    if owner is not None and owner[1] > 0:
        found.add(Element("later", (tap,)))
    found |= {Element(name, (local,), tap) for name in ("local6", "local_target6")}
    for mac in (port.mac, *port.extra_macs):
        found |= {Element("macs", (tap, mac)), Element("hardware", (tap, mac)), Element("optmacs", (tap, mac))}
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
    whole = " ".join((port.subnet, port.mac, *(field or "-" for field in (*fields, *lists)), _END))
    if whole.count(" ") != _WORDS - 1:
        raise ValueError(f"{whole!r} is no filter of a port")
    chunks = [whole[at : at + _CHUNK] for at in range(0, len(whole), _CHUNK)]
    return {Element("notes", (port.tap, str(number)), f"[{chunk}]") for number, chunk in enumerate(chunks)}


def port_filters(vpc: str, owned: Mapping[str, frozenset[Piece]]) -> frozenset[PortFilter]:
    """The filters of the ports to which these elements belong.

    A port whose elements are not those that its note calls for is told with an empty MAC, which nobody wants.

    :param owned: elements by owner.
    """
    return frozenset(_port_filter(vpc, tap, mine) for tap, mine in owned.items() if names.tap_owner(tap))


@remembered(1 << 12)
def _port_filter(vpc: str, tap: str, owned: frozenset[Piece]) -> PortFilter:
    try:
        noted = _noted(vpc, tap, owned)
        whole = port_elements(noted) == owned
    except ValueError:
        whole = False
    return noted if whole else PortFilter(vpc, "", tap, "", None, None, None, None)


def _noted(vpc: str, tap: str, owned: frozenset[Piece]) -> PortFilter:
    chunks = sorted(
        (int(element.key[1]), element.comment)
        for element in owned
        if isinstance(element, Element) and element.set == "notes"
    )
    words = "".join(chunk[1:-1] for _, chunk in chunks).split(" ")
    if len(words) != _WORDS or words[-1] != _END:
        raise ValueError("no whole note")
    subnet, mac, *rest = words[:-1]
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
