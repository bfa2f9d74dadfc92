"""Netlink in its own words: messages packed by hand, sent together, each acknowledged.

A netlink message is a header, a fixed struct and attributes (netlink(7)). Several of them go into one ``sendto``; the
kernel works them off in order and acknowledges each, so wiring a subnet costs two system calls and not twenty. It does
not stop at an error: the first one is raised when all answers are in, with the kernel's own words (extended ACK) and
the label of the operation that failed.

A socket belongs to the namespace in which it was made, whichever thread uses it later.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROUTE = 0
NETFILTER = 12

REQUEST = 0x01
ACK = 0x04
DUMP = 0x300
REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400

_NESTED = 0x8000
_KIND_MASK = 0x3FFF
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SOL_NETLINK = 270
_CAP_ACK = 10
_EXT_ACK = 11
_GET_STRICT_CHK = 12
_INTERRUPTED = 0x10
_ACK_TLVS = 0x200
_CAPPED = 0x100
_HEADER = struct.Struct("=IHHII")
_RECEIVE = 1 << 18

TRIES = 5
"""How often something is listed that changes each time meanwhile; what was found last is taken."""


class NetlinkError(OSError):
    """The kernel refused ``label``; ``reason`` is what it said (extended ACK), or the text of the errno."""

    def __init__(self, code: int, label: str, said: str = "") -> None:
        reason = said or os.strerror(code)
        super().__init__(code, f"{label}: {reason}")
        self.label = label
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """One request. ``body``: the fixed struct and the attributes. ``tolerate``: errnos that mean it is done already."""

    kind: int
    flags: int
    body: bytes
    label: str
    tolerate: frozenset[int] = frozenset()


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute: length, kind, value, padded to four bytes."""
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *attributes_: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes_))


def text(kind: int, value: str) -> bytes:
    """A string, ended by NUL."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """An unsigned byte."""
    return attribute(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    """An unsigned 16 bit number in host order."""
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    """An unsigned 32 bit number in host order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(raw: bytes) -> list[tuple[int, bytes]]:
    """The attributes in a byte string, in order, flags taken off their kinds."""
    found = []
    at = 0
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        if length < 4:
            break
        found.append((kind & _KIND_MASK, raw[at + 4 : at + length]))
        at += (length + 3) & ~3
    return found


def table(raw: bytes) -> dict[int, bytes]:
    """The attributes in a byte string by kind (the last one wins)."""
    return dict(attributes(raw))


def c_string(raw: bytes) -> str:
    """A NUL-ended string."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def mac_text(raw: bytes) -> str:
    """A MAC as people write it."""
    return ":".join(f"{octet:02x}" for octet in raw)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC."""
    return bytes.fromhex(mac.replace(":", ""))


def pack(message: Message, sequence: int) -> bytes:
    """A message as it goes over the socket."""
    length = _HEADER.size + len(message.body)
    head = _HEADER.pack(length, message.kind, message.flags | REQUEST, sequence, 0)
    return head + message.body + bytes(-length % 4)


@dataclass(frozen=True, slots=True)
class _Reply:
    kind: int
    flags: int
    sequence: int
    body: bytes

    @property
    def code(self) -> int:
        """The errno of an acknowledgement (0: done)."""
        return -int(struct.unpack_from("=i", self.body)[0]) if len(self.body) >= 4 else 0

    def said(self) -> str:
        """The text of an extended ACK, if there is one (NLMSGERR_ATTR_MSG)."""
        if not self.flags & _ACK_TLVS:
            return ""
        asked = struct.unpack_from("=I", self.body, 4)[0]
        echoed = _HEADER.size if self.flags & _CAPPED else (asked + 3) & ~3
        return c_string(table(self.body[4 + echoed :]).get(1, b""))


def _replies(raw: bytes) -> list[_Reply]:
    found = []
    at = 0
    while at + _HEADER.size <= len(raw):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(raw, at)
        if length < _HEADER.size:
            break
        found.append(_Reply(kind, flags, sequence, raw[at + _HEADER.size : at + length]))
        at += (length + 3) & ~3
    return found


class Socket:
    """A netlink socket in the namespace of the thread that made it; calls from several threads wait for each other.

    :param protocol: ROUTE or NETFILTER.
    """

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(30)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._sequence = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close it; the namespace is no longer held."""
        self._socket.close()

    def send(self, messages: Sequence[Message]) -> None:
        """Carry out all messages in order, with one acknowledgement each.

        :raise NetlinkError: the first that failed otherwise than it tolerates. The others were carried out.
        """
        first: NetlinkError | None = None
        for message, reply in zip(messages, self._exchange(messages, ACK), strict=True):
            if reply.code and reply.code not in message.tolerate and first is None:
                first = NetlinkError(reply.code, message.label, reply.said())
        if first is not None:
            raise first

    def query(self, messages: Sequence[Message]) -> list[bytes | None]:
        """Ask for one object per message.

        :return: the body of each answer; None where the kernel answered with an errno that the message tolerates.
        :raise NetlinkError: the first that failed otherwise.
        """
        answers: list[bytes | None] = []
        for message, reply in zip(messages, self._exchange(messages, 0), strict=True):
            if reply.kind != _NLMSG_ERROR:
                answers.append(reply.body)
            elif reply.code in message.tolerate:
                answers.append(None)
            else:
                raise NetlinkError(reply.code, message.label, reply.said())
        return answers

    def dump(self, message: Message, most: int | None = None) -> list[bytes]:
        """The bodies of all objects that a dump request yields.

        The kernel gives them in parts, and says when something changed between two: what was there all the time may be
        left out then. So all are asked for again.

        :param most: take no more than so many; what follows is never read, so the socket is good for nothing else then.
        :raise NetlinkError: it was refused otherwise than it tolerates.
        """
        for _ in range(TRIES):
            found, whole = self._dumped(message, most)
            if whole or most is not None:
                break
        return found

    def _dumped(self, message: Message, most: int | None) -> tuple[list[bytes], bool]:
        """What a dump yields, and whether nothing changed meanwhile."""
        found: list[bytes] = []
        torn = False
        with self._lock:
            number = self._transmit([message], DUMP)

            def take(reply: _Reply) -> bool:
                nonlocal torn
                torn = torn or bool(reply.flags & _INTERRUPTED)
                if reply.kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    if reply.code and reply.code not in message.tolerate:
                        raise NetlinkError(reply.code, message.label, reply.said())
                    return False
                found.append(reply.body)
                return most is None or len(found) < most

            self._receive(number, take)
        return found, not torn

    def _exchange(self, messages: Sequence[Message], flags: int) -> list[_Reply]:
        got: list[_Reply] = []
        if not messages:
            return got

        def take(reply: _Reply) -> bool:
            got.append(reply)
            return len(got) < len(messages)

        with self._lock:
            self._receive(self._transmit(messages, flags), take)
        return got

    def _transmit(self, messages: Sequence[Message], flags: int) -> int:
        """Send them; the sequence number of the first."""
        first = self._sequence + 1
        self._sequence += len(messages)
        raw = b"".join(
            pack(Message(each.kind, each.flags | flags, each.body, each.label), first + offset)
            for offset, each in enumerate(messages)
        )
        self._socket.send(raw)
        return first

    def _receive(self, first: int, take: Callable[[_Reply], bool]) -> None:
        """Hand over replies until ``take`` has enough; late answers to older requests are passed over."""
        while True:
            for reply in _replies(self._socket.recv(_RECEIVE)):
                if reply.sequence >= first and not take(reply):
                    return
