"""The API of an agent: its unix socket always, and TCP where the settings say so."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from flask import Flask

from lvagent.api import socket_file
from lvagent.api.app import operations_of
from lvagent.api.listener import BACKLOG, Listener
from lvagent.api.tcp import TcpListener
from lvagent.config import Settings

log = logging.getLogger(__name__)

STOP_SECONDS = 60.0
"""How long a stop waits for changes that are under way; what is not done then, the next start takes up."""


class UnixListener(Listener):
    """The server on the unix socket."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        super().__init__(settings.api_socket, app, settings)
        self._api = settings.api

    def bind_unix_socket(self, bind_addr: str) -> None:
        """Listen on our socket, which is made as we want it."""
        mode = int(self._api.mode, 8)
        self.socket = socket_file.listen(Path(bind_addr), mode=mode, group=self._api.group, backlog=BACKLOG)


class ApiServer:
    """The API of an agent, on the sockets that the settings name.

    :param app: the application behind the unix socket.
    :param remote: the one behind TCP; None: there is no TCP, whatever the settings say.
    :raise SpecError: the TLS files cannot be used.
    """

    def __init__(self, app: Flask, settings: Settings, remote: Flask | None = None) -> None:
        self._server = UnixListener(app, settings)
        self.tcp = None if remote is None else TcpListener(remote, settings)
        self._operations = operations_of(app)
        self._path = Path(settings.api_socket)
        self._serving: list[tuple[Listener, threading.Thread]] = []
        self._inode = 0

    def start(self) -> None:
        """Listen, and serve from now on.

        :raise HostError: another agent listens there, or a socket cannot be made.
        """
        self._server.prepare()
        self._inode = os.lstat(self._path).st_ino
        self._serve(self._server, "api")
        if self.tcp is not None:
            try:
                self.tcp.prepare()
            except BaseException:
                self.stop()
                raise
            self._serve(self.tcp, "api-tcp")

    def _serve(self, server: Listener, name: str) -> None:
        thread = threading.Thread(target=server.serve, name=name, daemon=True)
        self._serving.append((server, thread))
        thread.start()

    def stop(self) -> None:
        """Finish what is under way, refuse what is new, and serve no more."""
        if not self._serving:
            return
        if not self._operations.close(STOP_SECONDS):
            log.warning("stopping while changes are under way; the next start takes them up")
        socket_file.remove(self._path, self._inode)
        for server, thread in self._serving:
            server.stop()
            thread.join()
        self._serving.clear()

    @property
    def threads(self) -> int:
        """How many threads serve requests on the unix socket now."""
        return self._server.pool.threads
