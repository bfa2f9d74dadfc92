"""What links have carried, as the kernel counts it (rtnl_link_stats64 of linux/if_link.h)."""

from __future__ import annotations

import struct

from lvagent.host.links import AF_UNSPEC, IFLA_IFNAME, RTM_GETLINK
from lvagent.host.netlink import Message, Socket, c_string, table
from lvagent.spec.metrics import Amount, Traffic

_IFLA_STATS64 = 23
_IFINFO = struct.Struct("=BxHiII")
_STATS = struct.Struct("=8Q")
"""Packets received and sent, bytes received and sent, errors of both, dropped of both; more follows."""


def carried(route: Socket) -> dict[str, Traffic]:
    """What each link in the namespace of this socket has carried, by its name."""
    found = {}
    for body in route.dump(Message(RTM_GETLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0), "count what links carried")):
        said = table(body[_IFINFO.size :])
        if len(said.get(_IFLA_STATS64, b"")) >= _STATS.size:
            found[c_string(said[IFLA_IFNAME])] = _traffic(said[_IFLA_STATS64])
    return found


def _traffic(raw: bytes) -> Traffic:
    packets_in, packets_out, bytes_in, bytes_out, _, _, dropped_in, dropped_out = _STATS.unpack_from(raw)
    return Traffic(Amount(packets_in, bytes_in), Amount(packets_out, bytes_out), dropped_in, dropped_out)
