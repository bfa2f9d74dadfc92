"""The API on its unix socket, served by cheroot.

A connection holds a thread only while a request of it is being read or answered; the threads are made when they are
needed. A slow client so costs one thread for some seconds, an idle one none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

from cheroot import wsgi
from cheroot.connections import ConnectionManager
from flask import Flask

from lvagent.api import socket_file
from lvagent.api.app import operations_of
from lvagent.api.connection import Connection, Request
from lvagent.api.workers import Workers
from lvagent.config import Settings

log = logging.getLogger(__name__)

MAX_HEADER = 16 << 10
"""Bytes of a request line with its header fields."""

BACKLOG = 128
CONNECTIONS = 4
"""Open connections, for each thread that may serve."""

STOP_SECONDS = 60.0
"""How long a stop waits for changes that are under way; what is not done then, the next start takes up."""


class _Threads:
    """Cheroot's thread pool, with threads only when there is something to do."""

    def __init__(self, server: _Server, most: int) -> None:
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


class _Server(wsgi.Server):
    """Cheroot's server with our socket, threads and limits."""

    ConnectionClass = Connection
    _connections: ConnectionManager
    max_request_header_size = MAX_HEADER

    def __init__(self, app: Flask, settings: Settings) -> None:
        super().__init__(
            settings.api_socket,
            app,
            server_name="lvagent",
            request_queue_size=BACKLOG,
            timeout=settings.api.slow,
            shutdown_timeout=settings.api.slow,
            peercreds_enabled=True,
        )
        self.slow = float(settings.api.slow)
        self.max_request_body_size = settings.api.max_body
        self.pool = _Threads(self, settings.api.threads)
        self.requests = self.pool
        self._api = settings.api
        self._most = settings.api.threads * CONNECTIONS
        self.keep_alive_conn_limit = self._most
        self._open: set[Connection] = set()
        self._guard = threading.Lock()

    def bind_unix_socket(self, bind_addr: str) -> None:
        """Listen on our socket, which is made as we want it."""
        mode = int(self._api.mode, 8)
        self.socket = socket_file.listen(Path(bind_addr), mode=mode, group=self._api.group, backlog=BACKLOG)

    def process_conn(self, connection: Connection) -> None:
        """A connection with something to read gets a thread; a new one waits until there is something."""
        if not connection.fresh:
            self.pool.put(connection)
        elif self._admit(connection):
            connection.fresh = False
            self._connections.put(connection)
        else:
            with contextlib.suppress(OSError):
                self._refuse(connection)

    def _admit(self, connection: Connection) -> bool:
        with self._guard:
            if len(self._open) >= self._most:
                return False
            self._open.add(connection)
            return True

    def _refuse(self, connection: Connection) -> None:
        log.warning("%d connections are open: another one is refused", self._most)
        connection.socket.setblocking(False)
        connection.linger = False
        Request(self, connection).simple_response("503 Service Unavailable", "there are too many connections")
        connection.close()

    def forget(self, connection: Connection) -> None:
        """A connection is being closed."""
        with self._guard:
            self._open.discard(connection)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Cheroot's messages go to the log."""
        log.log(level, "%s", msg, exc_info=traceback)


class ApiServer:
    """The API of an agent, on the socket that the settings name."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._server = _Server(app, settings)
        self._operations = operations_of(app)
        self._path = Path(settings.api_socket)
        self._thread: threading.Thread | None = None
        self._inode = 0

    def start(self) -> None:
        """Listen, and serve from now on.

        :raise HostError: another agent listens there, or the socket cannot be made.
        """
        self._server.prepare()
        self._inode = os.lstat(self._path).st_ino
        self._thread = threading.Thread(target=self._server.serve, name="api", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is under way, refuse what is new, and serve no more."""
        if self._thread is None:
            return
        if not self._operations.close(STOP_SECONDS):
            log.warning("stopping while changes are under way; the next start takes them up")
        socket_file.remove(self._path, self._inode)
        self._server.stop()
        self._thread.join()
        self._thread = None

    @property
    def threads(self) -> int:
        """How many threads serve requests now."""
        return self._server.pool.threads
