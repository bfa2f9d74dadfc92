"""Who listens on this host: the sockets of /proc/net/tcp, tcp6, udp, udp6 that take what comes, and whose they are.

A UDP socket takes what comes unless it is connected to one peer. ``::`` takes IPv4 too, unless its owner said
otherwise, which these files do not tell: such a one is told for both (proc_net_tcp.rst, ipv6(7) on IPV6_V6ONLY).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from lvagent.spec.addresses import Address

_LISTEN, _UNCONNECTED = "0A", "07"
_FILES = (
    ("tcp", "tcp", _LISTEN),
    ("tcp6", "tcp", _LISTEN),
    ("udp", "udp", _UNCONNECTED),
    ("udp6", "udp", _UNCONNECTED),
)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes what comes. ``address``: '' for any. ``inode``: its number."""

    proto: str
    address: str
    port: int
    inode: int

    def takes(self, proto: str, address: str, first: int, last: int) -> bool:
        """Whether something for one of these ports would come to it.

        :param address: '' for any.
        """
        ours = self.proto == proto and first <= self.port <= last
        return ours and (not address or not self.address or address == self.address)


def listeners(folder: Path = Path("/proc/thread-self/net")) -> tuple[Listener, ...]:
    """The sockets of the namespace that the calling thread is in; those of 127.0.0.0/8 and ::1 are in nobody's way."""
    found = [one for name, proto, state in _FILES for one in _rows(folder / name, proto, state)]
    return tuple(found)


def _rows(path: Path, proto: str, state: str) -> Iterator[Listener]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return  # a kernel without IPv6
    for row in text.splitlines()[1:]:
        words = row.split()
        if len(words) < 10 or words[3] != state:
            continue
        place, _, port = words[1].partition(":")
        address = parse_address(place)
        if not address.is_loopback:
            told = "" if address.is_unspecified else str(address)
            yield Listener(proto, told, int(port, 16), int(words[9]))


def parse_address(text: str) -> Address:
    """An address as these files have it: 32 bit words in the order of this machine, in hexadecimal."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    if len(raw) == 4:
        return IPv4Address(raw)
    six = IPv6Address(raw)
    return six.ipv4_mapped or six


def holder(inode: int) -> str:
    """Who has a socket open, as ``name (pid)``; '' if it is the kernel, or nobody any more."""
    wanted = f"socket:[{inode}]"
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            for descriptor in os.listdir(process / "fd"):
                if _target(process / "fd" / descriptor) == wanted:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # it ended
    return ""


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
