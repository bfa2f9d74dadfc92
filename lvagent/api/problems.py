"""Errors as HTTP tells them: RFC 9457 problem documents.

    LvagentError  (errors.py)
     +- HttpError         what HTTP itself has to refuse: a method, a media type, a precondition
     |   +- Unauthenticated  401  who asks over TCP showed no token that holds; never why
     |   +- Forbidden        403  the caller may not do it, whether what he names is there or not
     +- Unexpected   500  a defect; the log has the traceback under the id that the caller gets

``type`` is ``urn:lvagent:error:<kind>`` and stable; ``detail`` is for people and may change.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from lvagent.errors import LvagentError

Json = dict[str, object]

CONTENT_TYPE = "application/problem+json"
URN = "urn:lvagent:error:"

RETRY_SECONDS = 2
"""What ``Retry-After`` says with a 503."""

EVERY_ANSWER: Mapping[str, str] = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""Header fields of every answer, also of those that are given before the application has seen the request."""

TITLES: Mapping[str, str] = {
    "spec": "The request says something that cannot be",
    "not-found": "There is no such thing",
    "conflict": "This contradicts something that exists",
    "host": "The host could not do it",
    "command": "A command on the host failed",
    "unavailable": "Not available at the moment",
    "internal": "A defect in the agent",
    "monitor": "qemu refused the command",
    "unauthenticated": "A token is needed",
    "forbidden": "This is not allowed",
    "misdirected": "This is not the host that was asked for",
    "malformed": "This is not a proper HTTP request",
    "method": "This path does not know that method",
    "precondition": "The precondition does not hold",
    "too-large": "The request is too large",
    "media-type": "The request's media type is not understood",
    "timeout": "The request did not arrive in time",
    "unsupported": "The agent does not speak that part of HTTP",
}
"""A line for each kind of error; the kinds of errors.py and those below."""

KINDS: Mapping[int, str] = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method",
    408: "timeout",
    412: "precondition",
    413: "too-large",
    414: "too-large",
    415: "media-type",
    421: "misdirected",
    431: "too-large",
    501: "unsupported",
    503: "unavailable",
    505: "unsupported",
}
"""The kind of each status that HTTP itself answers with."""


class HttpError(LvagentError):
    """The request cannot be served as HTTP; ``status`` says how so."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.kind = KINDS.get(status, "malformed" if status < 500 else "internal")


class Unauthenticated(HttpError):
    """There is one text for all: no token, one that nobody knows, an expired or a revoked one."""

    def __init__(self) -> None:
        hint = "send Authorization: Bearer lva_...; lvagent token create makes one"
        super().__init__(401, "a bearer token that holds is needed", hint=hint)


class Forbidden(HttpError):
    """The caller may not do it. ``path``: where in the body that is said which he may not."""

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(403, message, hint=hint)
        self.path = path


class Unexpected(LvagentError):
    """A defect. ``ident`` is in the log beside the traceback; the caller learns nothing else."""

    def __init__(self) -> None:
        self.ident = secrets.token_hex(6)
        super().__init__("an error that nobody expected", hint=f"the agent's log has it as error {self.ident}")


def problem(error: LvagentError, instance: str = "") -> Json:
    """The problem document of an error.

    :param instance: what was asked for: the path of the request or operation. Members that say nothing are left out.
    """
    told: Json = {
        "type": f"{URN}{error.kind}",
        "title": TITLES.get(error.kind, TITLES["internal"]),
        "status": error.status,
        "detail": error.message,
        "instance": instance,
        "path": getattr(error, "path", ""),
        "hint": error.hint,
        "phase": error.phase,
        "other": getattr(error, "other", ""),
        "qemu_class": getattr(error, "qemu_class", ""),
        "error_id": getattr(error, "ident", "") if isinstance(error, Unexpected) else "",
    }
    return {name: value for name, value in told.items() if value != ""}


def headers(error: LvagentError) -> dict[str, str]:
    """The header fields that go with an error."""
    match error.status:
        case 401:
            return {"WWW-Authenticate": "Bearer"}
        case 503:
            return {"Retry-After": str(RETRY_SECONDS)}
        case _:
            return {}
