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

    def __init__(self, most: int = 10, per_minute: float = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, tuple[float, float, int]] = OrderedDict()

    def take(self, source: str) -> int | None:
        """Whether one more may be told of; if so, how many of this source were not since the last."""
        with self._lock:
            now = self._clock()
            left, seen, untold = self._sources.pop(source, (float(self._most), now, 0))
            left = min(float(self._most), left + (now - seen) * self._per_second)
            told = left >= 1
            self._sources[source] = (left - 1, now, 0) if told else (left, now, untold + 1)
            if len(self._sources) > self.SOURCES:
                self._sources.popitem(last=False)
            return untold if told else None
