"""Publications as they are written, and what is refused of them."""

from __future__ import annotations

import pytest

from lvagent.errors import SpecError
from lvagent.spec.publications import MAX_MOVED, dump_publications, implied, parse_publications
from lvagent.spec.vm import Direction, NetRule

LEAST = {"host_port": 80}


def test_all_spellings_are_one_and_come_back() -> None:
    document = [
        {"hostPort": 8080, "Port": 80, "sources": ["10.0.0.0/25", "10.0.0.128/25", "2001:db8::1"]},
        {"proto": "udp", "host_address": "2001:DB8::0:1", "host_port": 53},
        {"host_port": 9000, "host_port_end": 9009, "port": 1000, "port_end": 1009},
    ]
    found = parse_publications(document)
    assert [str(one) for one in found] == ["tcp port 8080", "tcp port 9000-9009", "udp port 53 on 2001:db8::1"]
    assert [str(net) for net in found[0].sources] == ["10.0.0.0/24", "2001:db8::1/128"]
    assert (found[1].port, found[1].port_end) == (1000, 1009)
    assert parse_publications(dump_publications(found)) == found
    assert parse_publications([]) == ()


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        ({}, "", "must be a list"),
        ([[]], "[0]", "must be an object"),
        ([{}], "[0].host_port", "is missing"),
        ([LEAST, {"host_port": 0}], "[1].host_port", "too small"),
        ([{"host_port": 65_536}], "[0].host_port", "too large"),
        ([{**LEAST, "proto": "sctp"}], "[0].proto", "not known"),
        ([{**LEAST, "sport": 1}], "[0].sport", "no field"),
        ([{**LEAST, "host_port_end": 79}], "[0].host_port_end", "below"),
        ([{**LEAST, "host_port_end": 89, "port_end": 88}], "[0].port_end", "not as long"),
        ([{**LEAST, "host_port_end": 89, "port": 65_530}], "[0].port", "beyond 65535"),
        ([{"host_port": 1, "host_port_end": MAX_MOVED + 1, "port": 2}], "[0].host_port_end", "too many"),
        ([{**LEAST, "host_address": "127.0.0.1"}], "[0].host_address", "loopback"),
        ([{**LEAST, "host_address": "all"}], "[0].host_address", "no IP address"),
        ([{**LEAST, "sources": ["10.0.0.1/8"]}], "[0].sources[0]", "bits set"),
        ([{**LEAST, "host_address": "192.0.2.1", "sources": ["fd00::/8"]}], "[0].sources", "IP version"),
        ([LEAST, {**LEAST, "host_address": "192.0.2.1"}], "[1].host_port", r"is in \[0\] too"),
        ([{"host_port": 70, "host_port_end": 90}, LEAST], "[1].host_port", r"is in \[0\] too"),
        (
            [{**LEAST, "host_address": "192.0.2.1"}, {**LEAST, "host_address": "192.0.2.2", "port": 81}],
            "[1].port",
            "leads elsewhere",
        ),
        ([LEAST] * 257, "", "too many: 257"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(document: object, path: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        parse_publications(document)
    assert error.value.path == path


def test_a_long_range_that_keeps_its_numbers_is_fine() -> None:
    assert parse_publications([{"host_port": 1, "host_port_end": 65_535}])[0].port_end == 65_535


def test_the_rules_that_are_implied() -> None:
    found = parse_publications(
        [
            {"host_port": 8080, "port": 80, "sources": ["192.0.2.0/24", "fd00::/8"]},
            {"host_port": 9000, "host_port_end": 9001, "host_address": "2001:db8::1"},
            {"host_port": 9100, "proto": "udp"},
        ]
    )
    way = Direction.INGRESS
    both = (
        NetRule("tcp", 80, None, "192.0.2.0/24", "", way),
        NetRule("tcp", 80, None, "fd00::/8", "", way),
        NetRule("tcp", 9000, 9001, "", "", way),
        NetRule("udp", 9100, None, "", "", way),
    )
    assert implied(found, {4, 6}) == both
    assert implied(found, {4}) == (both[0], both[3])
    assert implied(found, ()) == ()
