"""Ethernet frames as a guest would send them, built byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from lvagent.host.netlink import mac_bytes

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, UDP, ICMPV6 = 1, 17, 58
RS, RA, NS, NA, REDIRECT = 133, 134, 135, 136, 137


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    """A frame, padded to the least that Ethernet carries."""
    frame = mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", kind) + payload
    return frame.ljust(60, b"\0")


def tagged(source: str, destination: str, *tags: tuple[int, int], kind: int, payload: bytes) -> bytes:
    """A frame with VLAN tags: pairs of tag protocol and VLAN id, the outermost first."""
    heads = b"".join(struct.pack("!HH", protocol, vlan) for protocol, vlan in tags)
    frame = mac_bytes(destination) + mac_bytes(source) + heads + struct.pack("!H", kind) + payload
    return frame.ljust(64, b"\0")


def checksum(raw: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = raw + b"\0" * (len(raw) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp(source: str, operation: int, sender: str, target: str, *, claims: str = "", to: str = BROADCAST) -> bytes:
    """An ARP frame (1: request, 2: reply). ``claims``: the sender's MAC inside, when it is not the frame's."""
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    body += mac_bytes(claims or source) + IPv4Address(sender).packed + bytes(6) + IPv4Address(target).packed
    return ethernet(source, to, ARP, body)


def ipv4(sender: str, receiver: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    """An IPv4 packet. ``fragment``: flags and offset as they stand in the header."""
    addresses = IPv4Address(sender).packed + IPv4Address(receiver).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(sport: int, dport: int, payload: bytes = b"x" * 18) -> bytes:
    """A UDP datagram without checksum."""
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def ping(payload: bytes = b"lvagent!") -> bytes:
    """An ICMP echo request."""
    raw = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + payload
    return raw[:2] + struct.pack("!H", checksum(raw)) + raw[4:]


def dhcp(client: str, *, op: int = 1) -> bytes:
    """A BOOTP message with this hardware address, with the DHCP cookie and DISCOVER."""
    head = struct.pack("!BBBBIHHIIII", op, 1, 6, 0, 0x1234, 0, 0x8000, 0, 0, 0, 0)
    return head + mac_bytes(client).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63\x35\x01\x01\xff"


def ipv6(sender: str, receiver: str, following: int, payload: bytes, *, hops: int = 255) -> bytes:
    """An IPv6 packet."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, hops)
    return head + IPv6Address(sender).packed + IPv6Address(receiver).packed + payload


def icmp6(sender: str, receiver: str, kind: int, body: bytes) -> bytes:
    """An ICMPv6 message with its checksum, without the IPv6 header."""
    raw = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = IPv6Address(sender).packed + IPv6Address(receiver).packed + struct.pack("!II", len(raw), ICMPV6)
    return raw[:2] + struct.pack("!H", checksum(pseudo + raw)) + raw[4:]


def neighbour(kind: int, target: str, mac: str = "") -> bytes:
    """The body of a solicitation or advertisement, with the link-layer option if a MAC is given."""
    flags = 0x20000000 if kind == NA else 0
    option = struct.pack("!BB", 2 if kind == NA else 1, 1) + mac_bytes(mac) if mac else b""
    return struct.pack("!I", flags) + IPv6Address(target).packed + option


def message6(source: str, sender: str, receiver: str, kind: int, body: bytes, *, to: str = ALL_NODES) -> bytes:
    """A frame with an ICMPv6 message."""
    return ethernet(source, to, IPV6, ipv6(sender, receiver, ICMPV6, icmp6(sender, receiver, kind, body)))


def behind(extension: int, sender: str, receiver: str, following: int, payload: bytes) -> bytes:
    """An IPv6 packet whose payload stands behind an extension header: 0 hop-by-hop, 60 destination, 44 fragment."""
    head = struct.pack("!BBHI", following, 0, 0 if extension == 44 else 0x0104, 0)
    return ipv6(sender, receiver, extension, head + payload)
