"""The packet of a probe, byte by byte, and the tables that take it out."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given

from lvagent.render.probe import Sign, crc32c, frame, table
from lvagent.spec.flow import Packet
from tests.golden import golden
from tests.unit.render.hostile import TAME, hostile

SIGN = Sign(0x1234, 0xDEADBEEF, 23_456)
MACS = ("06:00:00:00:00:01", "02:00:00:00:00:01")
NUMBERS = (1, 6, 17, 47, 50, 58, 132)


def packet(number: int, version: int, port: int = 22) -> Packet:
    ends = ("10.0.0.5", "10.0.1.6") if version == 4 else ("fd00:a::5", "fd00:a:0:1::6")
    return Packet(ip_address(ends[0]), ip_address(ends[1]), number, port if number in (6, 17, 132) else 0)


def total(raw: bytes) -> int:
    """The sum of RFC 1071; 0xffff of what holds its own right checksum."""
    raw += b"\0" * (len(raw) % 2)
    found = sum(struct.unpack(f"!{len(raw) // 2}H", raw))
    while found >> 16:
        found = (found & 0xFFFF) + (found >> 16)
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("number", NUMBERS)
def test_checksums_are_right_and_the_sign_is_where_it_is_looked_for(number: int, version: int) -> None:
    one = packet(number, version)
    raw = frame(one, SIGN, *MACS)
    assert raw[:6] == bytes.fromhex(MACS[1].replace(":", ""))
    head, ip = (20, raw[14:]) if version == 4 else (40, raw[14:])
    size = int.from_bytes(ip[2:4], "big") - 20 if version == 4 else int.from_bytes(ip[4:6], "big")
    if version == 4:
        assert total(ip[:20]) == 0xFFFF
        assert ip[4:6] == b"\x12\x34"
    else:
        assert int.from_bytes(ip[:4], "big") & 0xFFFFF == 0x1234
    message = ip[head : head + size]
    pseudo = one.source.packed + one.destination.packed + struct.pack("!II", len(message), number)
    if number in (6, 17, 58):
        assert total(pseudo + message) == 0xFFFF
    elif number == 1:
        assert total(message) == 0xFFFF
    elif number == 132:
        assert struct.unpack("<I", message[8:12])[0] == crc32c(message[:8] + bytes(4) + message[12:])
    at = {6: 4, 17: 12, 132: 16}.get(number, 8)
    assert message[at : at + 4] == b"\xde\xad\xbe\xef"


def test_what_is_sent_to_a_dhcp_server_is_a_clients_request() -> None:
    raw = frame(packet(17, 4, 67), SIGN, *MACS)
    udp = raw[34:]
    assert struct.unpack("!HH", udp[:4]) == (68, 67)
    assert udp[8:11] == b"\1\1\6"
    assert udp[12:16] == b"\xde\xad\xbe\xef"
    assert udp[36:42] == bytes.fromhex(MACS[0].replace(":", ""))


def test_the_checksum_of_sctp() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4


@pytest.mark.parametrize(("number", "version", "bridged"), [(6, 4, True), (17, 6, False), (47, 6, True)])
def test_the_tables(number: int, version: int, bridged: bool) -> None:
    text = table(packet(number, version), SIGN, ["ui-aaaaaaaaaa"] if bridged else [], bridged=bridged)
    golden(f"probe/{number}-{version}.nft", text)


@given(hostile)
def test_the_names_of_links_make_no_other_lines(text: str) -> None:
    """All else that the tables take are numbers."""
    one = packet(6, 4)
    tame = table(one, SIGN, [TAME], bridged=True)
    try:
        found = table(one, SIGN, [text], bridged=True)
    except ValueError:
        return
    assert len(found.splitlines()) == len(tame.splitlines())
