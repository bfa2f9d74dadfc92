"""A connection, and a request on it, as cheroot has them; with time limits that cannot be stretched.

cheroot's own limit is for each read, so a client that sends a byte now and then holds a thread for ever. Here the
whole request must have arrived, its TLS handshake with it, and the whole answer must have been taken, by a deadline.
What cheroot refuses by itself (a malformed request line, say) is answered with a problem document like everything else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection, HTTPRequest, KnownLengthRFile

from lvagent.api import problems, wire
from lvagent.api.problems import HttpError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

log = logging.getLogger(__name__)

HANDSHAKE = b"\x16"
"""The first byte of what a TLS client sends (RFC 8446, 5.1); no method of HTTP begins with it."""

STREAM = b"text/event-stream"
"""The type of an answer that goes on for as long as somebody listens."""

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
        with _tls_errors():
            return super().readinto(buffer)

    def write(self, data: ReadableBuffer) -> int | None:
        self._arm()
        with _tls_errors():
            return super().write(data)

    @property
    def has_data(self) -> bool:
        """Whether there are bytes that TLS has taken from the socket: no selector would tell of them."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0


@contextlib.contextmanager
def _tls_errors() -> Iterator[None]:
    """A client that breaks TLS is gone, as one that breaks TCP is."""
    try:
        yield
    except ssl.SSLError as error:
        raise ConnectionResetError(errno.ECONNRESET, f"TLS: {error.reason}") from error


class _Reader(StreamReader):
    """A buffered reader of a socket, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.limited = _Raw(sock, "r")
        super(StreamReader, self).__init__(self.limited)
        self.bytes_read = 0

    def has_data(self) -> bool:
        """Whether there is something to read that the socket itself does not have any more."""
        return bool(super().has_data()) or self.limited.has_data  # type: ignore[no-untyped-call]


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
    tls: ssl.SSLContext | None

    def takes_body(self, authorization: bytes) -> bool: ...
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
        """Read the body, then let the application answer.

        Of a caller who will be refused whatever it says, no body is read.
        """
        if self._has_body() and not self.server.takes_body(self.inheaders.get(b"Authorization", b"")):
            self.close_connection = True
            self._answer(b"")
            self.conn.drain()
            return
        try:
            raw = self._read_chunks() if self.chunked_read else self._read_length()
        except wire.TooLarge:
            self.simple_response("413 Request Entity Too Large")
        except ValueError as error:
            self.simple_response("400 Bad Request", str(error))
        else:
            self._answer(raw)

    def _has_body(self) -> bool:
        return self.chunked_read or int(self.inheaders.get(b"Content-Length", 0)) > 0

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

    def write(self, chunk: bytes) -> None:
        """Send a part of the answer. Of a stream each has its time; all others have one, for the whole."""
        if self.sent_headers and self._streams():
            self.conn.answering()
        super().write(chunk)

    def _streams(self) -> bool:
        return any(name.lower() == b"content-type" and value.startswith(STREAM) for name, value in self.outheaders)

    def simple_response(self, status: str, msg: str = "") -> None:
        """Refuse the request with a problem document, and end the connection."""
        self.close_connection = self.sent_headers = True
        self.conn.answering()
        with contextlib.suppress(OSError):
            self.conn.wfile.write(refusal(int(str(status)[:3]), msg))
        self.conn.drain()


def refusal(code: int, msg: str = "") -> bytes:
    """A whole answer that refuses a request and ends its connection."""
    phrase = HTTPStatus(code).phrase
    error = HttpError(code, msg.rstrip(".") or phrase.lower(), hint=HINTS.get(code, ""))
    body = json.dumps(problems.problem(error)).encode() + b"\n"
    head = (
        f"HTTP/1.1 {code} {phrase}\r\nContent-Type: {problems.CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    told = {**problems.EVERY_ANSWER, **problems.headers(error)}
    more = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"{head}{more}\r\n".encode() + body


class Connection(HTTPConnection):
    """A connection with deadlines. ``fresh``: nothing has come from it yet; ``secured``: it speaks TLS by now."""

    RequestHandlerClass = Request
    server: Serving

    def __init__(self, server: Serving, sock: socket.socket, _makefile: Callable[..., object] | None = None) -> None:
        super().__init__(server, sock, _file)
        self.fresh = True
        self.secured = False

    def communicate(self) -> bool:
        """Read one request and answer it; whether another may follow."""
        self.rfile.limited.deadline = time.monotonic() + self.server.slow
        self.answering()
        if self.server.tls is not None and not self.secured and not self._secure(self.server.tls):
            return False
        return bool(super().communicate())  # type: ignore[no-untyped-call]

    def _secure(self, context: ssl.SSLContext) -> bool:
        """Take the client's TLS handshake, within the time that the request has; whether that went well."""
        deadline = self.rfile.limited.deadline
        self.socket.settimeout(self.server.slow)
        first = self.socket.recv(1, socket.MSG_PEEK)
        if first != HANDSHAKE:
            if first:
                Request(self.server, self).simple_response("400 Bad Request", "this port speaks TLS: use https")
            return False
        try:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            self.socket.do_handshake()
        except (ssl.SSLError, ConnectionError, TimeoutError) as error:
            log.debug("%s: no TLS: %s", self.remote_addr, error)
            return False
        self.rfile, self.wfile = _Reader(self.socket), _Writer(self.socket)
        self.rfile.limited.deadline = deadline
        self.answering()
        self.secured = True
        return True

    def answering(self) -> None:
        """From now on the client has its time to take the answer."""
        self.wfile.limited.deadline = time.monotonic() + ANSWER_SECONDS

    def drain(self) -> None:
        """Say that no more will be sent, and read what still comes.

        A client that is still sending would lose the answer else (RFC 9112, 9.6).
        """
        with contextlib.suppress(OSError):
            self._end_tls()
            self.socket.shutdown(socket.SHUT_WR)
            end, left = time.monotonic() + DRAIN_SECONDS, DRAIN_BYTES
            self.socket.settimeout(DRAIN_SECONDS)
            while left > 0 and time.monotonic() < end:
                got = len(self.socket.recv(min(left, 1 << 16)))
                if not got:
                    return
                left -= got

    def turn_away(self, why: str) -> None:
        """Tell a client that there is no place for it, as far as that goes without waiting, and close.

        One that wants TLS is told nothing: that would take a handshake.
        """
        try:
            self.socket.setblocking(False)
            if self.server.tls is None:
                self.socket.send(refusal(503, why))
                self.socket.shutdown(socket.SHUT_WR)
                self.socket.recv(1 << 16)
        finally:
            self.close()

    def _end_tls(self) -> None:
        """Tell a TLS client that the end is one (RFC 8446, 6.1), without waiting for its own."""
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.socket.settimeout(0)
                self.socket.unwrap()

    def close(self) -> None:
        """Close it."""
        self.server.forget(self)
        self._end_tls()
        super().close()
        self.wfile.limited.close()
