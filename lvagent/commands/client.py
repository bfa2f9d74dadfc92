"""The agent's API from the command line: HTTP over the unix socket, with nothing but the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from lvagent.commands.failure import UNREACHABLE, Failure, of_problem

Json = dict[str, object]

TIMEOUT = 90.0
"""Seconds for one answer; the agent answers within half of that, for it does not let anyone wait longer."""

POLL = 20
"""Seconds that the agent is asked to wait for the next phase."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the agent. ``headers``: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body as a JSON object; empty if there is none."""
        try:
            found = json.loads(self.body or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failure("the answer is not that of an agent", hint="is this the right socket?")
        return found


Transport = Callable[[str, str, bytes | None, Mapping[str, str]], Reply]
"""Carries a request (method, path, body, headers) to the agent."""

Lines = Callable[[str, Mapping[str, str]], Iterator[bytes]]
"""Carries a GET (path, headers) to the agent; the lines of its answer, as they come."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def over_socket(path: str) -> Transport:
    """Requests go to the unix socket of this path.

    :return: a transport; it raises Failure (exit code 5) if nobody answers there.
    """

    def send(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        with contextlib.closing(_UnixConnection(path)) as connection:
            try:
                with contextlib.suppress(BrokenPipeError):  # it was refused before all of it was sent: read why
                    connection.request(method, target, body, dict(headers))
                answer = connection.getresponse()
                fields = {name.lower(): value for name, value in answer.getheaders()}
                return Reply(answer.status, fields, answer.read())
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(path, error) from error

    return send


def lines_over_socket(path: str) -> Lines:
    """GETs go to the unix socket of this path.

    :return: raises Failure as ``over_socket``, and if the agent refuses.
    """

    def read(target: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        with contextlib.closing(_UnixConnection(path)) as connection:
            try:
                yield from lines(connection, target, headers)
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(path, error) from error

    return read


def lines(connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str]) -> Iterator[bytes]:
    """The lines of the answer to a GET.

    :raise Failure: the agent refused.
    """
    connection.request("GET", target, None, dict(headers))
    answer = connection.getresponse()
    if answer.status >= 400:
        raise of_problem(Reply(answer.status, {}, answer.read()).json)
    yield from iter(answer.readline, b"")


def _unreachable(path: str, error: Exception) -> Failure:
    why = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    hint = "start it: systemctl start lvagent, or sudo lvagent serve"
    if isinstance(error, PermissionError):
        hint = "use sudo, or join the group that the socket belongs to"
    elif isinstance(error, TimeoutError):
        hint = "it runs but does not answer: look at its log"
    return Failure(f"the agent does not answer on {path}: {why}", code=UNREACHABLE, hint=hint)


class Client:
    """The agent's API."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request.

        :param body: JSON.
        :raise Failure: the agent refused, or does not answer.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["Content-Type"] = "application/json"
        reply = self._transport(method, path, body, sent)
        if reply.status >= 400:
            raise of_problem(reply.json)
        return reply

    def get(self, path: str) -> Json:
        """One thing."""
        return self.call("GET", path).json

    def items(self, path: str) -> list[Json]:
        """A list of things."""
        return cast(list[Json], self.get(path)["items"])

    def change(self, method: str, path: str, body: bytes | None, watch: Callable[[str, float], None]) -> Json:
        """Change something, and wait for it.

        :param watch: called with each phase and its milliseconds, as they end.
        :return: the operation, at its end.
        :raise Failure: it failed.
        """
        operation = self.call(method, path, body, Prefer="respond-async, wait=0").json
        where = f"/v1/operations/{operation['id']}" if "phases" in operation else ""
        seen = 0
        try:
            while where:
                seen = _tell(operation, seen, watch)
                if operation["status"] != "running":
                    break
                operation = self._next(where, seen)
        except KeyboardInterrupt:
            raise Failure("stopped waiting; it goes on", hint=f"GET {where} tells how it stands") from None
        if operation.get("problem"):
            raise of_problem(cast(Json, operation["problem"]))
        return operation

    def _next(self, where: str, seen: int) -> Json:
        begin = time.monotonic()
        operation = self.get(f"{where}?wait={POLL}&seen={seen}")
        if operation["status"] == "running" and time.monotonic() - begin < 0.05:
            time.sleep(0.05)
        return operation


def _tell(operation: Json, seen: int, watch: Callable[[str, float], None]) -> int:
    phases = cast(list[Json], operation["phases"])
    for phase in phases[seen:]:
        watch(str(phase["phase"]), cast(float, phase["ms"]))
    return len(phases)
