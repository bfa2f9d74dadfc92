"""The errors of lvagent.

    LvagentError
     +- SpecError       422  what the caller sent is wrong; says where (JSON path) and what to do
     +- NotFound        404  nothing of that kind has that id
     +- Conflict        409  it contradicts something that exists; names the other
     +- Superseded      412  somebody was faster: what the caller saw is not so any more
     +- MonitorError    422  qemu refused a monitor command, in its words
     +- HostError       500  the host could not do it; says which resource and which action
     |   +- CommandError     a command ended badly; carries argv, exit code, stderr
     |   +- Vanished    503  what it was done to went away, or was replaced, in the middle; try again
     +- Unavailable     503  something the agent needs is away (libvirtd, say); try again

Foreign exceptions (OSError, libvirtError, netlink errors) are translated at the border of ``host/``.
Messages carry no secret, and no internals of the host that the caller did not send; details for the
operator go to the log.
"""

from __future__ import annotations

from collections.abc import Sequence


class LvagentError(Exception):
    """The root. ``message`` says what and why, ``hint`` what to do next, ``phase`` where a put stopped."""

    status = 500
    kind = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.phase = ""

    def in_phase(self, phase: str) -> LvagentError:
        """Note the phase in which it happened; the innermost wins. Returns itself, to be raised."""
        self.phase = self.phase or phase
        return self


class SpecError(LvagentError):
    """The specification is wrong at ``path`` (a JSON path such as ``networks[0].ipv4``)."""

    status = 422
    kind = "spec"

    def __init__(self, path: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class NotFound(LvagentError):
    """No ``noun`` (vm, vpc, subnet, image) has the id ``ident``."""

    status = 404
    kind = "not-found"

    def __init__(self, noun: str, ident: str, *, listed: str = "", hint: str = "") -> None:
        super().__init__(f"there is no {noun} {ident}", hint=hint or f"list them with GET {listed or f'/v1/{noun}s'}")
        self.noun = noun
        self.ident = ident


class Conflict(LvagentError):
    """The wish contradicts something that exists; ``other`` names it, ``path`` is where in the spec."""

    status = 409
    kind = "conflict"

    def __init__(self, message: str, *, path: str = "", other: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.other = other


class Superseded(LvagentError):
    """What the caller had seen, and wanted to change, is not so any more."""

    status = 412
    kind = "precondition"


class MonitorError(LvagentError):
    """qemu refused a monitor command: ``qemu_class`` is QMP's class of the error, ``desc`` its description."""

    status = 422
    kind = "monitor"

    def __init__(self, qemu_class: str, desc: str, *, hint: str = "") -> None:
        super().__init__(f"qemu refused it: {qemu_class}: {desc}", hint=hint)
        self.qemu_class = qemu_class
        self.desc = desc


class HostError(LvagentError):
    """The host could not carry out ``action`` on ``resource``; ``cause`` says why."""

    status = 500
    kind = "host"

    def __init__(self, resource: str, action: str, cause: str, *, hint: str = "") -> None:
        super().__init__(f"cannot {action} {resource}: {cause}", hint=hint)
        self.resource = resource
        self.action = action
        self.cause = cause


class CommandError(HostError):
    """A command ended with a code that is not zero, or was stopped at its time limit (``code`` None)."""

    kind = "command"

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str, *, hint: str = "") -> None:
        last = stderr.strip().splitlines()[-1] if stderr.strip() else ""
        what = "did not end in time" if code is None else f"ended with {code}"
        super().__init__(argv[0], "run", f"{what}: {last}" if last else what, hint=hint)
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr


class Vanished(HostError):
    """What it was done to went away, or was replaced, in the middle; the same call may be made again."""

    status = 503
    kind = "unavailable"

    def __init__(self, resource: str, action: str, cause: str, *, hint: str = "") -> None:
        super().__init__(resource, action, cause, hint=hint or "it went away meanwhile; try again")


class Unavailable(LvagentError):
    """``what`` is away for now; the same call may be made again."""

    status = 503
    kind = "unavailable"

    def __init__(self, what: str, *, hint: str = "try again in a few seconds") -> None:
        super().__init__(f"{what} is not available", hint=hint)
        self.what = what
