"""How a request is written on the wire (RFC 9112), read strictly.

cheroot takes what two readers could take in two ways: of two Content-Lengths the last, a folded line as a new value, a
chunk of size ``0x5``, a colon after a blank. Nothing that stands between a client and the agent may see another request
than the agent does, so all of that is refused.
"""

from __future__ import annotations

import re
from typing import Protocol

CRLF = b"\r\n"

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")

ONCE = frozenset({
    b"Authorization", b"Content-Encoding", b"Content-Length", b"Content-Type", b"Expect", b"Host", b"Origin",
    b"Transfer-Encoding",
})  # fmt: skip
"""Fields that say one thing. Others may come in parts, which is the same as one with commas (RFC 9110, 5.3)."""

CHUNK_LINE = 1024
"""Bytes of the line that a chunk begins with."""

TRAILER_LINES, TRAILER_LINE = 32, 4096
"""How many lines may come after the last chunk, and their bytes; nothing looks at them."""


class TooLarge(Exception):
    """A body has more bytes than it may."""


class Readable(Protocol):
    """Where a request is read from."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int = -1, /) -> bytes: ...


def check_request_line(method: bytes, target: bytes, protocol: bytes) -> None:
    """Refuse what is no request line of HTTP/1.0 or 1.1.

    :raise ValueError: the text says why not.
    """
    if not _TOKEN.fullmatch(method):
        raise ValueError("The method has a character that no method has")
    if not _TARGET.fullmatch(target):
        raise ValueError("The target has a blank, a control character, or one that is not ASCII")
    if protocol not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise ValueError("The protocol is neither HTTP/1.0 nor HTTP/1.1")


def read_fields(source: Readable, found: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
    """The header fields up to the empty line, by name in Title-Case; cheroot calls this as its header reader.

    Names with an underscore are left out: in WSGI's environment they would be those with a hyphen.

    :param found: where to put them.
    :raise ValueError: they are not as RFC 9112, 5 has them.
    """
    fields = {} if found is None else found
    while (line := source.readline()) != CRLF:
        name, value = _field(line)
        if b"_" in name:
            continue
        if name in fields and name in ONCE:
            raise ValueError(f"{name.decode()} is there twice")
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _field(line: bytes) -> tuple[bytes, bytes]:
    if not line.endswith(CRLF):
        raise ValueError("The header ends early, or a line of it without CRLF")
    name, colon, value = line[:-2].partition(b":")
    if not colon or not _TOKEN.fullmatch(name):
        raise ValueError("A line of the header has no field's name before its colon")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"The value of {name.decode()[:40]} has a control character")
    return name.title(), value.strip(b" \t")


def check_length(fields: dict[bytes, bytes], protocol: bytes) -> None:
    """Refuse what leaves open where the body ends (RFC 9112, 6.3).

    :raise ValueError: the text says how.
    """
    length = fields.get(b"Content-Length")
    if length is not None and not length.isdigit():
        raise ValueError("Malformed Content-Length")
    coding = fields.get(b"Transfer-Encoding")
    if coding is None:
        return
    if length is not None:
        raise ValueError("Transfer-Encoding and Content-Length exclude each other")
    if protocol == b"HTTP/1.0":
        raise ValueError("HTTP/1.0 has no Transfer-Encoding")
    if coding.lower() != b"chunked":  # cheroot has refused those that it does not know
        raise ValueError("Malformed Transfer-Encoding")


def read_chunks(source: Readable, most: int) -> bytes:
    """A body that comes in chunks (RFC 9112, 7.1), with its trailer, of which nothing is kept.

    :param most: bytes that it may have.
    :raise TooLarge: it has more.
    :raise ValueError: it is malformed, or ends early.
    """
    body = bytearray()
    while size := _chunk_size(source):
        if len(body) + size > most:
            raise TooLarge
        chunk = source.read(size + len(CRLF))
        if len(chunk) < size + len(CRLF) or not chunk.endswith(CRLF):
            raise ValueError("A chunk does not have the size that it says")
        body += chunk[:-2]
    _skip_trailer(source)
    return bytes(body)


def _chunk_size(source: Readable) -> int:
    found = _CHUNK.fullmatch(source.readline(CHUNK_LINE))
    if found is None:
        raise ValueError("A chunk does not begin with its size")
    return int(found[1], 16)


def _skip_trailer(source: Readable) -> None:
    for _ in range(TRAILER_LINES):
        line = source.readline(TRAILER_LINE)
        if line == CRLF:
            return
        _field(line)
    raise ValueError("The trailer is too long")
