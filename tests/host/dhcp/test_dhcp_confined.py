"""What a dnsmasq that a guest has taken over could reach, and that guests' malformed packets do not end one."""

from __future__ import annotations

import json
import os
import pwd
import random
import secrets
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lvagent.host import netns
from lvagent.host.privileges import NUMBERS
from tests.host.dhcp import wire
from tests.host.dhcp.site import Site, a_site, host

pytestmark = pytest.mark.host

USER = "dnsmasq"
ALLOWED = sum(1 << NUMBERS[name] for name in ("net_admin", "net_raw", "net_bind_service"))
FORBIDDEN = (
    "conf-dir", "conf-script", "dhcp-script", "dhcp-luascript", "enable-dbus", "enable-ubus", "enable-tftp",
    "log-queries", "log-dhcp", "ipset", "nftset", "dumpfile", "leasefile-ro", "script-on-renewal", "addn-hosts",
)  # fmt: skip
"""Settings by which dnsmasq would execute something, speak to another daemon, or write what guests choose."""

TRIES = r"""
import json, os, socket, sys

mine, other, path = sys.argv[1:]

def write(place):
    with open(place, "w") as file:
        file.write("x")
    if place.endswith("/lvagent-tried"):
        os.unlink(place)

def connect(place):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(place)

def outcome(one):
    try:
        one()
        return "done"
    except OSError as error:
        return type(error).__name__

found = {"write " + place: outcome(lambda: write(place + "/lvagent-tried")) for place in (
    "/tmp", "/var/tmp", "/dev/shm", "/run", "/etc", "/var/lib/misc", "/run/lock", mine, mine + "/hosts.d", other)}
found |= {"change " + name: outcome(lambda: open(mine + "/" + name, "a").close()) for name in ("conf", "leases")}
found |= {"read " + place: outcome(lambda: open(place).read()) for place in (other + "/conf", other + "/leases", path)}
found |= {"list": os.listdir(os.path.dirname(mine)), "processes of others": outcome(lambda: os.listdir("/proc/1"))}
found |= {"namespaces": os.listdir("/run/netns") if os.path.isdir("/run/netns") else []}
found |= {"setuid": os.statvfs("/usr/bin").f_flag & os.ST_NOSUID != 0}
print(json.dumps(found))
"""


def status(pid: int) -> dict[str, str]:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (row.partition(":") for row in rows)}


def tried(enter: list[str], *words: str) -> dict[str, object]:
    """What came of each try by dnsmasq's user, in the mounts that ``enter`` enters."""
    account = pwd.getpwnam(USER)
    become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    argv = [*enter, *become, "/usr/bin/python3", "-I", "-c", TRIES, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_is_a_user_with_three_capabilities(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    found = status(site.pid())
    account = pwd.getpwnam(USER)
    assert set(found["Uid"].split()) == {str(account.pw_uid)}
    assert "0" not in found["Groups"].split()
    assert int(found["CapPrm"], 16) & ~ALLOWED == 0
    assert int(found["CapEff"], 16) & ~ALLOWED == 0
    assert int(found["CapInh"], 16) | int(found["CapAmb"], 16) == 0
    assert netns.inode(f"/proc/{site.pid()}/ns/net") == netns.inode(f"/run/netns/{site.vpc}")


def test_its_settings_let_it_execute_nothing_and_speak_to_nobody(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    lines = (site.run / "dnsmasq" / site.vpc / "conf").read_text().splitlines()
    assert [line for line in lines if line.partition("=")[0] in FORBIDDEN] == []
    assert {"bind-dynamic", "no-ping", "no-hosts", "no-resolv", "quiet-dhcp", "user=dnsmasq"} <= set(lines)


def test_it_can_write_its_leases_and_nothing_else(site: Site, folder: Path) -> None:
    with a_site(folder) as neighbour:
        for one in (site, neighbour):
            one.server.ensure(one.wanted(host(5)))
        secret = folder / "readable-by-all"
        secret.write_text("x")
        mine, other = (str(folder / "dnsmasq" / one.vpc) for one in (site, neighbour))
        words = (mine, other, str(secret))
        found = tried(["nsenter", "-t", str(site.pid()), "-m", "--wd=/"], *words)
        assert {name for name, how in found.items() if how == "done"} == set()
        assert (found["list"], found["namespaces"], found["setuid"]) == ([site.vpc], [], True)
        without = tried(["env"], *words)
        assert {"write /tmp", "write /dev/shm", f"read {other}/conf", f"read {secret}"} <= {
            name for name, how in without.items() if how == "done"
        }
        assert neighbour.server.observe(neighbour.vpc) == neighbour.wanted(host(5))


def test_its_view_holds_no_namespace_of_another(site: Site, folder: Path) -> None:
    with a_site(folder) as neighbour:
        site.server.ensure(site.wanted(host(5)))
        assert neighbour.vpc not in Path(f"/proc/{site.pid()}/mountinfo").read_text()
        assert "nsfs" not in Path(f"/proc/{site.pid()}/mountinfo").read_text()


def mutated(source: random.Random, packet: bytes) -> bytes:
    """A packet with bytes changed, cut off or added."""
    raw = bytearray(packet)
    for _ in range(source.randint(1, 12)):
        raw[source.randrange(len(raw))] = source.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, source.randrange(256)))
    match source.randrange(4):
        case 0:
            return bytes(raw[: source.randrange(1, len(raw))])
        case 1:
            return bytes(raw) + source.randbytes(source.randrange(600))
        case _:
            return bytes(raw)


def seeds(mac: str) -> dict[int, tuple[bytes, ...]]:
    """Proper messages to dnsmasq, by the port they go to."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    head = struct.pack("!BBBB4sHH16s", 1, 1, 6, 0, b"abcd", 0, 0x8000, bytes(16)) + hardware + bytes(10 + 192)
    dhcp = (
        head + wire.MAGIC + bytes([53, 1, 1, 55, 3, 1, 3, 6, 61, 7, 1]) + hardware + bytes([82, 4, 1, 2, 65, 66, 255])
    )
    relayed = b"\x0c\x00" + bytes(32) + struct.pack("!HH", 9, 40) + b"\x01abc" + struct.pack("!HH", 1, 10) + bytes(32)
    duid = struct.pack("!HH", 1, 10) + b"\0\x03\0\x01" + hardware
    dhcp6 = b"\x01abc" + duid + struct.pack("!HHIII", 3, 12, 1, 0, 0) + struct.pack("!HHH", 6, 2, 23)
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 1) + b"\x0ci-0000000005\x03vpc\x08internal\0\0\x01\0\x01"
    edns = b"\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x08\0\x08\0\x01\x20\0\x0a\0\0\x05"
    loop = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\x01\0\x01"
    return {67: (dhcp,), 547: (dhcp6, relayed), 53: (query + edns, loop, query[:12] + b"\x3f" * 300)}


def throw(guest: wire.Client, source: random.Random, times: int) -> None:
    """Send malformed messages to each port of dnsmasq."""
    targets = {67: ("10.0.0.1", 67), 547: ("ff02::1:2", 547, 0, index_of(guest)), 53: ("10.0.0.1", 53)}
    for port, packets in seeds(guest.mac).items():
        with guest.open(socket.AF_INET6 if port == 547 else socket.AF_INET, socket.SOCK_DGRAM) as udp:
            if port != 53:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, guest.device.encode())
                udp.bind(("", 68) if port == 67 else ("::", 546))
            for number in range(times):
                udp.sendto(mutated(source, source.choice(packets)), targets[port])
                if number % 100 == 99:  # its buffer is small: what it does not read is no test
                    guest.resolve("10.0.0.1", "i-0000000005.vpc.internal", 1)


def index_of(guest: wire.Client) -> int:
    found = guest.inside(lambda: socket.if_nametoindex(guest.device))
    assert isinstance(found, int)
    return found


def throw_streams(guest: wire.Client, source: random.Random, times: int) -> None:
    """The same to its DNS port by TCP, some of it with lengths that lie."""
    query = seeds(guest.mac)[53][0]
    for _ in range(times):
        with guest.open(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.settimeout(5)
            tcp.connect(("10.0.0.1", 53))
            raw = mutated(source, query)
            tcp.sendall(struct.pack("!H", source.choice((len(raw), 0, 1, 0xFFFF))) + raw)


def test_it_survives_thousands_of_malformed_packets(site: Site) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}", file=sys.stderr)
    site.server.ensure(site.wanted(host(5), host(6)))
    before = site.pid()
    with site.client(host(5)) as hostile, site.client(host(6)) as good:
        hostile.address("10.0.0.5/24")
        good.address("10.0.0.6/24")
        source = random.Random(seed)
        throw(hostile, source, 1500)
        throw_streams(hostile, source, 15)
        ack = good.lease()
        assert ack is not None
        assert ack.address == "10.0.0.6"
        assert good.lease6() == "fd00:a::6"
        assert good.resolve("10.0.0.1", "i-0000000005.vpc.internal", 1) == (0, ("10.0.0.5",))
    assert site.pid() == before
    assert os.path.exists(f"/proc/{before}")
    assert site.server.observe(site.vpc) == site.wanted(host(5), host(6))
    leases = (site.run / "dnsmasq" / site.vpc / "leases").read_text().splitlines()
    known = {"10.0.0.5", "10.0.0.6", "fd00:a::5", "fd00:a::6"}
    assert {line.split()[2] for line in leases if not line.startswith("duid")} <= known
