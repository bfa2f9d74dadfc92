"""A server under test on a unix socket, with an agent in memory, and clients of it."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from lvagent.api.app import create_app
from lvagent.api.server import ApiServer
from lvagent.config import Api, Settings
from tests.lab.http import Answer, request
from tests.unit.api.fake_agent import FakeAgent


class Gated(Protocol):
    """A server that a test has to itself, before an agent in memory that can be held up."""

    @property
    def agent(self) -> FakeAgent: ...

    @property
    def server(self) -> ApiServer: ...


G = TypeVar("G", bound=Gated)


@contextlib.contextmanager
def serving(make: Callable[[Path, Api], G], folder: Path) -> Iterator[Callable[..., G]]:
    """Starts servers, with settings of ``api`` over those that tests have in common; all are stopped at the end."""
    made: list[G] = []

    def start(folder: Path = folder, **api: object) -> G:
        options = {"socket": str(folder / "api.sock"), "group": "", **api}
        served = make(folder, Api(**options))  # type: ignore[arg-type]
        served.server.start()
        made.append(served)
        return served

    try:
        yield start
    finally:
        for served in made:
            served.agent.gate.set()
            served.server.stop()


class Served:
    """A server under test, its agent, and clients of it."""

    def __init__(self, folder: Path, api: Api) -> None:
        self.path = folder / "api.sock"
        self.agent = FakeAgent()
        settings = Settings(api=api)
        self.server = ApiServer(create_app(self.agent, settings), settings)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One call."""
        return request(str(self.path), method, path, body, timeout=30, headers=headers)

    def raw(self) -> socket.socket:
        """A connection."""
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(20)
        made.connect(str(self.path))
        return made

    def exchange(self, raw: bytes) -> http.client.HTTPResponse:
        """Send bytes, read one answer."""
        client = self.raw()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(raw)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer

    def conversation(self, raw: bytes) -> bytes:
        """Send bytes, say that there are no more, and read until the server closes."""
        with self.raw() as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(raw)
                client.shutdown(socket.SHUT_WR)
            found = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(1 << 16):
                    found += piece
            return bytes(found)
