"""What one guest may take of what all share: it is stopped at its limit, and its neighbours are not."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.config import FilterSettings, Settings
from lvagent.host import netns
from lvagent.host.network import Network
from tests.host.net import frames
from tests.host.net.conftest import Guest
from tests.host.net.frames import BROADCAST, IPV4, UDP
from tests.host.net.site import A, B, C, Host, Site, datagram, document

pytestmark = pytest.mark.host

LIMITS = FilterSettings(flows=40, beginnings=200, strangers=5, broadcasts=20, neighbours=10, leases=3)
ANYTHING = {"proto": "any", "direction": "ingress"}


@pytest.fixture
def site(settings: Settings, guest: Callable[[str], Guest], tmp_path: Path) -> Site:
    """A, B and C, open to everything, under tight limits."""
    tight = dataclasses.replace(settings, filter=LIMITS)
    made = Site(Network(tight), tight, guest, tmp_path)
    made.put(*(document(one, [ANYTHING]) for one in (A, B, C)))
    made.start(A, B, C)
    time.sleep(0.5)  # what the start took of the limits comes back
    return made


def flood(site: Site, sender: Host, receiver: Host, frame: Callable[[int], bytes], count: int, what: bytes) -> int:
    """Send many frames at once; how many of them came."""
    site.taps[receiver.name].drain()
    for number in range(count):
        site.taps[sender.name].send(frame(number))
    return sum(what in got for got in site.taps[receiver.name].burst())


def allowed(rate: int, began: float) -> float:
    """What may have come at most since then: what may come at once, and what came back meanwhile."""
    return rate * (2 + time.monotonic() - began)


def test_broadcasts_are_paced_for_each_port(site: Site) -> None:
    def to_all(of: Host) -> Callable[[int], bytes]:
        packet = frames.ipv4(of.ipv4, "255.255.255.255", UDP, frames.udp(7, 7, b"to everybody"))
        return lambda _number: frames.ethernet(of.mac, BROADCAST, IPV4, packet)

    began = time.monotonic()
    came = flood(site, A, B, to_all(A), 500, b"to everybody")
    assert LIMITS.broadcasts <= came <= allowed(LIMITS.broadcasts, began)
    assert flood(site, B, A, to_all(B), 5, b"to everybody") == 5
    one = flood(site, A, B, lambda n: datagram(A, B, 8, payload=b"to one"), 50, b"to one")
    assert one == 50, "what goes to one is none of it"


def test_arp_and_neighbour_discovery_are_paced_for_each_port(site: Site) -> None:
    def asks(of: Host, to: Host) -> Callable[[int], bytes]:
        return lambda _number: frames.arp(of.mac, 1, of.ipv4, to.ipv4, to=to.mac)

    began = time.monotonic()
    what = b"\x08\x06\x00\x01"
    assert LIMITS.neighbours <= flood(site, A, B, asks(A, B), 300, what) <= allowed(LIMITS.neighbours, began)
    assert flood(site, B, A, asks(B, A), 5, what) == 5


def leases(site: Site, sender: Host, count: int, chaddr: Callable[[int], str]) -> int:
    """How many of these requests come to a DHCP server in the VPC."""

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.bind(("", 67))
        made.settimeout(0.3)
        return made

    with netns.inside(site.path, listen) as server:
        for number in range(count):
            request = frames.udp(68, 67, frames.dhcp(chaddr(number)))
            packet = frames.ipv4("0.0.0.0", "255.255.255.255", UDP, request)
            site.taps[sender.name].send(frames.ethernet(sender.mac, BROADCAST, IPV4, packet))
        found = 0
        try:
            while server.recv(2048):
                found += 1
        except TimeoutError:
            return found


def test_dhcp_is_paced_and_only_for_oneself(site: Site) -> None:
    began = time.monotonic()
    assert leases(site, A, 20, lambda number: f"06:77:00:00:00:{number:02x}") == 0
    time.sleep(2)
    came = leases(site, A, 15, lambda _number: A.mac)
    assert 1 <= came <= allowed(LIMITS.leases, began)
    assert leases(site, B, 2, lambda _number: B.mac) == 2


def flows(site: Site) -> int:
    """Entries in the VPC's table of flows."""
    return netns.inside(site.path, lambda: int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()))


def test_a_flood_of_new_flows_fills_its_own_share_only(site: Site) -> None:
    before = flows(site)
    came = flood(site, A, B, lambda n: datagram(A, B, 8, sport=20_000 + n, payload=b"flood"), 180, b"flood")
    assert came <= LIMITS.flows
    assert flows(site) - before <= LIMITS.flows + 1
    assert flood(site, C, A, lambda n: datagram(C, A, 8, sport=30_000 + n, payload=b"calm"), 10, b"calm") == 10


def test_new_flows_are_paced_and_running_ones_are_not(site: Site) -> None:
    one = flood(site, A, C, lambda _n: datagram(A, C, 8, sport=999, payload=b"one flow"), 700, b"one flow")
    assert one == 700, "a flow that is known is not counted again"
    assert flood(site, A, C, lambda n: datagram(A, C, 8, sport=999, payload=b"still"), 20, b"still") == 20


def test_strangers_cost_the_host_few_neighbours(site: Site) -> None:
    """Packets to addresses that no VM has make the gateway ask for each; the table of neighbours is all VPCs'."""

    def asked() -> int:
        show = ["ip", "neigh", "show", "dev", "br-bbbbbbbbbb"]
        return netns.inside(site.path, lambda: subprocess.run(show, capture_output=True, text=True).stdout.count("\n"))

    before = asked()
    site.taps["a"].drain()
    for number in range(150):
        stranger = datagram(A, C, 8, sport=40_000 + number, destination=f"10.0.1.{100 + number % 150}", payload=b"?")
        site.taps["a"].send(stranger)
    time.sleep(0.2)
    assert 1 <= asked() - before <= LIMITS.strangers * 3
