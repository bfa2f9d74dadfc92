"""What is read of netlink's news of filters."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from lvagent.observe.filters import generations, own_ports

NEWGEN, NEWRULE = 0xA0F, 0xA06

TABLE = """\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 12  4242       00000000 0        0        0     2        0        100
0000000000000000 12  4294963101 00000040 0        0        0     2        0        101
0000000000000000 0   4242       00000000 0        0        0     2        0        100
0000000000000000 12  777        00000000 0        0        0     2        0        300
"""


def message(kind: int, port: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, port) + body + bytes(-len(body) % 4)


def test_the_ports_of_ended_transactions() -> None:
    raw = message(NEWRULE, 5, b"x" * 7) + message(NEWGEN, 5, b"abcd") + message(NEWGEN, 4_294_963_101)
    assert generations(raw) == {5, 4_294_963_101}
    assert generations(message(NEWRULE, 5)) == set()
    assert generations(b"") == set()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_their_end(raw: bytes) -> None:
    assert isinstance(generations(raw), set)


def test_own_ports_are_those_of_own_netfilter_sockets() -> None:
    assert own_ports(TABLE, {"100", "101"}) == {4242, 4_294_963_101}
    assert own_ports(TABLE, set()) == set()
    assert own_ports("", {"100"}) == set()
