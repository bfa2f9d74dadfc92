"""HTTP/1.1 as far as a metadata service needs it (RFC 9112), strictly: a head to a request, an answer to bytes.

What is not exactly a request is refused: lines end with CRLF, a target begins with a slash, no field is folded, no
request has content. So there is nothing that a proxy in front and this parser could read differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_LINE = 2048
"""Bytes of the request line, its CRLF included."""

MAX_FIELDS = 8192
"""Bytes of all header fields."""

MAX_HEAD = MAX_LINE + MAX_FIELDS + 2

_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/([0-9])\.([0-9])\Z")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*\Z")

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}


class Refused(Exception):
    """The bytes are no request that is served; ``status`` is the answer, after which the connection ends."""

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request. ``path`` is without the query. ``fields`` has lower-case names; of a repeated one, all values."""

    method: str
    path: str
    fields: Mapping[str, tuple[str, ...]]
    keep: bool
    """Whether the client wants the connection to stay open."""

    def one(self, name: str) -> str | None:
        """The value of a field that is there exactly once, else None."""
        values = self.fields.get(name, ())
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. ``body`` may be a secret and stays out of ``repr``. ``near``: it is for the guest itself, and what a
    guest forwards packets for must not get it."""

    status: int
    body: bytes = field(default=b"", repr=False)
    media: str = "text/plain"
    fields: Mapping[str, str] = field(default_factory=dict)
    near: bool = False

    def encode(self, *, head_only: bool = False, keep: bool = False) -> bytes:
        """The answer as it is sent. ``head_only``: to a HEAD request."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}",
            "Server: lvagent",
            f"Content-Type: {self.media}",
            f"Content-Length: {len(self.body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            *(f"{name}: {value}" for name, value in self.fields.items()),
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
        return head if head_only else head + self.body


def parse(head: bytes) -> Request:
    """Read the head of a request.

    :param head: all bytes up to and with the empty line.
    :raise Refused: 400, 413, 414, 431, 501 or 505.
    """
    line, _, rest = head.partition(b"\r\n")
    if len(line) + 2 > MAX_LINE:
        raise Refused(414)
    if len(rest) > MAX_FIELDS + 2:
        raise Refused(431)
    match = _LINE.match(line)
    if match is None:
        raise Refused(400)
    if match[3] != b"1":
        raise Refused(505)
    fields = _fields(rest)
    modern = match[4] != b"0"
    _check(fields, modern=modern)
    path = match[2].decode("ascii").partition("?")[0]
    return Request(match[1].decode("ascii"), path, fields, _keeps(fields, modern=modern))


def _fields(rest: bytes) -> dict[str, tuple[str, ...]]:
    if rest == b"\r\n":
        return {}
    if not rest.endswith(b"\r\n\r\n"):
        raise Refused(400)
    found: dict[str, tuple[str, ...]] = {}
    for row in rest[:-4].split(b"\r\n"):
        match = _FIELD.match(row)
        if match is None:
            raise Refused(400)
        name = match[1].decode("ascii").lower()
        found[name] = (*found.get(name, ()), match[2].decode("latin-1"))
    return found


def _check(fields: Mapping[str, tuple[str, ...]], *, modern: bool) -> None:
    """What the fields say together: one host (RFC 9112, 3.2), and no content."""
    hosts = len(fields.get("host", ()))
    if hosts > 1 or (modern and hosts == 0):
        raise Refused(400)
    if "transfer-encoding" in fields:
        raise Refused(501)
    lengths = fields.get("content-length", ("0",))
    if len(lengths) != 1 or re.fullmatch(r"[0-9]{1,19}", lengths[0], re.ASCII) is None:
        raise Refused(400)
    if int(lengths[0]) > 0:
        raise Refused(413)


def _keeps(fields: Mapping[str, tuple[str, ...]], *, modern: bool) -> bool:
    wishes = {part.strip().lower() for value in fields.get("connection", ()) for part in value.split(",")}
    if "close" in wishes:
        return False
    return modern or "keep-alive" in wishes
