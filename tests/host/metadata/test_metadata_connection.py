"""One connection between two ends of a socket pair, with little patience."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from lvagent.metadata.answer import Asker
from lvagent.metadata.connection import Connection
from lvagent.metadata.limits import Limits, Pace
from lvagent.metadata.tokens import Tokens
from lvagent.plan.resources import Guest

pytestmark = pytest.mark.host

ONE = Asker(7, Guest("i-0000000001", "one", (), (), bytes(1 << 20)))
LIMITS = Limits(head=0.2, send=0.2, idle=0.4)


def serve(sent: bytes, *, pause: float = 0, more: bytes = b"") -> tuple[bytes, float]:
    """Serve a client that sends, waits, and sends more; returns what it got, unread until the end, and the seconds."""

    async def both() -> float:
        loop = asyncio.get_running_loop()
        connection = Connection(ours, lambda: ONE, Pace(100, 100, time.monotonic), Tokens(), LIMITS)
        begun = loop.time()
        serving = loop.create_task(connection.serve())
        theirs.sendall(sent)
        await asyncio.sleep(pause)
        if more:
            theirs.sendall(more)
        await asyncio.wait_for(serving, 5)
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
    assert 0.2 <= took < 1


def test_a_silent_client_is_left_without_a_word() -> None:
    received, took = serve(b"")
    assert received == b""
    assert 0.2 <= took < 1


def test_a_resting_connection_is_left_after_a_while() -> None:
    received, took = serve(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1
    assert 0.4 <= took < 1.2


def test_drops_do_not_buy_time() -> None:
    received, took = serve(b"GET / HTTP/1.1\r\n", pause=0.15, more=b"Host: x\r\n")
    assert received.startswith(b"HTTP/1.1 408 ")
    assert 0.2 <= took < 0.2 + 1.5


def test_a_request_in_two_pieces() -> None:
    received, _ = serve(b"GET /latest/meta-data/host", pause=0.05, more=b"name HTTP/1.0\r\n\r\n")
    assert received.endswith(b"\r\n\r\none")
