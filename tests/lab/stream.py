"""An event stream of an agent, read beside a test."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Seen:
    """One event. ``at``: monotonic seconds when it was here."""

    id: str
    kind: str
    told: Mapping[str, Any]
    at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def detail(self) -> Mapping[str, Any]:
        """Its details."""
        found: Mapping[str, Any] = self.told["detail"]
        return found


class Stream:
    """Reads ``GET /v1/events`` from an agent's unix socket until it is left, or the agent ends it.

    ``last``: the id to come back with.
    """

    def __init__(self, unix_socket: str, query: str = "", last: str = "") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(120)
        self._socket.connect(unix_socket)
        self._connection = http.client.HTTPConnection("localhost")
        self._connection.sock = self._socket
        headers = {"Last-Event-ID": last} if last else {}
        self._connection.request("GET", f"/v1/events{query}", headers=headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.last = last
        self.events: list[Seen] = []
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            while line := self._answer.readline().decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                else:
                    self._event(fields)
                    fields = {}
        except (OSError, ValueError, AttributeError):
            pass  # it was left, in the middle of a read
        self.ended.set()

    def _event(self, fields: Mapping[str, str]) -> None:
        self.last = fields.get("id", self.last)
        if "data" in fields:
            self.events.append(Seen(self.last, fields["event"], json.loads(fields["data"])))

    def wait(self, kind: str, what: Callable[[Seen], bool] = lambda _seen: True, seconds: float = 60) -> Seen:
        """The first event of a kind for which something is true, be it here or still to come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for seen in tuple(self.events):
                if seen.kind == kind and what(seen):
                    return seen
            time.sleep(0.005)
        raise AssertionError(f"no {kind} within {seconds:g} s, but {[(one.kind, one.told) for one in self.events]}")

    def states(self) -> list[str]:
        """The states that were told, in their order; one that was told again, for another reason, once."""
        told = [seen.detail["state"] for seen in self.events if seen.kind == "state"]
        return [one for one, _ in itertools.groupby(told)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR) if not self.ended.is_set() else None
        self._thread.join(timeout=10)
        self._connection.close()
