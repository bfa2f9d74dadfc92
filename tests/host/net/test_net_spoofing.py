"""What a hostile guest sends, and whether its neighbour gets it. Each vector that is dropped has a twin that passes."""

from __future__ import annotations

import dataclasses
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from lvagent.config import Settings
from lvagent.host import netns
from lvagent.host.netlink import mac_bytes
from lvagent.host.network import Network
from lvagent.plan.resources import PortFilter
from lvagent.spec import names
from tests.host.net import frames
from tests.host.net.conftest import (
    LONG,
    SHORT,
    SUBNET,
    VPC,
    Guest,
    base,
    open_port,
    plug,
    port,
    segment,
    settings_for,
)
from tests.host.net.frames import ALL_NODES, BROADCAST, IPV4, IPV6, NA, NS, RA, REDIRECT, RS, UDP

pytestmark = pytest.mark.host

VIRTUAL = "02:00:5e:00:01:07"
A = dataclasses.replace(
    port(5), extra_macs=(VIRTUAL,), extra_addresses=tuple(map(ip_network, ("10.77.0.0/16", "fd00:77::/64")))
)
B = port(6)
GATEWAY_MAC = names.gateway_mac(SUBNET)
GATEWAY_LOCAL = names.link_local(GATEWAY_MAC)
A4, B4, GW4 = "10.0.0.5", "10.0.0.6", "10.0.0.1"
A6, B6, GW6 = "fd00:0::5", "fd00:0::6", "fd00:0::1"
LL_A, LL_B = names.link_local(A.mac), names.link_local(B.mac)
PRIVATE_LL = "fe80::1234:5678:9abc:def0"
FOREIGN = "06:66:66:66:66:66"
ELSEWHERE = "06:55:55:55:55:55"


@dataclass(frozen=True, slots=True)
class Lan:
    """Two guests of one subnet, and another host on its segment."""

    a: Guest
    b: Guest
    remote: Guest
    path: str


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def remote_host(guest: Callable[[str], Guest], settings: Settings) -> Guest:
    """A tap in the bridge of VNI 100: what another host would send and get."""
    remote = guest("remote")
    fabric = f"{settings.paths.netns}/lvfabric"

    def attach() -> None:
        ip("link", "set", "remote", "master", "lvb100", "up")

    ip("link", "set", "remote", "netns", fabric)
    netns.inside(fabric, attach)
    return remote


@pytest.fixture
def lan(network: Network, settings: Settings, guest: Callable[[str], Guest]) -> Lan:
    """The network of the two guests."""
    network.ensure([*base(), *segment(), *segment(subnet="subnet-bbbbbbbbbb", vni=0, third=1)])
    a, b = guest(A.tap), guest(B.tap)
    for one in (A, B):
        network.plug(open_port(one), plug(one))
    lan = Lan(a, b, remote_host(guest, settings), f"{settings.paths.netns}/{VPC}")
    assert answered(lan.a, frames.arp(A.mac, 1, A4, GW4))
    for sender, receiver, frame in ((lan.a, lan.b, MARKER), (lan.b, lan.remote, OUT), (lan.remote, lan.a, IN)):
        passes(sender, receiver, frame)
    for each in (lan.a, lan.b, lan.remote):
        each.drain()
    return lan


def passes(sender: Guest, receiver: Guest, frame: bytes) -> None:
    """Send a frame until it comes: a link that was just set up carries nothing for a moment."""
    for _ in range(30):
        sender.send(frame)
        if receiver.gets(same(frame), SHORT):
            return
    raise AssertionError("the network does not come up")


def udp4(sender: str, *, mac: str = A.mac, sport: int = 1111, dport: int = 2222, to: str = B.mac) -> bytes:
    return frames.ethernet(mac, to, IPV4, frames.ipv4(sender, B4, UDP, frames.udp(sport, dport)))


def udp6(sender: str, *, mac: str = A.mac, sport: int = 1111, dport: int = 2222) -> bytes:
    return frames.ethernet(mac, B.mac, IPV6, frames.ipv6(sender, B6, UDP, frames.udp(sport, dport)))


def nd(kind: int, sender: str, target: str, *, mac: str = A.mac) -> bytes:
    return frames.message6(mac, sender, "ff02::1", kind, frames.neighbour(kind, target, "" if sender == "::" else mac))


def extended(extension: int, kind: int, target: str) -> bytes:
    message = frames.icmp6(LL_A, "ff02::1", kind, frames.neighbour(kind, target))
    return frames.ethernet(A.mac, ALL_NODES, IPV6, frames.behind(extension, LL_A, "ff02::1", 58, message))


def twice_extended(kind: int) -> bytes:
    message = frames.icmp6(LL_A, "ff02::1", kind, bytes(12))
    inner = struct.pack("!BBHI", 58, 0, 0x0104, 0) + message
    return frames.ethernet(A.mac, ALL_NODES, IPV6, frames.behind(44, LL_A, "ff02::1", 60, inner))


def hop_limit(hops: int) -> bytes:
    message = frames.icmp6(LL_A, "ff02::1", NA, frames.neighbour(NA, A6, A.mac))
    return frames.ethernet(A.mac, ALL_NODES, IPV6, frames.ipv6(LL_A, "ff02::1", 58, message, hops=hops))


def icmp4(kind: int, word: bytes, *, fragment: int = 0) -> bytes:
    raw = struct.pack("!BBH", kind, 0, 0) + word + frames.ipv4(B4, "10.9.9.9", UDP, frames.udp(1, 2))
    raw = raw[:2] + struct.pack("!H", frames.checksum(raw)) + raw[4:]
    return frames.ethernet(A.mac, B.mac, IPV4, frames.ipv4(A4, B4, 1, raw, fragment=fragment))


MARKER = udp4(A4, sport=9, dport=9)
OUT = udp4(B4, mac=B.mac, to=ELSEWHERE)
IN = frames.ethernet(ELSEWHERE, A.mac, IPV4, frames.ipv4("10.0.0.31", A4, UDP, frames.udp(9, 9)))
"""What goes to another host, and what comes from one: once the network is up."""

PASSED = {
    "ICMP echo request": frames.ethernet(A.mac, B.mac, IPV4, frames.ipv4(A4, B4, 1, frames.ping())),
    "IGMP report": frames.ethernet(
        A.mac, "01:00:5e:00:00:fb", IPV4, frames.ipv4(A4, "224.0.0.251", 2, bytes([0x16, 0, 9, 4, 224, 0, 0, 251]))
    ),
    "IPv4 from its own address": udp4(A4),
    "IPv4 from an extra range": udp4("10.77.3.4"),
    "IPv4 from an extra MAC": udp4(A4, mac=VIRTUAL),
    "IPv6 from its own address": udp6(A6),
    "IPv6 from an extra range": udp6("fd00:77::abcd"),
    "IPv6 from its EUI-64 link-local address": udp6(LL_A),
    "IPv6 from a link-local address of its choice": udp6(PRIVATE_LL),
    "ARP request for a neighbour": frames.arp(A.mac, 1, A4, B4),
    "ARP reply about itself": frames.arp(A.mac, 2, A4, B4, to=B.mac),
    "gratuitous ARP for itself": frames.arp(A.mac, 1, A4, A4),
    "gratuitous ARP for an extra address and MAC": frames.arp(VIRTUAL, 1, "10.77.0.9", "10.77.0.9"),
    "ARP probe for its own address": frames.arp(A.mac, 1, "0.0.0.0", A4),
    "ARP probe for an extra address": frames.arp(A.mac, 1, "0.0.0.0", "10.77.1.1"),
    "solicitation for a neighbour": nd(NS, A6, B6),
    "advertisement of itself": nd(NA, A6, A6),
    "advertisement of an extra address": nd(NA, LL_A, "fd00:77::9"),
    "advertisement of a link-local address of its choice": nd(NA, PRIVATE_LL, PRIVATE_LL),
    "DAD for its own address": nd(NS, "::", A6),
    "DAD for its link-local address": nd(NS, "::", LL_A),
    "DAD for a link-local address of its choice": nd(NS, "::", PRIVATE_LL),
    "advertisement with hop limit 255": hop_limit(255),
    "MLD report before it has an address": frames.ethernet(
        A.mac,
        "33:33:00:00:00:16",
        IPV6,
        frames.behind(0, "::", "ff02::16", 58, frames.icmp6("::", "ff02::16", 143, bytes(4))),
    ),
}

DROPPED = {
    "IPv4 from a foreign MAC": udp4(A4, mac=FOREIGN),
    "IPv4 from the gateway's MAC": udp4(A4, mac=GATEWAY_MAC),
    "IPv4 from its neighbour's MAC and address": udp4(B4, mac=B.mac),
    "IPv4 from its neighbour's address": udp4(B4),
    "IPv4 from the gateway's address": udp4(GW4),
    "IPv4 from no address": udp4("0.0.0.0"),
    "IPv4 from just outside an extra range": udp4("10.78.0.0"),
    "IPv6 from its neighbour's address": udp6(B6),
    "IPv6 from an address of the subnet that is nobody's": udp6("fd00:0::77"),
    "IPv6 from its neighbour's link-local address": udp6(LL_B),
    "IPv6 from the gateway's link-local address": udp6(GATEWAY_LOCAL),
    "IPv6 from no address": udp6("::"),
    "IPv6 from a link-local address outside of fe80::/64": udp6("fe80:1::1"),
    "ARP reply about the gateway": frames.arp(A.mac, 2, GW4, B4, to=B.mac),
    "ARP reply about its neighbour": frames.arp(A.mac, 2, B4, B4),
    "ARP reply about the metadata address": frames.arp(A.mac, 2, "169.254.169.254", B4),
    "ARP that claims a foreign MAC": frames.arp(A.mac, 2, A4, B4, claims=FOREIGN),
    "ARP from a foreign MAC": frames.arp(FOREIGN, 1, A4, B4, claims=A.mac),
    "ARP probe for its neighbour's address": frames.arp(A.mac, 1, "0.0.0.0", B4),
    "ARP probe for the gateway": frames.arp(A.mac, 1, "0.0.0.0", GW4),
    "ARP probe answered by no one": frames.arp(A.mac, 2, "0.0.0.0", A4),
    "reverse ARP operation": frames.arp(A.mac, 3, A4, A4),
    "advertisement of its neighbour": nd(NA, A6, B6),
    "advertisement of the gateway": nd(NA, A6, GW6),
    "advertisement of the gateway's link-local address": nd(NA, LL_A, GATEWAY_LOCAL),
    "advertisement of its neighbour's link-local address": nd(NA, LL_A, LL_B),
    "advertisement sent as its neighbour": nd(NA, LL_B, A6),
    "solicitation sent as its neighbour": nd(NS, B6, A6),
    "DAD for its neighbour's address": nd(NS, "::", B6),
    "DAD for its neighbour's link-local address": nd(NS, "::", LL_B),
    "DAD for the gateway's link-local address": nd(NS, "::", GATEWAY_LOCAL),
    "advertisement with hop limit 64": hop_limit(64),
    "router advertisement": frames.message6(A.mac, LL_A, "ff02::1", RA, bytes(12)),
    "router advertisement behind hop-by-hop options": frames.ethernet(
        A.mac, ALL_NODES, IPV6, frames.behind(0, LL_A, "ff02::1", 58, frames.icmp6(LL_A, "ff02::1", RA, bytes(12)))
    ),
    "router advertisement in a fragment": extended(44, RA, A6),
    "router advertisement behind a fragment header and options": twice_extended(RA),
    "advertisement behind destination options": extended(60, NA, A6),
    "advertisement in a fragment": extended(44, NA, A6),
    "redirect": frames.message6(A.mac, LL_A, "ff02::1", REDIRECT, bytes(36)),
    "router solicitation, which is for the gateway": frames.message6(A.mac, LL_A, "ff02::2", RS, bytes(4)),
    "solicitation for the gateway": nd(NS, A6, GW6),
    "ARP request for the gateway": frames.arp(A.mac, 1, A4, GW4),
    "ARP request for the metadata address": frames.arp(A.mac, 1, A4, "169.254.169.254"),
    "DHCP server's answer": udp4(A4, sport=67, dport=68),
    "DHCP server's answer from another port": udp4(A4, sport=4011, dport=68),
    "DHCPv6 server's answer": udp6(LL_A, sport=547, dport=546),
    "DHCPv6 server's answer from another port": udp6(LL_A, sport=5000, dport=546),
    "DHCP client's broadcast": frames.ethernet(
        A.mac, BROADCAST, IPV4, frames.ipv4("0.0.0.0", "255.255.255.255", UDP, frames.udp(68, 67, frames.dhcp(A.mac)))
    ),
    "DHCPv6 client's multicast": udp6(LL_A, sport=546, dport=547),
    "VLAN tag": frames.tagged(
        A.mac, B.mac, (0x8100, 5), kind=IPV4, payload=frames.ipv4(A4, B4, UDP, frames.udp(1111, 2222))
    ),
    "priority tag": frames.tagged(
        A.mac, B.mac, (0x8100, 0), kind=IPV4, payload=frames.ipv4(A4, B4, UDP, frames.udp(1111, 2222))
    ),
    "QinQ tags": frames.tagged(
        A.mac, B.mac, (0x88A8, 5), (0x8100, 6), kind=IPV4, payload=frames.ipv4(A4, B4, UDP, frames.udp(1, 2))
    ),
    "LLDP": frames.ethernet(A.mac, "01:80:c2:00:00:0e", 0x88CC, bytes(46)),
    "STP": frames.ethernet(A.mac, "01:80:c2:00:00:00", 38, b"\x42\x42\x03" + bytes(35)),
    "LLDP to a neighbour": frames.ethernet(A.mac, B.mac, 0x88CC, bytes(46)),
    "an ethertype of its own": frames.ethernet(A.mac, B.mac, 0x88B5, bytes(46)),
    "ICMP redirect": icmp4(5, bytes([10, 0, 0, 5])),
    "ICMP redirect in a first fragment": icmp4(5, bytes([10, 0, 0, 5]), fragment=0x2000),
    "ICMP router advertisement": icmp4(9, bytes(4)),
    "IGMP query": frames.ethernet(
        A.mac, "01:00:5e:00:00:01", IPV4, frames.ipv4(A4, "224.0.0.1", 2, bytes([0x11, 0, 0xEE, 0xFF, 0, 0, 0, 0]))
    ),
    "MLD query": frames.message6(A.mac, LL_A, "ff02::1", 130, bytes(20)),
    "PPPoE": frames.ethernet(A.mac, BROADCAST, 0x8863, bytes(46)),
}


def same(frame: bytes) -> Callable[[bytes], bool]:
    """Equal but for padding, and for a tag that the kernel takes off and puts back."""
    return lambda got: got.rstrip(b"\0") == frame.rstrip(b"\0")


def test_a_fragment_reaches_the_neighbour_put_together(lan: Lan) -> None:
    """Rules look at flows, so fragments are put together before they are judged."""
    datagram = frames.udp(1111, 2222, b"a fragment that shows its header")
    lan.a.send(frames.ethernet(A.mac, B.mac, IPV6, frames.behind(44, A6, B6, UDP, datagram)))
    assert lan.b.gets(lambda got: got[20:21] == bytes([UDP]) and got[54:].startswith(datagram))


@pytest.mark.parametrize("name", PASSED)
def test_what_is_its_own_reaches_the_neighbour(lan: Lan, name: str) -> None:
    lan.a.send(PASSED[name])
    assert lan.b.gets(same(PASSED[name]))


def until(guest: Guest, marker: bytes) -> list[bytes]:
    """What comes up to the marker, but for what the gateway says by itself."""
    seen: list[bytes] = []
    for frame in guest.frames(LONG):
        if not from_gateway(frame):
            seen.append(frame)
        if frame == marker:
            break
    return seen


def from_gateway(got: bytes) -> bool:
    return got[6:12] == mac_bytes(GATEWAY_MAC)


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_not_its_own_reaches_nobody(lan: Lan, name: str) -> None:
    """The marker comes after it on the same way: when that is there, the other would have been."""
    lan.a.send(DROPPED[name])
    lan.a.send(MARKER)
    assert until(lan.b, MARKER) == [MARKER]
    assert not any(frame[:14] == DROPPED[name][:14] for frame in lan.remote.frames(0.03))


def test_the_gateway_answers_arp_nd_and_pings(lan: Lan) -> None:
    for asked in (GW4, "169.254.169.254"):
        lan.a.send(frames.arp(A.mac, 1, A4, asked))
        assert lan.a.gets(lambda got: got[12:14] == b"\x08\x06" and from_gateway(got)), asked
    for asked in (GW6, GATEWAY_LOCAL):
        lan.a.send(nd(NS, LL_A, asked))
        assert lan.a.gets(lambda got: from_gateway(got) and got[54:55] == bytes([NA])), asked
    lan.a.send(frames.arp(A.mac, 1, A4, GW4))
    lan.a.send(frames.ethernet(A.mac, GATEWAY_MAC, IPV4, frames.ipv4(A4, GW4, 1, frames.ping())))
    assert lan.a.gets(lambda got: from_gateway(got) and b"lvagent!" in got)


def answered(asking: Guest, question: bytes) -> bool:
    """Whether ARP is answered; asked again as a guest does, for a bridge with its first port takes up to a second."""
    for _ in range(30):
        asking.send(question)
        if asking.gets(lambda got: got[12:14] == b"\x08\x06" and got[20:22] == b"\0\2", SHORT):
            return True
    return False


def test_a_neighbour_in_another_subnet_is_reached_through_the_gateway(
    lan: Lan, network: Network, guest: Callable[[str], Guest]
) -> None:
    other = port(9, subnet="subnet-bbbbbbbbbb", third=1)
    far = guest(other.tap)
    network.plug(open_port(other), plug(other))
    assert answered(far, frames.arp(other.mac, 1, "10.0.1.9", "10.0.1.1"))
    packet = frames.ipv4(A4, "10.0.1.9", UDP, frames.udp(5, 6, b"routed and not bridged"))
    lan.a.send(frames.ethernet(A.mac, GATEWAY_MAC, IPV4, packet))
    assert far.gets(lambda got: b"routed and not bridged" in got)
    spoofed = frames.ipv4(B4, "10.0.1.9", UDP, frames.udp(5, 6, b"spoofed and routed"))
    lan.a.send(frames.ethernet(A.mac, GATEWAY_MAC, IPV4, spoofed))
    assert not far.gets(lambda got: b"spoofed and routed" in got, 0.2)


def server(path: str, family: int, dport: int) -> socket.socket:
    """A datagram socket inside the VPC, as dnsmasq has one."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind(("", dport))
        made.settimeout(LONG)
        return made

    return netns.inside(path, make)


def discover(client: str, **changes: int) -> bytes:
    packet = frames.ipv4("0.0.0.0", "255.255.255.255", UDP, frames.udp(68, 67, frames.dhcp(client, **changes)))
    return frames.ethernet(A.mac, BROADCAST, IPV4, packet)


def test_dhcp_reaches_the_gateway_for_ones_own_hardware_address_only(lan: Lan) -> None:
    with server(lan.path, socket.AF_INET, 67) as dhcp:
        for client in (FOREIGN, B.mac):
            lan.a.send(discover(client))
        lan.a.send(discover(A.mac, op=2))
        lan.a.send(discover(A.mac))
        assert dhcp.recv(2000)[28:34] == mac_bytes(A.mac)
        dhcp.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            dhcp.recv(2000)


def test_a_router_solicitation_reaches_the_gateway(lan: Lan) -> None:
    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex(names.subnet_bridge(SUBNET))
        made.setsockopt(
            socket.IPPROTO_IPV6,
            socket.IPV6_JOIN_GROUP,
            socket.inet_pton(socket.AF_INET6, "ff02::2") + struct.pack("=I", index),
        )
        made.settimeout(LONG)
        return made

    with netns.inside(lan.path, listen) as router:
        lan.a.send(frames.message6(A.mac, LL_A, "ff02::2", RS, bytes(4), to="33:33:00:00:00:02"))
        assert router.recv(2000)[0] == RS


def test_slow_protocols_do_not_teach_the_bridge_a_foreign_mac(lan: Lan) -> None:
    lan.a.send(frames.ethernet(B.mac, "01:80:c2:00:00:0e", 0x88CC, bytes(46)))
    lan.a.send(frames.ethernet(FOREIGN, "01:80:c2:00:00:0e", 0x88CC, bytes(46)))
    lan.a.send(MARKER)
    assert lan.b.gets(MARKER)
    shown = netns.inside(
        lan.path, lambda: subprocess.run(["bridge", "fdb"], check=True, capture_output=True, text=True).stdout
    )
    assert FOREIGN not in shown
    assert [row.split()[2] for row in shown.splitlines() if row.startswith(B.mac)] == [B.tap]


def test_a_frame_for_an_unknown_mac_is_not_shown_to_guests(lan: Lan) -> None:
    frame = udp4(A4, to=FOREIGN)
    lan.a.send(frame)
    assert lan.remote.gets(same(frame))
    assert not lan.b.gets(same(frame), 0.1)


REMOTE_MAC, REMOTE4, REMOTE6 = "06:11:11:11:11:11", "10.0.0.30", "fd00:0::30"

OVERLAY_PASSED = {
    "IPv4 from another host": frames.ethernet(
        REMOTE_MAC, B.mac, IPV4, frames.ipv4(REMOTE4, B4, UDP, frames.udp(1111, 2222))
    ),
    "ARP for a guest here": frames.arp(REMOTE_MAC, 1, REMOTE4, B4),
    "solicitation for a guest here": frames.message6(
        REMOTE_MAC, REMOTE6, "ff02::1", NS, frames.neighbour(NS, B6, REMOTE_MAC)
    ),
}
OVERLAY_DROPPED = {
    "ARP for the gateway": frames.arp(REMOTE_MAC, 1, REMOTE4, GW4),
    "ARP reply about the gateway": frames.arp(REMOTE_MAC, 2, GW4, B4),
    "a frame from the gateway's MAC": frames.ethernet(
        GATEWAY_MAC, B.mac, IPV4, frames.ipv4(REMOTE4, B4, UDP, frames.udp(1, 2))
    ),
    "router advertisement": frames.message6(REMOTE_MAC, names.link_local(REMOTE_MAC), "ff02::1", RA, bytes(12)),
    "router solicitation": frames.message6(REMOTE_MAC, names.link_local(REMOTE_MAC), "ff02::2", RS, bytes(4)),
    "solicitation for the gateway": frames.message6(
        REMOTE_MAC, REMOTE6, "ff02::1", NS, frames.neighbour(NS, GW6, REMOTE_MAC)
    ),
    "advertisement of the gateway": frames.message6(
        REMOTE_MAC, REMOTE6, "ff02::1", NA, frames.neighbour(NA, GATEWAY_LOCAL, REMOTE_MAC)
    ),
    "DHCP request": frames.ethernet(
        REMOTE_MAC, BROADCAST, IPV4, frames.ipv4("0.0.0.0", "255.255.255.255", UDP, frames.udp(68, 67))
    ),
    "DHCP answer": frames.ethernet(REMOTE_MAC, B.mac, IPV4, frames.ipv4(REMOTE4, B4, UDP, frames.udp(67, 68))),
    "DHCPv6 answer": frames.ethernet(REMOTE_MAC, B.mac, IPV6, frames.ipv6(REMOTE6, B6, UDP, frames.udp(547, 546))),
    "LLDP": frames.ethernet(REMOTE_MAC, B.mac, 0x88CC, bytes(46)),
}
OVERLAY_MARKER = frames.ethernet(REMOTE_MAC, B.mac, IPV4, frames.ipv4(REMOTE4, B4, UDP, frames.udp(9, 9)))


@pytest.mark.parametrize("name", OVERLAY_PASSED)
def test_what_another_host_may_send_arrives(lan: Lan, name: str) -> None:
    lan.remote.send(OVERLAY_PASSED[name])
    assert lan.b.gets(same(OVERLAY_PASSED[name]))


@pytest.mark.parametrize("name", OVERLAY_DROPPED)
def test_what_another_host_must_not_send_does_not_arrive(lan: Lan, name: str) -> None:
    lan.remote.send(OVERLAY_DROPPED[name])
    lan.remote.send(OVERLAY_MARKER)
    assert until(lan.b, OVERLAY_MARKER) == [OVERLAY_MARKER]
    assert not any(from_gateway(frame) for frame in lan.remote.frames(0.05))


def test_of_the_gateway_itself_nothing_crosses(lan: Lan) -> None:
    """It asks for an address that nobody has here, sends an advertisement and an answer by DHCP: guests see them."""

    def speak() -> None:
        for target, dport in (("10.0.0.200", 7), ("10.0.0.255", 68)):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                one.bind((GW4, 67 if dport == 68 else 0))
                one.sendto(b"from the gateway", (target, dport))
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as one:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            index = socket.if_nametoindex(names.subnet_bridge(SUBNET))
            one.sendto(bytes([RA]) + bytes(15), ("ff02::1", 0, 0, index))

    netns.inside(lan.path, speak)
    kinds: set[bytes] = set()
    for frame in lan.b.frames(LONG):
        kinds |= {frame[12:14]} if from_gateway(frame) else set()
        if len(kinds) == 3:
            break
    assert kinds == {b"\x08\x06", b"\x08\x00", b"\x86\xdd"}
    assert [frame for frame in lan.remote.frames(0.1) if from_gateway(frame)] == []


def test_a_closed_port_sends_nothing(lan: Lan, network: Network) -> None:
    network.remove([A])
    lan.a.send(PASSED["IPv4 from its own address"])
    lan.b.send(udp4(B4, mac=B.mac, to=BROADCAST))
    assert lan.a.gets(lambda got: got[12:14] == b"\x08\x00")
    assert not lan.b.gets(same(PASSED["IPv4 from its own address"]), 0.1)


def answers(lan_guest: Guest, mac: str, address: str, network_address: str, seconds: float = LONG) -> bool:
    """Whether anything but the gateway answers ARP, or ping by IPv6 to all nodes and all routers."""
    lan_guest.drain()
    lan_guest.send(frames.arp(mac, 1, address, network_address))
    for group, to in (("ff02::1", ALL_NODES), ("ff02::2", "33:33:00:00:00:02")):
        local = names.link_local(mac)
        lan_guest.send(frames.message6(mac, local, group, 128, b"\0\7\0\1" + b"lvagent!", to=to))
    return lan_guest.gets(lambda got: got[6:12] not in (mac_bytes(GATEWAY_MAC), mac_bytes(mac)), seconds)


@pytest.mark.parametrize("fabric", ["lvfabric", ""])
def test_a_guest_does_not_reach_the_host(place: object, guest: Callable[[str], Guest], fabric: str) -> None:
    settings = settings_for(place, fabric)  # type: ignore[arg-type]
    network = Network(settings)
    ip("link", "add", "uplink", "address", FOREIGN, "type", "veth", "peer", "name", "wire")
    ip("addr", "add", "10.0.0.250/24", "dev", "uplink")
    ip("link", "set", "uplink", "up")
    ip("link", "set", "lo", "up")
    network.ensure([*base(fabric=fabric), *segment(), A])
    a = guest(A.tap)
    network.plug(open_port(A), plug(A))
    assert not answers(a, A.mac, A4, "10.0.0.250", SHORT)
    where = f"{settings.paths.netns}/{fabric}" if fabric else ""

    def open_up() -> None:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        ip("addr", "add", "10.0.0.251/24", "dev", "lvb100")

    netns.inside(where, open_up)
    if not fabric:
        assert answers(a, A.mac, A4, "10.0.0.250"), "without the guard the host is reached: the test can fail"
    network.close()


def test_two_vpcs_with_equal_addresses_do_not_see_each_other(network: Network, guest: Callable[[str], Guest]) -> None:
    other_vpc, other_subnet = "vpc-bbbbbbbbbb", "subnet-cccccccccc"

    def moved(one: PortFilter, vm: int) -> PortFilter:
        own = port(vm, vpc=other_vpc, subnet=other_subnet)
        return dataclasses.replace(own, ipv4=one.ipv4, ipv6=one.ipv6)

    c, d = moved(port(5), 15), moved(port(6), 16)
    network.ensure([*base(), *segment()])
    network.ensure([*base(other_vpc), *segment(other_vpc, other_subnet, vni=200)])
    taps = {one.tap: guest(one.tap) for one in (port(5), port(6), c, d)}
    for one in (port(5), port(6), c, d):
        network.plug(open_port(one), plug(one))
    for one in (port(5), c):
        frame = frames.arp(one.mac, 1, A4, B4)
        for tap in taps.values():
            tap.drain()
        taps[one.tap].send(frame)
        neighbour = d if one is c else port(6)
        assert taps[neighbour.tap].gets(same(frame))
        assert not any(each.gets(same(frame), 0.1) for each in taps.values())
