"""How often something may be told of, for each source of it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Pace:
    """Lets so many things through for each source, and counts the others. May be asked by many threads.

    :param most: that a source may do at once.
    :param per_minute: that it may do for ever.
    """

    SOURCES = 1024
    """Sources that are remembered; the one not seen for longest is forgotten first."""

    TIDY_SECONDS = 30.0
    """How often those are forgotten that may do all again, and so are like one never seen."""

    def __init__(self, most: int = 10, per_minute: float = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, tuple[float, float, int]] = OrderedDict()
        self._tidied = clock()

    def take(self, source: str) -> int | None:
        """Whether one more may be told of; if so, how many of this source were not since the last."""
        with self._lock:
            now = self._clock()
            left, seen, untold = self._sources.pop(source, (float(self._most), now, 0))
            left = self._left(left, now - seen)
            told = left >= 1
            self._sources[source] = (left - 1, now, 0) if told else (left, now, untold + 1)
            if len(self._sources) > self.SOURCES:
                self._sources.popitem(last=False)
            self._tidy(now)
            return untold if told else None

    def _left(self, left: float, seconds: float) -> float:
        return min(float(self._most), left + seconds * self._per_second)

    def _tidy(self, now: float) -> None:
        if now - self._tidied < self.TIDY_SECONDS:
            return
        self._tidied = now
        for source, (left, seen, untold) in list(self._sources.items()):
            if not untold and self._left(left, now - seen) >= self._most:
                del self._sources[source]
