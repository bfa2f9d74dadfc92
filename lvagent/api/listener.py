"""A server on one socket: cheroot's, with threads, places and limits of its own.

A connection holds a thread only while a request of it is being read or answered; the threads are made when they are
needed. A slow client so costs one thread for some seconds, an idle one none. The thread that accepts never waits for a
client: neither for what it sends, nor for its TLS handshake, nor to tell it that there is no place.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading

from cheroot import wsgi
from cheroot.connections import ConnectionManager
from flask import Flask

from lvagent.agent.pace import Pace
from lvagent.api.connection import Connection
from lvagent.api.trail import told
from lvagent.api.workers import Workers
from lvagent.config import Settings

log = logging.getLogger(__name__)

MAX_HEADER = 16 << 10
"""Bytes of a request line with its header fields."""

BACKLOG = 128
CONNECTIONS = 4
"""Open connections, for each thread that may serve."""


class _Threads:
    """Cheroot's thread pool, with threads only when there is something to do."""

    def __init__(self, server: Listener, most: int) -> None:
        self._server = server
        self._workers: Workers[Connection] = Workers(self._serve, most=most, name="http")

    def start(self) -> None:
        """There is nothing to start before something comes."""

    def put(self, connection: Connection) -> None:
        """Serve the request that begins on a connection."""
        if not self._workers.put(connection):
            connection.close()

    def _serve(self, connection: Connection) -> None:
        keep = False
        try:
            keep = connection.communicate()
        except OSError as error:
            log.debug("connection lost: %s", error)
        except Exception:
            log.exception("a defect while serving a connection")
        finally:
            with contextlib.suppress(OSError):
                self._server.put_conn(connection) if keep else connection.close()

    def stop(self, timeout: float) -> None:
        """Finish what is being served."""
        self._workers.stop(timeout)

    @property
    def threads(self) -> int:
        """How many there are now."""
        return self._workers.threads


class Listener(wsgi.Server):
    """Cheroot's server with our socket, threads and limits.

    :param address: a path, or a host and a port.
    """

    ConnectionClass = Connection
    _connections: ConnectionManager
    max_request_header_size = MAX_HEADER
    tls: ssl.SSLContext | None = None

    def __init__(self, address: str | tuple[str, int], app: Flask, settings: Settings) -> None:
        super().__init__(
            address,
            app,
            server_name="lvagent",
            request_queue_size=BACKLOG,
            timeout=settings.api.slow,
            shutdown_timeout=settings.api.slow,
            peercreds_enabled=isinstance(address, str),
        )
        self.slow = float(settings.api.slow)
        self.max_request_body_size = settings.api.max_body
        self.pool = _Threads(self, settings.api.threads)
        self.requests = self.pool
        self._most = settings.api.threads * CONNECTIONS
        self.keep_alive_conn_limit = self._most
        self._open: set[Connection] = set()
        self._guard = threading.Lock()
        self._pace = Pace()

    def takes_body(self, authorization: bytes) -> bool:
        """Whether the body of a request with this header is worth being read."""
        return True

    def process_conn(self, connection: Connection) -> None:
        """A connection with something to read gets a thread; a new one waits until there is something."""
        if not connection.fresh:
            self.pool.put(connection)
            return
        with self._guard:
            refusal = self._refusal(connection)
            if not refusal:
                self._open.add(connection)
        if refusal:
            self._turn_away(connection, refusal)
        else:
            connection.fresh = False
            self._connections.put(connection)

    def _refusal(self, connection: Connection) -> str:
        """Why there is no place for a connection; empty: there is one, and it has it now."""
        return "there are too many connections" if len(self._open) >= self._most else ""

    def _turn_away(self, connection: Connection, why: str) -> None:
        untold = self._pace.take("")
        if untold is not None:
            log.warning("a connection of %s is refused: %s%s", connection.remote_addr or "a process", why, told(untold))
        with contextlib.suppress(OSError):
            connection.turn_away(why)

    def forget(self, connection: Connection) -> None:
        """A connection is being closed."""
        with self._guard:
            if connection in self._open:
                self._open.remove(connection)
                self._left(connection)

    def _left(self, connection: Connection) -> None:
        """A place is free again."""

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Cheroot's messages go to the log."""
        log.log(level, "%s", msg, exc_info=traceback)
