"""The phases of one operation: their names, how long each took, and which one an error belongs to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from lvagent.errors import LvagentError
from lvagent.spec.status import PhaseTime

Watch = Callable[[PhaseTime], None]


class Trace:
    """Collects phases; those that run beside each other may overlap."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._phases: list[PhaseTime] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase; an error that leaves it is marked with its name."""
        begin = time.perf_counter()
        try:
            yield
        except LvagentError as error:
            error.in_phase(name)
            raise
        finally:
            self.note(name, (time.perf_counter() - begin) * 1000)

    def note(self, name: str, ms: float) -> None:
        """Add a phase that was measured elsewhere; ``ms``: milliseconds."""
        ended = PhaseTime(name, round(ms, 2))
        with self._lock:
            self._phases.append(ended)
        if self._watch is not None:
            self._watch(ended)

    @property
    def phases(self) -> tuple[PhaseTime, ...]:
        """The phases that have ended, in the order of their ends."""
        with self._lock:
            return tuple(self._phases)
