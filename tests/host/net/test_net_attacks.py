"""Ways around the rules that a hostile tenant found; each with what it is a twin of, which passes."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from lvagent.config import FilterSettings, Settings
from lvagent.host import netns
from lvagent.host.netlink import mac_bytes
from lvagent.host.network import Network
from lvagent.spec import names
from tests.host.net import frames
from tests.host.net.conftest import LONG, SHORT, VPC, Guest
from tests.host.net.frames import ICMPV6, IPV4, IPV6, NA, NS, UDP
from tests.host.net.site import (
    ACK,
    SUBNET_A,
    SYN,
    TCP,
    A,
    B,
    C,
    Host,
    R,
    Site,
    datagram,
    document,
    echo,
    segment,
    token,
)
from tests.lab.aside import until

pytestmark = pytest.mark.host

ANYTHING = {"proto": "any", "direction": "ingress"}
MARK_OUT = {"proto": "udp", "port": 9, "direction": "egress"}
UDP_OPEN = {"proto": "udp", "port": 53}
TCP_OPEN = {"proto": "tcp", "port": 80}
GATEWAY = names.gateway_mac(SUBNET_A)
NOBODY = "06:00:00:00:99:77"
CHOSEN, OTHER = "fe80::b0b:cafe:1", "fe80::aaaa:2"


@pytest.fixture
def site(network: Network, settings: Settings, guest: Callable[[str], Guest], tmp_path: Path) -> Site:
    """A attacks; B and C let nothing in but the mark; R is on another host."""
    made = Site(network, settings, guest, tmp_path)
    made.put(document(A, [ANYTHING]), document(B), document(C))
    made.start(A, B, C)
    made.join_remote()
    return made


def comes(site: Site, to: Host, said: bytes, seconds: float = LONG) -> bool:
    """Whether it comes; who is asked for answers neighbour solicitations as a guest does."""
    if to is R:
        return site.taps[to.name].gets(lambda got: said in got, seconds)
    return any(said in got for got in site.heard(to, seconds))


def udp6(source: str, destination: str, sport: int, dport: int, payload: bytes, *, mac: str, to: str) -> bytes:
    """UDP over IPv6 with its checksum, from A's port."""
    raw = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    pseudo = IPv6Address(source).packed + IPv6Address(destination).packed + struct.pack("!II", len(raw), UDP)
    raw = raw[:6] + struct.pack("!H", frames.checksum(pseudo + raw) or 0xFFFF) + raw[8:]
    return frames.ethernet(mac, to, IPV6, frames.ipv6(source, destination, UDP, raw, hops=64))


def tcp6(source: str, destination: str, ports: tuple[int, int], flags: int, *, mac: str, to: str) -> bytes:
    head = struct.pack("!HHIIBBHHH", *ports, 1000, 0, 0x50, flags, 65_000, 0, 0)
    pseudo = ip_address(source).packed + ip_address(destination).packed + struct.pack("!II", len(head), TCP)
    head = head[:16] + struct.pack("!H", frames.checksum(pseudo + head)) + head[18:]
    return frames.ethernet(mac, to, IPV6, frames.ipv6(source, destination, TCP, head))


def test_who_is_both_ends_of_a_flow_is_not_answered_by_another(site: Site) -> None:
    """A begins a flow as the address that B chose; what A "answers" to B would meet B's open egress."""
    site.taps["a"].send(tcp6(CHOSEN, OTHER, (22, 5000), SYN, mac=A.mac, to=NOBODY))
    site.taps["a"].send(tcp6(OTHER, CHOSEN, (5000, 22), SYN, mac=A.mac, to=B.mac))
    assert not any(got[12:14] == b"\x86\xdd" and got[20] == TCP for got in site.taps["b"].frames(0.4))
    site.taps["b"].send(tcp6(CHOSEN, OTHER, (23, 5001), SYN, mac=B.mac, to=A.mac))
    site.taps["a"].send(tcp6(OTHER, CHOSEN, (5001, 23), SYN | ACK, mac=A.mac, to=B.mac))
    assert site.taps["b"].gets(lambda got: got[20] == TCP), "a flow that B began is answered"


@pytest.mark.parametrize("source", [A.ipv6, A.local])
def test_a_link_local_address_is_not_routed(site: Site, source: str) -> None:
    said = token()
    site.taps["a"].send(udp6(source, B.local, 4000, 53, said, mac=A.mac, to=GATEWAY))
    assert not comes(site, B, said, SHORT)
    site.put(document(B, [UDP_OPEN]))
    site.taps["a"].send(udp6(A.local, B.local, 4000, 53, said, mac=A.mac, to=B.mac))
    assert comes(site, B, said), "from its neighbour it may come, as the rules say"


@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_a_cut_flow_does_not_come_back_as_its_servers_own(site: Site, way: str) -> None:
    """The entry ends by its time; the server's next segment would begin a flow of the server's."""
    server = B if way == "bridged" else C
    times = ("established", "max_retrans", "unacknowledged", "close")

    def shorten() -> None:
        for name in times:
            Path(f"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{name}").write_text("1")

    site.put(document(server, [TCP_OPEN]))
    a, b = site.taps["a"], site.taps[server.name]
    netns.inside(site.path, shorten)
    a.send(segment(A, server, 80))
    b.send(segment(server, A, 4000, sport=80, flags=SYN | ACK, seq=5000, ack=1001))
    a.send(segment(A, server, 80, flags=ACK, seq=1001, ack=5001))

    def says(said: bytes) -> bytes:
        return segment(server, A, 4000, sport=80, flags=ACK, seq=5001, ack=1001, payload=said)

    assert site.reaches(server, A, says)
    site.put(document(server))
    assert not site.reaches(server, A, says)
    time.sleep(2.5)
    site.introduce(server)
    site.introduce(A)
    assert not site.reaches(server, A, says)
    assert site.reaches(server, A, lambda said: segment(server, A, 4000, sport=81, payload=said)), (
        "one that begins does"
    )


def test_a_flow_of_a_deleted_vm_is_none_of_the_next_with_its_address(site: Site) -> None:
    site.taps["b"].send(datagram(B, A, 5000, sport=161, payload=b"from the old one"))
    assert comes(site, A, b"from the old one")
    site.taps["b"].close()
    while site.network.taps(VPC) & {names.tap(B.vm, 0)}:
        time.sleep(0.01)
    site.drop(B.vm)
    born = dataclasses.replace(B, vm="i-0000000008", mac=names.nic_mac("i-0000000008", 0))
    site.put(document(born))
    site.start(born)
    assert not site.reaches(A, born, lambda said: datagram(A, born, 161, sport=5000, payload=said))
    site.put(document(born, [{"proto": "udp", "port": 161}]))
    assert site.reaches(A, born, lambda said: datagram(A, born, 161, sport=5001, payload=said))


@pytest.mark.parametrize("source", ["its link-local address", "its address"])
def test_another_host_does_not_speak_as_a_vm_that_is_here(site: Site, source: str) -> None:
    site.put(document(B, [{"proto": "udp", "port": 53, "source": A.vm}]))
    said = token()
    pair = (A.local, B.local) if "local" in source else (A.ipv6, B.ipv6)
    site.taps["r"].send(udp6(*pair, 4000, 53, said, mac=R.mac, to=B.mac))
    assert not comes(site, B, said, SHORT)
    site.taps["a"].send(udp6(*pair, 4000, 53, said, mac=A.mac, to=B.mac))
    assert comes(site, B, said), "A itself may"


# out past a closed egress


@pytest.fixture
def closed(site: Site) -> Site:
    """A may send the mark and nothing else; all others are open."""
    site.put(document(A, [MARK_OUT]), document(B, [ANYTHING]), document(C, [ANYTHING]))
    return site


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.1.1", "127.0.0.1"])
@pytest.mark.parametrize("to", ["b", "r"])
def test_the_gateways_address_opens_no_way_to_a_neighbour(closed: Site, address: str, to: str) -> None:
    host, said = (B if to == "b" else R), token()
    packet = frames.ipv4(A.ipv4, address, UDP, frames.udp(4000, 53, said))
    closed.taps["a"].send(frames.ethernet(A.mac, host.mac, IPV4, packet))
    assert not comes(closed, host, said, SHORT)


@pytest.mark.parametrize("port", [67, 547])
def test_the_ports_of_dhcp_lead_to_the_gateway_alone(closed: Site, port: int) -> None:
    said = token()
    if port == 67:
        packet = frames.ipv4(A.ipv4, C.ipv4, UDP, frames.udp(4000, 67, frames.dhcp(A.mac) + said))
        closed.taps["a"].send(frames.ethernet(A.mac, GATEWAY, IPV4, packet))
    else:
        closed.taps["a"].send(udp6(A.ipv6, C.ipv6, 4000, 547, said, mac=A.mac, to=GATEWAY))
    assert not comes(closed, C, said, SHORT)


@pytest.mark.parametrize("kind", [131, 132, 143, 133, 135, 136])
@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_what_is_not_followed_carries_nothing(closed: Site, kind: int, way: str) -> None:
    to, said = (B if way == "bridged" else C), token()
    body = frames.neighbour(kind, A.ipv6) + said if kind in (NS, NA) else bytes(4) + said
    packet = frames.ipv6(A.ipv6, to.ipv6, ICMPV6, frames.icmp6(A.ipv6, to.ipv6, kind, body))
    closed.taps["a"].send(frames.ethernet(A.mac, B.mac if way == "bridged" else GATEWAY, IPV6, packet))
    assert not comes(closed, to, said, SHORT)


def test_closed_is_closed_and_the_mark_passes(closed: Site) -> None:
    assert not closed.reaches(A, B, lambda said: echo(A, B, payload=said))
    assert not closed.reaches(A, C, lambda said: echo(A, C, payload=said))


# neighbours


def neighbours(site: Site) -> str:
    show = ["ip", "-6", "neigh"]
    return netns.inside(site.path, lambda: subprocess.run(show, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("kind", [NS, NA])
def test_a_neighbours_mac_is_nobodys_own(site: Site, kind: int) -> None:
    """ "I am at B's MAC": then packets for A, which A's rules judge, would go to B's port."""
    target = A.ipv6 if kind == NA else "fd00:0::1"

    def says(mac: str) -> bytes:
        flags = struct.pack("!I", 0x60000000 if kind == NA else 0)
        option = struct.pack("!BB", 2 if kind == NA else 1, 1) + mac_bytes(mac)
        body = flags + IPv6Address(target).packed + option
        return frames.message6(A.mac, A.ipv6, "fd00:0::1", kind, body, to=GATEWAY)

    site.taps["a"].send(says(B.mac))
    time.sleep(0.1)
    assert f"{IPv6Address(A.ipv6)} dev br-aaaaaaaaaa lladdr {B.mac}" not in neighbours(site)
    site.taps["a"].send(says(A.mac))
    assert until(lambda: f"{IPv6Address(A.ipv6)} dev br-aaaaaaaaaa lladdr {A.mac}" in neighbours(site), LONG)


def test_made_up_link_local_addresses_cost_the_host_few_neighbours(site: Site) -> None:
    before = neighbours(site).count("\n")
    to = names.link_local(GATEWAY)
    for number in range(150):
        site.taps["a"].send(udp6(f"fe80::dead:{number:x}", to, 999, 53, b"x" * 20, mac=A.mac, to=GATEWAY))
    time.sleep(0.3)
    assert neighbours(site).count("\n") - before <= 30
    said = token()
    site.put(document(B, [UDP_OPEN]))
    site.taps["a"].send(udp6(A.local, B.local, 999, 53, said, mac=A.mac, to=B.mac))
    assert comes(site, B, said), "its own address is none of them"


# shares


def test_what_b_refuses_takes_nothing_of_its_share(
    settings: Settings, guest: Callable[[str], Guest], tmp_path: Path
) -> None:
    tight = dataclasses.replace(settings, filter=FilterSettings(flows=40, beginnings=5000))
    site = Site(Network(tight), tight, guest, tmp_path)
    site.put(document(A), document(B, [UDP_OPEN]), document(C))
    site.start(A, B, C)
    site.join_remote()
    for number in range(300):
        site.taps["r"].send(datagram(R, B, 54, sport=20_000 + number, payload=b"refused"))
    site.taps["b"].drain()
    for number in range(20):
        site.taps["r"].send(datagram(R, B, 53, sport=30_000 + number, payload=b"allowed"))
    assert sum(b"allowed" in got for got in site.taps["b"].burst()) == 20
    for number in range(300):
        site.taps["r"].send(datagram(R, B, 53, sport=40_000 + number, payload=b"flood"))
    assert sum(b"flood" in got for got in site.taps["b"].burst()) <= 40
    assert site.reaches(A, B, lambda said: datagram(A, B, 53, sport=5, payload=said)), (
        "who is here has a share of his own"
    )
