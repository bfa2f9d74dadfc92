"""Where a guest goes by an uplink, and where it does not: each closed door has an open twin beside it."""

from __future__ import annotations

import socket
import struct
import subprocess
from ipaddress import ip_address

import pytest

from lvagent.host import netns
from lvagent.plan.uplinks import Transit
from lvagent.spec import names
from tests.host.net.frames import checksum
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site
from tests.host.uplink.world import DENIED, HOST, HOST6, LAN, PEER, PORT, WEB, WEB6, Guest, pings

pytestmark = pytest.mark.host

HASTE = 0.4
"""Seconds after which nothing comes any more."""


@pytest.fixture
def inside(site: Site) -> Guest:
    """A guest of A; B has an uplink and a guest too."""
    for vpc in (A, B):
        site.wishes.put(vpc, NAT)
    guest = site.guest(A, 5)
    site.guest(B, 5, rules=[ANYTHING])
    return guest


def transit(site: Site, vpc: str) -> Transit:
    return site.networks.transits()[vpc]


def test_the_hosts_own_addresses_and_ports_are_closed(site: Site, inside: Guest) -> None:
    ends = transit(site, A)
    assert ends.host_v6 is not None
    own = [HOST, LAN, str(ends.host_v4.ip), HOST6, str(ends.host_v6.ip)]
    for address in own:
        site.world.serve("host", address, PORT)
    site.world.serve("web", WEB, PORT)
    site.world.serve("web", WEB6, PORT)
    assert inside.ask(WEB, PORT, "twin") == HOST
    assert inside.ask(WEB6, PORT, "twin6") == HOST6
    for address in own:
        assert inside.ask(address, PORT, "own", patience=HASTE) == "", address
        assert not pings(inside.path, address, seconds=HASTE), address
    assert inside.pings(WEB)
    assert inside.pings(WEB6)


def test_another_vpcs_transit_and_the_vpcs_behind_it_are_closed(site: Site, inside: Guest) -> None:
    other = transit(site, B)
    netspace = f"{site.settings.paths.netns}/{B}"
    site.world.serve("host", str(other.host_v4.ip), PORT)
    own = netns.inside(netspace, lambda: socket.create_server((str(other.vpc_v4.ip), PORT)))
    with own:
        for address in (other.host_v4, other.vpc_v4, other.host_v6, other.vpc_v6):
            assert address is not None
            assert inside.ask(str(address.ip), PORT, "other", patience=HASTE) == ""
            assert not pings(inside.path, str(address.ip), seconds=HASTE)


def test_what_is_denied_and_the_underlay_are_closed(site: Site, inside: Guest) -> None:
    for place, address in (("web", DENIED), ("web", WEB), ("peer", PEER)):
        site.world.serve(place, address, PORT)
    assert inside.ask(WEB, PORT, "twin") == HOST
    assert inside.ask(DENIED, PORT, "denied", patience=HASTE) == ""
    assert inside.ask(PEER, PORT, "underlay", patience=HASTE) == ""
    assert pings("", PEER)  # the host itself reaches both
    assert pings("", DENIED)


def test_the_underlay_is_open_by_setting(sites: object) -> None:
    assert callable(sites)
    site = sites(underlay="allow")
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    site.world.serve("peer", PEER, PORT)
    assert guest.ask(PEER, PORT, "underlay") == LAN


def test_a_link_local_address_outside_is_closed(site: Site, inside: Guest) -> None:
    site.world.run("isp", "ip", "address", "add", "169.254.9.9/32", "dev", "lo")
    site.world.run("host", "ip", "route", "add", "169.254.9.9/32", "via", "203.0.113.254")
    site.world.serve("isp", "169.254.9.9", PORT)
    assert pings("", "169.254.9.9")
    assert inside.ask("169.254.9.9", PORT, "local", patience=HASTE) == ""


def test_metadata_of_this_vpc_and_no_other_answers_at_its_address(site: Site, inside: Guest) -> None:
    space = f"{site.settings.paths.netns}/{A}"
    line = netns.inside(space, lambda: socket.create_server((names.METADATA_V4, 80)))
    with line, inside.socket() as mine:
        mine.connect((names.METADATA_V4, 80))
        assert line.accept()[1][0] == "10.0.0.5"


def test_nobody_outside_claims_to_be_inside(site: Site) -> None:
    """From the world come packets that say they are a neighbour's of the guest, or of the pool."""
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5, rules=[ANYTHING])
    ends = transit(site, A)
    assert ends.vpc_v6 is not None
    assert ends.host_v6 is not None
    site.world.run("host", "ip", "route", "add", "10.0.0.0/24", "via", str(ends.vpc_v4.ip))
    site.world.run("host", "ip", "-6", "route", "add", "fd00:a::/64", "via", str(ends.vpc_v6.ip))
    lies = ["10.0.0.6", "10.0.0.1", str(ends.vpc_v4.ip), str(ends.host_v4.ip)]
    lies6 = ["fd00:a::6", "fd00:a::1", str(ends.vpc_v6.ip), str(ends.host_v6.ip)]
    for own, true, false in (("10.0.0.5", "203.0.113.77", lies), ("fd00:a::5", "2001:db8:7::77", lies6)):
        with guest.socket(socket.SOCK_DGRAM, socket.AF_INET6 if ":" in own else socket.AF_INET) as line:
            line.bind(("", 9000))
            line.settimeout(10)
            send(site, "isp", true, own, b"twin")  # the way is there: by root's own route
            assert line.recv(100) == b"twin"
            line.settimeout(HASTE)
            for source in false:
                send(site, "isp", source, own, b"spoofed")
                with pytest.raises(TimeoutError):
                    line.recv(100)


def test_a_vpc_sends_from_its_own_address_alone(site: Site) -> None:
    """Root believes no other source, and lends its address to no other, whatever has become of the VPC's own table."""
    for vpc in (A, B):
        site.wishes.put(vpc, NAT)
        site.guest(vpc, 5)
    own, other = transit(site, A), transit(site, B)
    site.world.run("host", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=2")  # loose, as systemd has it
    space = f"{site.settings.paths.netns}/{A}"
    netns.inside(space, lambda: subprocess.run(["nft", "delete", "table", "inet", "uplink"], check=True))
    with netns.inside(site.world.path("web"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
        line.bind((WEB, 9000))
        line.settimeout(10)
        send_from(space, str(own.vpc_v4.ip), WEB, b"twin")
        assert line.recvfrom(100)[0] == b"twin"
        line.settimeout(HASTE)
        for source in (str(other.vpc_v4.ip), str(own.host_v4.ip), HOST, "203.0.113.77", "10.0.0.5"):
            send_from(space, source, WEB, b"spoofed")
            with pytest.raises(TimeoutError):
                line.recv(100)


def test_what_nobody_asked_for_does_not_come_in(site: Site) -> None:
    """A guest's rules decide who comes in, also by a route that somebody made in root."""
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    ends = transit(site, A)
    site.world.run("host", "ip", "route", "add", "10.0.0.0/24", "via", str(ends.vpc_v4.ip))
    with guest.socket(socket.SOCK_DGRAM) as line:
        line.bind(("", 9000))
        line.settimeout(HASTE)
        send(site, "isp", "203.0.113.77", "10.0.0.5", b"unasked")
        with pytest.raises(TimeoutError):
            line.recv(100)


def test_a_guests_egress_rules_hold_for_the_world(site: Site) -> None:
    site.wishes.put(A, NAT)
    rule = {"proto": "tcp", "port": PORT, "destination": f"{WEB}/32", "direction": "egress"}
    guest = site.guest(A, 5, rules=[rule])
    for address, port in ((WEB, PORT), (WEB, PORT + 1), (WEB6, PORT)):
        site.world.serve("web", address, port)
    assert guest.ask(WEB, PORT, "allowed") == HOST
    assert guest.ask(WEB, PORT + 1, "refused", patience=HASTE) == ""
    assert guest.ask(WEB6, PORT, "refused", patience=HASTE) == ""


def send(site: Site, place: str, source: str, destination: str, payload: bytes) -> None:
    """A datagram with this source, whoever has it, to the host, which has a way on."""
    family, way, width = ("-6", HOST6, 128) if ":" in destination else ("-4", HOST, 32)
    site.world.run(place, "ip", family, "route", "replace", f"{destination}/{width}", "via", way)
    send_from(site.world.path(place), source, destination, payload)


def send_from(path: str, source: str, destination: str, payload: bytes) -> None:
    """A datagram with this source, by the kernel's routes in a namespace."""
    six = ":" in destination
    packed = [ip_address(one).packed for one in (source, destination)]
    udp = struct.pack("!HHHH", 5000, 9000, 8 + len(payload), 0) + payload
    if six:
        kind = b"".join(packed) + struct.pack("!II", len(udp), 17)
        udp = udp[:6] + struct.pack("!H", checksum(kind + udp)) + udp[8:]
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64)
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    family = socket.AF_INET6 if six else socket.AF_INET
    with netns.inside(path, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)) as line:
        line.sendto(head + b"".join(packed) + udp, (destination, 0))
