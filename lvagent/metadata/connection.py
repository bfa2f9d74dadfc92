"""One client's connection: requests in, answers out, and the time each may take."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from lvagent.metadata.answer import Asker, answer
from lvagent.metadata.http import MAX_HEAD, Answer, Refused, Request, parse
from lvagent.metadata.limits import Limits, Pace
from lvagent.metadata.tokens import Tokens

_HOPS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}
_END = b"\r\n\r\n"
_DRAIN = 65_536


class Connection:
    """Serves one accepted socket to its end.

    :param who: who asks, looked up for each request, since addresses may change hands.
    :param pace: of the guest, shared by all its connections.
    """

    def __init__(
        self, client: socket.socket, who: Callable[[], Asker | None], pace: Pace, tokens: Tokens, limits: Limits
    ) -> None:
        self._client = client
        self._who = who
        self._pace = pace
        self._tokens = tokens
        self._limits = limits
        self._buffer = b""
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Answer until the client goes, is too slow, or is refused; then close the socket."""
        with contextlib.suppress(OSError), self._client:
            patience = self._limits.head
            while await self._exchange(patience):
                patience = self._limits.idle

    async def _exchange(self, patience: float) -> bool:
        """One request and its answer; returns whether another may follow."""
        try:
            async with asyncio.timeout(patience):
                head = await self._head()
            if head is None:
                return False
            request = parse(head)
        except Refused as refused:
            return await self._refuse(refused.status)
        except TimeoutError:
            return await self._refuse(408) if self._buffer else False
        await asyncio.sleep(self._pace.take())
        return await self._send(answer(request, self._who(), self._tokens), request)

    async def _head(self) -> bytes | None:
        """The bytes up to the empty line; what follows stays for the next request. None: the client is gone."""
        while _END not in self._buffer:
            if len(self._buffer) > MAX_HEAD:
                raise Refused(431)
            more = await self._loop.sock_recv(self._client, MAX_HEAD)
            if not more:
                return None
            self._buffer += more
        head, _, self._buffer = self._buffer.partition(_END)
        return head + _END

    async def _send(self, reply: Answer, request: Request) -> bool:
        if reply.near:
            _stay_near(self._client, self._limits.hops)
        raw = reply.encode(head_only=request.method == "HEAD", keep=request.keep)
        try:
            async with asyncio.timeout(self._limits.send):
                await self._loop.sock_sendall(self._client, raw)
        except TimeoutError:
            return False
        return request.keep

    async def _refuse(self, status: int) -> bool:
        """Answer, and take what is on its way, else the kernel's reset would overtake the answer."""
        reply = Answer(status if self._who() else 404)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._loop.sock_sendall(self._client, reply.encode())
                self._client.shutdown(socket.SHUT_WR)
                taken = 0
                while taken < _DRAIN and (more := await self._loop.sock_recv(self._client, 4096)):
                    taken += len(more)
        return False


def _stay_near(client: socket.socket, hops: int) -> None:
    """Let what is sent from now on pass no more than so many links (ip(7), ipv6(7))."""
    option = _HOPS.get(client.family)
    if option is not None:
        client.setsockopt(*option, hops)
