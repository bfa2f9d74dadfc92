"""VPCs that are peered: what goes from the one to the other, and all that does not.

    vpc A: A, B (10.0.0.0/24), C (10.0.1.0/24)     vpc P: P (10.0.20.0/24)     vpc Q: Q (10.0.30.0/24)

A and P are peered, P and Q are, A and Q are not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from lvagent.config import FilterSettings, Settings
from lvagent.host import links, netns, peers
from lvagent.host.network import Network
from lvagent.host.vpc import BROKEN
from lvagent.host.vpcs import VpcSides
from lvagent.plan.resources import Peer
from lvagent.spec import names
from lvagent.spec.peerings import PeeringState
from tests.host.net import frames
from tests.host.net.conftest import LONG, VPC, Guest
from tests.host.net.frames import ICMP, IPV4, UDP
from tests.host.net.site import (
    ACK,
    GATEWAYS,
    SUBNET_A,
    SYN,
    A,
    B,
    C,
    Host,
    Site,
    datagram,
    document,
    echo,
    host,
    packet,
    segment,
    token,
)

pytestmark = pytest.mark.host

VPC_P, VPC_Q = "vpc-pppppppppp", "vpc-qqqqqqqqqq"
SUBNET_P, SUBNET_Q = "subnet-pppppppppp", "subnet-qqqqqqqqqq"
P = host("p", 20, 20, SUBNET_P, VPC_P)
Q = host("q", 30, 30, SUBNET_Q, VPC_Q)
GATEWAYS.setdefault(SUBNET_P, ("10.0.20.1", "fd00:20::1"))
GATEWAYS.setdefault(SUBNET_Q, ("10.0.30.1", "fd00:30::1"))
OPEN = {"proto": "any", "direction": "ingress"}
LINK_P, LINK_A, LINK_Q = names.peer_link(VPC_P), names.peer_link(VPC), names.peer_link(VPC_Q)


@pytest.fixture
def site(network: Network, settings: Settings, guest: Callable[[str], Guest], tmp_path: Path) -> Site:
    """The three VPCs, their guests open to all, with the two peerings."""
    made = Site(network, settings, guest, tmp_path)
    made.put(document(A, [OPEN]), document(P, [OPEN]), document(Q, [OPEN]))
    made.peer(VPC_P, VPC)
    made.peer(VPC_P, VPC_Q)
    made.start(A, P, Q)
    return made


def inside(site: Site, vpc: str, *argv: str) -> str:
    """What a command says in the namespace of a VPC."""
    run = lambda: subprocess.run(argv, check=True, capture_output=True, text=True).stdout  # noqa: E731
    return netns.inside(f"{site.path.removesuffix(VPC)}{vpc}", run)


def shown(site: Site, vpc: str, *argv: str) -> Any:  # noqa: ANN401 - JSON is of any type
    return json.loads(inside(site, vpc, "ip", "-j", *argv) or "[]")


def comes(site: Site, sender: Host, receiver: Host, frame: bytes, said: bytes, seconds: float = LONG) -> bool:
    """Whether what was said in a frame comes to the receiver."""
    site.taps[sender.name].send(frame)
    return any(said in got for got in site.heard(receiver, seconds))


def ends(network: Network, vpc: str) -> dict[str, Peer]:
    return {one.other: one for one in network.observe(vpc) if isinstance(one, Peer)}


# what goes


def test_each_reaches_the_other_and_is_answered(site: Site) -> None:
    for sender, receiver, version in ((A, P, 4), (P, A, 6), (Q, P, 6), (P, Q, 4), (A, P, 6), (P, A, 4)):
        ask, answer = token(), token()
        assert comes(site, sender, receiver, echo(sender, receiver, version=version, payload=ask), ask)
        back = echo(receiver, sender, version=version, payload=answer, reply=True)
        assert comes(site, receiver, sender, back, answer)


def test_the_link_is_as_it_should_be_and_stays_so(site: Site, network: Network) -> None:
    before, links = [network.observe(vpc) for vpc in (VPC, VPC_P, VPC_Q)], shown(site, VPC_P, "link")
    site.networks.meet(VPC_P, VPC)
    site.networks.converge(VPC_P)
    assert [network.observe(vpc) for vpc in (VPC, VPC_P, VPC_Q)] == before
    assert [one["ifindex"] for one in shown(site, VPC_P, "link")] == [one["ifindex"] for one in links]
    found = ends(network, VPC)[VPC_P]
    assert found.nets == (ip_network("10.0.20.0/24"), ip_network("fd00:20::/64"))
    assert [str(one) for one in found.sources] == ["10.0.0.1", "fd00::1"]
    assert found.mtu == 65_535
    link = shown(site, VPC, "addr", "show", LINK_P)[0]
    assert link["group"] == str(names.LINK_GROUP)
    assert link["address"] == names.peer_mac(VPC, VPC_P) != names.peer_mac(VPC_P, VPC)
    assert shown(site, VPC, "-d", "link", "show", LINK_P)[0]["inet6_addr_gen_mode"] == "none"
    assert link["addr_info"] == []
    assert "NOARP" in link["flags"]
    filter_ = Path(f"/proc/sys/net/ipv4/conf/{LINK_P}/rp_filter")
    assert netns.inside(site.path, filter_.read_text) == "1\n"
    assert [one["dst"] for one in shown(site, VPC, "route", "show", "dev", LINK_P)] == ["10.0.20.0/24"]


@pytest.mark.parametrize("idle", [5, 10**6])
def test_the_link_is_waited_for_until_the_kernel_sends_by_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, idle: int
) -> None:
    """Which is a matter of luck, so that it is not yet so is only said here; it is not waited for without end."""
    netns.inside(site.path, lambda: subprocess.run(["ip", "link", "del", LINK_P], check=True))
    told: list[bool] = []

    def parse(body: bytes, parse: Callable[[bytes], links.Link] = links.parse) -> links.Link:
        link = parse(body)
        if names.peer_of(link.name) and link.up:
            told.append(link.running and len(told) >= idle)
            return dataclasses.replace(link, running=told[-1])
        return link

    monkeypatch.setattr(links, "parse", parse)
    monkeypatch.setattr(peers, "CARRIER_SECONDS", 30 if idle == 5 else 0.1)
    site.networks.meet(VPC_P, VPC)
    assert len(told) > 5
    assert any(told) is (idle == 5)
    said = token()
    assert comes(site, A, P, echo(A, P, payload=said), said)


def test_the_rules_of_the_receiver_decide_and_of_the_sender_as_ever(site: Site) -> None:
    site.put(document(P, [{"proto": "tcp", "port": 80, "source": "10.0.0.0/24"}]))
    for said, port, opened in ((token(), 80, True), (token(), 81, False)):
        assert (
            comes(site, A, P, segment(A, P, port, sport=4000 + port, payload=said), said, LONG if opened else 0.3)
            is opened
        )
    said = token()
    assert not comes(site, Q, P, segment(Q, P, 80, payload=said), said, 0.3)
    site.put(document(P, [OPEN]))
    site.put(document(A, [OPEN, {"proto": "udp", "port": 53, "direction": "egress", "destination": "10.0.20.0/24"}]))
    for said, port, opened in ((token(), 53, True), (token(), 54, False)):
        assert comes(site, A, P, datagram(A, P, port, payload=said), said, LONG if opened else 0.3) is opened


def test_a_rule_may_name_a_vm_or_a_subnet_of_the_other(site: Site) -> None:
    site.put(document(P, [{"proto": "udp", "port": 53, "source": A.vm}]))
    said = token()
    assert comes(site, A, P, datagram(A, P, 53, payload=said), said)
    site.put(document(B))
    site.start(B)
    other = token()
    assert not comes(site, B, P, datagram(B, P, 53, payload=other), other, 0.3)
    site.put(document(P, [{"proto": "udp", "port": 53, "source": SUBNET_A}]))
    for sender in (A, B):
        said = token()
        assert comes(site, sender, P, datagram(sender, P, 53, sport=4001, payload=said), said)
    site.taps["b"].close()
    site.drop(B.vm)
    assert "10.0.0.6" not in inside(site, VPC_P, "nft", "list", "set", "inet", "lvagent", f"{SUBNET_A}-4")


def test_a_packet_that_is_too_large_is_told_of_by_an_address_that_is_let_in(site: Site) -> None:
    inside(site, VPC_P, "ip", "link", "set", names.subnet_bridge(SUBNET_P), "mtu", "1300")
    large = frames.ipv4(A.ipv4, P.ipv4, UDP, frames.udp(4000, 53, b"x" * 1372), fragment=0x4000)
    site.taps["a"].send(frames.ethernet(A.mac, names.gateway_mac(SUBNET_A), IPV4, large))

    def too_large(got: bytes) -> bool:
        return got[12:14] == b"\x08\x00" and got[23] == ICMP and got[34:36] == b"\x03\x04"

    told = next(got for got in site.taps["a"].frames(LONG) if too_large(got))
    assert told[26:30] == bytes([10, 0, 20, 1])


# what does not


SPOOFED = {
    "of a third VPC": ("10.0.30.30", "fd00:30::1e"),
    "of the receiver's own VPC": ("10.0.20.77", "fd00:20::77"),
    "of the receiver": (P.ipv4, P.ipv6),
    "of the receiver's gateway": ("10.0.20.1", "fd00:20::1"),
    "of nobody": ("192.0.2.7", "2001:db8::7"),
    "of metadata": ("169.254.169.254", "fd00:ec2::254"),
    "that is link-local": ("169.254.3.4", "fe80::5"),
}


@pytest.fixture
def wire(site: Site) -> Iterator[Callable[[bytes], None]]:
    """Puts packets on the link from A's end, past all filters of A's VPC: what a VPC that went wrong could send."""
    opened = netns.inside(site.path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    opened.bind((LINK_P, 0))

    def send(raw: bytes) -> None:
        kind = frames.IPV4 if raw[0] >> 4 == 4 else frames.IPV6
        opened.send(frames.ethernet(names.peer_mac(VPC, VPC_P), names.peer_mac(VPC_P, VPC), kind, raw))

    yield send
    opened.close()


def test_a_spoofed_source_is_dropped_at_the_other_end(site: Site, wire: Callable[[bytes], None]) -> None:
    """By the filter; and by the reverse path too, which is therefore switched off here."""
    for scope in ("all", LINK_A):
        inside(site, VPC_P, "sh", "-c", f"echo 0 >/proc/sys/net/ipv4/conf/{scope}/rp_filter")
    tap = site.taps["p"]
    for version in (4, 6):
        for name, pair in SPOOFED.items():
            said = token()
            wire(packet(pair[version != 4], P.address(version), UDP, frames.udp(4000, 53, said)))
            assert not tap.gets(lambda got, said=said: said in got, 0.15), (name, version)
        said = token()
        wire(packet(A.address(version), P.address(version), UDP, frames.udp(4000, 53, said)))
        assert tap.gets(lambda got, said=said: said in got)


def test_a_peering_is_not_transitive(site: Site, wire: Callable[[bytes], None]) -> None:
    """A's VPC does not send what is for Q, even with a route there; and what it sends all the same P's hands not on."""
    for version in (4, 6):
        said, other, forged = token(), token(), token()
        assert not comes(site, A, Q, datagram(A, Q, 53, version=version, payload=said), said, 0.2)
        way = [net_of(Q, version), "via", *hop(version), "dev", LINK_P]
        inside(site, VPC, "ip", f"-{version}", "route", "add", *way)
        before = heard(site, VPC_P, LINK_A), heard(site, VPC_Q, names.peer_link(VPC_P))
        assert not comes(site, A, Q, datagram(A, Q, 53, version=version, payload=other), other, 0.2)
        assert heard(site, VPC_P, LINK_A) == before[0]
        wire(packet(A.address(version), Q.address(version), UDP, frames.udp(4000, 53, forged)))
        assert not site.taps["q"].gets(lambda got, said=forged: said in got, 0.2)
        until_heard(site, VPC_P, LINK_A, before[0] + 1)
        assert heard(site, VPC_Q, names.peer_link(VPC_P)) == before[1]
        said = token()
        assert comes(site, P, Q, datagram(P, Q, 53, version=version, payload=said), said)


def heard(site: Site, vpc: str, link: str) -> int:
    """How many packets came in by a link."""
    found = shown(site, vpc, "-s", "link", "show", link)[0]
    return int(found["stats64"]["rx"]["packets"])


def net_of(one: Host, version: int) -> str:
    return "10.0.30.0/24" if version == 4 else "fd00:30::/64"


def hop(version: int) -> list[str]:
    address = names.link_local(names.peer_mac(VPC_P, VPC))
    return ["inet6", address] if version == 4 else [address]


SERVICES = {
    "DNS of the other's gateway": ("10.0.20.1", "fd00:20::1", 53),
    "DHCP of the other's gateway": ("10.0.20.1", "fd00:20::1", 67),
    "DHCPv6 of the other's gateway": ("10.0.20.1", "fd00:20::1", 547),
    "metadata of the other": ("169.254.169.254", "fd00:ec2::254", 80),
    "another port of the other's gateway": ("10.0.20.1", "fd00:20::1", 9999),
}


def summed(source: str, destination: str, dport: int, said: bytes) -> bytes:
    """A datagram with its checksum, as a socket wants it of IPv6."""
    raw = frames.udp(4000, dport, said)
    packed = ip_address(source).packed + ip_address(destination).packed
    total = frames.checksum(packed + struct.pack("!II", len(raw), UDP) + raw)
    return packet(source, destination, UDP, raw[:6] + struct.pack("!H", total) + raw[8:])


def test_the_gateway_of_the_other_serves_its_own_only(site: Site, wire: Callable[[bytes], None]) -> None:
    """Sockets that listen to all in the other's namespace hear nothing; what its own guest says they do."""
    path = f"{site.path.removesuffix(VPC)}{VPC_P}"
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        for name, (*addresses, port) in SERVICES.items():
            with netns.inside(path, lambda family=family: socket.socket(family, socket.SOCK_DGRAM)) as opened:
                opened.bind(("", port))
                opened.settimeout(0.1)
                wire(summed(A.address(version), str(addresses[version != 4]), port, b"from A"))
                with pytest.raises(TimeoutError):
                    pytest.fail(f"{name}: {opened.recv(100)!r}")
        with netns.inside(path, lambda family=family: socket.socket(family, socket.SOCK_DGRAM)) as opened:
            opened.bind(("", 53))
            opened.settimeout(LONG)
            gateway = GATEWAYS[SUBNET_P][version != 4]
            own = summed(P.address(version), gateway, 53, b"own")
            kind = frames.IPV4 if version == 4 else frames.IPV6
            site.taps["p"].send(frames.ethernet(P.mac, names.gateway_mac(SUBNET_P), kind, own))
            assert opened.recv(100) == b"own"


def test_what_else_does_not_cross(site: Site) -> None:
    """Pings of the other's gateway, what a guest says with another's address, what begins in the namespace itself."""
    gateway = Host("g", "", names.gateway_mac(SUBNET_P), *GATEWAYS[SUBNET_P], SUBNET_P, VPC_P)
    for version in (4, 6):
        site.taps["a"].send(echo(A, gateway, version=version, payload=b"are you there"))
    assert not site.taps["a"].gets(lambda got: b"are you there" in got, 0.3)
    with netns.inside(site.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
        with pytest.raises(PermissionError):
            opened.sendto(b"from the host", (P.ipv4, 53))
    assert not site.taps["p"].gets(lambda got: b"from the host" in got, 0.2)
    said = token()
    assert not comes(site, A, P, datagram(A, P, 53, payload=said, source="10.0.20.77"), said, 0.2)


def test_a_peering_leads_neither_out_by_an_uplink_nor_in_from_one(site: Site, wire: Callable[[bytes], None]) -> None:
    """A link with the name of an uplink's end, and a host behind it that P's VPC has a route to."""
    mac = "0a:00:00:00:00:77"
    for words in (
        "link add ui-pppppppppp type veth peer name outside address " + mac,
        "link set outside up",
        "link set ui-pppppppppp up",
        "address add 198.51.100.2/24 dev ui-pppppppppp",
        f"neigh add 198.51.100.1 lladdr {mac} dev ui-pppppppppp",
        "route add default via 198.51.100.1",
    ):
        inside(site, VPC_P, "ip", *words.split())
    before = heard(site, VPC_P, "outside"), heard(site, VPC, LINK_P)
    wire(packet(A.ipv4, "192.0.2.99", UDP, frames.udp(4000, 53)))
    site.taps["p"].send(datagram(P, P, 53, payload=b"out", destination="192.0.2.99", to=names.gateway_mac(SUBNET_P)))
    until_heard(site, VPC_P, "outside", before[0] + 1)
    path = f"{site.path.removesuffix(VPC)}{VPC_P}"
    with netns.inside(path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as opened:
        opened.bind(("outside", 0))
        inner = json.loads(inside(site, VPC_P, "ip", "-j", "link", "show", "ui-pppppppppp"))[0]["address"]
        raw = packet("192.0.2.99", A.ipv4, UDP, frames.udp(53, 4001))
        opened.send(frames.ethernet(mac, inner, IPV4, raw))
    site.taps["a"].drain()
    assert heard(site, VPC, LINK_P) == before[1]


def until_heard(site: Site, vpc: str, link: str, count: int) -> None:
    """Wait for so many packets, and see that there are no more."""
    deadline = time.monotonic() + LONG
    while heard(site, vpc, link) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    assert heard(site, vpc, link) == count


def test_the_flows_of_one_peer_are_bounded_and_not_those_of_another(
    settings: Settings, guest: Callable[[str], Guest], tmp_path: Path
) -> None:
    few = dataclasses.replace(settings, filter=FilterSettings(peer_flows=4))
    with contextlib.closing(Network(few)) as network:
        site = Site(network, few, guest, tmp_path)
        site.put(document(A, [OPEN]), document(P, [OPEN]), document(Q, [OPEN]))
        site.peer(VPC_P, VPC)
        site.peer(VPC_P, VPC_Q)
        site.start(A, P, Q)
        came = []
        for port in range(5000, 5008):
            said, patience = token(), LONG if len(came) < 4 else 0.3
            came.append(comes(site, A, P, datagram(A, P, 53, sport=port, payload=said), said, patience))
        assert came == [True] * 4 + [False] * 4
        said = token()
        assert comes(site, Q, P, datagram(Q, P, 53, payload=said), said)
        said = token()
        assert comes(site, A, P, datagram(A, P, 53, sport=5000, payload=said), said)


# coming and going


def test_a_flow_is_cut_when_the_peering_goes(site: Site, network: Network) -> None:
    for sender, receiver, flags in ((A, P, SYN), (P, A, SYN | ACK), (A, P, ACK)):
        ports = (80, 4000) if sender is A else (4000, 80)
        said = token()
        frame = segment(sender, receiver, ports[0], sport=ports[1], flags=flags, seq=1, ack=1, payload=said)
        assert comes(site, sender, receiver, frame, said)
    site.part(VPC, VPC_P)
    for sender, receiver, port, sport in ((A, P, 80, 4000), (P, A, 4000, 80)):
        said = token()
        frame = segment(sender, receiver, port, sport=sport, flags=ACK, seq=2, ack=2, payload=said)
        assert not comes(site, sender, receiver, frame, said, 0.2)
    assert ends(network, VPC) == {}
    assert set(ends(network, VPC_P)) == {VPC_Q}
    assert not any(one["ifname"].startswith("px-") for one in shown(site, VPC, "link"))
    assert "10.0.20" not in inside(site, VPC, "nft", "list", "ruleset") + inside(site, VPC, "ip", "route")


def test_a_vpc_goes_and_comes_back(site: Site, network: Network) -> None:
    site.taps["p"].close()
    site.drop(P.vm)
    assert VPC_P not in network.vpcs()
    assert ends(network, VPC) == ends(network, VPC_Q) == {}
    assert "10.0.20" not in inside(site, VPC, "nft", "list", "ruleset") + inside(site, VPC, "ip", "route")
    assert site.state(VPC, VPC_P).state is PeeringState.WAITING
    site.put(document(P, [OPEN]))
    site.start(P)
    said = token()
    assert comes(site, A, P, datagram(A, P, 53, payload=said), said)
    assert site.state(VPC, VPC_P).state is site.state(VPC_Q, VPC_P).state is PeeringState.UP


def test_a_subnet_more_or_less_is_routed_or_not(site: Site, network: Network) -> None:
    site.put(document(C, [OPEN]))
    site.start(C)
    said = token()
    assert comes(site, P, C, datagram(P, C, 53, payload=said), said)
    site.taps["c"].close()
    site.drop(C.vm)
    assert ends(network, VPC_P)[VPC].nets == (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))


BREAK: dict[str, tuple[str, ...]] = {
    "the link is gone": ("ip", "link", "del", LINK_P),
    "it is down": ("ip", "link", "set", LINK_P, "down"),
    "it has another MAC": ("ip", "link", "set", LINK_P, "address", "0a:00:00:00:00:01"),
    "it asks for neighbours": ("ip", "link", "set", LINK_P, "arp", "on"),
    "its neighbour is gone": ("ip", "neigh", "flush", "dev", LINK_P, "nud", "permanent"),
    "a route is gone": ("ip", "route", "del", "10.0.20.0/24"),
    "a route is gone, IPv6": ("ip", "-6", "route", "del", "fd00:20::/64"),
    "a route too many": ("ip", "route", "add", "10.9.0.0/16", "dev", LINK_P, "scope", "link"),
    "it leads elsewhere": ("ip", "link", "add", "px-xxxxxxxxxx", "type", "veth", "peer", "name", "px-yyyyyyyyyy"),
    "the filter is closed": ("nft", "flush", "set", "inet", "lvagent", "peers4"),
    "the filter is open": (
        "nft", "add", "element", "inet", "lvagent", "peers4", f'{{ "{LINK_P}" . 10.9.0.0/16 comment "{VPC_P}" }}',
    ),
}  # fmt: skip


def test_what_somebody_broke_is_made_whole(site: Site, network: Network) -> None:
    before = {vpc: network.observe(vpc) for vpc in (VPC, VPC_P)}
    for what, command in BREAK.items():
        inside(site, VPC, *command)
        assert network.observe(VPC) != before[VPC], what
        excess = [site.networks.bring(vpc) for vpc in (VPC, VPC_P)]
        if any(excess):
            site.networks.converge(VPC)
        assert {vpc: network.observe(vpc) for vpc in (VPC, VPC_P)} == before, what
        said = token()
        assert comes(site, A, P, datagram(A, P, 53, payload=said), said), what


def test_an_end_in_a_dead_namespace_is_no_link(site: Site, network: Network) -> None:
    """Somebody deletes the other's namespace by hand while something holds it, and it is made anew."""
    path = f"{site.path.removesuffix(VPC)}{VPC_P}"
    with netns.inside(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
        site.taps["p"].close()
        netns.delete(path)
        site.networks.converge(VPC_P)
        site.start(P)
        said = token()
        assert comes(site, A, P, datagram(A, P, 53, payload=said), said)


def test_a_link_that_goes_while_it_is_looked_at_is_told_as_broken(site: Site, settings: Settings) -> None:
    side = VpcSides(settings.paths.netns, settings.filter).needed(VPC)
    there = side.space.links()
    inside(site, VPC_P, "ip", "link", "del", LINK_A)  # as it goes with the namespace of the other end, at any time
    found = {one.other: one.mtu for one in peers.observe(side, there, {}, lambda _: None)}
    assert found[VPC_P] == BROKEN
    assert side.space.routes(there[LINK_P].index) == frozenset()
