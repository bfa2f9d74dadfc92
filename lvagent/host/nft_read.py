"""What of a filter is in the kernel, read in the kernel's own form.

That is twenty times as fast as listing it as JSON, and the same in every version of nft. Sources:
linux/netfilter/nf_tables.h, libnftnl's udata.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from lvagent.host.netlink import TRIES, Message, NetlinkError, Socket, attributes, c_string, mac_text, table, text
from lvagent.memo import remembered
from lvagent.render.elements import (
    BRIDGE_SETS,
    INET_SETS,
    Chain,
    Element,
    NetElement,
    NetSet,
    Piece,
    Rule,
    chain_owner,
    net_set,
)
from lvagent.render.nft import TABLE

BRIDGE, INET = 7, 1
"""Families of tables (NFPROTO_*)."""

_NFTABLES = 10 << 8
_GET_TABLE, _GET_CHAINS, _GET_RULES, _GET_SETS, _GET_ELEMENTS = (_NFTABLES | kind for kind in (1, 4, 7, 10, 13))
_GET_GENERATION, _GENERATION = _NFTABLES | 16, 1
_TABLE_NAME, _TABLE_USERDATA = 1, 6
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7
_SET_TABLE, _SET_NAME = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS, _ELEMENT_USERDATA, _ELEMENT_KEY_END = 1, 2, 3, 6, 10
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CHAIN = 1, 2, 2
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_INTERVAL_END = 1
_COMMENT = 0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Counted:
    """A rule in the kernel: its number there, and what it has counted (0 if it has no counter)."""

    rule: Rule
    handle: int
    packets: int
    bytes: int


def _generic(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def table_comment(netfilter: Socket, family: int = BRIDGE, name: str = TABLE) -> str | None:
    """The comment of a table of ours in the namespace of this socket; None if there is no such table."""
    body = _generic(family) + text(_TABLE_NAME, name)
    answer = netfilter.query([Message(_GET_TABLE, 0, body, f"read table {name}", frozenset({errno.ENOENT}))])[0]
    return None if answer is None else _comment(table(answer[4:]).get(_TABLE_USERDATA, b""))


def _whole(netfilter: Socket, read: Callable[[], T]) -> T:
    """What is read while no transaction came between: of a set that changes the kernel may leave out what stays."""
    for _ in range(TRIES):
        before = _generation(netfilter)
        found = read()
        if _generation(netfilter) == before:
            break
    return found


def _generation(netfilter: Socket) -> bytes:
    """A number that each transaction in this namespace changes."""
    answer = netfilter.query([Message(_GET_GENERATION, 0, _generic(0), "read the generation")])[0]
    return table((answer or b"")[4:]).get(_GENERATION, b"")


def elements(netfilter: Socket, sets: Mapping[str, tuple[str, ...]], family: int = BRIDGE) -> frozenset[Element]:
    """All elements of these sets of our table; none if there is no such table or set.

    :param sets: name to the kinds of the fields of its keys.
    """
    return _whole(netfilter, lambda: _elements(netfilter, sets, family))


def _elements(netfilter: Socket, sets: Mapping[str, tuple[str, ...]], family: int = BRIDGE) -> frozenset[Element]:
    found: set[Element] = set()
    for name, fields in sets.items():
        listed = _listed(netfilter, family, name)
        if len(fields) == 1 and fields[0].endswith("_span"):
            found.update(Element(name, (f"{first}-{last}",), comment) for first, last, comment in _intervals(listed))
        else:
            found.update(_element(name, fields, raw) for raw in listed)
    return frozenset(found)


def _listed(netfilter: Socket, family: int, name: str) -> list[bytes]:
    body = _generic(family) + text(_LIST_TABLE, TABLE) + text(_LIST_SET, name)
    bodies = _dump(netfilter, Message(_GET_ELEMENTS, 0, body, f"read {name}"))
    return [raw for body in bodies for _, raw in attributes(table(body[4:]).get(_LIST_ELEMENTS, b""))]


def _dump(netfilter: Socket, message: Message) -> list[bytes]:
    try:
        return netfilter.dump(message)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def pieces(netfilter: Socket) -> frozenset[Piece]:
    """All that a VPC's filter holds besides its base."""
    return _whole(netfilter, lambda: _pieces(netfilter))


def _pieces(netfilter: Socket) -> frozenset[Piece]:
    found: set[Piece] = {*_elements(netfilter, BRIDGE_SETS), *_elements(netfilter, INET_SETS, INET)}
    found.update(_chains(netfilter))
    found.update(rule for rule in map(_rule, map(table, _rules(netfilter, ""))) if rule.owner)
    for net in _net_sets(netfilter):
        found.add(net)
        for first, last, _ in _intervals(_listed(netfilter, INET, net.name)):
            found.add(NetElement(net.group, net.family, first, last))
    return frozenset(found)


def _chains(netfilter: Socket) -> Iterator[Chain]:
    request = Message(_GET_CHAINS, 0, _generic(INET) + text(_CHAIN_TABLE, TABLE), "read chains")
    for body in _dump(netfilter, request):
        found = table(body[4:])
        name = c_string(found.get(_CHAIN_NAME, b""))
        if c_string(found.get(_CHAIN_TABLE, b"")) == TABLE and chain_owner(name):
            yield Chain(name)


def _net_sets(netfilter: Socket) -> Iterator[NetSet]:
    request = Message(_GET_SETS, 0, _generic(INET) + text(_SET_TABLE, TABLE), "read sets")
    for body in _dump(netfilter, request):
        net = net_set(c_string(table(body[4:]).get(_SET_NAME, b"")))
        if net is not None:
            yield net


def rules(netfilter: Socket, chain: str = "") -> list[Counted]:
    """The rules of table ``inet`` with what they have counted.

    :param chain: only those of this chain.
    """
    found = map(table, _rules(netfilter, chain))
    return [one for one in map(_counted, found) if chain in ("", one.rule.chain)]


def _rules(netfilter: Socket, chain: str) -> list[bytes]:
    body = _generic(INET) + text(_RULE_TABLE, TABLE) + (text(_RULE_CHAIN, chain) if chain else b"")
    return [raw[4:] for raw in _dump(netfilter, Message(_GET_RULES, 0, body, "read rules"))]


def _rule(found: dict[int, bytes]) -> Rule:
    return Rule(c_string(found.get(_RULE_CHAIN, b"")), _comment(found.get(_RULE_USERDATA, b"")))


def fixed_rules(netfilter: Socket) -> int:
    """How many rules of our tables are the base's: those that were given for no VM, port or subnet."""
    request = Message(_GET_RULES, 0, _generic(BRIDGE) + text(_RULE_TABLE, TABLE), "read rules")
    bridge = [body for body in _dump(netfilter, request) if c_string(table(body[4:]).get(_RULE_TABLE, b"")) == TABLE]
    return len(bridge) + sum(not one.rule.owner for one in rules(netfilter))


def _counted(found: dict[int, bytes]) -> Counted:
    rule = _rule(found)
    packets = size = 0
    for _, raw in attributes(found.get(_RULE_EXPRESSIONS, b"")):
        expression = table(raw)
        if c_string(expression.get(_EXPRESSION_NAME, b"")) == "counter":
            counter = table(expression[_EXPRESSION_DATA])
            packets = int.from_bytes(counter.get(_COUNTER_PACKETS, b""), "big")
            size = int.from_bytes(counter.get(_COUNTER_BYTES, b""), "big")
    return Counted(rule, int.from_bytes(found.get(_RULE_HANDLE, b""), "big"), packets, size)


def _intervals(listed: list[bytes]) -> Iterator[tuple[str, str, str]]:
    """The ranges of an interval set of addresses: first, last, comment. Each end is an element of its own."""
    marks: list[tuple[bytes, bool, str]] = []
    for raw in listed:
        found = table(raw)
        ends = bool(int.from_bytes(found.get(_ELEMENT_FLAGS, b""), "big") & _INTERVAL_END)
        marks.append((_value(found[_ELEMENT_KEY]), not ends, _comment(found.get(_ELEMENT_USERDATA, b""))))
    begun: tuple[bytes, str] | None = None
    for key, begins, comment in sorted(marks):
        if begun is not None:
            yield _address(begun[0], 0), _address(key, -1), begun[1]
        begun = (key, comment) if begins else None
    if begun is not None:  # up to the last address there is
        yield _address(begun[0], 0), _address(b"\xff" * len(begun[0]), 0), begun[1]


def _address(raw: bytes, more: int) -> str:
    number = int.from_bytes(raw, "big") + more
    return str(IPv4Address(number) if len(raw) == 4 else IPv6Address(number))


@remembered(1 << 16)
def _element(name: str, fields: tuple[str, ...], raw: bytes) -> Element:
    found = table(raw)
    first = _value(found[_ELEMENT_KEY])
    last = _value(found[_ELEMENT_KEY_END]) if _ELEMENT_KEY_END in found else first
    key = []
    for kind in fields:
        size, decode = _FIELDS[kind]
        key.append(decode(first[:size], last[:size]))
        padded = (size + 3) & ~3
        first, last = first[padded:], last[padded:]
    return Element(name, tuple(key), _comment(found.get(_ELEMENT_USERDATA, b"")), _mapped(found))


def _mapped(found: dict[int, bytes]) -> str:
    """What an element maps to: a mark, or the chain of a verdict."""
    if _ELEMENT_DATA not in found:
        return ""
    mapped = table(found[_ELEMENT_DATA])
    if _DATA_VERDICT in mapped:
        return c_string(table(mapped[_DATA_VERDICT]).get(_VERDICT_CHAIN, b""))
    return str(int.from_bytes(mapped.get(_DATA_VALUE, b""), "little"))


def _value(raw: bytes) -> bytes:
    return table(raw).get(_DATA_VALUE, b"")


def _comment(userdata: bytes) -> str:
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return userdata[at + 2 : at + 2 + length].split(b"\0", 1)[0].decode(errors="replace")
        at += 2 + length
    return ""


def _device(first: bytes, _last: bytes) -> str:
    return first.split(b"\0", 1)[0].decode(errors="replace")


def _network4(first: bytes, last: bytes) -> str:
    wide = int.from_bytes(first, "big") ^ int.from_bytes(last, "big")
    return str(IPv4Network((first, 32 - wide.bit_length()), strict=False))


def _network6(first: bytes, last: bytes) -> str:
    wide = int.from_bytes(first, "big") ^ int.from_bytes(last, "big")
    return str(IPv6Network((first, 128 - wide.bit_length()), strict=False))


def _span(first: bytes, last: bytes) -> str:
    return f"{_address(first, 0)}-{_address(last, 0)}"


def _direction(first: bytes, _last: bytes) -> str:
    return "reply" if first[0] else "original"


_FIELDS: dict[str, tuple[int, Callable[[bytes, bytes], str]]] = {
    "device": (16, _device),
    "mac": (6, lambda first, _last: mac_text(first)),
    "mac_field": (6, lambda first, _last: mac_text(first)),
    "ipv4": (4, lambda first, _last: str(IPv4Address(first))),
    "ipv6": (16, lambda first, _last: str(IPv6Address(first))),
    "ipv6_field": (16, lambda first, _last: str(IPv6Address(first))),
    "ipv4_range": (4, _network4),
    "ipv6_range": (16, _network6),
    "ipv6_field_range": (16, _network6),
    "ipv4_span": (4, _span),
    "ipv6_span": (16, _span),
    "port_span": (2, lambda first, last: f"{int.from_bytes(first, 'big')}-{int.from_bytes(last, 'big')}"),
    "protocol": (1, lambda first, _last: str(first[0])),
    "direction": (1, _direction),
    "number": (4, lambda first, _last: str(int.from_bytes(first, "little"))),
}
"""Of each kind of field: its size in bytes and how its first and last value are written."""
