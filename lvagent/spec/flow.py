"""A flow that somebody asks about, and what is told of its way: what ``explain`` is asked, and what it answers.

A flow is its first packet: who sends it, to whom, of which protocol, to which port. The answers to it are not asked
about; the filter decides of a flow by its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lvagent.errors import SpecError
from lvagent.spec import names
from lvagent.spec.addresses import Address, parse_address
from lvagent.spec.json import quoted

WORLD = "world"
"""Who is in no VPC: whatever is outside of this host."""

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
"""IANA protocol numbers of those that have a name here."""

WITH_PORTS = frozenset({6, 17, 132})
PINGS = frozenset({1, 58})
"""ICMP and ICMPv6; what is asked about is an echo request."""

_VERSION = {1: 4, 58: 6}
_HEADERS = frozenset({0, 43, 44, 51, 60, 135, 139, 140})
"""What in IPv6 is an extension header and no protocol (IANA)."""

_PROTO_HINT = f"{', '.join(PROTOCOLS)}, or a number from 0 to 255"
_PEER_HINT = "the id of a VM (i-0000000001), or an address"
MAX_TEXT = 60


@dataclass(frozen=True, slots=True)
class Flow:
    """``origin``: the id of a VM, or WORLD. ``target``: the id of a VM, or an address. ``number``: of the IP protocol.

    ``port``: 0 if the protocol has none. ``source``: the address that the packet says it is from; None: what its sender
    would take.
    """

    origin: str
    target: str | Address
    number: int
    port: int = 0
    source: Address | None = None

    @property
    def proto(self) -> str:
        """The protocol by its name, where it has one."""
        return proto_name(self.number)

    @property
    def version(self) -> int | None:
        """The IP version that it must be of; None: either."""
        for address in (self.source, self.target):
            if address is not None and not isinstance(address, str):
                return address.version
        return _VERSION.get(self.number)

    def __str__(self) -> str:
        what = f"{self.proto} {self.port}" if self.port else self.proto
        return f"{what} from {self.origin} to {self.target}"


def proto_name(number: int) -> str:
    """The name of a protocol, or its number as text."""
    return next((name for name, known in PROTOCOLS.items() if known == number), str(number))


def parse_flow(origin: str, target: str, proto: str, port: int | None, source: str = "") -> Flow:
    """The flow that somebody asks about.

    :param origin: the id of a VM, ``world``, or ``world:`` and an address.
    :param target: the id of a VM, or an address.
    :param proto: by name or number.
    :param port: None: not given.
    :param source: an address that a VM would say it sends from; empty: its own.
    :raise SpecError: at ``query.from``, ``to``, ``proto``, ``port`` or ``source``.
    """
    number = _number(proto)
    who, sender = _origin(origin, source)
    aim = target if names.VM_ID.match(target) else _unicast(target, "query.to", _PEER_HINT)
    flow = Flow(who, aim, number, _port(number, proto, port), sender)
    if who == aim:
        raise SpecError("query.to", f"{who} is the sender itself", "what a guest sends to itself stays in the guest")
    if who == WORLD and sender is not None and sender == aim:
        raise SpecError("query.to", f"{sender} is the sender itself", _PEER_HINT)
    _check_versions(flow)
    return flow


def _origin(origin: str, source: str) -> tuple[str, Address | None]:
    given = _unicast(source, "query.source", "such as 10.0.0.5") if source else None
    if names.VM_ID.match(origin):
        return origin, given
    word, _, address = origin.partition(":")
    if word != WORLD:
        hint = "the id of a VM (i-0000000001), world, or world:203.0.113.7"
        raise SpecError("query.from", f"{quoted(origin[:MAX_TEXT])} is no sender that is known here", hint)
    if address and given is not None:
        raise SpecError(
            "query.source", "the sender has an address already", f"leave it out: from says {address[:MAX_TEXT]}"
        )
    return WORLD, _unicast(address, "query.from", "such as world:203.0.113.7") if address else given


def _unicast(text: str, path: str, hint: str) -> Address:
    address = parse_address(text[:MAX_TEXT], path, hint)
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise SpecError(path, f"{address} is not the address of one host", hint)
    if address.is_loopback:
        raise SpecError(path, f"{address} never leaves the guest", hint)
    if address.version == 6 and address.is_link_local:
        raise SpecError(path, f"{address} is link-local: it means another thing on each link", hint)
    return address


def _number(proto: str) -> int:
    text = proto.lower()
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if not (text.isascii() and text.isdecimal() and len(text) <= 3) or int(text) > 255:
        raise SpecError("query.proto", f"{quoted(proto[:MAX_TEXT])} is no protocol", _PROTO_HINT)
    return int(text)


def _port(number: int, proto: str, port: int | None) -> int:
    if number not in WITH_PORTS:
        if port:
            raise SpecError("query.port", f"{proto.lower()} has no ports", "leave it out")
        return 0
    if not port:
        raise SpecError("query.port", f"{proto.lower()} needs the port that is sent to", "such as 22")
    return port


def _check_versions(flow: Flow) -> None:
    target = None if isinstance(flow.target, str) else flow.target
    if target is not None and flow.source is not None and target.version != flow.source.version:
        raise SpecError("query.to", f"{target} is IPv{target.version}, and {flow.source} is not", "two of one family")
    needed, version = _VERSION.get(flow.number), flow.version
    if needed is not None and version is not None and needed != version:
        other = "icmpv6" if version == 6 else "icmp"
        raise SpecError(
            "query.proto", f"{flow.proto} is of IPv{needed}, and the addresses are IPv{version}", f"use {other}"
        )
    if version == 6 and flow.number in _HEADERS:
        raise SpecError("query.proto", f"{flow.number} is an extension header of IPv6 and no protocol", _PROTO_HINT)


# what is told


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow, as it stands somewhere on its way."""

    source: Address
    destination: Address
    number: int
    port: int = 0

    @property
    def version(self) -> int:
        """Its IP version."""
        return self.destination.version


class Stage(StrEnum):
    """What on the way of a packet lets it pass or does not, in the order in which it meets them."""

    GUEST = "guest"
    PORT = "port"
    EGRESS = "egress"
    ROUTE = "route"
    GATEWAY = "gateway"
    SEGMENT = "segment"
    PEERING = "peering"
    UPLINK = "uplink"
    HOST = "host"
    INWARD = "inward"
    INGRESS = "ingress"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a packet meets. ``where``: its name: a VM, a VPC, a tap, a subnet.

    ``element``: what of it decides: ``rules[2]``, ``no rule``, ``uplink.deny 10.0.0.0/8``; empty: nothing to be named.
    ``passed``: whether the packet goes on.
    """

    stage: Stage
    where: str
    element: str
    text: str
    passed: bool = True


class Goal(StrEnum):
    """What a packet is meant to get to: a VM's port, a VPC's gateway, a segment's part on other hosts, the world.

    NOBODY: what has the address is nothing that this host knows of.
    """

    PORT = "port"
    GATEWAY = "gateway"
    SEGMENT = "segment"
    WORLD = "world"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class End:
    """Where a packet arrives if nothing stops it. ``vpc``: '' is outside of all. ``vm``, ``subnet``: '' if none."""

    goal: Goal
    vpc: str = ""
    vm: str = ""
    subnet: str = ""


@dataclass(frozen=True, slots=True)
class Walk:
    """The way of a flow's first packet, as the wishes say it goes.

    ``packet``: as it is sent; None: there is none, for its sender has no address to send from. ``entry``: the tap by
    which it comes into the VPC ``vpc``; '' for what comes from the world. ``end``: where it was meant to arrive.
    """

    flow: Flow
    steps: tuple[Step, ...]
    end: End
    packet: Packet | None = None
    vpc: str = ""
    entry: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it arrives."""
        return all(step.passed for step in self.steps)

    @property
    def decider(self) -> Step:
        """What decided: where it ended, else the last that had the choice."""
        refused = [step for step in self.steps if not step.passed]
        chosen = [step for step in self.steps if step.element] or list(self.steps)
        return refused[0] if refused else chosen[-1]

    @property
    def why(self) -> str:
        """The verdict in plain words."""
        if self.allowed:
            return f"allowed: {self.decider.text}"
        return f"refused: {self.decider.text}"


@dataclass(frozen=True, slots=True)
class Live:
    """What became of the packet when it was sent. ``sent``: False: it could not be; ``text`` says why.

    ``arrived``: whether it got to where it was meant to. ``agrees``: whether the walk says the same; None: not sent.
    ``decider``: the rule of the kernel that ended it; '' if none did. ``seen``: the chains that it met, in order.
    """

    sent: bool
    arrived: bool
    agrees: bool | None
    text: str
    decider: str = ""
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """What is told of a flow: what the wishes say, and, if it was asked for, what the kernel does."""

    walk: Walk
    live: Live | None = None
