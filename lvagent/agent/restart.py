"""When a VM that ended by itself is started again. A value and the functions that change it; the clock is the caller's.

    ended -> due in 1 s -> begun -> ended -> due in 2 s -> begun -> ... 4, 8, 16 s ... -> ended: given up

A VM that ran for ``WINDOW`` seconds begins anew. All of it is memory: an agent that starts knows of no earlier tries.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lvagent.spec.vm import Restart

FIRST = 1.0
"""Seconds until the first try; each that follows waits twice as long."""

MOST = 5
"""Tries within ``WINDOW``."""

WINDOW = 600.0
"""Seconds after which a try no longer counts."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What was tried for one VM.

    ``begun``: when, each of the tries that count. ``due``: when the next one is; None: there is none to come.
    ``trying``: one is under way. ``reason``: how it ended last. ``given_up``: there will be none until somebody says
    so. Times in seconds of any clock that never goes back.
    """

    begun: tuple[float, ...] = ()
    due: float | None = None
    trying: bool = False
    reason: str = ""
    given_up: bool = False

    @property
    def failure(self) -> str:
        """Why there are no more tries, in plain words."""
        return f"given up: started again {MOST} times within {WINDOW / 60:g} minutes, and ended again: {self.reason}"


def covers(policy: Restart, *, crashed: bool) -> bool:
    """Whether a VM with this policy is started again.

    :param crashed: whether it crashed; else its guest shut itself down.
    """
    return policy is Restart.ALWAYS or (crashed and policy is Restart.ON_FAILURE)


def ended(tries: Tries, now: float, reason: str) -> Tries:
    """It ended, or a start of it failed. May be said many times of one end."""
    if tries.due is not None or tries.trying or tries.given_up:
        return tries
    counted = tuple(at for at in tries.begun if at > now - WINDOW)
    if len(counted) >= MOST:
        return Tries(counted, reason=reason, given_up=True)
    return Tries(counted, now + FIRST * 2 ** len(counted), reason=reason)


def begun(tries: Tries, now: float) -> Tries:
    """It is being started again."""
    return dataclasses.replace(tries, begun=(*tries.begun, now), due=None, trying=True)


def tried(tries: Tries) -> Tries:
    """The try is over, however it went."""
    return dataclasses.replace(tries, trying=False)


def put_off(tries: Tries, now: float) -> Tries:
    """That could not even be tried, through no fault of the VM: soon again, and it does not count."""
    return dataclasses.replace(tries, begun=tries.begun[:-1], due=now + FIRST, trying=False)
