"""Floods a VPC as a hostile guest would, from the guest's own port.

    python flood.py TAP KIND SECONDS GUEST-MAC GUEST-ADDRESS GATEWAY-MAC GATEWAY NEIGHBOUR-MAC NEIGHBOUR

Runs in the VPC's namespace. The tap's other end is qemu's, so frames are put into the tap from this side: what leaves
one end of a veth of its own is taken from the other end and redirected to the tap as if it had just come out of it
(tc-mirred(8), ``ingress redirect``). Prints how many frames were sent. Standard library only.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

NEAR, FAR = "flood-near", "flood-far"
BROADCAST = b"\xff" * 6
VARIANTS = 512


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(raw: bytes) -> int:
    total = sum(map(int, struct.unpack(f"!{len(raw) // 2}H", raw)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + source + destination
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def syn(source: bytes, destination: bytes, sport: int, dport: int) -> bytes:
    raw = struct.pack("!HHIIBBHHH", sport, dport, random.getrandbits(32), 0, 0x50, 2, 65_000, 0, 0)
    pseudo = source + destination + struct.pack("!BBH", 0, 6, len(raw))
    return ipv4(source, destination, 6, raw[:16] + struct.pack("!H", checksum(pseudo + raw)) + raw[18:])


def frames(
    kind: str, own: bytes, ip: bytes, gateway: bytes, router: bytes, other: bytes, peer: bytes
) -> Iterator[bytes]:
    """The frames of one kind, ``VARIANTS`` of them."""
    for number in range(VARIANTS):
        if kind == "syn":
            sport = random.randrange(1024, 65_536)
            yield other + own + b"\x08\x00" + syn(ip, peer, sport, random.randrange(1, 65_536))
        elif kind == "arp":
            target = router[:3] + bytes([number & 255])
            yield (BROADCAST + own + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + own + ip + bytes(6) + target).ljust(
                60, b"\0"
            )
        elif kind == "dhcp":
            chaddr = b"\x06" + os.urandom(5)
            head = struct.pack("!BBBBIHHIIII", 1, 1, 6, 0, random.getrandbits(32), 0, 0x8000, 0, 0, 0, 0)
            body = head + chaddr.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63\x35\x01\x01\xff"
            udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
            yield BROADCAST + own + b"\x08\x00" + ipv4(bytes(4), b"\xff" * 4, 17, udp)
        elif kind == "metadata":
            yield gateway + own + b"\x08\x00" + syn(ip, bytes([169, 254, 169, 254]), random.randrange(1024, 65_536), 80)
        else:
            raise SystemExit(f"there is no flood {kind}")


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def main(tap: str, kind: str, seconds: str, *where: str) -> None:
    own, ip, gateway, router, other, peer = (mac(text) if ":" in text else socket.inet_aton(text) for text in where)
    made = list(frames(kind, own, ip, gateway, router, other, peer))
    run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR)
    try:
        for name in (NEAR, FAR):
            run("ip", "link", "set", name, "up")
        run("tc", "qdisc", "add", "dev", FAR, "ingress")
        match = ["protocol", "all", "u32", "match", "u32", "0", "0"]
        redirect = ["action", "mirred", "ingress", "redirect", "dev", tap]
        run("tc", "filter", "add", "dev", FAR, "parent", "ffff:", *match, *redirect)
        print(send(made, float(seconds)), flush=True)
    finally:
        run("ip", "link", "delete", NEAR)


def send(made: list[bytes], seconds: float) -> int:
    """Send them again and again; how many were sent."""
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((NEAR, 0))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for frame in made:
                try:
                    out.send(frame)
                    sent += 1
                except OSError:  # its queue is full
                    time.sleep(0.0005)
    return sent


if __name__ == "__main__":
    main(*sys.argv[1:])
