"""A hostile guest and the metadata port: it gets what is its own, keeps nobody from theirs, and ends nothing."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.host import netns
from lvagent.host.imds import MetadataService
from lvagent.metadata.limits import Limits
from tests.host.metadata.site import V4, V6, Client, guest, guest_in, pids, settings_in, share, vpc

pytestmark = pytest.mark.host

OWN, SECRET = b"own-user-data", b"neighbours-user-data"
ASK = b"/latest/user-data"
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
LIMITS = Limits()

FORGED = {
    "X-Forwarded-For": "10.0.0.6", "X-Real-IP": "10.0.0.6", "X-Client-IP": "10.0.0.6", "True-Client-IP": "10.0.0.6",
    "Forwarded": "for=10.0.0.6", "Via": "1.1 10.0.0.6", "Host": "10.0.0.6", "X-Instance-ID": "i-0000000006",
    "X-Instance-ID-Signature": "0" * 64, "X-Tenant-ID": "vpc-aaaaaaaaaa", "X-Neutron-Network-ID": "x",
    "X-Original-URL": "/latest/user-data", "X-HTTP-Method-Override": "PUT",
}  # fmt: skip
"""Headers that some service or proxy believes."""

REQUEST = b"GET " + ASK + b" HTTP/1.1\r\nHost: 10.0.0.6\r\n"
INNER = b"GET " + ASK + b" HTTP/1.1\r\nHost: 10.0.0.6\r\nX-Forwarded-For: 10.0.0.6\r\n\r\n"

REFUSED = {
    "absolute form": b"GET http://10.0.0.6/latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority form": b"CONNECT 10.0.0.6:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": REQUEST + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + INNER,
    "length and coding": REQUEST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "coding with a tab": REQUEST + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + INNER,
    "coding with a space": REQUEST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER,
    "content": b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "fold": REQUEST + b"X: a\r\n b: c\r\n\r\n",
    "fold first": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "bare LF": REQUEST.replace(b"\r\n", b"\n") + b"\r\n\r\n",
    "bare LF in a field": REQUEST + b"X: a\nX-Forwarded-For: 10.0.0.6\r\n\r\n",
    "bare CR": REQUEST + b"X: a\rHost: b\r\n\r\n",
    "NUL": REQUEST + b"X: a\0b\r\n\r\n",
    "NUL in the target": b"GET /latest\0/user-data HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hosts": REQUEST + b"Host: 10.0.0.5\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "long target": b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "large head": REQUEST + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "many fields": REQUEST + b"X: a\r\n" * 3000 + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /latest/user-data\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
}
"""Requests that a proxy in front could read in another way, and what is none."""


@pytest.fixture
def hostile(service: MetadataService, one_vpc: str, clients: tuple[Client, Client]) -> Iterator[Client]:
    """A guest beside one with a secret, who has it still at the end, from the same service."""
    service.ensure(share(one_vpc, guest(5, one_vpc, OWN), guest(6, one_vpc, SECRET)))
    yield clients[0]
    assert clients[1].ask("/latest/user-data") == (200, SECRET)


def told(client: Client, raw: bytes, *, patience: float = 30) -> bytes:
    """All that comes back for these bytes."""
    with client.connect() as connected:
        connected.settimeout(patience)
        received = b""
        with contextlib.suppress(ConnectionError):
            connected.sendall(raw)
            connected.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while more := connected.recv(1 << 16):
                received += more
        return received


def test_headers_prove_nothing(hostile: Client) -> None:
    for name, value in FORGED.items():
        fields = {name: value}
        assert hostile.ask("/latest/user-data", fields=fields) == (200, OWN), name
        status, body = hostile.ask("/latest/api/token", method="PUT", fields={**TTL, **fields})
        assert (status, body) == (403, b"") if name == "X-Forwarded-For" else (status == 200 and body), name


def test_what_could_be_read_in_two_ways_is_refused_whole(hostile: Client) -> None:
    for name, raw in REFUSED.items():
        received = told(hostile, raw)
        assert received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), name
        assert received.count(b"HTTP/1.1 ") == 1, name
        assert b"user-data" not in received, name


def test_the_twin_of_those_is_answered_once_for_each_request(hostile: Client) -> None:
    received = told(hostile, INNER + INNER)
    assert received.count(b"HTTP/1.1 200 OK") == received.count(OWN) == 2


def test_a_token_is_worth_nothing_elsewhere(service: MetadataService, hostile: Client) -> None:
    _, token = hostile.ask("/latest/api/token", method="PUT", fields=TTL)
    bearer = {"X-aws-ec2-metadata-token": token.decode()}
    with vpc() as other, guest_in(other, 5) as namesake:
        service.ensure(share(other, guest(5, other, SECRET)))
        assert namesake.ask("/latest/user-data", fields=bearer) == (401, b"")
        assert namesake.ask("/latest/user-data") == (200, SECRET)
    assert hostile.ask("/latest/user-data", fields=bearer) == (200, OWN)


@pytest.mark.parametrize(("server", "ethertype", "where"), [(V4, 0x0800, 8), (V6, 0x86DD, 7)])
def test_a_token_stays_near_and_nothing_else_does(hostile: Client, server: str, ethertype: int, where: int) -> None:
    def times_to_live(method: str, path: str) -> set[int]:
        """Of the frames that hold the answer."""
        with netns.inside(
            f"/run/netns/{hostile.name}", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        ) as tap:
            tap.bind(("eth0", ethertype))
            assert hostile.ask(path, method=method, fields=TTL, server=server)[0] == 200
            tap.settimeout(0.3)
            found = set()
            with contextlib.suppress(TimeoutError):
                while frame := tap.recv(1 << 16):
                    found |= {frame[where]} if b"HTTP/1.1 200 OK" in frame else set()
            return found

    assert times_to_live("PUT", "/latest/api/token") == {1}
    assert times_to_live("GET", "/latest/user-data") == {64}


def test_how_near_is_a_setting(service: MetadataService, folder: Path, one_vpc: str) -> None:
    service.ensure(share(one_vpc))
    before = pids(folder)
    wider = MetadataService(settings_in(folder, hops=2))
    assert wider.observe(one_vpc) is None
    wider.ensure(share(one_vpc))
    assert pids(folder) != before
    (pid,) = pids(folder)
    assert b"--hops=2" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_many_slow_clients_and_a_flood_of_connections_keep_nobody_from_an_answer(
    hostile: Client, clients: tuple[Client, Client]
) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), hostile.connect() as connected:
                connected.send(b"GET /")

    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(hostile.connect()) for _ in range(LIMITS.served + LIMITS.waiting)]
        for connected in slow:
            connected.sendall(b"G")
        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        took = []
        for _ in range(60):
            asked = time.monotonic()
            assert clients[1].ask("/latest/user-data") == (200, SECRET)
            took.append(time.monotonic() - asked)
        stop.set()
        for thread in threads:
            thread.join()
    print(f"60 answers in {time.monotonic() - began:.2f} s, the slowest {max(took) * 1000:.0f} ms", file=sys.stderr)


PIECES = (b"\r\n", b"\n", b"\r\n\r\n", b"\0", b" ", b"%00", b"..", b"/", b":", b"\xff")


def mutated(source: random.Random) -> bytes:
    """A request with bytes changed, doubled, cut off or added; or none at all."""
    seeds = (INNER, REQUEST + b"Connection: keep-alive\r\n\r\n", *REFUSED.values())
    raw = bytearray(source.choice(seeds)[:4000])
    for _ in range(source.randint(0, 6)):
        at = source.randrange(len(raw))
        match source.randrange(4):
            case 0:
                raw[at] = source.randrange(256)
            case 1:
                raw[at:at] = source.choice(
                    (b"\r\n", b"\n", b"\r\n\r\n", b"\0", b" ", b"%00", b"..", b"/", b":", b"\xff")
                )
            case 2:
                del raw[at : at + source.randrange(1, 40)]
            case _:
                raw[at:at] = raw[source.randrange(len(raw)) :][: source.randrange(200)]
        raw = raw or bytearray(b"G")
    return bytes(raw)


def test_it_survives_thousands_of_malformed_requests(hostile: Client, folder: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}", file=sys.stderr)
    source = random.Random(seed)
    before = pids(folder)
    for _ in range(60):
        with hostile.connect() as connected:
            connected.sendall(b"".join(mutated(source) for _ in range(40))[:60_000])
            connected.settimeout(30)
            received = b""
            with contextlib.suppress(ConnectionError):
                connected.shutdown(socket.SHUT_WR)
                while more := connected.recv(1 << 16):
                    received += more
            assert SECRET not in received
            assert received.count(b"HTTP/1.1 ") >= 1 or not received
    for _ in range(1500):
        assert SECRET not in told(hostile, mutated(source))
    assert pids(folder) == before
    log = (folder / "state" / "metadata.log").read_text()
    assert "a connection failed" not in log
    assert OWN.decode() not in log
    assert len(log) < 100_000
    assert len(os.listdir(f"/proc/{before[0]}/fd")) < 40
