"""Routes as netlink messages, and what the kernel tells about them (linux/rtnetlink.h). Nothing is sent here.

Ours in root bear a protocol number of their own, by which they are told from those of others.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from lvagent.host.netlink import CREATE, REPLACE, Message, attribute, table, u32

Net = IPv4Network | IPv6Network

AF_INET, AF_INET6 = 2, 10
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RTN_UNICAST = 1
MAIN = 254
OURS = 0x76
"""The protocol of our routes (what ``ip route`` shows as proto 118)."""

_RTMSG = struct.Struct("=BBBBBBBBI")
_DEFAULTS = {AF_INET: ip_network("0.0.0.0/0"), AF_INET6: ip_network("::/0")}
DEFAULTS = tuple(_DEFAULTS.values())


@dataclass(frozen=True, slots=True)
class Route:
    """A route. ``gateway``: '' if there is none; ``link``: the index of the link it leaves by, 0: none, or several."""

    net: Net
    gateway: str
    link: int
    protocol: int = OURS
    kind: int = RTN_UNICAST
    table: int = MAIN


def _message(kind: int, flags: int, route: Route, label: str, tolerate: frozenset[int]) -> Message:
    family = AF_INET if route.net.version == 4 else AF_INET6
    head = _RTMSG.pack(family, route.net.prefixlen, 0, 0, route.table, route.protocol, 0, route.kind, 0)
    body = head + attribute(RTA_DST, route.net.network_address.packed) + u32(RTA_OIF, route.link)
    body += attribute(RTA_GATEWAY, ip_address(route.gateway).packed) if route.gateway else b""
    return Message(kind, flags, body, f"{label} route {route.net}", tolerate)


def add(route: Route) -> Message:
    """Have this route, in the place of another to the same net."""
    return _message(RTM_NEWROUTE, CREATE | REPLACE, route, "set", frozenset())


def delete(route: Route) -> Message:
    """Make sure that there is no such route."""
    return _message(RTM_DELROUTE, 0, route, "delete", frozenset({errno.ESRCH, errno.ENODEV}))


def get_all(version: int, link: int = 0) -> Message:
    """Ask for the routes of an IP version in the main table.

    There are none where there is no such table yet, or link any more.

    :param link: only those that leave by this one.
    """
    family = AF_INET if version == 4 else AF_INET6
    body = _RTMSG.pack(family, 0, 0, 0, MAIN, 0, 0, 0, 0) + u32(RTA_TABLE, MAIN)
    absent = frozenset({errno.ENOENT, errno.ENODEV})
    return Message(RTM_GETROUTE, 0, body + (u32(RTA_OIF, link) if link else b""), "list routes", absent)


def parse(body: bytes) -> Route:
    """A route out of the body of an RTM_NEWROUTE."""
    family, prefix, _, _, number, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    found = table(body[_RTMSG.size :])
    raw = found.get(RTA_DST)
    net = _DEFAULTS.get(family, _DEFAULTS[AF_INET]) if raw is None else ip_network((raw, prefix), strict=False)
    gateway = found.get(RTA_GATEWAY)
    if RTA_TABLE in found:
        number = int.from_bytes(found[RTA_TABLE], "little")
    return Route(
        net=net,
        gateway=str(ip_address(gateway)) if gateway else "",
        link=int.from_bytes(found.get(RTA_OIF, b""), "little"),
        protocol=protocol,
        kind=kind,
        table=number,
    )


def metric(body: bytes) -> int:
    """How good a route is, out of the body of an RTM_NEWROUTE; the least is taken."""
    return int.from_bytes(table(body[_RTMSG.size :]).get(RTA_PRIORITY, b""), "little")
