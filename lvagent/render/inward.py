"""What leads from outside into a VPC: the table in its namespace, and the elements of root's sets.

Both judge each packet by the tuples of its flow, in root by whence it comes and what it asked for, in the VPC by what
it asked for and whom it was led to. So what is taken away stops at once, though conntrack knows its flows still.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv6Address, ip_address

from lvagent.plan.inward import Float, Opening
from lvagent.plan.resources import Inward
from lvagent.render import render
from lvagent.spec import names
from lvagent.spec.addresses import Net
from lvagent.spec.publications import Publication

TABLE = "inward"
"""The table in a VPC's namespace, of the family inet."""

ROOT_SETS: dict[str, tuple[str, ...]] = {
    "published4": ("protocol", "ipv4_span", "port_span"),
    "published6": ("protocol", "ipv6_span", "port_span"),
    "allowed4": ("protocol", "ipv4_span", "ipv4_span", "port_span", "ipv4"),
    "allowed6": ("protocol", "ipv6_span", "ipv6_span", "port_span", "ipv6"),
    "selves4": ("ipv4", "ipv4"),
    "selves6": ("ipv6", "ipv6"),
}
"""Root's sets and maps with what leads to VPCs, and the fields of their keys."""

TARGETS = {"published": 0, "allowed": 1, "selves": 2}
"""How many fields at the end of a key are the address of the uplink; a map has it for its value."""

PROTOCOLS = {"tcp": 6, "udp": 17}
_ANY = {4: "0.0.0.0-255.255.255.255", 6: f"::-{IPv6Address((1 << 128) - 1)}"}

Keys = tuple[tuple[str, tuple[str, ...]], ...]


def inward(vpc: str, openings: Sequence[Opening], floats: Sequence[Float], pools: Sequence[Net]) -> Inward:
    """What leads into a VPC.

    :param pools: the nets of which uplinks have their addresses.
    """
    families = [_family(version, openings, floats, pools) for version in (4, 6)]
    blank = render("inward.nft.j2", digest="", families=families)
    digest = hashlib.blake2b(blank.encode(), digest_size=8).hexdigest()
    keys = tuple(sorted(set(_keys(openings))))
    text = render("inward.nft.j2", digest=digest, families=families)
    return Inward(vpc, digest_of(digest, keys), text, keys)


def digest_of(table: str, keys: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    """The digest of all that leads into a VPC, by the digest of its table and root's elements."""
    told = repr(sorted(keys)).encode()
    return f"{table}{hashlib.blake2b(told, digest_size=8).hexdigest()}"


def _family(
    version: int, openings: Iterable[Opening], floats: Iterable[Float], pools: Iterable[Net]
) -> dict[str, object]:
    found = [(one.publication, address) for one in openings if (address := one.address(version))]
    kept = [(number, _span(first, last), to) for number, to, first, last in _kept(found)]
    moved = [
        (PROTOCOLS[pub.proto], port, to, port - pub.first + pub.port)
        for pub, to in found
        if pub.moved
        for port in range(pub.first, pub.last + 1)
    ]
    led = {(number, ports, to, ports) for number, ports, to in kept}
    led |= {(number, str(port), to, str(end)) for number, port, to, end in moved}
    mine = [one for one in floats if one.version == version]
    first = {one.to: one.address for one in reversed(mine)}
    return {
        "version": version,
        "floating": _listed({f"{one.address} : {one.to}" for one in mine}),
        "seen": _listed({f"{to} : {address}" for to, address in first.items()}),
        "pairs": _listed({f"{one.to} . {one.address}" for one in mine}),
        "ip": "ip" if version == 4 else "ip6",
        "pool": ", ".join(str(net) for net in pools if net.version == version),
        "kept": _listed({f"{number} . {ports} : {to}" for number, ports, to in kept}),
        "moved": _listed({f"{number} . {port} : {to} . {end}" for number, port, to, end in moved}),
        "led": _listed({f"{number} . {ports} . {to} . {ends}" for number, ports, to, ends in led}),
    }


def _kept(found: Iterable[tuple[Publication, str]]) -> Iterator[tuple[int, str, int, int]]:
    """The ports that keep their number, as ranges that do not meet: protocol, VM's address, first, last."""
    ranges: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for pub, to in found:
        if not pub.moved:
            ranges.setdefault((PROTOCOLS[pub.proto], to), []).append((pub.first, pub.last))
    for (number, to), spans in ranges.items():
        spans.sort()
        while spans:
            first, last = spans.pop(0)
            while spans and spans[0][0] <= last + 1:
                last = max(last, spans.pop(0)[1])
            yield number, to, first, last


def _listed(elements: Iterable[str]) -> str:
    return ", ".join(sorted(elements))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


# root


def _keys(openings: Iterable[Opening]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for one in openings:
        pub = one.publication
        for version in (4, 6):
            if one.address(version) is None:
                continue
            number, ports = str(PROTOCOLS[pub.proto]), f"{pub.first}-{pub.last}"
            at = f"{pub.address}-{pub.address}" if pub.address else _ANY[version]
            yield f"published{version}", (number, at, ports)
            yield f"selves{version}", ()
            for net in pub.sources_of(version):
                came = f"{net.network_address}-{net.broadcast_address}"
                yield f"allowed{version}", (number, came, at, ports)


def root_text(vpc: str, removed: Iterable[Placed], added: Iterable[Placed]) -> str:
    """The transaction by which root leads no longer to a VPC by some elements, and leads to it by others."""
    if not names.VPC_NAME.match(vpc):
        raise ValueError(f"{vpc!r} is no VPC")
    return render("inward-root.nft.j2", vpc=vpc, removed=_by_set(removed), added=_by_set(added))


Placed = tuple[str, tuple[str, ...], str]
"""An element as it is in the kernel: its set, the fields of its key without the address of an uplink, that address."""


def _by_set(found: Iterable[Placed]) -> list[tuple[str, list[tuple[str, str]]]]:
    sets: dict[str, list[tuple[str, str]]] = {}
    for name, key, address in sorted(found):
        ends = TARGETS[name[:-1]]
        fields = [*key, *[address] * ends]
        kinds = ROOT_SETS[name]
        text = " . ".join(_field(kind, field) for kind, field in zip(kinds, fields, strict=True))
        sets.setdefault(name, []).append((text, "" if ends else str(ip_address(address))))
    return list(sets.items())


def _field(kind: str, value: str) -> str:
    """A field as nft reads it; what is no number, address or range of these does not get through."""
    first, _, last = value.partition("-")
    match kind:
        case "ipv4_span" | "ipv6_span":
            low, high = str(ip_address(first)), str(ip_address(last))
            return low if low == high else f"{low}-{high}"
        case "port_span":
            return _span(int(first), int(last))
        case "ipv4" | "ipv6":
            return str(ip_address(value))
        case _:
            return str(int(value))
