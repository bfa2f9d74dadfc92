"""What nftables tells of a packet that is traced: each rule that it matched, each chain that it left, and how.

A packet of which ``meta nftrace`` is set is told of to the netlink group NFNLGRP_NFTRACE of its namespace. Sources:
linux/netfilter/nf_tables.h, nf_tables_trace.c.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import ip_address

from lvagent.host.netlink import c_string, table
from lvagent.spec.addresses import Address

_NETFILTER, _GROUP, _SOL_NETLINK, _ADD_MEMBERSHIP = 12, 9, 270, 1
_TRACE = 10 << 8 | 17
_HEADER = struct.Struct("=IHHII")
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _NETWORK, _OUT, _FAMILY, _POLICY = 1, 2, 3, 4, 5, 8, 12, 15, 16
_TYPE_POLICY, _TYPE_RULE = 1, 3
_CODE, _TO = 1, 2
_DROP, _JUMP, _GOTO = 0, 0xFFFFFFFD, 0xFFFFFFFC
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a traced packet met.

    ``handle``: of the rule, 0 if it was the policy of the chain. ``dropped``: whether that ended it. ``to``: the chain
    that the rule went on to; '' if to none. ``link``: index of the link by which it goes out, 0: none, or told of
    before in the same chain. ``ends``: its source and destination, if told.
    """

    family: str
    table: str
    chain: str
    handle: int
    dropped: bool
    to: str = ""
    link: int = 0
    ends: tuple[Address, Address] | None = None


class Trace:
    """Hears of traced packets in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        with contextlib.ExitStack() as stack:
            stack.callback(self._socket.close)
            self._socket.bind((0, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
            self._socket.setblocking(False)
            stack.pop_all()
        self.events: list[Event] = []

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._socket.fileno()

    def read(self) -> None:
        """Take what has been told so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self.events += _events(self._socket.recv(1 << 17))
                except OSError as error:
                    if isinstance(error, BlockingIOError):
                        raise
                    return  # more was told than fits: what is known is enough, or it is not

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def listen(traces: list[Trace], seconds: float, calm: float) -> None:
    """Listen until some packet has been dropped, or taken out, and nothing more is told; at most so long.

    :param calm: seconds of silence after which nothing more is waited for.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        over = any(event.dropped for trace in traces for event in trace.events)
        ready, _, _ = select.select(traces, [], [], min(left, calm) if over else left)
        if not ready and over:
            return
        for trace in ready:
            trace.read()


def _events(raw: bytes) -> list[Event]:
    found = []
    at = 0
    while at + _HEADER.size <= len(raw):
        length, kind, _, _, _ = _HEADER.unpack_from(raw, at)
        if length < _HEADER.size:
            break
        if kind == _TRACE:
            found.append(_event(table(raw[at + _HEADER.size + 4 : at + length])))
        at += (length + 3) & ~3
    return found


def _event(said: dict[int, bytes]) -> Event:
    kind = _number(said, _TYPE)
    verdict = table(said.get(_VERDICT, b""))
    code = _number(verdict, _CODE) if kind == _TYPE_RULE else _number(said, _POLICY)
    final = kind in (_TYPE_RULE, _TYPE_POLICY) and code == _DROP and (kind == _TYPE_RULE or _POLICY in said)
    return Event(
        family=FAMILIES.get(_number(said, _FAMILY), "?"),
        table=c_string(said.get(_TABLE, b"")),
        chain=c_string(said.get(_CHAIN, b"")),
        handle=_number(said, _HANDLE) if kind == _TYPE_RULE else 0,
        dropped=final,
        to=c_string(verdict.get(_TO, b"")) if code in (_JUMP, _GOTO) else "",
        link=_number(said, _OUT),
        ends=_ends(said.get(_NETWORK, b"")),
    )


def _number(said: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(said.get(kind, b""), "big")


def _ends(head: bytes) -> tuple[Address, Address] | None:
    """Source and destination out of an IP header."""
    if len(head) >= 20 and head[0] >> 4 == 4:
        return ip_address(head[12:16]), ip_address(head[16:20])
    if len(head) >= 40 and head[0] >> 4 == 6:
        return ip_address(head[8:24]), ip_address(head[24:40])
    return None
