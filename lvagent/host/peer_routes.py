"""The routes over the link between two VPCs as netlink messages, and their permanent neighbours.

As in ``host.links``, nothing is sent here. Numbers are those of linux/rtnetlink.h and neighbour.h.

A route of ours leads over a link without addresses to a next hop that is told by its IPv6 link-local address, also for
IPv4 (RFC 8950; Linux 5.2), and whose MAC is a permanent neighbour: nobody is ever asked who it is.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from lvagent.host.links import Link
from lvagent.host.netlink import CREATE, REPLACE, Message, attribute, mac_bytes, mac_text, table, u32
from lvagent.host.routes import (
    AF_INET,
    AF_INET6,
    MAIN,
    OURS,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_TABLE,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTN_UNICAST,
)

RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTA_PREFSRC, RTA_VIA = 7, 18
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
_ANYBODY, _UNIVERSE, _NOWHERE = 0, 0, 255

_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")

FAMILIES = (AF_INET, AF_INET6)


@dataclass(frozen=True, slots=True)
class Route:
    """A way over a link. ``via``: the next hop. ``source``: the address that the host itself speaks from on this way.

    ``via`` is None where a route leads elsewhere than ours do; such a one is never wanted.
    """

    net: IPv4Network | IPv6Network
    via: IPv6Address | None
    source: IPv4Address | IPv6Address | None


def add_route(link: Link, route: Route) -> Message:
    """A route, in the place of another to the same net."""
    body = _route(link, route, OURS, _UNIVERSE)
    return Message(RTM_NEWROUTE, CREATE | REPLACE, body, f"route {route.net} to {link.name}")


def delete_route(link: Link, route: Route) -> Message:
    """Make sure that a net is not routed over a link, whoever did it."""
    body = _route(link, Route(route.net, None, None), _ANYBODY, _NOWHERE)
    return Message(RTM_DELROUTE, 0, body, f"do not route {route.net} to {link.name}", frozenset({errno.ESRCH}))


def _route(link: Link, route: Route, protocol: int, scope: int) -> bytes:
    family = AF_INET if route.net.version == 4 else AF_INET6
    body = _RTMSG.pack(family, route.net.prefixlen, 0, 0, MAIN, protocol, scope, RTN_UNICAST, 0)
    body += attribute(RTA_DST, route.net.network_address.packed) + u32(RTA_OIF, link.index)
    if route.via is not None and family == AF_INET:
        body += attribute(RTA_VIA, struct.pack("=H", AF_INET6) + route.via.packed)
    elif route.via is not None:
        body += attribute(RTA_GATEWAY, route.via.packed)
    return body + (attribute(RTA_PREFSRC, route.source.packed) if route.source is not None else b"")


def get_routes(family: int, link: Link) -> Message:
    """Ask for the routes of a family that lead over a link.

    A namespace that has no route yet has no table of them; and the link goes with its other end, any time.
    """
    body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + u32(RTA_OIF, link.index)
    return Message(RTM_GETROUTE, 0, body, f"list routes over {link.name}", frozenset({errno.ENOENT, errno.ENODEV}))


def parse_route(body: bytes, link: Link) -> Route | None:
    """A route out of an RTM_NEWROUTE; None for one that is not of the main table, not to hosts, or of another link."""
    family, length, _, _, number, _, _, kind, _ = _RTMSG.unpack_from(body)
    found = table(body[_RTMSG.size :])
    where = int.from_bytes(found[RTA_TABLE], "little") if RTA_TABLE in found else number
    over = int.from_bytes(found.get(RTA_OIF, b""), "little")
    if where != MAIN or kind != RTN_UNICAST or over != link.index or family not in FAMILIES:
        return None
    first = found.get(RTA_DST, bytes(4 if family == AF_INET else 16))
    source = ip_address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else None
    return Route(ip_network((first, length)), _via(found), source)


def _via(found: dict[int, bytes]) -> IPv6Address | None:
    raw = found.get(RTA_VIA, b"")
    if len(raw) == 18 and struct.unpack_from("=H", raw)[0] == AF_INET6:
        return IPv6Address(raw[2:])
    gateway = found.get(RTA_GATEWAY, b"")
    return IPv6Address(gateway) if len(gateway) == 16 else None


def add_neighbour(link: Link, address: IPv6Address, mac: str) -> Message:
    """A neighbour whose MAC is told for good."""
    head = _NDMSG.pack(AF_INET6, link.index, NUD_PERMANENT, 0, 0)
    body = head + attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, mac_bytes(mac))
    return Message(RTM_NEWNEIGH, CREATE | REPLACE, body, f"tell {link.name} of {address}")


def get_neighbour(link: Link, address: IPv6Address) -> Message:
    """Ask for a neighbour."""
    body = _NDMSG.pack(AF_INET6, link.index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    gone = frozenset({errno.ENOENT, errno.ENODEV})
    return Message(RTM_GETNEIGH, 0, body, f"find {address} at {link.name}", gone)


def parse_neighbour(body: bytes) -> str:
    """The MAC out of an RTM_NEWNEIGH, if it was told for good; else empty."""
    _, _, state, _, _ = _NDMSG.unpack_from(body)
    return mac_text(table(body[_NDMSG.size :]).get(NDA_LLADDR, b"")) if state & NUD_PERMANENT else ""
