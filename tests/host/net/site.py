"""A VPC with guests whose rules are applied as the agent does it, seen from the guests' ends of their taps.

    A, B   10.0.0.5, 10.0.0.6 in subnet a (VNI 100)        bridged to each other
    C      10.0.1.9 in subnet b (local)                    routed
    R      10.0.0.77 on another host, behind VNI 100       bridged over the underlay side

Every guest lets datagrams to port 9 in: the mark behind a packet, which shows that the packet itself would have come.
"""

from __future__ import annotations

import itertools
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.networks import Networks
from lvagent.config import Settings
from lvagent.host import netns
from lvagent.host.netlink import mac_bytes
from lvagent.host.network import Network
from lvagent.plan import firewall, wanted
from lvagent.plan.wanted import Policy
from lvagent.render import nft
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import PeeringView, peering
from lvagent.spec.vm import VmConfig
from tests.host.net import frames
from tests.host.net.conftest import LOCAL, LONG, SHORT, VPC, Guest
from tests.host.net.frames import ICMP, ICMPV6, IPV4, IPV6, UDP
from tests.unit.agent.fakes import Breaker, FakeDhcp, FakeMetadata

TCP, SCTP, GRE = 6, 132, 47
MARK_PORT = 9
MARK = {"proto": "udp", "port": MARK_PORT, "direction": "ingress"}
SUBNET_A, SUBNET_B = "subnet-aaaaaaaaaa", "subnet-bbbbbbbbbb"
SYN, ACK, RST = 2, 16, 4


@dataclass(frozen=True, slots=True)
class Host:
    """A guest as others address it."""

    name: str
    vm: str
    mac: str
    ipv4: str
    ipv6: str
    subnet: str
    vpc: str = VPC

    @property
    def local(self) -> str:
        """Its link-local address."""
        return names.link_local(self.mac)

    def address(self, version: int) -> str:
        """Its address of a family."""
        return self.ipv4 if version == 4 else self.ipv6


def host(name: str, number: int, third: int, subnet: str, vpc: str = VPC) -> Host:
    """A guest with the addresses 10.0.<third>.<number> and fd00:<third>::<number>."""
    vm = f"i-{number:010}"
    return Host(name, vm, names.nic_mac(vm, 0), f"10.0.{third}.{number}", f"fd00:{third}::{number:x}", subnet, vpc)


A, B, C = host("a", 5, 0, SUBNET_A), host("b", 6, 0, SUBNET_A), host("c", 9, 1, SUBNET_B)
R = Host("r", "", "06:00:00:00:99:01", "10.0.0.77", "fd00:0::77", SUBNET_A)
GATEWAYS = {SUBNET_A: ("10.0.0.1", "fd00:0::1"), SUBNET_B: ("10.0.1.1", "fd00:1::1")}

_tokens = itertools.count(1)


def token() -> bytes:
    """Bytes that no other packet of the run has."""
    return b"<%08d>" % next(_tokens)


def document(of: Host, rules: Iterable[dict[str, object]] = (), **nic: object) -> dict[str, object]:
    """The VM as a client sends it; the rule of the mark is among its rules."""
    v4, v6 = GATEWAYS[of.subnet]
    network = {
        "vxlanid": 100 if of.subnet == SUBNET_A else 0,
        "netname": of.vpc,
        "subnetname": of.subnet,
        "position": 0,
        "ipv4": f"{of.ipv4}/24",
        "gateway_v4": v4,
        "ipv6": f"{of.ipv6}/64",
        "gateway_v6": v6,
    }
    return {"id": of.vm, "memory_mb": 64, "cpus": 1, "networks": [network | nic], "rules": [MARK, *rules]}


class Site:
    """The VPC, its guests, and the agent's own part that brings it to what they want."""

    def __init__(self, network: Network, settings: Settings, guest: Callable[[str], Guest], folder: Path) -> None:
        self.network = network
        self.path = f"{settings.paths.netns}/{VPC}"
        self._guest = guest
        self._index = Index()
        self._index.loaded = True
        policy = Policy("lvfabric", 1500, LOCAL, 4789, "vpc.internal", (), nft.base_digest(limits=settings.filter))
        breaker = Breaker()
        self.networks = Networks(
            self._index, network, FakeDhcp(breaker), FakeMetadata(breaker), policy, folder / "locks"
        )
        self.taps: dict[str, Guest] = {}
        self._fabric = f"{settings.paths.netns}/lvfabric"

    def put(self, *documents: dict[str, object]) -> None:
        """Create or change these VMs."""
        specs = [parse_vm(one) for one in documents]
        for spec in specs:
            self._index.adopt(Entry(spec, Phase.LIVE, applied=spec))
        for vpc in dict.fromkeys(vpc for spec in specs for vpc in spec.vpcs):
            self.networks.converge(vpc)

    def drop(self, vm: str) -> None:
        """Delete a VM."""
        vpcs = self.spec(vm).vpcs
        self._index.drop(vm)
        for vpc in vpcs:
            self.networks.converge(vpc)

    def peer(self, one: str, other: str) -> None:
        """Peer two VPCs."""
        self._index.peer(peering(one, other))
        self.networks.meet(one, other)

    def part(self, one: str, other: str) -> None:
        """Peer them no more."""
        self._index.part(peering(one, other))
        self.networks.meet(one, other)

    def state(self, one: str, other: str) -> PeeringView:
        """How a peering stands."""
        return self.networks.links.view(peering(one, other))

    def start(self, *hosts: Host) -> None:
        """Plug their taps, and let the gateway know where they are."""
        for one in hosts:
            spec = self.spec(one.vm)
            self.taps[one.name] = self._guest(names.tap(one.vm, 0))
            place = wanted.plug(spec, spec.networks[0], self.networks.policy)
            bound = [wanted.port_filter(spec, spec.networks[0]), firewall.firewall(one.vpc, spec)]
            self.network.plug(bound, place)
        for one in hosts:
            self.introduce(one)

    def spec(self, vm: str) -> VmConfig:
        """The spec of a VM."""
        entry = self._index.get(vm)
        assert entry is not None
        return entry.spec

    def introduce(self, one: Host) -> None:
        """Let the gateway know where a guest is: these taps do not answer when it asks, unless ``heard`` listens."""
        tap, (v4, v6) = self.taps[one.name], GATEWAYS[one.subnet]
        body = frames.neighbour(frames.NS, v6, one.mac)
        asks = frames.message6(one.mac, one.ipv6, v6, frames.NS, body, to=names.gateway_mac(one.subnet))
        until(
            tap, frames.arp(one.mac, 1, one.ipv4, v4), lambda got: got[12:14] == b"\x08\x06" and got[20:22] == b"\0\2"
        )
        until(tap, asks, lambda got: got[12:14] == b"\x86\xdd" and got[54] == frames.NA)

    def join_remote(self) -> None:
        """Another host on the segment of subnet a."""
        remote = self._guest("remote")
        commands = [["ip", "link", "set", "remote", "netns", self._fabric]]
        subprocess.run(commands[0], check=True)
        up = ["ip", "link", "set", "remote", "master", "lvb100", "up"]
        netns.inside(self._fabric, lambda: subprocess.run(up, check=True))
        self.taps[R.name] = remote

    def heard(self, one: Host, seconds: float) -> Iterator[bytes]:
        """What comes to a guest within this time; asked by the gateway where it is, it answers.

        What the gateway knows it asks about again when it has used it for five seconds, and forgets after eight.
        """
        tap, gateway = self.taps[one.name], mac_bytes(names.gateway_mac(one.subnet))
        for got in tap.frames(seconds):
            if got[6:12] == gateway and (answer := self._answer(one, got)):
                tap.send(answer)
            yield got

    def _answer(self, one: Host, got: bytes) -> bytes:
        """What a guest says to who asks where it is; nothing to anything else."""
        to = names.gateway_mac(one.subnet)
        if got[12:14] == b"\x08\x06" and got[20:22] == b"\0\1" and got[38:42] == ip_address(one.ipv4).packed:
            return frames.arp(one.mac, 2, one.ipv4, GATEWAYS[one.subnet][0], to=to)
        own = [address for address in (one.ipv6, one.local) if got[62:78] == ip_address(address).packed]
        if got[12:14] == b"\x86\xdd" and got[20] == ICMPV6 and got[54] == frames.NS and own:
            asker = str(ip_address(got[22:38]))
            body = frames.neighbour(frames.NA, own[0], one.mac)
            return frames.message6(one.mac, own[0], asker, frames.NA, body, to=to)
        return b""

    def reaches(self, sender: Host, receiver: Host, frame: Callable[[bytes], bytes], *, seconds: float = LONG) -> bool:
        """Whether a frame with a token in it comes to the receiver; the mark is sent behind it on the same way.

        :param frame: makes the frame of a token.
        """
        said, mark = token(), token()
        source = self.taps[sender.name]
        source.send(frame(said))
        source.send(datagram(sender, receiver, MARK_PORT, payload=mark))
        came = False
        for got in self.heard(receiver, seconds):
            came = came or said in got
            if mark in got:
                return came
        raise AssertionError(f"the mark of {sender.name} did not come to {receiver.name}")

    def nft(self, *words: str) -> str:
        """What nft says in the VPC's namespace."""
        run = lambda: subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout  # noqa: E731
        return netns.inside(self.path, run)


def until(tap: Guest, question: bytes, answer: Callable[[bytes], bool]) -> None:
    """Ask until there is an answer: a bridge with its first port takes a moment."""
    for _ in range(20):
        tap.send(question)
        if tap.gets(answer, SHORT):
            return
    raise AssertionError("the gateway does not answer")


def frame(sender: Host, receiver: Host, packet: bytes, *, to: str = "") -> bytes:
    """A packet as it leaves a guest: to the receiver in its own subnet, else to the gateway."""
    kind = IPV4 if packet[0] >> 4 == 4 else IPV6
    near = receiver.mac if receiver.subnet == sender.subnet else names.gateway_mac(sender.subnet)
    return frames.ethernet(sender.mac, to or near, kind, packet)


def packet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IP packet of the addresses' family."""
    if ip_address(source).version == 4:
        return frames.ipv4(source, destination, protocol, payload)
    return frames.ipv6(source, destination, protocol, payload)


def datagram(
    sender: Host,
    receiver: Host,
    dport: int,
    *,
    payload: bytes,
    sport: int = 4000,
    version: int = 4,
    source: str = "",
    destination: str = "",
    to: str = "",
) -> bytes:
    """UDP from one to the other."""
    addresses = (source or sender.address(version), destination or receiver.address(version))
    return frame(sender, receiver, packet(*addresses, UDP, frames.udp(sport, dport, payload)), to=to)


def segment(
    sender: Host,
    receiver: Host,
    dport: int,
    *,
    sport: int = 4000,
    version: int = 4,
    flags: int = SYN,
    seq: int = 1000,
    ack: int = 0,
    payload: bytes = b"",
    source: str = "",
    destination: str = "",
) -> bytes:
    """TCP from one to the other, with its checksum."""
    addresses = (source or sender.address(version), destination or receiver.address(version))
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 65_000, 0, 0)
    raw = head + payload
    packed = [ip_address(one).packed for one in addresses]
    kind = struct.pack("!BBH", 0, TCP, len(raw)) if len(packed[0]) == 4 else struct.pack("!II", len(raw), TCP)
    total = frames.checksum(b"".join(packed) + kind + raw)
    return frame(sender, receiver, packet(*addresses, TCP, raw[:16] + struct.pack("!H", total) + raw[18:]))


def echo(sender: Host, receiver: Host, *, version: int = 4, payload: bytes, reply: bool = False) -> bytes:
    """A ping, or the answer to one."""
    if version == 4:
        raw = struct.pack("!BBHHH", 0 if reply else 8, 0, 0, 7, 1) + payload
        raw = raw[:2] + struct.pack("!H", frames.checksum(raw)) + raw[4:]
        return frame(sender, receiver, frames.ipv4(sender.ipv4, receiver.ipv4, ICMP, raw))
    body = struct.pack("!HH", 7, 1) + payload
    raw = frames.icmp6(sender.ipv6, receiver.ipv6, 129 if reply else 128, body)
    return frame(sender, receiver, frames.ipv6(sender.ipv6, receiver.ipv6, ICMPV6, raw))


def other(sender: Host, receiver: Host, protocol: int, *, version: int = 4, payload: bytes) -> bytes:
    """A packet of some other protocol. SCTP: an INIT chunk."""
    if protocol == SCTP:
        chunk = struct.pack("!BBHIIHHI", 1, 0, 20 + len(payload), 77, 1 << 16, 1, 1, 5) + payload
        raw = struct.pack("!HHII", 4000, 5000, 0, 0) + chunk
        raw = raw[:8] + crc32c(raw) + raw[12:]
    elif protocol == GRE:
        raw = struct.pack("!HH", 0, 0x0800) + payload
    else:
        raw = payload
    return frame(sender, receiver, packet(sender.address(version), receiver.address(version), protocol, raw))


def crc32c(raw: bytes) -> bytes:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for octet in raw:
        value ^= octet
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return struct.pack("<I", value ^ 0xFFFFFFFF)
