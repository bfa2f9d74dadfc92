"""Threads that are made when there is work and end when there has been none for a while."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

IDLE_SECONDS = 20.0
"""How long a thread waits for more work before it ends."""


class Workers(Generic[T]):
    """Calls a function with each task, at most ``most`` at the same time, first come first served."""

    def __init__(self, work: Callable[[T], None], *, most: int, name: str) -> None:
        self._work = work
        self._most = most
        self._name = name
        self._wake = threading.Condition()
        self._tasks: collections.deque[T] = collections.deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopped = False

    def put(self, task: T) -> bool:
        """Have a task done; False if the workers have been stopped. Never waits."""
        with self._wake:
            if self._stopped:
                return False
            self._tasks.append(task)
            if self._idle >= len(self._tasks):
                self._wake.notify()
            elif len(self._threads) < self._most:
                self._add_thread()
            return True

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            self._work(task)

    def _next(self) -> T | None:
        with self._wake:
            self._idle += 1
            self._wake.wait_for(lambda: bool(self._tasks) or self._stopped, IDLE_SECONDS)
            self._idle -= 1
            if self._tasks:
                return self._tasks.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def stop(self, timeout: float) -> bool:
        """Take no more tasks, do those that wait, and wait for the threads.

        :param timeout: seconds to wait at most.
        :return: whether all of them have ended.
        """
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
            threads = tuple(self._threads)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    @property
    def threads(self) -> int:
        """How many threads there are now."""
        with self._wake:
            return len(self._threads)
