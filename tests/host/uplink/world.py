"""A host with two networks beside it, and the world behind one of them; every machine is a namespace.

    web 198.51.100.10, .66 -- far --(MTU 1280)-- isp -- wan 203.0.113.1 [the host] lan 192.0.2.1 -- peer 192.0.2.2
        2001:db8:5::10                              2001:db8:1::1                  (the underlay network)

Guests are namespaces too: the outer end of their veth is named as the tap of a VM and has its place in the VPC.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lvagent.host import netns

WEB, DENIED, WEB6 = "198.51.100.10", "198.51.100.66", "2001:db8:5::10"
HOST, HOST6, ISP, LAN, PEER = "203.0.113.1", "2001:db8:1::1", "203.0.113.254", "192.0.2.1", "192.0.2.2"
PORT, DNS = 8080, 53
SOMEWHERE = "9.9.9.10"
"""What names outside stand for; the nets for documentation count as private."""
PLAN = """
web   web0 far1 198.51.100.10/24,198.51.100.66/24,2001:db8:5::10/64  198.51.100.1,2001:db8:5::1 1500
far   far1 web0 198.51.100.1/24,2001:db8:5::1/64  - 1500
far   far0 isp1 203.0.114.2/24,2001:db8:2::2/64  203.0.114.1,2001:db8:2::1 1280
isp   isp1 far0 203.0.114.1/24,2001:db8:2::1/64  203.0.114.2,2001:db8:2::2 1280
isp   isp0 wan  203.0.113.254/24,2001:db8:1::fe/64  - 1500
host  wan  isp0 203.0.113.1/24,2001:db8:1::1/64  203.0.113.254,2001:db8:1::fe 1500
host  lan  peer0 192.0.2.1/24  - 1500
peer  peer0 lan 192.0.2.2/24  192.0.2.1 1500
"""
"""Namespace, link, the other end, addresses, default routes, MTU."""


class World:
    """All of it, in the namespace of the calling thread, which is the host's.

    :param folder: where the namespaces are named.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[Server] = []
        rows = [row.split() for row in PLAN.strip().splitlines()]
        for name in {row[0] for row in rows} - {"host"}:
            self.space(name)
        self.run("host", "ip", "link", "set", "lo", "up")
        for place, link, other, *_ in rows:
            there = next(row[0] for row in rows if row[1] == other)
            if link < other:
                self._pair(place, link, there, other)
        for place, link, _, addresses, _, mtu in rows:
            self.run(place, "sysctl", "-qw", f"net.ipv6.conf.{link}.accept_dad=0")
            self.run(place, "ip", "link", "set", link, "mtu", mtu, "up")
            for address in addresses.split(","):
                self.run(place, "ip", "address", "add", address, "dev", link, *(["nodad"] * (":" in address)))
        for place, _, _, _, ways, _ in rows:
            for way in ways.split(",") if ways != "-" else ():
                family = "-6" if ":" in way else "-4"
                self.run(place, "ip", family, "route", "add", "default", "via", way)

    def _pair(self, place: str, link: str, there: str, other: str) -> None:
        self.run(place, "ip", "link", "add", link, "type", "veth", "peer", "name", other, "netns", self._arg(there))

    def _arg(self, place: str) -> str:
        return str(threading.get_native_id()) if place == "host" else self.path(place)

    def path(self, name: str) -> str:
        """The name of a namespace; '' for the host's."""
        return "" if name == "host" else str(self._folder / name)

    def space(self, name: str) -> str:
        """A new namespace, which forwards."""
        netns.create(self.path(name))
        self.run(name, "ip", "link", "set", "lo", "up")
        self.run(name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        return self.path(name)

    def run(self, name: str, *argv: str, check: bool = True) -> str:
        """Run a command in a namespace."""
        done = netns.inside(
            self.path(name), lambda: subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
        )
        assert not check or done.returncode == 0, (name, argv, done.stderr)
        return done.stdout

    def serve(self, name: str, address: str, port: int) -> Server:
        """A server in a namespace that tells each caller what he said and who he seems to be."""
        made = Server(self.path(name), address, port)
        self.servers.append(made)
        return made

    def close(self) -> None:
        """End all servers; the namespaces go."""
        for one in self.servers:
            one.close()
        for path in self._folder.iterdir():
            netns.delete(str(path))


class _Answer(socketserver.StreamRequestHandler):
    timeout = 30

    def handle(self) -> None:
        said = self.rfile.readline()
        size = int(said.split()[1]) if len(said.split()) > 1 else 0
        left = size
        while left > 0:
            left -= len(self.rfile.read(min(left, 65_536)))
        peer = self.client_address
        self.wfile.write(said.split()[0] + b" " + peer[0].removeprefix("::ffff:").encode() + b"\n" + b"x" * size)


class Server(socketserver.ThreadingTCPServer):
    """``token [size]``, then that many bytes, is answered with the token, the peer's address, and as many bytes."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, path: str, address: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        netns.inside(path, lambda: socketserver.ThreadingTCPServer.__init__(self, (address, port), _Answer))
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller who went is no error of the test."""

    def close(self) -> None:
        """Serve no more."""
        self.shutdown()
        self.server_close()


@dataclass
class Guest:
    """A namespace in the place of a VM."""

    world: World
    name: str

    @property
    def path(self) -> str:
        """The name of its namespace."""
        return self.world.path(self.name)

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        """A socket in it."""
        made = netns.inside(self.path, lambda: socket.socket(family, kind))
        made.settimeout(10)
        return made

    def ask(self, address: str, port: int, token: str, *, size: int = 0, source: int = 0, patience: float = 10) -> str:
        """Whom the server at an address saw; '' if nothing comes back.

        :param size: bytes that are sent, and must come back.
        :param source: the port to ask from.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(family=family) as line, contextlib.suppress(OSError):
            line.settimeout(patience)
            if source:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                line.bind(("", source))
            line.connect((address, port))
            with line.makefile("rwb") as file:
                file.write(f"{token} {size}\n".encode() + b"y" * size)
                file.flush()
                said, seen = file.readline().decode().split()
                assert said == token, "somebody else's answer"
                assert len(file.read(size)) == size
                return seen
        return ""

    def ask_many(self, address: str, port: int, count: int, *, first: int = 0) -> list[str]:
        """Whom the server saw in so many connections at once, each from a port of its own."""
        with ThreadPoolExecutor(count) as pool:
            asked = [
                pool.submit(self.ask, address, port, f"{self.name}.{n}", source=first + n, patience=60)
                for n in range(count)
            ]
            return [one.result() for one in asked]

    def pings(self, address: str, *, seconds: float = 10) -> bool:
        """Whether an address answers to a ping within this time."""
        return pings(self.path, address, seconds=seconds)

    def resolve(self, server: str, name: str, *, patience: float = 10) -> list[str] | None:
        """The IPv4 addresses of a name; None if nobody answers."""
        with self.socket(socket.SOCK_DGRAM) as line:
            line.settimeout(patience)
            try:
                line.sendto(question(name), (server, DNS))
                return answers(line.recv(4096))
            except OSError:
                return None


def pings(path: str, address: str, *, seconds: float = 10) -> bool:
    """Whether an address answers within this time to pings from a namespace, two of which are sent each second."""
    six = ":" in address
    family, proto, asks, says = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129) if six else (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0)
    )
    token = secrets.randbits(16)
    body = struct.pack("!BBHHH", asks, 0, 0, token, 1)
    total = sum(struct.unpack("!4H", body)) if not six else 0
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    with netns.inside(path, lambda: socket.socket(family, socket.SOCK_RAW, proto)) as line:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(OSError):  # no way there, or nobody says where it is: that may be so in a moment
                line.sendto(body if six else body[:2] + struct.pack("!H", total) + body[4:], (address, 0))
            if _replied(line, min(left, 0.5), says, token):
                return True
    return False


def _replied(line: socket.socket, seconds: float, says: int, token: int) -> bool:
    """Whether the answer to a ping comes within this time."""
    end, skipped = time.monotonic() + seconds, 0 if line.family is socket.AF_INET6 else 20
    while (left := end - time.monotonic()) > 0 and select.select([line], [], [], left)[0]:
        got = line.recv(1500)[skipped:]
        if got[0] == says and got[4:6] == struct.pack("!H", token):
            return True
    return False


def question(name: str) -> bytes:
    """A DNS query for the A records of a name."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def answers(raw: bytes) -> list[str]:
    """The addresses of the A records in a DNS answer; their names are pointers."""
    count = struct.unpack_from("!H", raw, 6)[0]
    at = raw.index(b"\0", 12) + 5
    found = []
    for _ in range(count):
        at = at + 2 if raw[at] & 0xC0 else raw.index(b"\0", at) + 1
        kind, _, _, length = struct.unpack_from("!HHIH", raw, at)
        at += 10
        if kind == 1:
            found.append(socket.inet_ntoa(raw[at : at + length]))
        at += length
    return found


@dataclass
class Names:
    """A DNS server: ``names`` have addresses, all others are SOMEWHERE. ``asked``: the names that it was asked for."""

    world: World
    place: str
    address: str
    names: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._line = netns.inside(self.world.path(self.place), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._line.bind((self.address, DNS))
        self._line.settimeout(0.05)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(OSError):
                raw, peer = self._line.recvfrom(4096)
                self._line.sendto(self._answer(raw), peer)

    def _answer(self, raw: bytes) -> bytes:
        end = raw.index(b"\0", 12)
        name, at = [], 12
        while raw[at]:
            name.append(raw[at + 1 : at + 1 + raw[at]].decode())
            at += 1 + raw[at]
        self.asked.append(".".join(name))
        address = socket.inet_aton(self.names.get(".".join(name), SOMEWHERE))
        is_a = raw[end + 1 : end + 3] == b"\0\1"
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + address
        return (
            raw[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_a), 0, 0) + raw[12 : end + 5] + (record if is_a else b"")
        )

    def close(self) -> None:
        """Serve no more."""
        self._closed.set()
        self._thread.join()
        self._line.close()


def until(done: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something comes to be within this time."""
    stop = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if done():
            return True
        stop.wait(0.02)
    return False
