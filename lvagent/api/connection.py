"""A connection, and a request on it, as cheroot has them; with time limits that cannot be stretched.

cheroot's own limit is for each read, so a client that sends a byte now and then holds a thread for ever. Here the
whole request must have arrived, and the whole answer must have been taken, by a deadline. What cheroot refuses by
itself (a malformed request line, say) is answered with a problem document like everything else.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection, HTTPRequest, KnownLengthRFile

from lvagent.api import problems, wire
from lvagent.api.problems import HttpError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

HINTS = {413: "api.max_body is the limit, in bytes"}
"""What to do about what is refused here."""

ANSWER_SECONDS = 10.0
"""Within these a client must have taken a whole answer."""

DRAIN_SECONDS = 1.0
DRAIN_BYTES = 16 << 20
"""How long, and how much, is still read from a client that was refused, so that it gets to read why."""


class _Raw(socket.SocketIO):
    """A socket's bytes, until the deadline."""

    def __init__(self, sock: socket.socket, mode: str) -> None:
        super().__init__(sock, "rb" if "r" in mode else "wb")
        self._socket = sock
        self.deadline = 0.0

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._arm()
        return super().readinto(buffer)

    def write(self, data: ReadableBuffer) -> int | None:
        self._arm()
        return super().write(data)


class _Reader(StreamReader):
    """A buffered reader of a socket, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.limited = _Raw(sock, "r")
        super(StreamReader, self).__init__(self.limited)
        self.bytes_read = 0


class _Writer(StreamWriter):
    """A buffered writer to a socket, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.limited = _Raw(sock, "w")
        super(StreamWriter, self).__init__(self.limited)
        self.bytes_written = 0


def _file(sock: socket.socket, mode: str, _size: int) -> _Reader | _Writer:
    return _Reader(sock) if "r" in mode else _Writer(sock)


class Serving(Protocol):
    """What a connection wants of its server."""

    slow: float
    max_request_body_size: int

    def forget(self, connection: Connection) -> None: ...


class Request(HTTPRequest):
    """A request whose body is read before anything is done about it."""

    header_reader = staticmethod(wire.read_fields)

    def read_request_line(self) -> bool:
        """Read the first line; what cheroot lets through and HTTP does not is refused."""
        try:
            if not super().read_request_line():  # type: ignore[no-untyped-call]
                return False
            wire.check_request_line(self.method, self.uri, self.request_protocol)
        except ValueError as error:  # also of urllib, which cheroot splits the target with
            self.simple_response("400 Bad Request", str(error))
            return False
        return True

    def read_request_headers(self) -> bool:
        """Read the header; see that it tells where the body ends, before cheroot believes it."""
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        try:
            wire.check_length(self.inheaders, self.request_protocol)
        except ValueError as error:
            self.simple_response("400 Bad Request", str(error))
            return False
        return True

    def respond(self) -> None:
        """Read the body, then let the application answer."""
        try:
            raw = self._read_chunks() if self.chunked_read else self._read_length()
        except wire.TooLarge:
            self.simple_response("413 Request Entity Too Large")
        except ValueError as error:
            self.simple_response("400 Bad Request", str(error))
        else:
            self._answer(raw)

    def _read_chunks(self) -> bytes:
        self.close_connection = True
        return wire.read_chunks(self.conn.rfile, self.server.max_request_body_size)

    def _read_length(self) -> bytes:
        length = int(self.inheaders.get(b"Content-Length", 0))
        raw = bytes(self.conn.rfile.read(length))
        if len(raw) < length:
            raise ValueError(f"the body ends after {len(raw)} bytes of {length}")
        return raw

    def _answer(self, raw: bytes) -> None:
        self.rfile = KnownLengthRFile(io.BytesIO(raw), len(raw))
        self.inheaders[b"Content-Length"] = str(len(raw)).encode()
        self.server.gateway(self).respond()
        if self.ready:
            self.ensure_headers_sent()
        if self.chunked_write:
            self.conn.wfile.write(b"0\r\n\r\n")

    def send_headers(self) -> None:
        """Send the header; from now on the client must take the answer."""
        self.conn.answering()
        super().send_headers()

    def simple_response(self, status: str, msg: str = "") -> None:
        """Refuse the request with a problem document, and end the connection."""
        code = int(str(status)[:3])
        phrase = HTTPStatus(code).phrase
        error = HttpError(code, msg.rstrip(".") or phrase.lower(), hint=HINTS.get(code, ""))
        body = json.dumps(problems.problem(error)).encode() + b"\n"
        head = (
            f"HTTP/1.1 {code} {phrase}\r\nContent-Type: {problems.CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        )
        told = {**problems.EVERY_ANSWER, **problems.headers(error)}
        more = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        self.close_connection = self.sent_headers = True
        self.conn.answering()
        with contextlib.suppress(OSError):
            self.conn.wfile.write(f"{head}{more}\r\n".encode() + body)
            self.conn.drain()


class Connection(HTTPConnection):
    """A connection with deadlines. ``fresh``: nothing has come from it yet."""

    RequestHandlerClass = Request
    server: Serving

    def __init__(self, server: Serving, sock: socket.socket, _makefile: Callable[..., object] | None = None) -> None:
        super().__init__(server, sock, _file)
        self.fresh = True

    def communicate(self) -> bool:
        """Read one request and answer it; whether another may follow."""
        self.rfile.limited.deadline = time.monotonic() + self.server.slow
        self.answering()
        return bool(super().communicate())  # type: ignore[no-untyped-call]

    def answering(self) -> None:
        """From now on the client has its time to take the answer."""
        self.wfile.limited.deadline = time.monotonic() + ANSWER_SECONDS

    def drain(self) -> None:
        """Say that no more will be sent, and read what still comes.

        A client that is still sending would lose the answer else (RFC 9112, 9.6).
        """
        self.socket.shutdown(socket.SHUT_WR)
        end, left = time.monotonic() + DRAIN_SECONDS, DRAIN_BYTES
        self.socket.settimeout(DRAIN_SECONDS)
        while left > 0 and time.monotonic() < end:
            got = len(self.socket.recv(min(left, 1 << 16)))
            if not got:
                return
            left -= got

    def close(self) -> None:
        """Close it."""
        self.server.forget(self)
        super().close()
        self.wfile.limited.close()
