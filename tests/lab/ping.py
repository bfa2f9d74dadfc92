"""Pings an address once a second, and says how many answers came.

    python ping.py ADDRESS COUNT

Standard library only: the machine needs no ping for it.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time

ECHO, REPLY = 8, 0


def checksum(raw: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(raw) // 2}H", raw))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(number: int) -> bytes:
    """An echo request."""
    head = struct.pack("!BBHHH", ECHO, 0, 0, 0x6C76, number)
    return struct.pack("!BBHHH", ECHO, 0, checksum(head), 0x6C76, number)


def answered(line: socket.socket, number: int, seconds: float) -> bool:
    """Whether the reply to a request comes in time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([line], [], [], left)[0]:
        raw = line.recv(2048)
        kind, _, _, _, got = struct.unpack_from("!BBHHH", raw, (raw[0] & 15) * 4)
        if (kind, got) == (REPLY, number):
            return True
    return False


def main(address: str, count: str) -> None:
    """Ping and tell, in the words of ping(8)."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as line:
        for number in range(int(count)):
            began = time.monotonic()
            line.sendto(echo(number), (address, 0))
            received += answered(line, number, 1)
            time.sleep(max(0.0, began + 1 - time.monotonic()))
    print(f"{count} packets transmitted, {received} received")


if __name__ == "__main__":
    main(*sys.argv[1:])
