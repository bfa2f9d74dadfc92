"""The guests of all VPCs, and the listening sockets in their namespaces.

A guest is known by the listening socket that accepted it, which stands in one namespace, and by its source address,
which the filter at its port proves. Nothing is stored outside memory; the agent sends all of it again to a new one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from lvagent.metadata import wire
from lvagent.metadata.answer import Asker
from lvagent.metadata.connection import Connection
from lvagent.metadata.limits import Limits, Pace, Places
from lvagent.metadata.tokens import Tokens
from lvagent.plan.resources import Guest

log = logging.getLogger(__name__)

ACCEPTS = 32
"""Connections taken from one listener before others have their turn."""

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A connection from this address, that waits since this moment of the monotonic clock."""

    client: socket.socket
    address: str
    since: float


class Gate:
    """The limits of one guest (or of all strangers in a namespace), as they stand."""

    def __init__(self, limits: Limits) -> None:
        self.places: Places[Waiting] = Places(limits.served, limits.waiting)
        self.pace = Pace(limits.rate, limits.burst, time.monotonic)
        self.quiet_until = 0.0


class Share:
    """One VPC's share of the service: the guests of a namespace, its listeners and connections."""

    def __init__(self, vpc: str, inode: int, tokens: Tokens, limits: Limits) -> None:
        self.vpc = vpc
        self.inode = inode
        self._tokens = tokens
        self._limits = limits
        self._guests: dict[str, Guest] = {}
        self._marks: dict[str, str] = {}
        self._digest: str | None = None
        self._gates: dict[str, Gate] = {}
        self.asked: dict[str, tuple[int, int]] = {}
        """How many requests each guest made, and when it made the last (Unix time); by VM."""
        self._listeners: tuple[socket.socket, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def attached(self) -> bool:
        """Whether it has its listeners."""
        return bool(self._listeners)

    @property
    def table(self) -> dict[str, str]:
        """Address -> fingerprint of its guest."""
        return dict(self._marks)

    @property
    def digest(self) -> str:
        """What tells its table from another."""
        if self._digest is None:
            self._digest = wire.digest(self._marks)
        return self._digest

    def put(self, addresses: Iterable[str], guest: Guest) -> None:
        """Serve a guest at these addresses.

        :raise ValueError: one is no address.
        """
        self._digest = None
        mark = wire.fingerprint(guest)
        for address in [str(ip_address(text)) for text in addresses]:
            self._guests[address] = guest
            self._marks[address] = mark

    def drop(self, addresses: Iterable[str]) -> None:
        """Serve nobody at these addresses. Gates of guests that are gone go too, unless somebody is inside."""
        self._digest = None
        for address in addresses:
            self._guests.pop(address, None)
            self._marks.pop(address, None)
        there = {guest.vm for guest in self._guests.values()}
        self.asked = {vm: asked for vm, asked in self.asked.items() if vm in there}
        self._gates = {vm: gate for vm, gate in self._gates.items() if vm in there or not gate.places.unused}

    def attach(self, listeners: Sequence[socket.socket]) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            listener.setblocking(False)
            loop.add_reader(listener, self._accept, listener)
        self._listeners = (*self._listeners, *listeners)

    async def close(self) -> None:
        """End all connections and listeners, so that nothing holds the namespace."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners = ()
        for waiting in [entry for gate in self._gates.values() for entry in gate.places.empty()]:
            waiting.client.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                client, peer = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            client.setblocking(False)
            self._admit(client, str(peer[0]))

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """No descriptors or memory are left: accepting again at once would only spin."""
        log.warning("%s: cannot accept: %s", self.vpc, errno.errorcode.get(error.errno or 0, "unknown"))
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(1, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _admit(self, client: socket.socket, address: str) -> None:
        guest = self._guests.get(address)
        vm = guest.vm if guest else ""
        gate = self._gates.setdefault(vm, Gate(self._limits))
        match gate.places.enter(Waiting(client, address, time.monotonic())):
            case True:
                self._begin(gate, client, address)
            case None:
                self._refuse(gate, client, vm)

    def _refuse(self, gate: Gate, client: socket.socket, vm: str) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.close()
        if time.monotonic() >= gate.quiet_until:
            log.warning("%s: %s has too many connections; more are refused", self.vpc, vm or "an unknown address")
            gate.quiet_until = time.monotonic() + 60

    def _begin(self, gate: Gate, client: socket.socket, address: str) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(gate, client, address))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(gate, client, done))

    async def _serve(self, gate: Gate, client: socket.socket, address: str) -> None:
        await Connection(client, lambda: self._asker(address), gate.pace, self._tokens, self._limits).serve()

    def _end(self, gate: Gate, client: socket.socket, done: asyncio.Task[None]) -> None:
        """The next in line takes the place, also after a connection that was cancelled or failed."""
        client.close()
        self._tasks.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("%s: a connection failed: %s", self.vpc, type(error).__name__)
        following = gate.places.leave()
        while following is not None and time.monotonic() - following.since > self._limits.wait:
            following.client.close()
            following = gate.places.leave()
        if following is not None:
            self._begin(gate, following.client, following.address)

    def _asker(self, address: str) -> Asker | None:
        """Who asks from this address; called once for each request."""
        guest = self._guests.get(address)
        if guest is None:
            return None
        self.asked[guest.vm] = (self.asked.get(guest.vm, (0, 0))[0] + 1, int(time.time()))
        return Asker(self.inode, guest)


class Service:
    """All shares, by VPC."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._tokens = Tokens()
        self._limits = limits or Limits()
        self.hops = self._limits.hops
        self._shares: dict[str, Share] = {}

    def shares(self) -> list[Share]:
        """All shares."""
        return list(self._shares.values())

    def share(self, vpc: str, inode: int) -> Share | None:
        """The VPC's share, if it stands in this namespace."""
        found = self._shares.get(vpc)
        return found if found and found.inode == inode else None

    async def begin(self, vpc: str, inode: int) -> Share:
        """The VPC's share in this namespace; what stood in another one ends."""
        found = self.share(vpc, inode)
        if found is None:
            await self.detach(vpc, None)
            found = self._shares[vpc] = Share(vpc, inode, self._tokens, self._limits)
        return found

    async def detach(self, vpc: str, inode: int | None) -> None:
        """Serve the VPC no more (``inode`` None: in whatever namespace it stands)."""
        found = self._shares.get(vpc)
        if found and inode in (None, found.inode):
            del self._shares[vpc]
            await found.close()
            log.info("%s: detached", vpc)
