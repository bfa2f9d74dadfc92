"""Floating addresses on the wire: asked about before they are taken, answered for, and announced.

Sources: RFC 5227 (ARP probes and announcements), RFC 4861 (neighbour discovery), packet(7).
"""

from __future__ import annotations

import select
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address, ip_address

from lvagent.host.netlink import mac_bytes, mac_text

PROBES = 3
INTERVAL = 0.2
"""Seconds between two probes; as long is waited after the last."""
ANNOUNCEMENTS = 3

_ARP, _IPV6 = 0x0806, 0x86DD
_ARP_REQUEST, _ARP_REPLY = 1, 2
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ICMPV6, _HOPS = 58, 255
_OVERRIDE = 0x2000_0000
_ALL_NODES = IPv6Address("ff02::1")
_NOBODY = b"\0" * 6
_EVERYBODY = b"\xff" * 6


def probe(link: str, mac: str, address: str) -> str:
    """Ask on a link who has an address, in the namespace of the calling thread.

    :param mac: the link's own.
    :return: the MAC that answered; '' if none did.
    :raise OSError: the link is not there, or down.
    """
    wanted = ip_address(address)
    kind = _ARP if wanted.version == 4 else _IPV6
    question = _arp_probe(mac, wanted) if isinstance(wanted, IPv4Address) else _solicitation(mac, wanted)
    with _line(link, kind) as line:
        for _ in range(PROBES):
            line.send(question)
            end = time.monotonic() + INTERVAL
            while (left := end - time.monotonic()) > 0:
                if not select.select([line], [], [], left)[0]:
                    break
                answered = answer(line.recv(2048), address)
                if answered and answered != mac:
                    return answered
    return ""


def announce(link: str, mac: str, address: str) -> None:
    """Tell everybody on a link that an address is at its MAC, in the namespace of the calling thread.

    :raise OSError: the link is not there, or down.
    """
    wanted = ip_address(address)
    told = _announcement(mac, wanted) if isinstance(wanted, IPv4Address) else _advertisement(mac, wanted)
    with _line(link, _ARP if wanted.version == 4 else _IPV6) as line:
        for count in range(ANNOUNCEMENTS):
            if count:
                time.sleep(INTERVAL / 4)
            line.send(told)


def _line(link: str, kind: int) -> socket.socket:
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
    try:
        line.bind((link, kind))
    except BaseException:
        line.close()
        raise
    return line


def answer(frame: bytes, address: str) -> str:
    """The MAC by which a frame says that somebody has an address; '' if it says nothing of it."""
    wanted = ip_address(address)
    if wanted.version == 4:
        return _arp_answer(frame, wanted.packed)
    return _nd_answer(frame, wanted.packed)


def _arp_answer(frame: bytes, wanted: bytes) -> str:
    """Also somebody else's announcement, or question from that address, says so (RFC 5227, 2.1.1)."""
    if len(frame) < 42 or frame[12:14] != struct.pack("!H", _ARP):
        return ""
    return mac_text(frame[22:28]) if frame[28:32] == wanted else ""


def _nd_answer(frame: bytes, wanted: bytes) -> str:
    if len(frame) < 78 or frame[12:14] != struct.pack("!H", _IPV6) or frame[20] != _ICMPV6 or frame[21] != _HOPS:
        return ""
    return mac_text(frame[6:12]) if frame[54] == _ADVERTISEMENT and frame[62:78] == wanted else ""


def _arp(kind: int, mac: str, sender: bytes, target: bytes) -> bytes:
    head = _EVERYBODY + mac_bytes(mac) + struct.pack("!H", _ARP)
    return head + struct.pack("!HHBBH", 1, 0x0800, 6, 4, kind) + mac_bytes(mac) + sender + _NOBODY + target


def _arp_probe(mac: str, address: IPv4Address) -> bytes:
    return _arp(_ARP_REQUEST, mac, bytes(4), address.packed)


def _announcement(mac: str, address: IPv4Address) -> bytes:
    return _arp(_ARP_REQUEST, mac, address.packed, address.packed)


def _solicitation(mac: str, address: IPv6Address) -> bytes:
    """As of duplicate address detection: from nobody, so the answer is for all (RFC 4862, 5.4.2)."""
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])
    body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address.packed
    return _icmpv6(mac, IPv6Address(0), group, body)


def _advertisement(mac: str, address: IPv6Address) -> bytes:
    option = struct.pack("!BB", 2, 1) + mac_bytes(mac)
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + option
    return _icmpv6(mac, address, _ALL_NODES, body)


def _icmpv6(mac: str, source: IPv6Address, target: IPv6Address, body: bytes) -> bytes:
    pseudo = source.packed + target.packed + struct.pack("!II", len(body), _ICMPV6)
    checked = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, _HOPS)
    ether = b"\x33\x33" + target.packed[12:] + mac_bytes(mac) + struct.pack("!H", _IPV6)
    return ether + head + source.packed + target.packed + checked


def _checksum(raw: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(raw) // 2}H", raw))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
