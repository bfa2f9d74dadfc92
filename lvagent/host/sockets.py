"""Who listens in a namespace, as the kernel lists it (/proc/net/tcp and its like: proc_net(5))."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

from lvagent.spec.addresses import Address
from lvagent.spec.flow import Packet

_FILES = {6: ("tcp", "0A"), 17: ("udp", "07")}
"""Of each protocol: its file, and the state of a socket that takes what comes."""

_FOLDER = Path("/proc/thread-self/net")


def listens(packet: Packet) -> bool:
    """Whether somebody takes this packet, in the namespace of the calling thread."""
    if packet.number not in _FILES:
        return False
    name, state = _FILES[packet.number]
    files = [f"{name}6"] if packet.version == 6 else [name, f"{name}6"]
    return any(_takes(line, packet, state) for file in files for line in _lines(_FOLDER / file))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []


def _takes(line: str, packet: Packet, state: str) -> bool:
    fields = line.split()
    address, _, port = fields[1].partition(":")
    if fields[3] != state or int(port, 16) != packet.port:
        return False
    bound = _address(address)
    return bound == packet.destination or bound.is_unspecified


def _address(text: str) -> Address:
    """An address: words of four bytes in the host's order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ip_address(struct.pack(f"={len(words)}I", *words))
