"""The control socket: the agent's side of the service. Root alone may speak here, as the kernel says who it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct

from lvagent.metadata import wire
from lvagent.metadata.service import Service, Share

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
_MAX_DESCRIPTORS = 4
_MAX_CLIENTS = 32


def peer_uid(client: socket.socket) -> int:
    """The uid of the process at the other end (SO_PEERCRED, unix(7))."""
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


class Control:
    """Accepts on the control socket and serves each client in a task of its own.

    :param pid: of this process, as the agent sees it.
    :param allowed: uid that may speak here.
    """

    def __init__(self, listener: socket.socket, service: Service, pid: int, allowed: int = 0) -> None:
        self._listener = listener
        self._service = service
        self._pid = pid
        self._allowed = allowed
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            client, _ = await loop.sock_accept(self._listener)
            if peer_uid(client) != self._allowed or len(self._tasks) >= _MAX_CLIENTS:
                log.warning("refused a client of the control socket with uid %d", peer_uid(client))
                client.close()
                continue
            task = loop.create_task(self._client(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _client(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            await Dialogue(client, self._service, self._pid).serve()


class Dialogue:
    """One client of the control socket: its lines, and the descriptors it sent."""

    def __init__(self, client: socket.socket, service: Service, pid: int) -> None:
        self._client = client
        self._service = service
        self._pid = pid
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Answer line by line until the client goes."""
        try:
            while (line := await self._line()) is not None:
                await self._loop.sock_sendall(self._client, wire.encode(await self._answer(line)))
        finally:
            self._forget()

    async def _line(self) -> bytes | None:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > wire.MAX_MESSAGE or not await self._receive():
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _receive(self) -> bool:
        """Take what has come; returns False at the end."""
        while True:
            try:
                raw, descriptors, _, _ = socket.recv_fds(self._client, 1 << 18, _MAX_DESCRIPTORS)
            except BlockingIOError:
                await self._readable()
                continue
            self._descriptors += descriptors
            self._buffer += raw
            return bool(raw)

    async def _readable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(self._client, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(self._client)

    async def _answer(self, line: bytes) -> wire.Json:
        try:
            message = wire.decode(line)
            return await self._act(wire.text(message, "op"), message)
        except (wire.Malformed, ValueError) as error:
            # The text of a ValueError may quote what was sent.
            return {"error": str(error) if isinstance(error, wire.Malformed) else "a value is wrong"}
        finally:
            self._forget()

    async def _act(self, op: str, message: wire.Json) -> wire.Json:
        match op:
            case "ping":
                return {"pid": self._pid, **self._kind()}
            case "list":
                return {"vpcs": [_summary(share) for share in self._listed(message)], **self._kind()}
            case "table":
                share = self._service.share(wire.text(message, "vpc"), wire.number(message, "inode"))
                return {"attached": bool(share and share.attached), "table": share.table if share else {}}
            case "asked":
                share = self._service.share(wire.text(message, "vpc"), wire.number(message, "inode"))
                asked = share.asked.items() if share else ()
                return {"asked": [{"vm": vm, "requests": count, "last": last} for vm, (count, last) in asked]}
            case "change":
                return await self._change(message)
            case "attach":
                return await self._attach(message)
            case "detach":
                inode = wire.number(message, "inode") if "inode" in message else None
                await self._service.detach(wire.text(message, "vpc"), inode)
                return {}
        raise wire.Malformed("there is no such op")

    def _kind(self) -> wire.Json:
        return wire.kind(self._service.hops)

    def _listed(self, message: wire.Json) -> list[Share]:
        only = wire.text(message, "vpc") if "vpc" in message else None
        return [share for share in self._service.shares() if only in (None, share.vpc)]

    async def _change(self, message: wire.Json) -> wire.Json:
        put = [
            (wire.strings(entry, "addresses"), wire.load_guest(wire.member(entry, "guest")))
            for entry in wire.objects(message, "put")
        ]
        share = await self._service.begin(wire.text(message, "vpc"), wire.number(message, "inode"))
        share.drop(wire.strings(message, "drop"))
        for addresses, guest in put:
            share.put(addresses, guest)
        return {}

    async def _attach(self, message: wire.Json) -> wire.Json:
        vpc, inode = wire.text(message, "vpc"), wire.number(message, "inode")
        if not self._descriptors:
            raise wire.Malformed("no sockets came with it")
        share = await self._service.begin(vpc, inode)
        if share.attached:
            raise wire.Malformed("it is attached already")
        share.attach([socket.socket(fileno=self._descriptors.pop()) for _ in list(self._descriptors)])
        log.info("%s: attached", vpc)
        return {}

    def _forget(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _summary(share: Share) -> wire.Json:
    return {
        "vpc": share.vpc,
        "inode": share.inode,
        "attached": share.attached,
        "digest": share.digest,
    }
