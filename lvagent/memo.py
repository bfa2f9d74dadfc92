"""Results that are remembered as long as somebody asks for them.

What is read from libvirt and the kernel is the same from one sweep to the next, so what it means is remembered. But
much of it never comes back once it is gone: the number that a filter gives a VM is drawn, a definition has the time of
its create in it. ``functools.lru_cache`` keeps such results until its bound is reached, which on a host where VMs come
and go takes thousands of them and tens of MB. Here results have two generations: what is asked for is in the young
one; at the end of a sweep, which asks for everything that there is, the young one becomes the old one, and what was in
the old one and was not asked for meanwhile is forgotten.

    @remembered(1024)
    def facts(xml: str) -> Facts: ...

    forget_unasked()    # at the end of a sweep
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_ages: list[Callable[[], None]] = []


class Memo(Generic[P, R]):
    """A function that remembers its results. May be called by many threads; now and then two work out the same.

    What it raises is not remembered.

    :param function: a pure function, called with positional arguments that can be hashed.
    :param most: results in one generation; one that has more ends early, so there are never more than twice as many.
    """

    def __init__(self, function: Callable[P, R], most: int) -> None:
        self._function = function
        self._most = most
        self._young: dict[Hashable, R] = {}
        self._old: dict[Hashable, R] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        assert not kwargs, "it is remembered by its positional arguments"
        try:
            return self._young[args]
        except KeyError:
            pass
        try:
            found = self._old.pop(args)
        except KeyError:
            found = self._function(*args, **kwargs)
        if len(self._young) >= self._most:
            self.age()
        self._young[args] = found
        return found

    def age(self) -> None:
        """Forget what was not asked for since the last call of this."""
        self._old, self._young = self._young, {}

    def __len__(self) -> int:
        """How many results are remembered."""
        return len(self._young) + len(self._old)


def remembered(most: int) -> Callable[[Callable[P, R]], Memo[P, R]]:
    """Make a function of a module remember its results; see ``Memo``."""

    def decorate(function: Callable[P, R]) -> Memo[P, R]:
        memo = Memo(function, most)
        _ages.append(memo.age)
        return memo

    return decorate


def forget_unasked() -> None:
    """Forget all results that nobody asked for since the last call of this."""
    for age in _ages:
        age()
