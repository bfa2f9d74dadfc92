"""How the steps of a put are undone, last first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec

from lvagent.errors import LvagentError
from lvagent.failpoints import point

log = logging.getLogger(__name__)

P = ParamSpec("P")


class Undo:
    """A context that undoes what was added to it when an exception leaves it.

    A step of the undoing that fails is logged and tried once more (each makes sure of something, so it may be). It does
    not keep the others from their turn, nor does it hide the error that began it all. Only a step that is the ground of
    those after it (a domain must have ended before its volumes go) ends the undoing when it fails: what stays behind is
    whole, and the next sweep finds it.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[[], object], bool]] = []

    def add(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remember how to undo the step that was (or is about to be) done."""
        self._steps.append((lambda: function(*args, **kwargs), False))

    def ground(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """As ``add``; if it fails, the steps that were added before it are left undone."""
        self._steps.append((lambda: function(*args, **kwargs), True))

    def forget(self) -> None:
        """All went well: nothing is to be undone any more."""
        self._steps.clear()

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while error is not None and self._steps:
            step, ground = self._steps.pop()
            if not _done(step) and not _done(step) and ground:
                self._steps.clear()


def _done(step: Callable[[], object]) -> bool:
    """Take a step of the undoing; whether it could be done."""
    try:
        point("undo.step")
        step()
    except LvagentError as failure:
        log.warning("undoing: %s", failure)
        return False
    return True
