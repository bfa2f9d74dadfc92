"""One connection between two ends of a socket pair, with little patience."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from lvagent.metadata.answer import Asker
from lvagent.metadata.connection import Connection
from lvagent.metadata.limits import Limits, Pace
from lvagent.metadata.service import Share
from lvagent.metadata.tokens import Tokens
from lvagent.plan.resources import Guest

pytestmark = pytest.mark.host

ONE = Asker(7, Guest("i-0000000001", "one", (), (), bytes(1 << 20)))
LIMITS = Limits(head=0.2, send=0.2, idle=0.4)


def serve(
    sent: bytes, *, pause: float = 0, more: bytes = b"", drip: bytes = b"", limits: Limits = LIMITS
) -> tuple[bytes, float]:
    """Serve a client that sends, waits, sends more, and drips, and reads in the end; what it got, and the seconds."""

    async def both() -> float:
        loop = asyncio.get_running_loop()
        connection = Connection(ours, lambda: ONE, Pace(100, 100, time.monotonic), Tokens(), limits)
        begun = loop.time()
        serving = loop.create_task(connection.serve())
        theirs.sendall(sent)
        await asyncio.sleep(pause)
        if more:
            theirs.sendall(more)
        while drip and not serving.done():
            assert loop.time() - begun < 10, "it goes on with a client that drips"
            with contextlib.suppress(OSError):
                theirs.sendall(drip)
            await asyncio.sleep(limits.head / 4)
        await asyncio.wait_for(serving, 10)
        return loop.time() - begun

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        took = asyncio.run(both())
        return b"".join(iter(lambda: theirs.recv(1 << 16), b"")), took


def test_a_client_that_takes_no_answer_is_left() -> None:
    received, took = serve(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(received) < 1 << 20
    assert took >= LIMITS.head


def test_a_silent_client_is_left_without_a_word() -> None:
    received, took = serve(b"")
    assert received == b""
    assert took >= LIMITS.head


def test_a_resting_connection_is_left_after_a_while() -> None:
    received, took = serve(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1
    assert took >= LIMITS.idle


def test_drops_do_not_buy_time() -> None:
    received, took = serve(b"GET / HTTP/1.1\r\nHost: x\r\n", drip=b"X: y\r\n")
    assert received.startswith(b"HTTP/1.1 408 ")
    assert took >= LIMITS.head


def test_a_request_in_two_pieces() -> None:
    received, _ = serve(b"GET /latest/meta-data/host", pause=0.05, more=b"name HTTP/1.0\r\n\r\n", limits=Limits())
    assert received.endswith(b"\r\n\r\none")


def test_one_that_waited_too_long_is_sent_away_and_a_later_one_has_its_turn() -> None:
    limits = Limits(served=1, waiting=8, head=0.4, wait=0.6)

    async def asked() -> list[bytes]:
        share = Share("vpc-aaaaaaaaaa", 1, Tokens(), limits)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            share.attach([listener])
            first, second, third = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
            found = [await first[0].read(), await second[0].read()]
            late = await asyncio.open_connection(*listener.getsockname())
            late[1].write(b"GET / HTTP/1.0\r\n\r\n")
            found += [await third[0].read(), await late[0].read()]
            for _, writer in (first, second, third, late):
                writer.close()
            await share.close()
        return [text[:12] for text in found]

    # The first two say nothing for as long as they may; the third waited for both.
    assert asyncio.run(asked()) == [b"", b"", b"", b"HTTP/1.1 404"]


def test_a_connection_to_a_path_of_no_family_is_no_matter() -> None:
    received, _ = serve(b"PUT /latest/api/token HTTP/1.0\r\nX-aws-ec2-metadata-token-ttl-seconds: 9\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
