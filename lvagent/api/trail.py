"""What is written down of a request: who asked for what, and what came of it.

A change, and whatever else is not a plain GET, has a line; when it goes on after its answer (202), a second one tells
its end. Somebody who is refused (401, 403, 421), or could not be known, has one too, but not one for each of a thousand
tries. No line has a body, a token, user data or the arguments of a command.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lvagent.agent.pace import Pace
from lvagent.api.operations import Operation, OperationView
from lvagent.spec.access import Caller
from lvagent.spec.tokens import scrub

log = logging.getLogger(__name__)

REFUSED = (401, 403, 421)
SAFE = ("GET", "HEAD", "OPTIONS")


class Audit(Protocol):
    """Where lines are kept (``host.audit.AuditLog``)."""

    def write(self, line: Mapping[str, object]) -> None: ...


@dataclass(slots=True)
class Trail:
    """One request, as it is found out. ``route``: its name; empty: there is none.

    ``peer``: as ``Door.peer``. ``subject``: the id of what it is about. ``detail``: the name of a command. ``kind``: of
    its error.
    """

    peer: Mapping[str, object]
    method: str
    route: str = ""
    subject: str = ""
    detail: str = ""
    caller: Caller | None = None
    kind: str = ""
    operation: str = ""
    unfinished: Operation | None = None
    begin: float = field(default_factory=time.perf_counter)

    @property
    def who(self) -> str:
        """Who asks, in one word."""
        if self.caller is not None and self.caller.token:
            return f"token {self.caller.token}@{self.peer.get('address', '-')}"
        return f"uid {self.peer['uid']}" if "uid" in self.peer else str(self.peer.get("address", "-"))

    @property
    def ms(self) -> float:
        """Milliseconds since it came."""
        return round((time.perf_counter() - self.begin) * 1000, 1)

    def line(self, status: int) -> dict[str, object]:
        """The line of its answer."""
        return {**self._head("request"), "status": status, "type": self.kind or None, "ms": self.ms}

    def end_line(self, view: OperationView) -> dict[str, object]:
        """The line of the end of its operation."""
        failed = view.error
        return {
            **self._head("end"),
            "status": view.status.value,
            "type": None if failed is None else failed.kind,
            "ms": self.ms,
        }

    def _head(self, event: str) -> dict[str, object]:
        caller = self.caller
        limits = None if caller is None or caller.vpcs is None else sorted(caller.vpcs)
        return {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": event,
            **self.peer,
            "token": caller.token if caller is not None and caller.token else None,
            "name": caller.name if caller is not None and caller.token else None,
            "vpcs": limits,
            "method": self.method,
            "route": self.route or None,
            "object": self.subject or None,
            "command": scrub(self.detail) or None,
            "operation": self.operation or None,
        }


class Recorder:
    """Writes trails down, as an application needs it."""

    def __init__(self, audit: Audit | None) -> None:
        self._audit = audit
        self._each = Pace()
        self._all = Pace(most=100, per_minute=100)

    def record(self, trail: Trail, status: int) -> None:
        """Write down a request that was answered with ``status``."""
        if status in REFUSED or trail.caller is None:
            self._refused(trail, status)
        elif trail.route and trail.method not in SAFE:
            self._write(trail.line(status))
            if trail.unfinished is not None:
                trail.unfinished.when_ended(lambda view: self._write(trail.end_line(view)))

    def _refused(self, trail: Trail, status: int) -> None:
        """Tell of it, if the source (and all of them together, for one may have many addresses) was not told enough."""
        here = self._each.take(trail.who)
        everywhere = None if here is None else self._all.take("")
        if here is None or everywhere is None:
            return
        untold = here + everywhere
        more = {"untold": untold} if untold else {}
        log.warning("%s: %s %s refused with %d%s", trail.who, trail.method, trail.route, status, told(untold))
        self._write({**trail.line(status), **more})

    def _write(self, line: Mapping[str, object]) -> None:
        if self._audit is not None:
            self._audit.write(line)


def told(untold: int) -> str:
    """How many more there were than are told, for the end of a log line."""
    return f" (and {untold} more before)" if untold else ""
