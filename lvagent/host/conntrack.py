"""The flows that a namespace keeps (conntrack): looked up, forgotten, listed.

Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable
from ipaddress import ip_address

from lvagent.host.netlink import NETFILTER, Message, Socket, attribute, nest, table, u8
from lvagent.plan.sessions import KeptFlow, Tuple

_GET, _DELETE, _STATS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5
_ENTRIES, _MOST_ENTRIES = 1, 2
_ORIGINAL, _REPLY, _STATUS, _ID, _STATUS_MASK = 1, 2, 3, 12, 26
_SEEN_REPLY, _SOURCE_NAT, _DESTINATION_NAT = 1 << 1, 1 << 4, 1 << 5
_MET = _SEEN_REPLY | _SOURCE_NAT | _DESTINATION_NAT
"""The bits of an entry that was answered, or translated (linux/netfilter/nf_conntrack_common.h)."""
_COUNTERS, _BYTES = (9, 10), 2
_IP, _PROTO = 1, 2
_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
_NUMBER, _SPORT, _DPORT, _ICMP_ID, _ICMP_TYPE, _ICMP_CODE = 1, 2, 3, 4, 5, 6
_ICMPV6_SHIFT = 3
_WITH_PORTS = (6, 17, 132, 33, 136)
_GRE = 47
_ECHO = {1: 8, 58: 128}
_ABSENT = frozenset({errno.ENOENT})


def known(netfilter: Socket, flow: Tuple) -> bytes | None:
    """The id of the entry of a flow; None: there is none."""
    found = netfilter.query([Message(_GET, 0, _body(flow), "look for a flow", _ABSENT)])[0]
    return None if found is None else table(found[4:]).get(_ID, b"")


def forget(netfilter: Socket, flow: Tuple) -> None:
    """Make sure that there is no entry of a flow."""
    netfilter.send([Message(_DELETE, 0, _body(flow), "forget a flow", _ABSENT)])


def _body(flow: Tuple) -> bytes:
    version = flow.source.version
    family = 2 if version == 4 else 10
    ends = nest(
        _IP,
        attribute(_SOURCE[version], flow.source.packed),
        attribute(_DESTINATION[version], flow.destination.packed),
    )
    proto = nest(_PROTO, u8(_NUMBER, flow.number), *_own(flow))
    return struct.pack("=BBH", family, 0, 0) + nest(_ORIGINAL, ends, proto)


def _own(flow: Tuple) -> list[bytes]:
    if flow.number in (*_WITH_PORTS, _GRE):  # of GRE both are 0
        return [attribute(_SPORT, struct.pack("!H", flow.sport)), attribute(_DPORT, struct.pack("!H", flow.dport))]
    if flow.number in _ECHO:
        shift = _ICMPV6_SHIFT if flow.number == 58 else 0
        ident = attribute(_ICMP_ID + shift, struct.pack("!H", flow.sport))
        return [ident, u8(_ICMP_TYPE + shift, _ECHO[flow.number]), u8(_ICMP_CODE + shift, 0)]
    return []


def kept(most: int) -> list[KeptFlow]:
    """The flows that are kept in the namespace of the calling thread, of both families.

    :param most: not more than so many.
    """
    with contextlib.closing(Socket(NETFILTER)) as netfilter:
        request = Message(_GET, 0, bytes(4), "list flows")
        return [_kept(table(body[4:])) for body in netfilter.dump(request, most)]


def room(netfilter: Socket) -> tuple[int, int]:
    """How many flows are kept in the namespace of this socket, and how many may be; 0: the kernel does not say."""
    said = table((netfilter.query([Message(_STATS, 0, bytes(4), "count flows")])[0] or b"")[4:])
    return int.from_bytes(said.get(_ENTRIES, b""), "big"), int.from_bytes(said.get(_MOST_ENTRIES, b""), "big")


def forget_unled(netfilter: Socket, chosen: Callable[[Tuple], bool], most: int) -> int:
    """Forget flows that nobody has answered and nothing has translated: the rule that would have, came after them.

    An entry is never translated anew. So a flow that began without the rule stays as it began for as long as somebody
    goes on with it (UDP), though by now it would be led elsewhere. Acts in the namespace of the calling thread.

    :param netfilter: a socket in that namespace.
    :param chosen: whether a flow, as it began, is one of those.
    :param most: look at no more than so many.
    :return: how many.
    """
    status = attribute(_STATUS, bytes(4)) + attribute(_STATUS_MASK, struct.pack("!I", _MET))  # heeded by Linux 5.15
    with contextlib.closing(Socket(NETFILTER)) as reading:
        said = [table(body[4:]) for body in reading.dump(Message(_GET, 0, bytes(4) + status, "list flows"), most)]
    alone = [_flow(one[_ORIGINAL]) for one in said if not int.from_bytes(one.get(_STATUS, b""), "big") & _MET]
    found = [flow for flow in alone if chosen(flow)]
    for flow in found:
        forget(netfilter, flow)
    return len(found)


def _kept(said: dict[int, bytes]) -> KeptFlow:
    flow, answer = _flow(said[_ORIGINAL]), _flow(said[_REPLY])
    size = sum(int.from_bytes(table(said.get(kind, b"")).get(_BYTES, b""), "big") for kind in _COUNTERS)
    return KeptFlow(flow, answer, size)


def _flow(raw: bytes) -> Tuple:
    found = table(raw)
    ends, proto = table(found[_IP]), table(found[_PROTO])
    version = 4 if _SOURCE[4] in ends else 6
    number = proto[_NUMBER][0]
    sport = proto.get(_SPORT) or proto.get(_ICMP_ID) or proto.get(_ICMP_ID + _ICMPV6_SHIFT) or b""
    return Tuple(
        ip_address(ends[_SOURCE[version]]),
        ip_address(ends[_DESTINATION[version]]),
        number,
        int.from_bytes(sport, "big"),
        int.from_bytes(proto.get(_DPORT, b""), "big"),
    )
