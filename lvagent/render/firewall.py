"""The rules of a VM as nft: a chain for what it may begin, one for what may begin with it.

A rule looks at the flow, not at the packet: at who began it (``ct original``) and with whom (for ingress as the VM
itself sees it, ``ct reply``). So it says the same of every packet of the flow, of its answers, and of ICMP errors about
it, and a flow lives exactly as long as some rule allows it. The comment of each rule says what the rule is, whole.

Ports are those of the flow; that its packets may also be ICMP has to be said to nft, which else would not let a port be
compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

from lvagent.memo import remembered
from lvagent.plan.firewall import in_order, order
from lvagent.plan.resources import Extras, Firewall, Group, Span
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
)
from lvagent.spec import names
from lvagent.spec.rules import is_name
from lvagent.spec.vm import Direction, NetRule

CLOSED = "closed"
"""The comment of the last rule of a chain, which drops what no rule allows."""

NOBODY = ip_network("255.255.255.255/32")
"""What a group that is not whole is told to hold: the address of no VM."""

ANY = "any"
"""What a comment says where a rule says nothing."""

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_LAST_PROTOCOL = 255
_FAMILY = {"icmp": 4, "icmpv6": 6}
_WORDS = 6
_JUMP = "jump "


def chain_of(vm: str, direction: Direction) -> str:
    """The chain with the rules of a VM of this direction."""
    return f"{'in' if direction is Direction.INGRESS else 'eg'}-{vm.removeprefix('i-')}"


def firewall_pieces(wall: Firewall, number: int) -> frozenset[Piece]:
    """All that a VM's firewall is in the kernel.

    :param number: the VM's own in its VPC, from 1 up.
    """
    begins, meets = chain_of(wall.vm, Direction.EGRESS), chain_of(wall.vm, Direction.INGRESS)
    found: set[Piece] = {Chain(begins), Chain(meets)}
    for tap in wall.taps:
        found |= {
            Element("senders", (tap,), value=str(number)),
            Element("receivers", (tap,), value=str(number + RECEIVED)),
        }
    for mark in (number, number + RECEIVED):
        found.add(Element("vms", (str(mark),), wall.vm))
    found.add(Element("began", (str(number + RECEIVED), str(number)), wall.vm))
    found |= _directed("sent_by", str(number), wall.vm, begins, meets)
    found |= _directed("received_by", str(number + RECEIVED), wall.vm, meets, begins)
    for address in wall.addresses:
        family = ip_address(address).version
        found |= _directed(f"routed{family}", address, wall.vm, meets, begins)
        found.add(Element(f"known{family}", (address,), wall.vm))
        found.add(Element(f"began{family}", (address, str(number)), wall.vm))
    return frozenset(found | set(_rules(wall)))


def _directed(name: str, key: str, owner: str, original: str, reply: str) -> set[Element]:
    return {Element(name, (key, "original"), owner, original), Element(name, (key, "reply"), owner, reply)}


def _rules(wall: Firewall) -> Iterator[Rule]:
    for rule in wall.rules:
        direction = rule.direction or Direction.INGRESS
        for family in families(rule):
            yield Rule(chain_of(wall.vm, direction), comment_of(rule, family))
    yield Rule(chain_of(wall.vm, Direction.INGRESS), CLOSED)
    if any(rule.direction is Direction.EGRESS for rule in wall.rules):
        yield Rule(chain_of(wall.vm, Direction.EGRESS), CLOSED)


def families(rule: NetRule) -> tuple[int, ...]:
    """The rules of the kernel that a rule becomes: one for each family that it has to name, or one for both (0)."""
    said = {_FAMILY[rule.proto]} if rule.proto in _FAMILY else set()
    said |= {ip_network(peer).version for peer in (rule.source, rule.destination) if peer and not is_name(peer)}
    if said:
        return tuple(said)
    return (4, 6) if rule.source or rule.destination else (0,)


def comment_of(rule: NetRule, family: int) -> str:
    """A rule, whole, in one line: direction, family, protocol, ports, source, destination."""
    ports = ANY if not rule.port else f"{rule.port}-{rule.port_end or rule.port}"
    return " ".join((str(rule.direction), str(family), rule.proto, ports, rule.source or ANY, rule.destination or ANY))


def rule_of(comment: str) -> NetRule | None:
    """The rule that a comment says; None for one that is no rule of a spec.

    :raise ValueError: it says nothing that is known.
    """
    words = comment.split(" ")
    if len(words) != _WORDS:
        if comment == CLOSED or comment.startswith(_JUMP):
            return None
        raise ValueError(f"{comment!r} is no rule")
    direction, _, proto, ports, source, destination = words
    first, last = (0, 0) if ports == ANY else map(int, ports.split("-"))
    return NetRule(
        proto=proto,
        port=first,
        port_end=last if last > first else None,
        source="" if source == ANY else source,
        destination="" if destination == ANY else destination,
        direction=Direction(direction),
    )


def match_of(comment: str) -> str:
    """What a rule is for nft, without its comment.

    :raise ValueError: it is none.
    """
    if comment == CLOSED:
        return "counter drop"
    if comment.startswith(_JUMP):
        return f"jump {checked_chain(comment.removeprefix(_JUMP))}"
    rule, family = rule_of(comment), int(comment.split(" ")[1])
    if rule is None or family not in (0, 4, 6):
        raise ValueError(f"{comment!r} is no rule")
    parts = [*_family(family), *_protocol(rule), *_peers(rule, family), "counter return"]
    return " ".join(parts)


def _family(family: int) -> list[str]:
    return [f"meta nfproto ipv{family}"] if family else []


def _protocol(rule: NetRule) -> list[str]:
    if rule.proto == "any":
        return []
    number = _PROTOCOLS[rule.proto] if rule.proto in _PROTOCOLS else int(rule.proto)
    if not 0 <= number <= _LAST_PROTOCOL:
        raise ValueError(f"{rule.proto!r} is no protocol")
    if not rule.port:
        return [f"ct protocol {number}"]
    own = "ct reply proto-src" if rule.direction is Direction.INGRESS else "ct original proto-dst"
    ports = str(int(rule.port)) if rule.port_end is None else f"{int(rule.port)}-{int(rule.port_end)}"
    return [f"ct protocol {number}", f"meta l4proto {{ {number}, 1, 58 }} {own} {ports}"]


def _peers(rule: NetRule, family: int) -> Iterator[str]:
    ip = "ip" if family == 4 else "ip6"
    if rule.source:
        yield f"ct original {ip} saddr {_peer(rule.source, family)}"
    if rule.destination:
        side = f"ct reply {ip} saddr" if rule.direction is Direction.INGRESS else f"ct original {ip} daddr"
        yield f"{side} {_peer(rule.destination, family)}"


def _peer(peer: str, family: int) -> str:
    if is_name(peer):
        return f"@{NetSet(peer, family).name}"
    return str(ip_network(peer))


def firewalls(vpc: str, owned: Iterable[tuple[str, frozenset[Piece]]]) -> Iterator[Firewall]:
    """The firewalls of VMs to which these pieces belong.

    One that is not whole is told without taps and rules, and nobody wants such a one.
    """
    for owner, pieces in owned:
        if names.VM_ID.match(owner):
            yield _firewall(vpc, owner, pieces)


@remembered(1 << 12)
def _firewall(vpc: str, vm: str, pieces: frozenset[Piece]) -> Firewall:
    broken = Firewall(vpc, vm, (), (), ())
    number = number_of(pieces)
    if number is None:
        return broken
    taps = sorted(piece.key[0] for piece in pieces if isinstance(piece, Element) and piece.set == "senders")
    known = ("known4", "known6")
    addresses = sorted(piece.key[0] for piece in pieces if isinstance(piece, Element) and piece.set in known)
    try:
        rules = {rule_of(piece.comment) for piece in pieces if isinstance(piece, Rule)} - {None}
        found = Firewall(vpc, vm, tuple(taps), tuple(addresses), _sorted(rules))
        return found if firewall_pieces(found, number) == pieces else broken
    except ValueError:
        return broken


def _sorted(rules: Iterable[NetRule | None]) -> tuple[NetRule, ...]:
    return tuple(sorted((rule for rule in rules if rule is not None), key=order))


def number_of(pieces: Iterable[Piece]) -> int | None:
    """The number of the VM to which these pieces belong, if any of them tells it."""
    found = [piece for piece in pieces if isinstance(piece, Element)]
    marks = [piece.key[0] for piece in found if piece.set == "sent_by"]
    return min(map(int, marks + [piece.value for piece in found if piece.set == "senders"]), default=None)


def group_pieces(group: Group) -> frozenset[Piece]:
    """The two sets of a group and what is in them."""
    sets: set[Piece] = {NetSet(group.name, family) for family in (4, 6)}
    return frozenset(
        sets
        | {
            NetElement(group.name, net.version, str(net.network_address), str(net.broadcast_address))
            for net in group.nets
        }
    )


def group_of(vpc: str, name: str, pieces: Iterable[Piece]) -> Group:
    """The group to which these pieces belong; one that is not whole is told with a net that nobody wants."""
    found = list(pieces)
    try:
        nets = [_net(piece) for piece in found if isinstance(piece, NetElement)]
    except ValueError:
        nets = []
    group = Group(vpc, name, in_order(nets))
    return group if group_pieces(group) == frozenset(found) else Group(vpc, name, (NOBODY,))


def _net(piece: NetElement) -> IPv4Network | IPv6Network:
    wide = int(ip_address(piece.first)) ^ int(ip_address(piece.last))
    bits = ip_address(piece.first).max_prefixlen
    return ip_network(f"{piece.first}/{bits - wide.bit_length()}")


def extras_pieces(extras: Extras) -> frozenset[Piece]:
    """To which VMs extra addresses lead. For several VMs there is a chain that asks each of them."""
    return frozenset(piece for span in extras.spans for piece in _span_pieces(span))


def _span_pieces(span: Span) -> Iterator[Piece]:
    family = ip_address(span.first).version
    key = f"{span.first}-{span.last}"
    chains = {way: _chain(way, span.vms) for way in Direction}
    for way, chain in chains.items():
        if len(span.vms) > 1:
            yield Chain(chain)
            yield from (Rule(chain, _JUMP + chain_of(vm, way)) for vm in span.vms)
    meets, begins = chains[Direction.INGRESS], chains[Direction.EGRESS]
    yield from _directed(f"extra_routed{family}", key, EXTRAS, meets, begins)
    yield Element(f"extra_known{family}", (key,), EXTRAS)


def _chain(way: Direction, vms: tuple[str, ...]) -> str:
    if len(vms) == 1:
        return chain_of(vms[0], way)
    digest = hashlib.blake2b(" ".join(vms).encode(), digest_size=8).hexdigest()
    return f"{'in' if way is Direction.INGRESS else 'eg'}-all-{digest}"


def extras_of(vpc: str, pieces: frozenset[Piece]) -> Extras:
    """The extra addresses to which these pieces lead; without spans, which nobody wants, if they are not whole."""
    jumps: dict[str, set[str]] = {}
    for piece in pieces:
        if isinstance(piece, Rule) and piece.comment.startswith(_JUMP):
            jumps.setdefault(piece.chain, set()).add(piece.comment.removeprefix(f"{_JUMP}in-"))
    spans = [_span(piece, jumps) for piece in pieces if isinstance(piece, Element) and piece.key[1:] == ("original",)]
    found = Extras(vpc, tuple(sorted(spans, key=_place)))
    return found if extras_pieces(found) == pieces else Extras(vpc, ())


def _span(element: Element, jumps: dict[str, set[str]]) -> Span:
    first, _, last = element.key[0].partition("-")
    numbers = jumps.get(element.value) or {element.value.removeprefix("in-")}
    return Span(first, last, tuple(sorted(f"i-{number}" for number in numbers)))


def _place(span: Span) -> tuple[bool, int]:
    first = ip_address(span.first)
    return not isinstance(first, IPv4Address), int(first)
