"""What an agent counts while it runs: how often, and how long it took.

Whoever counts holds locks, so that costs a microsecond and never raises. Keys are words of ours (outcomes, names of
routes), never what a caller sent: there are few of them, and none is of a VM. What is counted of a VM is in ``Lives``,
and goes with it.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Mapping

from lvagent.agent.index import Entry
from lvagent.spec.metrics import Counted, Key, Spread
from lvagent.spec.status import State

SHORT = (0.0025, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Bounds (seconds) for what is answered while somebody waits."""

LONG = (0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
"""Bounds (seconds) for what starts guests, or copies images."""


class Durations:
    """How long things took, by their keys.

    :param bounds: seconds, rising.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._lock = threading.Lock()
        self._counts: dict[Key, list[int]] = {}
        self._totals: dict[Key, float] = {}

    def note(self, key: Key, seconds: float) -> None:
        """One more took so long."""
        place = bisect.bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts.setdefault(key, [0] * (len(self._bounds) + 1))[place] += 1
            self._totals[key] = self._totals.get(key, 0.0) + seconds

    def all(self) -> dict[Key, Spread]:
        """All until now."""
        with self._lock:
            return {
                key: Spread(self._bounds, tuple(counts), self._totals[key])
                for key, counts in sorted(self._counts.items())
            }


class Counts:
    """How often things were, by their keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Key] = Counter()

    def note(self, key: Key, times: int = 1) -> None:
        """So many more."""
        with self._lock:
            self._counts[key] += times

    def all(self) -> dict[Key, int]:
        """All until now."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class Tally:
    """The counts of an agent. Every method may be called by many threads."""

    def __init__(self) -> None:
        self.sweeps = Durations(LONG)
        self.operations = Durations(LONG)
        self.requests = Durations(SHORT)
        self.answers = Counts()
        self.happened = Counts()
        self.healed = Counts()

    def counted(self, repaired: int) -> Counted:
        """All until now.

        :param repaired: objects that sweeps made.
        """
        return Counted(
            sweeps=self.sweeps.all(),
            operations=self.operations.all(),
            requests=self.requests.all(),
            answers=self.answers.all(),
            happened=self.happened.all(),
            healed=self.healed.all(),
            repaired=repaired,
        )


class Lives:
    """How often each VM crashed, and was started again, since the agent started; forgotten with the VM."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._crashes: dict[str, int] = {}
        self._restarts: dict[str, int] = {}

    def changed(self, before: Entry | None, after: Entry | None) -> None:
        """An entry of the index was added, replaced, or (``after`` None) dropped; see ``Index.watch``."""
        with self._lock:
            if after is None:
                if before is not None:
                    self._crashes.pop(before.spec.id, None)
                    self._restarts.pop(before.spec.id, None)
                return
            count = self._crashes.setdefault(after.spec.id, 0)
            if before is not None and _crashed(after) and not _crashed(before):
                self._crashes[after.spec.id] = count + 1

    def restarted(self, vm: str) -> None:
        """It was started again, by the agent itself."""
        with self._lock:
            if vm in self._crashes:  # else it is gone by now
                self._restarts[vm] = self._restarts.get(vm, 0) + 1

    def all(self) -> Mapping[str, tuple[int, int]]:
        """Crashes and restarts of every VM that there is."""
        with self._lock:
            return {vm: (crashes, self._restarts.get(vm, 0)) for vm, crashes in self._crashes.items()}


def _crashed(entry: Entry) -> bool:
    return entry.domain is not None and entry.domain.state is State.CRASHED
