"""JSON over HTTP over a unix socket, in a few lines."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``headers`` has names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON is of any type
        """The body, parsed; None if there is none."""
        return json.loads(self.body) if self.body else None

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    unix_socket: str, method: str, path: str, body: object, *, timeout: float, headers: Mapping[str, str]
) -> Answer:
    """Make one call.

    :param body: bytes as they are, anything else as JSON, None for nothing.
    :param timeout: seconds for each read.
    """
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Accept": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if raw is not None:
        sent.setdefault("Content-Type", "application/json")
    return exchange(unix_socket, method, path, raw, timeout=timeout, headers=sent)


def exchange(
    unix_socket: str,
    method: str,
    target: str,
    body: bytes | Iterable[bytes] | None,
    *,
    timeout: float,
    headers: Mapping[str, str],
) -> Answer:
    """Make one call with exactly these header fields, and Host and Content-Length.

    :param body: bytes, or parts of it, which are sent as chunks.
    :param timeout: seconds for each read.
    """
    connection = _UnixConnection(unix_socket, timeout)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()
