"""What a route is: one value that says everything about it.

The application's URL rules, the check of every request and the OpenAPI document are all made from the same ``Route``;
so the document cannot say anything else than what happens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

from lvagent.api.operations import Lane, Operations, Seats
from lvagent.api.problems import Forbidden, HttpError, Json
from lvagent.api.protocol import Agent
from lvagent.api.trail import Trail
from lvagent.config import Settings
from lvagent.errors import NotFound, SpecError
from lvagent.spec.access import Caller, Role

T = TypeVar("T")

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
XML = "application/xml"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Name:
    """A path parameter: the id of a ``noun``, of this pattern (anchored by itself), or one of these ``words``."""

    name: str
    noun: str
    pattern: str
    example: str
    words: tuple[str, ...] = ()

    def check(self, value: str) -> None:
        """Nothing that does not look like an id is looked up.

        :raise NotFound: it does not look like one.
        """
        if not re.fullmatch(self.pattern, value):
            raise NotFound(self.noun, json.dumps(value[:60]))


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A query parameter; ``read`` turns its text into a value and raises ValueError with what was expected."""

    name: str
    default: T
    read: Callable[[str], T]
    schema: Mapping[str, object]
    description: str

    def of(self, query: Mapping[str, str]) -> T:
        """Its value in a request, or the default.

        :raise SpecError: its text cannot be read.
        """
        if self.name not in query:
            return self.default
        try:
            return self.read(query[self.name])
        except ValueError as error:
            raise SpecError(f"query.{self.name}", f"{json.dumps(query[self.name][:60])} is not {error}") from None


def number(name: str, default: float, low: float, high: float, description: str) -> Query[float]:
    """A query parameter that is a number from ``low`` to ``high``."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(text)

    schema = {"type": "number", "minimum": low, "maximum": high, "default": default}
    return Query(name, default, read, schema, description)


def whole(name: str, default: T, low: int, high: int, description: str) -> Query[int | T]:
    """A query parameter that is a whole number from ``low`` to ``high``."""

    def read(text: str) -> int | T:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    schema: dict[str, object] = {"type": "integer", "minimum": low, "maximum": high}
    if default is not None:
        schema["default"] = default
    return Query(name, default, read, schema, description)


def choice(name: str, default: str, options: tuple[str, ...], description: str) -> Query[str]:
    """A query parameter that is one of some words."""

    def read(text: str) -> str:
        if text not in options:
            raise ValueError(f"one of {', '.join(options)}")
        return text

    return Query(name, default, read, {"type": "string", "enum": list(options), "default": default}, description)


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that a route looks at."""

    name: str
    description: str
    example: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that a route may give. ``schema``: the name of the body's schema; empty: no JSON body."""

    status: int
    description: str
    schema: str = ""
    media: str = JSON
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a view returns. ``stream``: the body in chunks, as they come; it may have a ``close``."""

    status: int
    body: bytes = b""
    media: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterable[bytes] | None = None


class Streams(Protocol):
    """Places for streams (``api.events.Places``)."""

    def take(self, caller: Caller) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request, checked against its route. ``headers``: names in lower case.

    ``agent``: as ``caller`` sees it. ``trail``: what is to be written down of the request. ``again``: who the caller is
    by now, as the door says; raises as it does.
    """

    agent: Agent
    caller: Caller
    trail: Trail
    operations: Operations
    lane: Lane
    seats: Seats
    places: Streams
    again: Callable[[], Caller]
    settings: Settings
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    instance: str

    def need(self, role: Role, what: str) -> None:
        """See that the caller has a role that is not limited to some VPCs, for what reaches beyond them.

        :raise Forbidden: he has not.
        """
        if not self.caller.role.covers(role) or self.caller.limited:
            raise Forbidden(f"{what} needs the role {role}, without a limit to VPCs")


View = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path. ``body``: the name of the request body's schema. ``errors``: statuses of its own.

    ``role``: the least that its caller must have; None: anybody may call it, also without a token.
    """

    method: str
    path: str
    name: str
    role: Role | None
    summary: str
    view: View
    replies: tuple[Reply, ...]
    errors: tuple[int, ...] = ()
    names: tuple[Name, ...] = ()
    query: tuple[Query[float] | Query[int] | Query[int | None] | Query[str], ...] = ()
    headers: tuple[Header, ...] = ()
    body: str = ""

    @property
    def rule(self) -> str:
        """The path as Flask writes it.

        Where only some words may stand, only they are this route: others may be another's, of other methods.
        """
        rule = self.path
        for name in self.names:
            kind = f"any({','.join(name.words)}):" if name.words else ""
            rule = rule.replace(f"{{{name.name}}}", f"<{kind}{name.name}>")
        return rule

    def check_query(self, pairs: list[tuple[str, str]]) -> dict[str, str]:
        """The query as a mapping.

        :raise SpecError: a parameter that this route does not have, or one that is there twice.
        """
        known = [query.name for query in self.query]
        found: dict[str, str] = {}
        for key, value in pairs:
            at = f"query.{key[:60]}"
            if key not in known:
                hint = f"it has {', '.join(known)}" if known else "it has none"
                raise SpecError(at, f"{self.method} {self.path} has no such query parameter", hint)
            if key in found:
                raise SpecError(at, "the query parameter is there twice", "say it once")
            found[key] = value
        return found


def answer(status: int, body: Json, **headers: str) -> Answer:
    """A JSON answer; ``Retry_After="2"`` becomes the header ``Retry-After``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(body, allow_nan=False).encode() + b"\n", JSON, named)


def nothing() -> Answer:
    """The answer that says: done, and there is nothing to tell."""
    return Answer(HTTPStatus.NO_CONTENT)


def check_media(content_type: str) -> None:
    """Bodies are JSON in UTF-8; a request that does not say what it sends is believed.

    :raise HttpError: 415, it says that it is something else.
    """
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind not in ("", JSON) or any(part not in ("", "charset=utf-8", 'charset="utf-8"') for part in parameters):
        raise HttpError(415, "the body is not said to be JSON", hint=f"send Content-Type: {JSON}")
