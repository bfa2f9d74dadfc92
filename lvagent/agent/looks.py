"""Looks that cost too much to be made for each who asks: what they found last is told, and they are made beside.

One thread makes them, the one that is due longest first, and whoever asks waits for it a moment only. So an answer is
as fresh as the host allows, and late never: not behind the kernel's locks, not behind a table of ten thousand flows.
After some looks it rests, the longer the more they took: however often is asked, and whatever guests do, all of them
together take a small part of one CPU.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from lvagent.errors import LvagentError

K = TypeVar("K", bound=str | tuple[str, ...])
V = TypeVar("V")

log = logging.getLogger(__name__)

FRESH = 5.0
"""Seconds for which what was found is told to everybody who asks."""

BUDGET = 0.5
"""Seconds after which no more looks are begun before the rest."""

REST = 20
"""How many times as long as it looked the thread rests: it takes 5 % of one CPU at most."""


@dataclass(frozen=True, slots=True)
class Found(Generic[V]):
    """What a look found; None: it failed. ``due``: when it may be made again (monotonic clock)."""

    value: V | None
    due: float


class Looks(Generic[K, V]):
    """What was found last, by what was looked at. May be asked by many threads.

    :param look: makes one.
    :param executor: where they are made, one at a time.
    :param budget: seconds; see BUDGET.
    """

    def __init__(self, look: Callable[[K], V], executor: Executor, budget: float = BUDGET) -> None:
        self._budget = budget
        self._rests_until = 0.0
        self._look = look
        self._executor = executor
        self._lock = threading.Lock()
        self._found: dict[K, Found[V]] = {}
        self._wanted: tuple[K, ...] = ()
        self._under_way: Future[None] | None = None
        self._closed = False

    def refresh(self, wanted: Collection[K], anew: Collection[K] = ()) -> Future[None] | None:
        """Have looked at these what is due, and forget all others.

        :param anew: those that are due whatever was found a moment ago.
        :return: ends with it; None: nothing is due, or the thread rests.
        """
        with self._lock:
            self._wanted = tuple(wanted)
            self._found = {key: found for key, found in self._found.items() if key in self._wanted}
            for key in self._found.keys() & set(anew):
                self._found[key] = dataclasses.replace(self._found[key], due=0.0)
            if self._closed:
                return None
            if self._under_way is None or self._under_way.done():
                rests = time.monotonic() < self._rests_until
                self._under_way = self._executor.submit(self._all) if self._due() and not rests else None
            return self._under_way

    def keep(self, there: Collection[K]) -> None:
        """Forget all but these."""
        with self._lock:
            self._wanted = tuple(key for key in self._wanted if key in there)
            self._found = {key: found for key, found in self._found.items() if key in there}

    def known(self) -> dict[K, Found[V]]:
        """What was found last. Of what could not be looked at, nothing."""
        with self._lock:
            return dict(self._found)

    def close(self) -> None:
        """Look at nothing more."""
        with self._lock:
            self._closed = True

    def _due(self) -> list[K]:
        """What may be looked at, what is due longest first."""
        now = time.monotonic()
        dues = {key: self._found[key].due if key in self._found else 0.0 for key in self._wanted}
        return sorted((key for key, due in dues.items() if due <= now), key=lambda key: dues[key])

    def _all(self) -> None:
        begun = time.monotonic()
        with self._lock:
            due = self._due()
        for key in due:
            self._one(key)
            if self._closed or time.monotonic() - begun > self._budget:
                break
        with self._lock:
            now = time.monotonic()
            self._rests_until = now + REST * (now - begun)

    def _one(self, key: K) -> None:
        value: V | None = None
        try:
            value = self._look(key)
        except LvagentError as error:  # it goes away, or comes: the next look tells
            log.debug("%s: %s", key, error)
        except Exception:
            log.exception("looking at %s", key)
        with self._lock:
            if key in self._wanted:
                self._found[key] = Found(value, time.monotonic() + FRESH)
