"""How a command fails: what is wrong, where, and what to do, on stderr; and an exit code that scripts can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

import click

from lvagent.errors import LvagentError

FAILED = 1
NOT_FOUND = 3
CONFLICT = 4
UNREACHABLE = 5
DENIED = 6

CODES: Mapping[int, int] = {401: DENIED, 403: DENIED, 404: NOT_FOUND, 409: CONFLICT, 412: CONFLICT}


class Failure(click.ClickException):
    """A command failed. ``kind``: of the error, as the API names it; '' if it is none of the API's."""

    def __init__(
        self, message: str, *, code: int = FAILED, path: str = "", hint: str = "", phase: str = "", kind: str = ""
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance
        self.path = path
        self.hint = hint
        self.phase = phase

    def show(self, file: IO[str] | None = None) -> None:
        """Print it, a line for each thing known."""
        lines = {"error": self.message, "at": self.path, "phase": self.phase, "hint": self.hint}
        for name, text in lines.items():
            if text:
                click.echo(f"{name}: {text}", err=file is None, file=file)


def of_problem(problem: Mapping[str, object]) -> Failure:
    """The failure that a problem document (RFC 9457) tells of."""

    def text(name: str) -> str:
        return str(problem.get(name) or "")

    status = problem.get("status")
    code = CODES.get(status, FAILED) if isinstance(status, int) else FAILED
    message = text("detail") or text("title") or "the agent refused"
    kind = text("type").rpartition(":")[2]
    return Failure(message, code=code, path=text("path"), hint=text("hint"), phase=text("phase"), kind=kind)


def of_error(error: LvagentError) -> Failure:
    """The failure that an error of ours is."""
    path = str(getattr(error, "path", ""))
    return Failure(error.message, code=CODES.get(error.status, FAILED), path=path, hint=error.hint, phase=error.phase)
