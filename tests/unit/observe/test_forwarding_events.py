"""Which of what a netlink socket receives tells that forwarding was switched."""

from __future__ import annotations

import struct

import pytest

from lvagent.observe.forwarding import tells_of_forwarding

NETCONF, NEWLINK = 80, 16
IFINDEX, FORWARDING, RP_FILTER = 1, 2, 3


def message(kind: int, *attributes: tuple[int, int]) -> bytes:
    body = struct.pack("=B3x", 2) + b"".join(struct.pack("=HHi", 8, name, value) for name, value in attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


ALL_OFF = message(NETCONF, (IFINDEX, -1), (FORWARDING, 0))


@pytest.mark.parametrize(
    ("raw", "tells"),
    [
        (ALL_OFF, True),
        (message(NETCONF, (IFINDEX, 7), (FORWARDING, 0)), False),  # of one link
        (message(NETCONF, (IFINDEX, -2), (FORWARDING, 0)), False),  # of links to come
        (message(NETCONF, (IFINDEX, -1), (RP_FILTER, 0)), False),
        (message(NEWLINK, (IFINDEX, -1), (FORWARDING, 0)), False),
        (message(NETCONF, (IFINDEX, 7), (FORWARDING, 0)) + ALL_OFF, True),
        (ALL_OFF[:-1], False),
        (struct.pack("=IHHII", 3, NETCONF, 0, 0, 0), False),
        (b"", False),
    ],
)
def test_only_forwarding_of_all_links_counts(raw: bytes, tells: bool) -> None:
    assert tells_of_forwarding(raw) is tells
