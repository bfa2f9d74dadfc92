"""Flows that somebody asks about: what is right, and what is said of what is not."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from lvagent.errors import SpecError
from lvagent.spec.flow import WORLD, Flow, parse_flow

A, B = "i-0000000001", "i-0000000002"


@pytest.mark.parametrize(
    ("asked", "flow"),
    [
        ((A, B, "tcp", 22), Flow(A, B, 6, 22)),
        ((A, B, "UDP", 53), Flow(A, B, 17, 53)),
        ((A, B, "6", 22), Flow(A, B, 6, 22)),
        ((A, B, "47", None), Flow(A, B, 47)),
        ((A, "10.0.0.1", "icmp", None, "10.0.0.5"), Flow(A, ip_address("10.0.0.1"), 1, 0, ip_address("10.0.0.5"))),
        (("world", B, "tcp", 22), Flow(WORLD, B, 6, 22)),
        (("world:203.0.113.7", B, "tcp", 22), Flow(WORLD, B, 6, 22, ip_address("203.0.113.7"))),
        (("world:2001:db8::7", B, "tcp", 22), Flow(WORLD, B, 6, 22, ip_address("2001:db8::7"))),
    ],
)
def test_what_is_right(asked: tuple[str, str, str, int | None], flow: Flow) -> None:
    assert parse_flow(*asked) == flow


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (("", B, "tcp", 22), "query.from"),
        (("i-1", B, "tcp", 22), "query.from"),
        (("worldly", B, "tcp", 22), "query.from"),
        (("world:x", B, "tcp", 22), "query.from"),
        (("world:10.0.0.1", B, "tcp", 22, "10.0.0.2"), "query.source"),
        ((A, "", "tcp", 22), "query.to"),
        ((A, A, "tcp", 22), "query.to"),
        (("world:10.0.0.1", "10.0.0.1", "tcp", 22), "query.to"),
        ((A, "224.0.0.1", "tcp", 22), "query.to"),
        ((A, "255.255.255.255", "tcp", 22), "query.to"),
        ((A, "127.0.0.1", "tcp", 22), "query.to"),
        ((A, "fe80::1", "tcp", 22), "query.to"),
        ((A, "::", "tcp", 22), "query.to"),
        ((A, "10.0.0.1/24", "tcp", 22), "query.to"),
        ((A, "fd00::1", "tcp", 22, "10.0.0.1"), "query.to"),
        ((A, B, "", 22), "query.proto"),
        ((A, B, "any", 22), "query.proto"),
        ((A, B, "256", None), "query.proto"),
        ((A, B, "\u0663", None), "query.proto"),
        ((A, "fd00::1", "icmp", None), "query.proto"),
        ((A, "10.0.0.1", "icmpv6", None), "query.proto"),
        ((A, "fd00::1", "44", None), "query.proto"),
        ((A, B, "tcp", None), "query.port"),
        ((A, B, "icmp", 22), "query.port"),
        ((A, B, "tcp", 22, "x"), "query.source"),
    ],
)
def test_what_is_not(asked: tuple[str, str, str, int | None], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_flow(*asked)
    assert caught.value.path == path
    assert caught.value.hint


def test_a_flow_in_words() -> None:
    assert str(parse_flow(A, B, "tcp", 22)) == f"tcp 22 from {A} to {B}"
    assert str(parse_flow("world", "10.0.0.1", "47", None)) == "47 from world to 10.0.0.1"
