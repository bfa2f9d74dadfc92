"""libvirt's events, on a connection of their own: libvirt's thread puts them into a queue, and others do the rest.

After libvirtd was restarted, or did not answer the keepalive, the connection is made again, the callbacks are
registered again, and the queue is marked: something may have been missed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import libvirt
import libvirt_qemu

from lvagent.errors import LvagentError
from lvagent.host.libvirt_lines import opening
from lvagent.observe import words
from lvagent.observe.intake import Event, Intake, Plain
from lvagent.spec import names

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0

MAX_DATA = 1024
"""Characters of what qemu tells with an event."""

KEEPALIVE = (2, 1)
"""Seconds between questions whether libvirtd is there, and how many may stay without an answer: a hung one is noticed
in four to six (libvirt counts whole seconds). Nothing is lost by an error here: what is at work has connections of
its own, with more patience."""

PATIENCE = 3.0
"""Seconds that a new connection may take (10 ms are usual) until libvirtd is said to hang."""


def run_event_loop() -> None:
    """Start the one thread that runs libvirt's event loop; before any connection is opened."""
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


class LibvirtEvents:
    """Puts what happens to domains with a name of ours into an intake.

    :param on_loss: called, in a thread of its own, when libvirtd has gone or does not answer any more.
    """

    def __init__(self, uri: str, intake: Intake, on_loss: Callable[[], None]) -> None:
        self._uri = uri
        self._intake = intake
        self._on_loss = on_loss
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="libvirt-watch", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        why = "the agent has just begun to watch"
        while not self._stopped.is_set():
            lost = threading.Event()
            connection = self._connect(lost)
            if connection is not None:
                self._intake.mark(why)
                why = "the connection to libvirt was lost"
                while not self._stopped.is_set() and not lost.is_set():
                    lost.wait(0.5)
                if lost.is_set():
                    self._on_loss()
                _close(connection)
            self._stopped.wait(0.1 if connection is not None else RETRY_SECONDS)

    def _connect(self, lost: threading.Event) -> libvirt.virConnect | None:
        connection: libvirt.virConnect | None = None
        try:
            connection = self._await(opening(self._uri, KEEPALIVE))
            if connection is None:
                return None
            connection.registerCloseCallback(lambda _connection, _reason, _opaque: lost.set(), None)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._life, None)
        except (libvirt.libvirtError, LvagentError) as error:
            log.debug("no events: %s", error)
            self._on_loss()
            _close(connection)
            return None
        self._register_others(connection)
        return connection

    def _await(self, opened: Future[libvirt.virConnect]) -> libvirt.virConnect | None:
        """The connection when it is open; None if nobody wants it any more."""
        began = time.monotonic()
        while not self._stopped.is_set():
            try:
                return opened.result(timeout=0.5)
            except TimeoutError:
                if time.monotonic() - began > PATIENCE:
                    self._on_loss()
        return None

    def _register_others(self, connection: libvirt.virConnect) -> None:
        """Register for what some drivers do not have; without it the agent knows less, and works."""
        for ident, kind in words.KINDS.items():
            try:
                connection.domainEventRegisterAny(None, ident, self._callback(kind), None)
            except libvirt.libvirtError as error:
                log.debug("no events %s: %s", kind.name, error)
        try:
            libvirt_qemu.qemuMonitorEventRegister(connection, None, None, self._qmp, None)
        except libvirt.libvirtError as error:
            log.debug("no events of QMP: %s", error)

    def _callback(self, kind: words.Kind) -> Callable[..., None]:
        def happened(_connection: object, domain: libvirt.virDomain, *values: object) -> None:
            self._put(domain, kind.name, kind.detail(values[:-1]))

        return happened

    def _life(self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _opaque: object) -> None:
        self._put(domain, "lifecycle", words.lifecycle(event, detail))

    def _qmp(
        self, _connection: object, domain: libvirt.virDomain, event: str, _s: int, _us: int, data: str, _opaque: object
    ) -> None:
        self._put(domain, "qmp", {"event": event, "data": data[:MAX_DATA] if data else None})

    def _put(self, domain: libvirt.virDomain, kind: str, detail: dict[str, Plain]) -> None:
        name = domain.name()
        if names.VM_ID.match(name):
            self._intake.put(Event(name, kind, detail))


def _close(connection: libvirt.virConnect | None) -> None:
    if connection is not None:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()
