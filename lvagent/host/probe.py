"""One packet, sent as from a port, or from the world, and followed to where it ends.

It comes in by an ``Entrance`` and is followed by tables of our own that trace it (``meta nftrace``) and take it out: at
the last priority before conntrack keeps the flow, in the bridge before the port's link. No guest sees it, none is
needed, and all that is made for it goes with this process: the tap and the tables with their sockets. Where it went
through to the next namespace, conntrack has kept it, and is made to forget it.

It is not wholly without a trace: the rules that it met have counted it, and it was taken into account where new flows
are paced.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lvagent.errors import Conflict, HostError, Unavailable, Vanished
from lvagent.host import conntrack
from lvagent.host.entrance import Entrance
from lvagent.host.links import Link
from lvagent.host.netlink import Message, attribute, table
from lvagent.host.netspace import Netspace, translated
from lvagent.host.nft import Nft
from lvagent.host.sockets import listens
from lvagent.host.tracing import Event, Trace, listen
from lvagent.plan.explain.probe import NOBODY, Arrival, Leg, Probe
from lvagent.plan.sessions import Tuple
from lvagent.render import probe as packets
from lvagent.render.probe import TABLE, Sign
from lvagent.spec.flow import PINGS, WITH_PORTS, Packet

log = logging.getLogger(__name__)

PATIENCE = 0.6
"""Seconds that are waited for what becomes of the packet."""

CALM = 0.05
WAIT = 20
_FIRST_PORT, _PORTS = 40_000, 12_000
"""Of those from which uplinks translate (``render.uplinks.PORTS``): one of these stays what it is on its way."""
IP_FAMILIES = ("ip", "ip6")
"""What a packet is said to be of in a table of inet."""

_COUNTED = re.compile(r" packets \d+ bytes \d+")
_REFUSING = ("refuse", "too_many", "too_fast", "is_full", "peer_is_full")


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of it. ``where``: in plain words. ``decider``: the rule that dropped it. ``path``: chains it met."""

    arrived: bool
    where: str
    decider: str
    path: tuple[str, ...]


@dataclass(slots=True)
class _Watched:
    """A leg, with the namespace and what is heard there."""

    leg: Leg
    space: Netspace
    trace: Trace


class Prober:
    """Sends probes, one at a time.

    :param space: opens a namespace by its name; '' is root.
    """

    def __init__(self, space: Callable[[str], Netspace]) -> None:
        self._space = space
        self._lock = threading.Lock()

    def send(self, probe: Probe) -> Seen:
        """Send a packet, and see what becomes of it.

        :raise Conflict: there is no link by which it could come.
        :raise Vanished: there is not any more.
        :raise HostError: it could not be sent, or not be followed.
        :raise Unavailable: another one is under way for long.
        """
        if not self._lock.acquire(timeout=WAIT):
            raise Unavailable("the probe", hint="another one is under way; try again in a few seconds")
        try:
            with translated("the probe", "send"), contextlib.ExitStack() as stack:
                return self._send(probe, stack)
        finally:
            self._lock.release()

    def _send(self, probe: Probe, stack: contextlib.ExitStack) -> Seen:
        first = self._space(probe.legs[0].netns)
        link = self._link(first, probe)
        sign = _sign(probe.packet, first)
        watched = [self._watch(leg, probe.packet, sign, stack) for leg in probe.legs]
        entrance = Entrance(first, link, "" if probe.entry else link.mac)
        stack.callback(entrance.close)
        frame = packets.frame(probe.packet, sign, probe.source_mac or NOBODY, probe.target_mac or link.mac)
        entrance.send(frame)
        listen([one.trace for one in watched], PATIENCE, CALM)
        for one in watched:
            _forget(one, probe.packet, sign)
        return _Findings(probe, watched).seen()

    def _link(self, space: Netspace, probe: Probe) -> Link:
        """The link by which it comes."""
        if probe.entry:
            found = space.find([probe.entry]).get(probe.entry)
            if found is None:
                raise Vanished("the probe", "send", f"there is no port {probe.entry}", hint="is the VM starting?")
            return found
        index = _way_to(space, probe.packet)
        found = space.find_indexes([index]).get(index) if index else None
        if found is None or not any(found.mac.replace(":", "").strip("0")):
            hint = f"ip route get {probe.packet.source}"
            raise Conflict(f"the probe cannot be sent: no link of this host leads to {probe.packet.source}", hint=hint)
        return found

    def _watch(self, leg: Leg, packet: Packet, sign: Sign, stack: contextlib.ExitStack) -> _Watched:
        space = self._space(leg.netns)
        trace = space.inside(Trace)
        stack.callback(trace.close)
        bridged = bool(leg.netns)
        stack.enter_context(_tables(space, packets.table(packet, sign, leg.onward, bridged=bridged), bridged=bridged))
        return _Watched(leg, space, trace)


@contextlib.contextmanager
def _tables(space: Netspace, text: str, *, bridged: bool) -> Iterator[None]:
    """Our tables, as long as this lasts."""
    families = ("inet", "bridge") if bridged else ("inet",)
    gone = "".join(f"delete table {family} {TABLE}\n" for family in families)
    space.nft.run(text, "the probe", "follow")
    try:
        yield
    finally:
        with contextlib.suppress(HostError):  # somebody flushed it: it is gone
            space.nft.run(gone, "the probe", "end")


def _sign(packet: Packet, space: Netspace) -> Sign:
    """A sign, with a port from which no flow like it is known."""
    for _ in range(50):
        sign = Sign(1 + secrets.randbelow(0xFFFE), secrets.randbits(32), _FIRST_PORT + secrets.randbelow(_PORTS))
        if conntrack.known(space.netfilter, _tuple(packet, sign)) is None:
            return sign
    what = "a flow between the two is under way already, and the packet would be taken for one of its own"
    raise HostError("the probe", "send", what, hint="end that flow, or ask about another protocol")


def _tuple(packet: Packet, sign: Sign) -> Tuple:
    sport = 68 if (packet.number, packet.port) == (17, 67) else sign.port
    if packet.number not in (*WITH_PORTS, *PINGS):
        return Tuple(packet.source, packet.destination, packet.number)
    return Tuple(packet.source, packet.destination, packet.number, sport, packet.port)


def _forget(one: _Watched, packet: Packet, sign: Sign) -> None:
    """Have conntrack forget the flow in a namespace that it went on from."""
    ends = next((event.ends for event in one.trace.events if event.ends and event.family in IP_FAMILIES), None)
    if not one.leg.onward or ends is None:
        return
    flow = _tuple(Packet(ends[0], ends[1], packet.number, packet.port), sign)
    conntrack.forget(one.space.netfilter, flow)


def _way_to(space: Netspace, packet: Packet) -> int:
    """The index of the link by which root would answer; 0: there is none."""
    family = 2 if packet.version == 4 else 10
    body = bytes([family, packet.source.max_prefixlen]) + bytes(10) + attribute(1, packet.source.packed)
    absent = frozenset({101, 113})  # ENETUNREACH, EHOSTUNREACH
    found = space.route.query([Message(26, 0, body, f"look for the way to {packet.source}", absent)])[0]
    return int.from_bytes(table(found[12:]).get(4, b""), "little") if found else 0


class _Findings:
    """What was heard of a packet, made sense of."""

    def __init__(self, probe: Probe, watched: list[_Watched]) -> None:
        self._probe = probe
        self._watched = watched

    def seen(self) -> Seen:
        """What became of it."""
        path = tuple(_chains(self._watched))
        ends = [(one, event) for one in self._watched for event in one.trace.events if event.dropped]
        caught = [(one, event) for one, event in ends if event.table == TABLE and event.chain != packets.FAILED]
        for one, event in caught:
            reached, where = self._judge(one, event)
            if reached:
                return Seen(True, where, "", path)
        if caught:
            return Seen(False, self._judge(*caught[0])[1], "", path)
        for one, event in ends:
            if event.table != TABLE:
                return Seen(False, f"it was dropped in {_name(one)}", _rule(one, event), path)
        if not path:
            return Seen(False, "it met no chain: there is no way on from where it comes in", "", path)
        how = "an error was sent back" if ends else "it was seen no more"
        return Seen(False, f"{how} after {path[-1]}: there is no way on from there", "", path)

    def _judge(self, one: _Watched, event: Event) -> tuple[bool, str]:
        """Whether a place where it was taken out is the goal, and which that is."""
        netns = one.leg.netns
        if event.chain == packets.IN:
            return self._local(one)
        link = one.space.find_indexes([event.link]).get(event.link)
        name = link.name if link is not None else "?"
        source = f", from {event.ends[0]}" if event.ends else ""
        for goal in self._probe.goal:
            if goal.netns != netns or goal.link not in (name, "*") or (goal.link == "*" and name.startswith("ux-")):
                continue
            if goal.port and not _is_port(one.space, goal, link):
                return False, f"{_name(one)} would send it by {name}, and {goal.port} is not there"
            return True, f"it gets to {goal.port or name} in {_name(one)}{source}"
        return False, f"it left {_name(one)} by {name}{source}"

    def _local(self, one: _Watched) -> tuple[bool, str]:
        packet, where = self._probe.packet, _name(one)
        meant = Arrival(one.leg.netns, "") in self._probe.goal
        if not meant:
            return False, f"it got to {where} itself"
        if self._probe.listener and not one.space.inside(lambda: listens(packet)):
            return False, f"it got to {where} itself, and nobody listens there"
        return True, f"it gets to {where} itself"


def _is_port(space: Netspace, goal: Arrival, bridge: Link | None) -> bool:
    port = space.find([goal.port]).get(goal.port)
    return port is not None and bridge is not None and port.up and port.master == bridge.index


def _chains(watched: list[_Watched]) -> Iterator[str]:
    """The chains that it met, each once in a row."""
    last = ""
    for one in watched:
        there = _known(one.space)
        for event in one.trace.events:
            if event.table != TABLE:
                found = f"{_name(one)}: {_family(event, there)} {event.table} {event.chain}"
                if found != last:
                    yield found
                last = found


def _name(one: _Watched) -> str:
    return one.leg.netns or "root"


def _rule(one: _Watched, event: Event) -> str:
    """The rule that dropped it; where that only drops, the one that led there."""
    if event.chain in _REFUSING:
        event = next((other for other in reversed(one.trace.events) if other.to == event.chain), event)
    family, text = _family(event, _known(one.space)), "policy drop"
    if event.handle:
        family, text = _text(one.space, event, family)
    return f"{_name(one)}: {family} {event.table} {event.chain}: {text}"


def _known(space: Netspace) -> set[tuple[str, ...]]:
    """The chains of a namespace: family, table, name. Nothing if they cannot be listed."""
    nft = space.inside(Nft)
    try:
        lines = nft.run("list chains\n", "chains", "list").splitlines()
    except HostError as error:
        log.debug("%s", error)
        return set()
    finally:
        nft.close()
    found: set[tuple[str, ...]] = set()
    table = ("", "")
    for words in (line.split() for line in lines):
        if words[:1] == ["table"]:
            table = (words[1], words[2])
        elif words[:1] == ["chain"]:
            found.add((*table, words[1]))
    return found


def _family(event: Event, there: set[tuple[str, ...]]) -> str:
    """Of which family the table of a chain is: the kernel says of a packet in inet's that it is of ip or ip6."""
    own, inet = ((family, event.table, event.chain) for family in (event.family, "inet"))
    return "inet" if event.family in IP_FAMILIES and own not in there and inet in there else event.family


def _text(space: Netspace, event: Event, family: str) -> tuple[str, str]:
    """A rule as nft writes it, and the family of its table: there may be two of one name."""
    end = f"# handle {event.handle}"
    nft = space.inside(lambda: Nft(handles=True))
    try:
        for one in dict.fromkeys(("inet", family) if event.family in IP_FAMILIES else (family,)):
            with contextlib.suppress(HostError, StopIteration):
                listed = nft.run(f"list chain {one} {event.table} {event.chain}\n", event.chain, "list")
                lines = [line.strip() for line in listed.splitlines()]
                line = next(line for line in lines if line.endswith(end))
                return one, _COUNTED.sub("", line.removesuffix(end)).strip()
    finally:
        nft.close()
    return family, f"handle {event.handle}"
