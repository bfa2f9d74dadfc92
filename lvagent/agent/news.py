"""The news: what happened to VMs, for whoever wants to follow it.

Whoever notices something publishes it; that never waits and never raises. The last items are kept in a ring, so that a
follower who was away can go on where he was. Each follower has a bounded queue of his own; one who does not keep up
loses his place, and is told so. All of it is memory: the truth is in libvirt and the kernel, and an item only says that
it is time to look.

    news.publish("i-0000000001", "crashed", reason="qemu ended unexpectedly")

    follower = news.follow()
    while (item := follower.take(timeout=15)) is not None: ...
"""

from __future__ import annotations

import collections
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Plain = str | int | float | bool | None
"""What a detail may be."""

KEPT = 4096
"""Items in the ring."""

WAITING = 1024
"""Items that may wait for one follower."""

MAX_TEXT = 1024
"""Characters of a detail; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that happened. ``number`` grows by one; ``at``: Unix time; ``vm`` empty: it is about the whole host.

    ``vpcs``: those that the VM was in when it happened; empty: not known (any more).
    """

    number: int
    at: float
    vm: str
    kind: str
    detail: Mapping[str, Plain] = field(default_factory=dict)
    vpcs: frozenset[str] = frozenset()


class Follower:
    """Somebody who wants the news. Leave it with ``close``, or use it in a ``with``.

    ``after``: the number of the last item before those that he gets. ``missed``: some before those are gone from the
    ring.
    """

    def __init__(self, news: News, backlog: Iterable[Item], *, after: int, missed: bool, most: int) -> None:
        self.after = after
        self._news = news
        self._most = most
        self._items = collections.deque(backlog)
        self._changed = threading.Condition()
        self._overrun = False
        self._closed = False
        self.missed = missed

    def take(self, timeout: float) -> Item | None:
        """The next item; None if none came in time, or none will (see ``closed`` and ``overrun``).

        :param timeout: seconds to wait at most.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._closed or self._overrun, timeout)
            return None if self._closed or not self._items else self._items.popleft()

    def put(self, item: Item) -> None:
        """Give him an item; ``News`` alone does. Whoever has too many waiting gets no more, ever."""
        with self._changed:
            if len(self._items) >= self._most:
                self._overrun = True
            if not self._overrun:
                self._items.append(item)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many items wait for him."""
        return len(self._items)

    @property
    def overrun(self) -> bool:
        """Whether he did not keep up: what still waits he gets, then nothing."""
        return self._overrun and not self._items

    @property
    def closed(self) -> bool:
        """Whether there will be no more: he left, or the agent stops."""
        return self._closed

    def close(self) -> None:
        """Want no more."""
        self._news.leave(self)
        self.end()

    def end(self) -> None:
        """Wake him: there will be no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()


class News:
    """What happened lately, and who follows it. Every method may be called by many threads.

    :param scope: the VPCs of a VM as of now, empty if it is not known; it must not raise, nor wait.
    """

    def __init__(self, scope: Callable[[str], Iterable[str]] = lambda _vm: (), *, kept: int = KEPT) -> None:
        self._scope = scope
        self._lock = threading.Lock()
        self._ring: collections.deque[Item] = collections.deque(maxlen=kept)
        self._followers: set[Follower] = set()
        self._last = 0
        self._closed = False
        self.epoch = secrets.token_hex(4)
        """Names this run of the agent: numbers of another run mean nothing in this one."""

    def publish(self, vm: str, kind: str, **detail: Plain) -> None:
        """Tell that something happened to a VM. Never waits, never raises.

        :param kind: one word, or some with hyphens.
        :param detail: no secrets; texts are cut to ``MAX_TEXT`` characters.
        """
        vpcs = frozenset(self._scope(vm)) if vm else frozenset()
        self.tell(vm, kind, detail, vpcs)

    def tell(self, vm: str, kind: str, detail: Mapping[str, Plain], vpcs: frozenset[str]) -> None:
        """``publish`` for who knows the VPCs better, as of a VM that is gone by now."""
        detail = {name: _cut(value) for name, value in detail.items()}
        with self._lock:
            self._last += 1
            item = Item(self._last, time.time(), vm, kind, detail, vpcs)
            self._ring.append(item)
            for follower in self._followers:
                follower.put(item)

    def follow(self, after: int | None = None, *, most: int = WAITING) -> Follower:
        """Follow the news.

        :param after: the number of the last item that is known already; None: from now on.
        :param most: how many items may wait for him, beside those of the ring that he gets at once.
        """
        with self._lock:
            backlog = [] if after is None else [item for item in self._ring if item.number > after]
            oldest = self._ring[0].number if self._ring else self._last + 1
            missed = after is not None and not oldest - 1 <= after <= self._last
            start = self._last if after is None else after
            follower = Follower(self, backlog, after=start, missed=missed, most=len(backlog) + most)
            if self._closed:
                follower.end()
            else:
                self._followers.add(follower)
            return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower; one who is not there is fine."""
        with self._lock:
            self._followers.discard(follower)

    @property
    def told(self) -> int:
        """How many items there were until now."""
        return self._last

    @property
    def waiting(self) -> tuple[int, ...]:
        """For each follower, how many items wait for him."""
        with self._lock:
            followers = tuple(self._followers)
        return tuple(one.waiting for one in followers)

    def close(self) -> None:
        """End for every follower at once."""
        with self._lock:
            self._closed = True
            followers, self._followers = self._followers, set()
        for follower in followers:
            follower.end()


def _cut(value: Plain) -> Plain:
    return value[:MAX_TEXT] if isinstance(value, str) else value
