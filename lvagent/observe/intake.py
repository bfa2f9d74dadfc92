"""What libvirt's event thread leaves for others: a bounded queue that never makes it wait.

When it is full, what comes is lost, and a mark says so: who reads then looks at everything. So nothing depends on an
event arriving.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

Plain = str | int | float | bool | None

MOST = 8192
"""Events that may wait."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that libvirt told of a domain."""

    vm: str
    kind: str
    detail: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """All that waited. ``resync``: something may have been missed before it, for this reason; empty: nothing was."""

    events: tuple[Event, ...] = ()
    resync: str = ""


class Intake:
    """The queue. ``put`` and ``mark`` may be called by any thread, and return at once."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._events: collections.deque[Event] = collections.deque()
        self._resync = ""
        self._closed = False

    def put(self, event: Event) -> None:
        """Leave an event."""
        with self._changed:
            if len(self._events) < self._most:
                self._events.append(event)
            else:
                self._resync = "too many events at once"
            self._changed.notify_all()

    def mark(self, why: str) -> None:
        """Events may have been missed."""
        with self._changed:
            self._resync = why
            self._changed.notify_all()

    def take(self) -> Batch | None:
        """Wait for something, and take all there is; None when it is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._events) or bool(self._resync) or self._closed)
            if not self._events and not self._resync:
                return None
            batch = Batch(tuple(self._events), self._resync)
            self._events.clear()
            self._resync = ""
            return batch

    def close(self) -> None:
        """Whoever takes from it gets what is there, then None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
