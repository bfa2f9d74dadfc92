"""The packet of a probe, byte by byte, and the tables that follow it and take it out.

It bears a sign that no packet of a guest has in the moment: an identification (IPv4's id, IPv6's flow label), and a
token in what its protocol leaves free. Both stand where no translation of addresses changes them. Sources: RFC 791,
8200, 792, 4443, 768, 9293, 9260, 2131.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from lvagent.render import render
from lvagent.spec.flow import Packet

TABLE = "lvagent-probe"
"""Both the table in the family bridge and the one in inet. They go with the socket that made them."""

IN, OUT, FAILED = "local", "out", "failed"
"""Chains: where what is for the namespace itself is taken out; what leaves it; and what is said of a failure."""

TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
_SYN, _DF, _HOPS = 2, 0x4000, 64
_TOKENS = {TCP: "tcp sequence", UDP: "@th,96,32", SCTP: "@th,128,32"}


@dataclass(frozen=True, slots=True)
class Sign:
    """What a packet is known by. ``ident``: 16 bits; ``token``: 32 bits; ``port``: that it is sent from."""

    ident: int
    token: int
    port: int


def frame(packet: Packet, sign: Sign, source_mac: str, target_mac: str) -> bytes:
    """An Ethernet frame with the packet."""
    kind = 0x0800 if packet.version == 4 else 0x86DD
    head = _mac(target_mac) + _mac(source_mac) + struct.pack("!H", kind)
    return (head + _ip(packet, sign, _payload(packet, sign, source_mac))).ljust(60, b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ip(packet: Packet, sign: Sign, payload: bytes) -> bytes:
    ends = packet.source.packed + packet.destination.packed
    if packet.version == 6:
        return struct.pack("!IHBB", 6 << 28 | sign.ident, len(payload), packet.number, _HOPS) + ends + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), sign.ident, _DF, _HOPS, packet.number, 0) + ends
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def _payload(packet: Packet, sign: Sign, source_mac: str) -> bytes:
    token = struct.pack("!I", sign.token)
    if packet.number == TCP:
        raw = struct.pack("!HHIIBBHHH", sign.port, packet.port, sign.token, 0, 5 << 4, _SYN, 64_240, 0, 0)
        return _summed(packet, raw, 16)
    if packet.number == UDP:
        said = _dhcp(token, source_mac) if packet.port == 67 else b"\1\1\6\0" + token + bytes(8)
        sport = 68 if packet.port == 67 else sign.port
        return _summed(packet, struct.pack("!HHHH", sport, packet.port, 8 + len(said), 0) + said, 6)
    if packet.number in (ICMP, ICMPV6):
        raw = struct.pack("!BBHHH", 8 if packet.number == ICMP else 128, 0, 0, sign.port, 1) + token + bytes(12)
        return _summed(packet, raw, 2)
    if packet.number == SCTP:
        return _sctp(packet, sign)
    return bytes(8) + token + bytes(8)


def _dhcp(token: bytes, mac: str) -> bytes:
    """A request by this client; the token is its transaction id."""
    return b"\1\1\6\0" + token + bytes(20) + _mac(mac).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63\x35\1\1\xff"


def _sctp(packet: Packet, sign: Sign) -> bytes:
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, sign.token, 65_536, 1, 1, sign.token)
    raw = struct.pack("!HHII", sign.port, packet.port, 0, 0) + chunk
    return raw[:8] + struct.pack("<I", crc32c(raw)) + raw[12:]


def crc32c(raw: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    rest = 0xFFFFFFFF
    for octet in raw:
        rest ^= octet
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 * (rest & 1))
    return rest ^ 0xFFFFFFFF


def _checksum(raw: bytes) -> int:
    padded = raw + b"\0" * (len(raw) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _summed(packet: Packet, raw: bytes, at: int) -> bytes:
    """A message with its checksum at ``at``, over the pseudo header where the protocol has one."""
    ends = packet.source.packed + packet.destination.packed
    pseudo = ends + struct.pack("!II", len(raw), packet.number)
    found = _checksum(raw if packet.number == ICMP else pseudo + raw)
    return raw[:at] + struct.pack("!H", found or 0xFFFF) + raw[at + 2 :]


def match(packet: Packet, sign: Sign) -> str:
    """What is the packet, for nft, wherever it is met."""
    known = f"ip id {sign.ident}" if packet.version == 4 else f"ip6 flowlabel {sign.ident}"
    return f"{known} meta l4proto {packet.number} {_TOKENS.get(packet.number, '@th,64,32')} {sign.token}"


def failure(packet: Packet, sign: Sign) -> list[str]:
    """What is an answer to the packet that says that it failed, for nft."""
    found = [
        f"icmp type {{ 3, 11 }} @th,96,16 {sign.ident} @th,136,8 {packet.number}"
        if packet.version == 4
        else f"icmpv6 type {{ 1, 2, 3 }} @th,64,32 & 0x000fffff == {sign.ident} @th,112,8 {packet.number}"
    ]
    if packet.number == TCP:
        found.append(f"tcp flags & rst == rst tcp ackseq {(sign.token + 1) & 0xFFFFFFFF}")
    return found


def table(packet: Packet, sign: Sign, onward: Iterable[str], *, bridged: bool) -> str:
    """The tables that follow the packet in a namespace and take it out.

    :param onward: links by which it may leave.
    :param bridged: whether there are bridges with ports of VMs.
    """
    return render(
        "probe.nft.j2",
        table=TABLE,
        packet=match(packet, sign),
        failures=failure(packet, sign),
        onward=sorted(onward),
        bridged=bridged,
        chains={"local": IN, "out": OUT, "failed": FAILED},
    )
