"""What the rules of a VM let in and out: each vector with the target closed, and with a rule that opens it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.config import Settings
from lvagent.host import netns
from lvagent.host.network import Network
from lvagent.spec import names
from tests.host.net import frames
from tests.host.net.conftest import LONG, SHORT, VPC, Guest
from tests.host.net.frames import BROADCAST, ICMP
from tests.host.net.site import (
    ACK,
    GRE,
    RST,
    SCTP,
    SUBNET_A,
    SUBNET_B,
    SYN,
    A,
    B,
    C,
    Host,
    R,
    Site,
    datagram,
    document,
    echo,
    frame,
    other,
    packet,
    segment,
    token,
)

pytestmark = pytest.mark.host

TCP_OPEN = {"proto": "tcp", "port": 80}
UDP_OPEN = {"proto": "udp", "port": 53, "port_end": 54}
ANY_OPEN = {"proto": "any"}


@pytest.fixture
def site(network: Network, settings: Settings, guest: Callable[[str], Guest], tmp_path: Path) -> Site:
    """A, B and C with no rules but that of the mark, and another host."""
    made = Site(network, settings, guest, tmp_path)
    made.put(document(A), document(B), document(C))
    made.start(A, B, C)
    made.join_remote()
    return made


Frame = Callable[[bytes], bytes]
"""Makes the frame of a token."""


def vectors(sender: Host, target: Host) -> dict[str, tuple[Frame, dict[str, object]]]:
    """What is sent to a target, and a rule that opens it."""
    found: dict[str, tuple[Frame, dict[str, object]]] = {}
    for version in (4, 6):
        v = f"v{version}"
        ping = {"proto": "icmp" if version == 4 else "icmpv6"}
        found[f"TCP {v}"] = (lambda said, n=version: segment(sender, target, 80, version=n, payload=said), TCP_OPEN)
        found[f"UDP {v}"] = (lambda said, n=version: datagram(sender, target, 53, version=n, payload=said), UDP_OPEN)
        found[f"ping {v}"] = (lambda said, n=version: echo(sender, target, version=n, payload=said), ping)
        for name, number in (("SCTP", SCTP), ("GRE", GRE), ("protocol 253", 253)):
            rule = {"proto": "sctp", "port": 5000} if number == SCTP else {"proto": str(number)}
            make = lambda said, n=version, p=number: other(sender, target, p, version=n, payload=said)  # noqa: E731
            found[f"{name} {v}"] = (make, rule)
    return found


def bridged_vectors(sender: Host, target: Host) -> dict[str, tuple[Frame, dict[str, object]]]:
    """What only one on the same segment can send."""

    def to_all(address: str, mac: str, version: int = 4) -> Frame:
        return lambda said: datagram(sender, target, 53, destination=address, to=mac, version=version, payload=said)

    return {
        "TCP to its link-local address": (
            lambda said: segment(
                sender, target, 80, version=6, source=sender.local, destination=target.local, payload=said
            ),
            TCP_OPEN,
        ),
        "UDP to its link-local address": (
            lambda said: datagram(
                sender, target, 53, version=6, source=sender.local, destination=target.local, payload=said
            ),
            UDP_OPEN,
        ),
        "UDP to 255.255.255.255": (to_all("255.255.255.255", BROADCAST), UDP_OPEN),
        "UDP to the subnet's broadcast address": (to_all("10.0.0.255", BROADCAST), UDP_OPEN),
        "UDP to IPv4 multicast": (to_all("224.0.0.251", "01:00:5e:00:00:fb"), UDP_OPEN),
        "UDP to IPv6 multicast": (to_all("ff02::fb", "33:33:00:00:00:fb", 6), UDP_OPEN),
        "UDP to a third one's address, with its MAC": (to_all("10.0.0.99", target.mac), UDP_OPEN),
        "UDP to it by a broadcast frame": (to_all(target.ipv4, BROADCAST), UDP_OPEN),
    }


WAYS = {"bridged": (A, B), "routed": (A, C), "from another host": (R, B)}
CASES = [
    pytest.param(way, name, id=f"{way}: {name}")
    for way, (sender, target) in WAYS.items()
    for name in vectors(sender, target) | (bridged_vectors(sender, target) if way != "routed" else {})
]


@pytest.mark.parametrize(("way", "name"), CASES)
def test_a_closed_target_gets_nothing_and_an_open_one_does(site: Site, way: str, name: str) -> None:
    sender, target = WAYS[way]
    make, rule = (vectors(sender, target) | bridged_vectors(sender, target))[name]
    assert not site.reaches(sender, target, make)
    site.put(document(target, [rule]))
    assert site.reaches(sender, target, make)
    site.put(document(target))
    assert not site.reaches(sender, target, make)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_egress_is_open_until_the_first_rule_and_never_opens_an_ingress(site: Site, way: str, version: int) -> None:
    sender, target = WAYS[way]
    mark_out = {"proto": "udp", "port": 9, "direction": "egress"}

    def ask(said: bytes) -> bytes:
        return segment(sender, target, 80, version=version, payload=said)

    site.put(document(target, [TCP_OPEN]))
    assert site.reaches(sender, target, ask)
    site.put(document(sender, [mark_out]))
    assert not site.reaches(sender, target, ask)
    out = {"proto": "tcp", "port": 80, "destination": target.address(version)}
    site.put(document(sender, [mark_out, out]))
    assert site.reaches(sender, target, ask)
    site.put(document(target))
    assert not site.reaches(sender, target, ask), "allowed to go out, but not to come in"


@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_answers_come_back_and_nothing_else_does(site: Site, way: str) -> None:
    client, server = WAYS[way]
    site.put(document(server, [TCP_OPEN, UDP_OPEN]))
    assert site.reaches(client, server, lambda said: datagram(client, server, 53, sport=999, payload=said))
    assert site.reaches(server, client, lambda said: datagram(server, client, 999, sport=53, payload=said))
    assert not site.reaches(server, client, lambda said: datagram(server, client, 998, sport=53, payload=said))
    assert not site.reaches(server, client, lambda said: datagram(server, client, 999, sport=54, payload=said))
    site.put(document(client, [{"proto": "icmp", "source": server.ipv4}]))
    assert not site.reaches(client, server, lambda said: echo(client, server, payload=said))
    assert site.reaches(server, client, lambda said: echo(server, client, payload=said))
    assert site.reaches(client, server, lambda said: echo(client, server, payload=said, reply=True))


def connect(site: Site, client: Host, server: Host, version: int = 4, sport: int = 4001) -> tuple[Frame, Frame]:
    """A TCP connection to port 80; gives what makes the next segment of the client and of the server."""
    a, b = site.taps[client.name], site.taps[server.name]
    a.send(segment(client, server, 80, sport=sport, version=version))
    assert b.gets(lambda got: segment_of(got) == (sport, 80, SYN))
    b.send(segment(server, client, sport, sport=80, version=version, flags=SYN | ACK, seq=5000, ack=1001))
    assert a.gets(lambda got: segment_of(got) == (80, sport, SYN | ACK))
    a.send(segment(client, server, 80, sport=sport, version=version, flags=ACK, seq=1001, ack=5001))
    assert b.gets(lambda got: segment_of(got) == (sport, 80, ACK))
    return (
        lambda said: segment(
            client, server, 80, sport=sport, version=version, flags=ACK, seq=1001, ack=5001, payload=said
        ),
        lambda said: segment(
            server, client, sport, sport=80, version=version, flags=ACK, seq=5001, ack=1001, payload=said
        ),
    )


def segment_of(got: bytes) -> tuple[int, int, int] | None:
    """Ports and flags of a TCP segment."""
    at = 34 if got[12:14] == b"\x08\x00" else 54
    if len(got) < at + 20:
        return None
    sport, dport = struct.unpack_from("!HH", got, at)
    return sport, dport, got[at + 13]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["bridged", "routed"])
@pytest.mark.parametrize("first", ["client", "server"])
def test_a_flow_is_cut_when_its_rule_goes_whoever_sends_next(site: Site, way: str, version: int, first: str) -> None:
    client, server = WAYS[way]
    site.put(document(server, [TCP_OPEN]))
    asks, says = connect(site, client, server, version)
    assert site.reaches(client, server, asks)
    assert site.reaches(server, client, says)
    site.put(document(server))
    turns = [(client, server, asks), (server, client, says)]
    for sender, receiver, make in turns if first == "client" else reversed(turns):
        assert not site.reaches(sender, receiver, make)
    site.put(document(server, [TCP_OPEN]))
    assert site.reaches(server, client, says), "the rule is back, and the flow was never forgotten"


@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_a_flow_that_another_rule_allows_goes_on(site: Site, way: str) -> None:
    client, server = WAYS[way]
    site.put(document(server, [TCP_OPEN]))
    asks, says = connect(site, client, server)
    site.put(document(server, [{"proto": "tcp", "port": 1, "port_end": 100, "source": client.vm}]))
    assert site.reaches(server, client, says)
    assert site.reaches(client, server, asks)


@pytest.mark.parametrize("way", ["bridged", "routed"])
def test_a_first_egress_rule_cuts_what_it_does_not_allow(site: Site, way: str) -> None:
    client, server = WAYS[way]
    site.put(document(server, [TCP_OPEN]))
    asks, says = connect(site, client, server)
    site.put(document(client, [{"proto": "udp", "port": 9, "direction": "egress"}]))
    assert not site.reaches(server, client, says)
    assert not site.reaches(client, server, asks)


def test_an_error_about_an_allowed_flow_comes_and_one_about_a_cut_flow_does_not(site: Site) -> None:
    site.put(document(B, [UDP_OPEN]))
    asked = datagram(A, B, 53, sport=777, payload=b"question")
    site.taps["a"].send(asked)
    assert site.taps["b"].gets(lambda got: b"question" in got)

    def error(said: bytes) -> bytes:
        raw = struct.pack("!BBHI", 3, 3, 0, 0) + asked[14:] + said
        raw = raw[:2] + struct.pack("!H", frames.checksum(raw)) + raw[4:]
        return frame(B, A, packet(B.ipv4, A.ipv4, ICMP, raw))

    assert site.reaches(B, A, error)
    site.put(document(B))
    assert not site.reaches(B, A, error)


def test_a_vm_in_a_rule_is_who_has_that_id_now(site: Site) -> None:
    site.put(document(B, [{"proto": "udp", "port": 53, "source": A.vm}]))
    ask = lambda said: datagram(A, B, 53, payload=said)  # noqa: E731
    ask6 = lambda said: datagram(A, B, 53, version=6, payload=said)  # noqa: E731
    local = lambda said: datagram(A, B, 53, version=6, source=A.local, destination=B.local, payload=said)  # noqa: E731
    for make in (ask, ask6, local):
        assert site.reaches(A, B, make)
    assert not site.reaches(C, B, lambda said: datagram(C, B, 53, payload=said))
    before = site.nft("list", "chain", "inet", "lvagent", "in-0000000006")
    site.taps["a"].close()  # its qemu ends; else the VM is one that runs and that nobody knows
    while site.network.taps(VPC) & {names.tap(A.vm, 0)}:
        time.sleep(0.01)
    site.drop(A.vm)
    assert "elements" not in site.nft("list", "set", "inet", "lvagent", f"{A.vm}-4")
    site.put(document(A))
    assert site.nft("list", "chain", "inet", "lvagent", "in-0000000006") == before
    site.start(A)
    assert site.reaches(A, B, ask)


def test_a_subnet_in_a_rule_is_who_is_in_it_now(site: Site) -> None:
    site.put(document(A, [{"proto": "udp", "port": 53, "source": SUBNET_B}]))
    assert site.reaches(C, A, lambda said: datagram(C, A, 53, payload=said))
    assert not site.reaches(B, A, lambda said: datagram(B, A, 53, payload=said))
    site.put(document(A, [{"proto": "udp", "port": 53, "source": SUBNET_A}]))
    assert not site.reaches(C, A, lambda said: datagram(C, A, 53, payload=said))
    assert site.reaches(B, A, lambda said: datagram(B, A, 53, payload=said))
    assert not site.reaches(R, A, lambda said: datagram(R, A, 53, payload=said)), "nobody that is known here"


def test_a_peer_that_is_not_there_is_nobody(site: Site) -> None:
    site.put(document(B, [{"proto": "any", "source": "i-0000000077"}, {"proto": "any", "source": "subnet-zzzzzzzzzz"}]))
    assert not site.reaches(A, B, lambda said: datagram(A, B, 53, payload=said))


def test_changes_of_others_leave_rules_and_counters_alone(site: Site) -> None:
    site.put(document(B, [UDP_OPEN, TCP_OPEN]))
    assert site.reaches(A, B, lambda said: datagram(A, B, 53, payload=said))
    before = site.nft("-a", "list", "chain", "inet", "lvagent", "in-0000000006")
    assert "packets 1 " in before
    for port in range(100, 140):
        site.put(document(A, [{"proto": "tcp", "port": port}]), document(C, [{"proto": "any", "source": A.vm}]))
    assert site.nft("-a", "list", "chain", "inet", "lvagent", "in-0000000006") == before
    site.put(document(B, [UDP_OPEN, {"proto": "sctp"}]))
    after = site.nft("-a", "list", "chain", "inet", "lvagent", "in-0000000006")
    kept = [line for line in before.splitlines() if "udp 53-54" in line]
    assert kept
    assert kept[0] in after.splitlines(), "a rule that stays is not written anew"


def test_a_stranger_to_a_flow_cannot_reset_it(site: Site) -> None:
    site.put(document(B, [TCP_OPEN]))
    asks, _ = connect(site, A, B)
    spoofed = segment(C, B, 80, sport=4001, flags=RST, seq=1001, source=A.ipv4)
    site.taps["c"].send(spoofed)
    assert site.reaches(A, B, asks)


def test_the_namespace_itself_meets_the_rules(site: Site) -> None:
    """An operator in the VPC's namespace is one more client; what the gateway serves is answered whatever the rules."""

    def ask(port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            try:
                one.sendto(b"operator", (B.ipv4, port))
            except PermissionError:
                return

    netns.inside(site.path, lambda: ask(53))
    assert not site.taps["b"].gets(lambda got: b"operator" in got, 0.3)
    site.put(document(B, [UDP_OPEN]))
    netns.inside(site.path, lambda: ask(53))
    assert site.taps["b"].gets(lambda got: b"operator" in got)


def test_extra_addresses_lead_to_all_who_share_them(site: Site) -> None:
    """Routed packets to a shared address must be allowed by each VM that may have it."""
    shared = {"extra_addresses": ["10.0.0.64/28"]}
    site.put(document(A, **shared), document(B, [UDP_OPEN], **shared))
    site.taps["b"].send(frames.arp(B.mac, 2, "10.0.0.66", "10.0.0.1", to="ff:ff:ff:ff:ff:ff"))
    to_shared = lambda said: datagram(C, B, 53, destination="10.0.0.66", payload=said)  # noqa: E731

    def answered(seconds: float = LONG) -> bool:
        """B answers for the address when the gateway asks for it."""
        said = token()
        site.taps["c"].send(to_shared(said))
        for got in site.taps["b"].frames(seconds):
            if got[12:14] == b"\x08\x06" and got[38:42] == bytes([10, 0, 0, 66]) and got[20:22] == b"\0\1":
                site.taps["b"].send(frames.arp(B.mac, 2, "10.0.0.66", "10.0.0.1", to=got[6:12].hex(":")))
            if said in got:
                return True
        return False

    assert not answered(SHORT), "A has it too, and is closed"
    site.put(document(A, [UDP_OPEN], **shared))
    assert answered()
    site.put(document(A))
    assert answered(), "now it is that of B alone"
    site.put(document(B, **shared))
    assert not answered(SHORT)
