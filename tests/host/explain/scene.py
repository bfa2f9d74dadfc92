"""A host with three VPCs made up at random, and flows made up at random; and what really becomes of a packet.

The guests are taps held by the test. What a guest sends is written to its tap; what comes to it is read there. The
gateways' services are sockets of the test, the world is the one of the tests of uplinks.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from lvagent.agent.explain import Explainer
from lvagent.agent.index import Entry, Phase
from lvagent.errors import SpecError
from lvagent.host import conntrack, netns
from lvagent.host.libvirt import DomainState
from lvagent.host.netlink import NETFILTER, Message, Socket
from lvagent.plan import firewall, wanted
from lvagent.plan.sessions import KeptFlow
from lvagent.render import probe as packets
from lvagent.render.probe import Sign
from lvagent.spec import names
from lvagent.spec.flow import WORLD, Explained, Flow, Goal, Packet, Walk, parse_flow
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import peering
from lvagent.spec.publications import parse_floating, parse_publications
from lvagent.spec.status import State
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.net.conftest import Guest
from tests.host.uplink.conftest import Site
from tests.host.uplink.world import DENIED, HOST, HOST6, ISP, LAN, PEER, WEB, WEB6

VPCS = ("vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-cccccccccc")
MODES = (UplinkMode.NAT, UplinkMode.ROUTED, UplinkMode.NONE)
ROUTED = ("172.20.0.0/16", "fd20::/16")
PORTS = (22, 53, 80, 5000, 67)
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
STRANGE_MAC = "06:00:00:00:aa:01"
FIRST_PORT = 40_000
"""Of those from which guests really send; a probe is sent from lower ones."""

FLOATS = ("203.0.113.50", "203.0.113.51")
PATIENCE, LONG = 0.4, 15
"""Seconds that are waited for what must not come, and for what must."""
_NO_NEWS = frozenset(range(130, 138)) | {143}
"""Types of ICMPv6 by which links are kept: they come and go by themselves."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of the scene; its addresses begin with ``v4`` and ``v6``."""

    vpc: str
    name: str
    vni: int
    v4: str
    v6: str


class Scene:
    """Three VPCs, and the taps of their guests.

    :param guest: makes a tap.
    :param joined: whether the routed VPC is peered with another, ports are published, and there are floating addresses.
    """

    def __init__(self, site: Site, guest: Callable[[str], Guest], draw: random.Random, *, joined: bool = False) -> None:
        self.site = site
        self._draw = draw
        self._guest = guest
        self.taps: dict[str, Guest] = {}
        self.services: list[socket.socket] = []
        self._sent: set[int] = set()
        self.modes = dict(zip(VPCS, draw.sample(MODES, 3), strict=True))
        self.off = draw.choice((None, *VPCS))
        for vpc, mode in self.modes.items():
            site.wishes.put(vpc, VpcConfig(uplink=mode, metadata=False if vpc == self.off else None))
        self.subnets = [one for vpc in VPCS for one in self._subnets(vpc)]
        self.specs: dict[str, VmConfig] = {}
        for index, subnet in enumerate(self.subnets):
            for number in range(2 if index % 2 else 3):
                self._add(subnet, 10 * (index + 1) + number)
        self.idle = draw.sample(sorted(self.specs), 2)
        self._start()
        self.joined: tuple[str, ...] = ()
        if joined:
            self._join()
        self.explainer = Explainer(site.index, site.networks)

    # the scene

    def _subnets(self, vpc: str) -> Iterator[Subnet]:
        letter = vpc[4]
        for number in range(self._draw.choice((1, 2))):
            name = f"subnet-{letter}{number:09}"
            vni = self._draw.choice((0, 100 * (VPCS.index(vpc) + 1) + number))
            if self.modes[vpc] is UplinkMode.ROUTED:
                yield Subnet(vpc, name, vni, f"172.20.{number}", f"fd20:{number}:")
            else:
                yield Subnet(vpc, name, vni, f"10.0.{number}", f"fd00:{number}:")

    def _add(self, subnet: Subnet, number: int) -> None:
        """A VM; in each VPC the first ones have the same addresses."""
        here = sum(nic.subnetname == subnet.name for spec in self.specs.values() for nic in spec.networks)
        vm, host = f"i-{number:010}", 5 + here
        nic: dict[str, object] = {
            "vxlanid": subnet.vni,
            "netname": subnet.vpc,
            "subnetname": subnet.name,
            "position": 0,
            "ipv4": f"{subnet.v4}.{host}/24",
            "gateway_v4": f"{subnet.v4}.1",
            "mtu": 1400,
        }
        if self._draw.random() < 0.85:
            nic |= {"ipv6": f"{subnet.v6}:{host}/64", "gateway_v6": f"{subnet.v6}:1"}
        if self._draw.random() < 0.3:
            nic["extra_addresses"] = [f"{subnet.v4}.{100 + host}"]
        rules = [self._rule() for _ in range(self._draw.choice((0, 1, 2, 3)))]
        for way, share in (("ingress", 0.75), ("egress", 0.5 if any(map(_leads_out, rules)) else 0)):
            if self._draw.random() < share:
                rules.append({"proto": "any", "direction": way})
        document = {"id": vm, "memory_mb": 64, "cpus": 1, "networks": [nic], "rules": rules}
        self.specs[vm] = parse_vm(document)
        self.site.index.adopt(Entry(self.specs[vm], Phase.LIVE, applied=None, domain=_state(running=False)))

    def _rule(self) -> dict[str, object]:
        draw, version = self._draw, self._draw.choice((4, 6))
        wide = {4: ["10.0.0.0/16", "10.0.0.5", "172.20.0.0/24", "0.0.0.0/0", "198.51.100.0/24", "198.19.0.0/16"]}
        wide[6] = ["fd00::/16", "fd20::/32", "2001:db8::/32", "::/0"]
        peers = ["", "", "", *wide[version], *sorted(self.specs)[:3], *(one.name for one in self.subnets[:2])]
        proto = draw.choice(("tcp", "udp", "any", "47", "icmp" if version == 4 else "icmpv6"))
        found: dict[str, object] = {"proto": proto, "source": draw.choice(peers), "destination": draw.choice(peers)}
        if proto in ("tcp", "udp"):
            found["port"] = draw.choice((0, 22, 80, 5000))
        found["direction"] = draw.choice((None, "ingress", "ingress", "egress"))
        return found

    def _start(self) -> None:
        for vm, spec in self.specs.items():
            runs = vm not in self.idle
            applied = spec if runs else None
            self.site.index.adopt(Entry(spec, Phase.LIVE, applied=applied, domain=_state(running=runs)))
        for vpc in VPCS:
            self.site.networks.converge(vpc)
        for vm, spec in self.specs.items():
            if vm not in self.idle:
                self._plug(spec)
        for vpc in VPCS:
            self._serve(vpc)
            self.site.world.run("host", "true")

    def _join(self) -> None:
        routed = next(vpc for vpc, mode in self.modes.items() if mode is UplinkMode.ROUTED)
        other = self._draw.choice([vpc for vpc in VPCS if vpc != routed])
        self.site.index.peer(peering(routed, other))
        self.site.networks.meet(routed, other)
        led = [vm for vm in sorted(self.specs) if self.modes[self._vpc(vm)] is not UplinkMode.NONE]
        one, two, three = self._draw.sample(led, 3)
        sources = self._draw.choice(([], ["198.51.100.0/24"], ["198.19.0.0/16", "172.20.0.0/16"]))
        ports = [{"host_port": 22, "port": 80, "sources": sources}, {"host_port": 53, "proto": "udp", "port": 5000}]
        self.site.published.put(self.specs[one], parse_publications(ports[:1]))
        self.site.published.put(self.specs[two], parse_publications(ports[1:]))
        for address, vm in zip(FLOATS, (one, three), strict=True):
            self.site.floating.put(parse_floating(address, {"vm": vm}), self.specs[vm])
        self.joined = routed, other

    def _plug(self, spec: VmConfig) -> None:
        nic, tap = spec.networks[0], names.tap(spec.id, 0)
        self.taps[spec.id] = self._guest(tap)
        bound = [wanted.port_filter(spec, nic), firewall.firewall(nic.netname, spec)]
        self.site.network.plug(bound, wanted.plug(spec, nic, self.site.networks.policy))
        extra = [net.network_address for net in nic.extra_addresses]
        for address in (*(one.ip for one in (nic.ipv4, nic.ipv6) if one), *extra):
            bridge = names.subnet_bridge(nic.subnetname)
            self._run(nic.netname, "ip", "neigh", "replace", str(address), "lladdr", nic.mac, "dev", bridge)

    def _run(self, vpc: str, *argv: str) -> None:
        import subprocess

        netns.inside(self.path(vpc), lambda: subprocess.run(argv, check=True, timeout=30))

    def path(self, vpc: str) -> str:
        """The namespace of a VPC; '' for root."""
        return f"{self.site.settings.paths.netns}/{vpc}" if vpc else ""

    def _serve(self, vpc: str) -> None:
        """Sockets in the place of dnsmasq and of the metadata service."""
        mine = [one for one in self.subnets if one.vpc == vpc]
        gateways = [f"{one.v4}.1" for one in mine] + [
            f"{one.v6}:1"
            for one in mine
            if any(nic.ipv6 and nic.subnetname == one.name for spec in self.specs.values() for nic in spec.networks)
        ]
        places = [(kind, address, 53) for address in gateways for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        places.append((socket.SOCK_DGRAM, "0.0.0.0", 67))
        if vpc != self.off:
            places += [(socket.SOCK_STREAM, one, 80) for one in (names.METADATA_V4, names.METADATA_V6)]
        self.services += netns.inside(self.path(vpc), lambda: [_bound(*place) for place in places])

    def close(self) -> None:
        """End the guests and the services; the VPCs go."""
        for one in (*self.services, *self.taps.values()):
            one.close()
        for one in self.site.index.peerings.all():
            self.site.index.part(one)
        for vm in self.specs:
            self.site.networks.unpublish(vm)
            self.site.index.drop(vm)
        for vpc in VPCS:
            self.site.networks.converge(vpc)

    # flows

    def flow(self) -> Flow:
        """A flow that somebody might ask about."""
        draw = self._draw
        while True:
            running = sorted(self.taps)
            origin = draw.choice((*running, *running, *running, *self.idle, "world", "world"))
            with contextlib.suppress(SpecError):
                if self.joined and draw.random() < 0.6:
                    origin = draw.choice((*running, "world:198.51.100.10", "world"))
                    return parse_flow(origin, *draw.choice(self._joined()))
                return parse_flow(origin, self._target(origin), *self._what(), self._source(origin))

    def _joined(self) -> list[tuple[str, str, int | None]]:
        """What is asked of VPCs that are joined."""
        near = [vm for vm in sorted(self.taps) if self._vpc(vm) in self.joined]
        ports: list[tuple[str, str, int | None]] = [(HOST, "tcp", 22), (HOST, "udp", 53)]
        floats = [(self._draw.choice(FLOATS), *self._what()) for _ in range(2)]
        return ports + floats + [(vm, *self._what()) for vm in self._draw.sample(near, 3)]

    def _target(self, origin: str) -> str:
        draw = self._draw
        if draw.random() < 0.55:
            near = [vm for vm in self.specs if origin in self.specs and self._vpc(vm) == self._vpc(origin)]
            return draw.choice((*sorted(self.specs), *sorted(near) * 3))
        vpc = draw.choice(VPCS)
        mine = [one for one in self.subnets if one.vpc == (self._vpc(origin) if origin in self.specs else vpc)]
        places = [place for one in mine for place in (f"{one.v4}.1", f"{one.v6}:1", f"{one.v4}.77", f"{one.v4}.105")]
        ends = [str(one.vpc_v4.ip) for one in self.site.networks.transits().values()]
        outside = [WEB, WEB, WEB6, DENIED, HOST, HOST6, LAN, PEER, ISP, "192.168.7.7", "172.20.0.5", "fd20:0::5"]
        return draw.choice((*places, *outside, *ends, names.METADATA_V4, names.METADATA_V6, "172.20.0.250"))

    def _vpc(self, vm: str) -> str:
        return self.specs[vm].networks[0].netname

    def _what(self) -> tuple[str, int | None]:
        proto = self._draw.choice(("tcp", "tcp", "udp", "udp", "icmp", "icmpv6", "47", "sctp"))
        return proto, self._draw.choice(PORTS) if proto in ("tcp", "udp", "sctp") else None

    def _source(self, origin: str) -> str:
        if self._draw.random() > 0.12:
            return ""
        return self._draw.choice(("10.0.0.6", "10.0.0.105", "192.0.2.2", "fd00:0::6", "198.51.100.10", "172.20.0.5"))

    def explain(self, flow: Flow) -> Explained:
        """What is told of a flow, and what the probe sees; no guest has seen anything of it."""
        for tap in self.taps.values():
            tap.drain()
        told = self.explainer.explain(flow, live=True)
        heard = [frame for tap in self.taps.values() for frame in tap.frames(0.002) if not _is_upkeep(frame)]
        strange = [frame.hex() for frame in heard if _quoted(frame) not in self._sent and not _is_late(frame)]
        assert strange == [], f"{flow}: a guest heard {strange}"
        return told

    # what really happens

    def happens(self, walk: Walk) -> bool:
        """Whether the packet gets there when the guest itself sends it."""
        assert walk.packet is not None
        sign = Sign(
            self._draw.randrange(1, 0xFFFF), self._draw.getrandbits(32), self._draw.randrange(FIRST_PORT, 60_000)
        )
        self._sent.add(sign.ident)
        with contextlib.ExitStack() as stack:
            there = self._watch(walk, sign, stack)
            self._send(walk, sign)
            found = _until(there, LONG if walk.allowed else PATIENCE)
        self.forget()
        return found

    def _send(self, walk: Walk, sign: Sign) -> None:
        packet = walk.packet
        assert packet is not None
        if walk.entry:
            owner = names.tap_owner(walk.entry)
            assert owner is not None
            spec = self.specs[owner[0]]
            frame = packets.frame(packet, sign, spec.networks[0].mac, self._next(spec, packet))
            self.taps[owner[0]].send(frame)
            return
        isp = self.site.world.path("isp")
        with netns.inside(isp, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as line:
            line.bind(("isp0", 0))
            wan = self.site.world.run("host", "ip", "-o", "link", "show", "wan").split("link/ether ")[1].split()[0]
            line.send(packets.frame(packet, sign, STRANGE_MAC, wan))

    def _next(self, spec: VmConfig, packet: Packet) -> str:
        """The MAC that a guest finds for an address, by asking for it."""
        nic = spec.networks[0]
        subnet = next(one for one in self.subnets if one.name == nic.subnetname)
        if not str(packet.destination).startswith((f"{subnet.v4}.", subnet.v6.replace(":0:", "::"), subnet.v6)):
            return names.gateway_mac(nic.subnetname)
        for other in self.specs.values():
            own = other.networks[0]
            mine = {str(one.ip) for one in (own.ipv4, own.ipv6) if one} | {
                str(net.network_address) for net in own.extra_addresses
            }
            if own.subnetname == nic.subnetname and str(packet.destination) in mine:
                return own.mac
        last = (f"{subnet.v4}.1", str(ip_address(f"{subnet.v6}:1")))
        return names.gateway_mac(nic.subnetname) if str(packet.destination) in last else STRANGE_MAC

    def _watch(self, walk: Walk, sign: Sign, stack: contextlib.ExitStack) -> Callable[[], bool]:
        """Looks whether the packet has come to where it was meant to."""
        packet, end = walk.packet, walk.end
        assert packet is not None
        token = struct.pack("!I", sign.token)
        if end.goal is Goal.PORT:
            tap = self.taps.get(end.vm)
            return (lambda: any(token in frame for frame in tap.frames(0.01))) if tap else lambda: False
        if end.goal is Goal.GATEWAY and packet.number == UDP:
            return lambda: any(token in said for one in self.services for said in _read(one, end.vpc, self))
        if end.goal is Goal.GATEWAY:
            tap = self.taps[(names.tap_owner(walk.entry) or ("",))[0]] if walk.entry else None
            answer = struct.pack("!I", (sign.token + 1) & 0xFFFFFFFF) if packet.number == TCP else token
            return (lambda: any(_answers(frame, answer) for frame in tap.frames(0.01))) if tap else lambda: False
        if end.goal is Goal.NOBODY:
            return lambda: False
        if end.goal is Goal.SEGMENT:
            lines = [self._line(f"{self.site.settings.paths.netns}/lvfabric", stack)]
        else:
            lines = [self._line(self.site.world.path(name), stack) for name in ("isp", "peer")]
        arrived: list[bytes] = []
        return lambda: _sniffed(lines, token, arrived)

    def _line(self, path: str, stack: contextlib.ExitStack) -> socket.socket:
        made = netns.inside(path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        made.setblocking(False)
        stack.callback(made.close)
        return made

    def forget(self) -> None:
        """Have all namespaces forget the flows that there were."""
        for vpc in ("", *VPCS):
            with contextlib.closing(netns.inside(self.path(vpc), lambda: Socket(NETFILTER))) as netfilter:
                netfilter.send([Message(1 << 8 | 2, 0, bytes(4), "forget all flows")])

    def flows(self) -> list[KeptFlow]:
        """The flows that are kept anywhere."""
        return [one for vpc in ("", *VPCS) for one in netns.inside(self.path(vpc), lambda: conntrack.kept(1000))]


def _leads_out(rule: dict[str, object]) -> bool:
    """Whether a rule may be one of egress, with which all that no rule allows is closed."""
    return rule["direction"] == "egress" or (rule["direction"] is None and rule["destination"] != "")


def _state(*, running: bool) -> DomainState:
    return DomainState(State.RUNNING if running else State.STOPPED, "", running)


def _bound(kind: int, address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if kind == socket.SOCK_STREAM:
        made.listen(8)
    made.setblocking(False)
    return made


def _read(one: socket.socket, _vpc: str, _scene: Scene) -> Iterator[bytes]:
    if one.type & socket.SOCK_DGRAM:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield one.recv(2048)


def _answers(frame: bytes, token: bytes) -> bool:
    """Whether a frame is an answer (of echo or TCP) that holds these bytes."""
    return token in frame and not _is_upkeep(frame) and not _is_error(frame)


def _is_error(frame: bytes) -> bool:
    return (frame[12:14] == b"\x08\x00" and frame[23] == ICMP and frame[34] != 0) or (
        frame[12:14] == b"\x86\xdd" and frame[20] == ICMPV6 and frame[54] != 129
    )


def _quoted(frame: bytes) -> int:
    """The identification of the packet that an ICMP error is about; 0 if it is none."""
    if not _is_error(frame):
        return 0
    four = frame[12:14] == b"\x08\x00"
    return int.from_bytes(frame[46:48], "big") if four else int.from_bytes(frame[64:66], "big")


def _is_late(frame: bytes) -> bool:
    """Whether a frame answers what a guest really sent before (a service says once more that it is there)."""
    at, number = (36, frame[23]) if frame[12:14] == b"\x08\x00" else (56, frame[20])
    return number in (TCP, UDP) and int.from_bytes(frame[at : at + 2], "big") >= FIRST_PORT


def _is_upkeep(frame: bytes) -> bool:
    kind = frame[12:14]
    if kind == b"\x86\xdd" and frame[20] == 0:  # multicast listeners, behind a hop-by-hop header
        return True
    return kind == b"\x08\x06" or (kind == b"\x86\xdd" and frame[20] == ICMPV6 and frame[54] in _NO_NEWS)


def _sniffed(lines: list[socket.socket], token: bytes, arrived: list[bytes]) -> bool:
    for one in lines:
        with contextlib.suppress(BlockingIOError):
            while True:
                raw, (_, _, direction, *_) = one.recvfrom(65_536)
                if token in raw and direction in (0, 1, 2, 3):
                    arrived.append(raw)
    return bool(arrived)


def _until(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.005)
    return done()


__all__ = ["ROUTED", "WORLD", "Scene"]
