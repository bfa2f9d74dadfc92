"""A VPC's namespace with bridges, clients on them, and what clients say: DHCPv4, DHCPv6, router solicitation, DNS.

Packets are put together byte by byte, so that a client here can also say what no honest client would.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lvagent.host import netns
from lvagent.host.run import run

T = TypeVar("T")

NETNS = Path("/run/netns")
MAGIC = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK, NAK, RELEASE = 1, 2, 3, 5, 6, 7
SOLICIT, ADVERTISE, REQUEST6, REPLY, RENEW = 1, 2, 3, 7, 5
NO_ADDRESS = 2
LONG, AGAIN = 15.0, 1.0
"""Seconds that are waited for an answer; and after which a client says it again, as any does: a bridge with its first
port, which was set up just now, carries nothing for a moment."""


def name(prefix: str = "vpc-") -> str:
    """A random name of our scheme."""
    return prefix + secrets.token_hex(5)


@contextlib.contextmanager
def namespace(called: str) -> Iterator[str]:
    """A network namespace for the length of a test, without DAD."""
    run(["ip", "netns", "add", called])
    try:
        run(["ip", "-n", called, "link", "set", "lo", "up"])
        netns.inside(str(NETNS / called), _no_dad)
        yield called
    finally:
        run(["ip", "netns", "del", called])


def _no_dad() -> None:
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")


def bridge(vpc: str, device: str, *gateways: str) -> None:
    """A subnet's bridge with its gateway addresses."""
    run(["ip", "-n", vpc, "link", "add", device, "type", "bridge"])
    for gateway in gateways:
        run(["ip", "-n", vpc, "addr", "add", gateway, "dev", device, *(["nodad"] if ":" in gateway else [])])
    run(["ip", "-n", vpc, "link", "set", device, "up"])


@dataclass(frozen=True, slots=True)
class Offer:
    """A DHCPv4 answer: its type, the address, and the options by number."""

    kind: int
    address: str
    options: dict[int, bytes]

    @property
    def router(self) -> str | None:
        """Option 3."""
        return socket.inet_ntoa(self.options[3]) if 3 in self.options else None


@dataclass(frozen=True, slots=True)
class Advert:
    """A router advertisement: flags M and O, router lifetime (s), MTU, and the options' types."""

    managed: bool
    other: bool
    lifetime: int
    mtu: int
    kinds: tuple[int, ...]
    autonomous: bool


@dataclass(frozen=True, slots=True)
class Client:
    """A NIC in a namespace of its own, on a bridge of a VPC."""

    where: str
    device: str
    mac: str

    def inside(self, function: Callable[[], object]) -> object:
        """Call it in the client's namespace."""
        return netns.inside(str(NETNS / self.where), function)

    def address(self, *addresses: str) -> None:
        """Take these addresses (with prefix)."""
        for address in addresses:
            run(["ip", "-n", self.where, "addr", "add", address, "dev", self.device])

    def open(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket in the client's namespace."""
        made = self.inside(lambda: socket.socket(family, kind, protocol))
        assert isinstance(made, socket.socket)
        return made

    def dhcp(self, kind: int, options: bytes = b"", *, ciaddr: str = "0.0.0.0", wait: float = LONG) -> Offer | None:
        """Send a DHCPv4 message as this MAC, each second; what comes back, None after ``wait`` seconds of nothing."""
        xid = secrets.token_bytes(4)
        chaddr = bytes.fromhex(self.mac.replace(":", ""))
        body = struct.pack("!BBBB4sHH4s12s", 1, 1, 6, 0, xid, 0, 0x8000, socket.inet_aton(ciaddr), bytes(12))
        body += chaddr + bytes(10) + bytes(192) + MAGIC + bytes([53, 1, kind]) + options + b"\xff"
        with self.open(socket.AF_PACKET, socket.SOCK_RAW, 0x0800) as raw:
            raw.bind((self.device, 0x0800))
            frame = b"\xff" * 6 + chaddr + b"\x08\x00" + _ip_udp(body, "0.0.0.0", "255.255.255.255", 68, 67)
            return _ask(raw, lambda: raw.send(frame), wait, lambda packet: _offer(packet, xid))

    def lease(self, extra: bytes = b"", wait: float = LONG) -> Offer | None:
        """DISCOVER and REQUEST, as a client does that has no address."""
        offer = self.dhcp(DISCOVER, extra, wait=wait)
        if offer is None:
            return None
        wish = bytes([50, 4]) + socket.inet_aton(offer.address) + bytes([54, 4]) + offer.options[54]
        return self.dhcp(REQUEST, wish + extra)

    def dhcp6(self, kind: int, duid: bytes, options: bytes, wait: float = LONG) -> dict[int, bytes] | None:
        """Send a DHCPv6 message, each second; the options of what comes back."""
        message = bytes([kind]) + secrets.token_bytes(3) + _option6(1, duid) + options + _option6(6, b"\0\x17\0\x18")
        with self.open(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode())
            udp.bind(("::", 546))
            index = _index(self)
            to = ("ff02::1:2", 547, 0, index)
            parse: Callable[[bytes], dict[int, bytes] | None]
            parse = lambda packet: _options6(packet[4:]) if packet[1:4] == message[1:4] else None  # noqa: E731
            return _ask(udp, lambda: udp.sendto(message, to), wait, parse)

    def lease6(self, duid: bytes = b"", iaid: int = 1, extra: bytes = b"", wait: float = LONG) -> str | None:
        """SOLICIT and REQUEST: the address it got, None when it is refused one."""
        mine = duid or b"\0\x03\0\x01" + bytes.fromhex(self.mac.replace(":", ""))
        ask = _option6(3, struct.pack("!III", iaid, 0, 0)) + extra
        advert = self.dhcp6(SOLICIT, mine, ask, wait)
        if advert is None or _address6(advert) is None:
            return None
        answer = self.dhcp6(REQUEST6, mine, _option6(2, advert[2]) + _option6(3, advert[3]) + extra)
        return _address6(answer) if answer else None

    def router(self, wait: float = LONG) -> Advert | None:
        """Solicit a router, each second; its advertisement."""
        with self.open(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode())
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            to = ("ff02::2", 0, 0, _index(self))
            return _ask(raw, lambda: raw.sendto(b"\x85\0\0\0\0\0\0\0", to), wait, _advert)

    def resolve(
        self, server: str, question: str, kind: int, *, tcp: bool = False, wait: float = LONG
    ) -> tuple[int, tuple[str, ...]]:
        """Ask a DNS server: the response code, and the answers as text."""
        query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + _qname(question) + struct.pack("!HH", kind, 1)
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with self.open(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait)
            sock.connect((server, 53))
            sock.send(struct.pack("!H", len(query)) + query if tcp else query)
            packet = sock.recv(4096)
        return _answers(packet[2:] if tcp else packet, kind)


@contextlib.contextmanager
def client(vpc: str, device: str, mac: str) -> Iterator[Client]:
    """A client with this MAC on a bridge of the VPC."""
    port, where = "p" + secrets.token_hex(5), "lvt-" + secrets.token_hex(4)
    with namespace(where):
        peer = ["peer", "name", "eth0", "address", mac, "netns", where]
        run(["ip", "-n", vpc, "link", "add", port, "type", "veth", *peer])
        run(["ip", "-n", vpc, "link", "set", port, "master", device, "up"])
        run(["ip", "-n", where, "link", "set", "eth0", "up"])
        yield Client(where, "eth0", mac)


def _index(who: Client) -> int:
    index = who.inside(lambda: socket.if_nametoindex(who.device))
    assert isinstance(index, int)
    return index


def _ask(
    sock: socket.socket, send: Callable[[], object], seconds: float, parse: Callable[[bytes], T | None]
) -> T | None:
    """Send until something comes back of which something can be made."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        send()
        if (found := _wait(sock, min(left, AGAIN), parse)) is not None:
            return found
    return None


def _wait(sock: socket.socket, seconds: float, parse: Callable[[bytes], T | None]) -> T | None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            found = parse(sock.recv(4096))
        except TimeoutError:
            return None
        if found is not None:
            return found
    return None


def _checksum(raw: bytes) -> int:
    total = sum(struct.unpack(f"!{len(raw) // 2}H", raw))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _ip_udp(body: bytes, source: str, target: str, sport: int, dport: int) -> bytes:
    udp = struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + udp


def _offer(frame: bytes, xid: bytes) -> Offer | None:
    body = frame[14 + 20 + 8 :]
    if len(body) < 240 or body[0] != 2 or body[4:8] != xid:
        return None
    options: dict[int, bytes] = {}
    at = 240
    while at < len(body) and body[at] != 255:
        if body[at]:
            options[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
            at += 2 + body[at + 1]
        else:
            at += 1
    return Offer(options[53][0], socket.inet_ntoa(body[16:20]), options)


def _option6(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value


def _options6(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(raw) >= 4:
        number, length = struct.unpack("!HH", raw[:4])
        found[number], raw = raw[4 : 4 + length], raw[4 + length :]
    return found


def _address6(options: dict[int, bytes]) -> str | None:
    inner = _options6(options.get(3, bytes(12))[12:])
    return socket.inet_ntop(socket.AF_INET6, inner[5][:16]) if 5 in inner else None


def _advert(packet: bytes) -> Advert | None:
    if packet[0] != 134:
        return None
    mtu, kinds, autonomous, rest = 0, [], False, packet[16:]
    while rest:
        kind, length = rest[0], rest[1] * 8
        kinds.append(kind)
        mtu = struct.unpack("!I", rest[4:8])[0] if kind == 5 else mtu
        autonomous |= kind == 3 and bool(rest[3] & 0x40)
        rest = rest[length:]
    flags, lifetime = packet[5], struct.unpack("!H", packet[6:8])[0]
    return Advert(bool(flags & 0x80), bool(flags & 0x40), lifetime, mtu, tuple(sorted(kinds)), autonomous)


def _qname(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def _answers(packet: bytes, kind: int) -> tuple[int, tuple[str, ...]]:
    _, flags, questions, count, _, _ = struct.unpack("!HHHHHH", packet[:12])
    at = 12
    for _ in range(questions):
        at = _skip(packet, at) + 4
    found = []
    for _ in range(count):
        at = _skip(packet, at)
        got, _, _, length = struct.unpack("!HHIH", packet[at : at + 10])
        value = packet[at + 10 : at + 10 + length]
        at += 10 + length
        if got == kind:
            found.append(_text(packet, at - length) if kind == 12 else str(ipaddress.ip_address(value)))
    return flags & 15, tuple(found)


def _skip(packet: bytes, at: int) -> int:
    while packet[at]:
        if packet[at] >= 0xC0:
            return at + 2
        at += packet[at] + 1
    return at + 1


def _text(packet: bytes, at: int) -> str:
    labels = []
    while packet[at]:
        if packet[at] >= 0xC0:
            at = struct.unpack("!H", packet[at : at + 2])[0] & 0x3FFF
            continue
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += packet[at] + 1
    return ".".join(labels)


def reverse(address: str) -> str:
    """The name to ask a PTR record for."""
    return ipaddress.ip_address(address).reverse_pointer


def exists(pid: int) -> bool:
    """Whether there is such a process, alive."""
    with contextlib.suppress(OSError):
        return bool(os.readlink(f"/proc/{pid}/exe"))
    return False
