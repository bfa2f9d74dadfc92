"""The socket on which the libvirt hook asks.

It has threads of its own and is served before the agent talks to libvirt, whatever its readiness: when libvirtd starts,
it starts its autostart domains at once, and each of their hooks asks here. Only root may connect.

    POST /hook/start/<vm id>   with the domain's XML;  204: the taps are plugged;  503: refuse the start, here is why
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import os
import select
import socketserver
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from lvagent.errors import LvagentError
from lvagent.spec import names

log = logging.getLogger(__name__)

PREFIX = "/hook/start/"
MAX_XML = 4 << 20
"""Bytes; a domain's XML has some ten thousand."""


class Waits(Protocol):
    """Whether the hook still waits for its answer."""

    def __call__(self) -> bool: ...


class Plugs(Protocol):
    """Who plugs (``agent.plug.Plugger``)."""

    def start(self, vm: str, xml: str, waits: Waits) -> None: ...


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HookServer
    timeout = 10

    def do_POST(self) -> None:
        vm = self.path.removeprefix(PREFIX)
        length = int(self.headers.get("Content-Length") or 0)
        if not self.path.startswith(PREFIX) or not names.VM_ID.match(vm) or not 0 < length <= MAX_XML:
            self._answer(HTTPStatus.BAD_REQUEST, "not a question of the hook")
            return
        xml = self.rfile.read(length).decode(errors="replace")
        try:
            self.server.plugs.start(vm, xml, self._waits)
        except LvagentError as error:
            log.warning("%s: start refused: %s", vm, error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(str(error).split()))
        else:
            self._answer(HTTPStatus.NO_CONTENT, "")

    def _waits(self) -> bool:
        """A client that has sent all and can be read from has gone."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return not readable

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def address_string(self) -> str:
        return "hook"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        log.debug(format, *args)


class HookServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves the hook's socket from threads of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, plugs: Plugs) -> None:
        self.plugs = plugs
        self._path = path
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            super().__init__(str(path), _Handler)
        finally:
            os.umask(mask)

    def start(self) -> None:
        """Serve from now on."""
        threading.Thread(target=self.serve_forever, args=(0.5,), name="hook", daemon=True).start()

    def stop(self) -> None:
        """Serve no more; hooks go alone from now on."""
        self._path.unlink(missing_ok=True)
        self.shutdown()
        self.server_close()
