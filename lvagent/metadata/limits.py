"""What one guest may take of the service, so that another's answer does not wait for it.

    Places   connections: so many served at once, so many more waiting, the rest is refused unread
    Pace     requests: a bucket of tokens (a burst, then a rate); a request without a token waits for it

Both are kept per VM, not per address: a second address buys nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """``served`` and ``waiting``: connections. ``rate``: requests a second; ``burst``: requests at once.

    ``hops``: the IP time to live of an answer with a session token; one that a guest forwards does not arrive.

    ``head`` and ``send``: seconds a client may take for a request's head and for taking an answer; ``idle``: seconds
    that a connection may rest between two requests; ``wait``: seconds a connection waits for its place at most.
    """

    served: int = 16
    waiting: int = 64
    rate: float = 100
    burst: float = 200
    head: float = 5
    send: float = 10
    idle: float = 15
    wait: float = 10
    hops: int = 1


class Pace:
    """A token bucket.

    :param clock: seconds that never go backwards.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._at = clock()

    def take(self) -> float:
        """Take a token; returns how many seconds to wait before acting on it."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._level / self._rate)


class Places(Generic[T]):
    """Who of one guest is being served, and who waits in line."""

    def __init__(self, served: int, waiting: int) -> None:
        self._free = served
        self._served = served
        self._waiting = waiting
        self._line: deque[T] = deque()

    @property
    def unused(self) -> bool:
        """Whether nobody is served or waits."""
        return self._free == self._served and not self._line

    def enter(self, who: T) -> bool | None:
        """True: serve it now. False: it waits in line. None: there is no room, refuse it."""
        if self._free > 0:
            self._free -= 1
            return True
        if len(self._line) < self._waiting:
            self._line.append(who)
            return False
        return None

    def leave(self) -> T | None:
        """One that was served is done: who takes its place now, if somebody waits."""
        if self._line:
            return self._line.popleft()
        self._free += 1
        return None

    def empty(self) -> list[T]:
        """Send all away who wait; returns them."""
        gone = list(self._line)
        self._line.clear()
        return gone
