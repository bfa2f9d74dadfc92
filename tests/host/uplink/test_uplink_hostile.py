"""What a guest tries by the address of the host that it shares with others, and by what is led to it itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lvagent.host import netns
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site, vm_id
from tests.host.uplink.world import HOST, HOST6, ISP, WEB, WEB6, Guest

LONG, SHORT = 10, 0.3
"""Seconds that are waited for what must come, and for what must not."""


@contextmanager
def datagrams(site: Site, name: str, address: str, port: int) -> Iterator[socket.socket]:
    """A UDP socket at an address of a machine of the world, or of a guest."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.inside(site.world.path(name), lambda: socket.socket(family, socket.SOCK_DGRAM)) as line:
        line.bind((address, port))
        line.settimeout(LONG)
        yield line


def got(line: socket.socket, seconds: float) -> bytes:
    line.settimeout(seconds)
    try:
        return line.recv(100)
    except TimeoutError:
        return b""


def drained(line: socket.socket, count: int = 0) -> list[bytes]:
    """What comes until no more does; so much of it is waited for."""
    found: list[bytes] = []
    while one := got(line, LONG if len(found) < count else SHORT):
        found.append(one)
    return found


@pytest.mark.parametrize(("own", "host", "web"), [("10.0.0", HOST, WEB), ("fd00:a:", HOST6, WEB6)])
@pytest.mark.parametrize("attacker", [(B, 5), (A, 6)])
def test_nobody_takes_a_published_port_by_asking_from_it(
    site: Site, attacker: tuple[str, int], own: str, host: str, web: str
) -> None:
    """Who asks a peer from the port that is published would else have the peer's packets to that port, for they look
    like its answers."""
    join = ":" if ":" in own else "."
    for vpc, number in {(A, 5), attacker}:
        site.wishes.put(vpc, NAT)
        site.guest(vpc, number)
    site.publish(A, 5, {"proto": "udp", "host_port": 4500})
    victim, other = site.guests[vm_id(A, 5)], site.guests[vm_id(*attacker)]
    with (
        datagrams(site, "web", web, 4500) as peer,
        datagrams(site, victim.name, f"{own}{join}5", 4500) as led,
        datagrams(site, other.name, f"{own}{join}{attacker[1]}", 4500) as asking,
    ):
        asking.sendto(b"mine", (web, 4500))
        said, (_, port, *_) = peer.recvfrom(100)
        peer.sendto(b"to the published port", (host, 4500))
        peer.sendto(b"answer", (host, port))
        assert (said, drained(led, 1), drained(asking, 1)) == (b"mine", [b"to the published port"], [b"answer"])


@pytest.mark.parametrize(("own", "host", "web"), [("10.0.0.5", HOST, WEB), ("fd00:a::5", HOST6, WEB6)])
def test_nobody_takes_a_port_of_the_host_by_asking_from_it(site: Site, own: str, host: str, web: str) -> None:
    site.wishes.put(A, NAT)
    guest: Guest = site.guest(A, 5)
    with (
        datagrams(site, "web", web, 4500) as peer,
        datagrams(site, "host", host, 4500) as program,
        datagrams(site, guest.name, own, 4500) as asking,
    ):
        asking.sendto(b"mine", (web, 4500))
        said, (_, port, *_) = peer.recvfrom(100)
        peer.sendto(b"to the host", (host, 4500))
        peer.sendto(b"answer", (host, port))
        assert (said, drained(program, 1), drained(asking, 1)) == (b"mine", [b"to the host"], [b"answer"])


@contextmanager
def raw(site: Site, name: str, number: int) -> Iterator[socket.socket]:
    """A socket for a protocol that has no ports, in a machine of the world or in a guest."""
    with netns.inside(site.world.path(name), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, number)) as line:
        line.settimeout(LONG)
        yield line


@pytest.mark.parametrize("number", [4, 47, 50])
def test_nobody_takes_a_tunnel_of_the_host_by_sending_to_its_other_end(site: Site, number: int) -> None:
    """What has no ports cannot be told apart behind the one address of the host; behind one of its own it goes out."""
    site.wishes.put(A, NAT)
    guest: Guest = site.guest(A, 5, rules=[ANYTHING])
    packet = bytes(24)
    with raw(site, "web", number) as peer, raw(site, "host", number) as tunnel, raw(site, guest.name, number) as sent:
        sent.sendto(packet, (WEB, 0))
        peer.sendto(packet, (HOST, 0))
        assert (len(drained(peer)), len(drained(tunnel, 1)), len(drained(sent))) == (0, 1, 0)
        site.float("203.0.113.50", A, 5)
        with raw(site, "isp", number) as other:
            sent.sendto(packet, (ISP, 0))
            assert other.recvfrom(100)[1][0] == "203.0.113.50"
