"""libvirt's events: what happened is looked up later, here only the name goes into the queue.

Nothing depends on an event arriving: the clock's sweep finds what was missed. After libvirtd was restarted the
callbacks are registered again, and an empty name asks for a look at everything.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

import libvirt

from lvagent.spec import names

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0

KEEPALIVE = (2, 2)
"""Seconds between questions whether libvirtd is there, and how many may stay without an answer: a hung one is noticed
in six. Nothing is lost by an error here: what is at work has connections of its own, with more patience."""


def run_event_loop() -> None:
    """Start the one thread that runs libvirt's event loop; before any connection is opened."""
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


class LibvirtEvents:
    """Puts the name of a domain of ours into a queue whenever its lifecycle changed.

    :param on_loss: called, in a thread of its own, when libvirtd has gone or does not answer any more.
    """

    def __init__(self, uri: str, names_queue: queue.SimpleQueue[str], on_loss: Callable[[], None]) -> None:
        self._uri = uri
        self._queue = names_queue
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
        while not self._stopped.is_set():
            lost = threading.Event()
            connection = self._connect(lost)
            if connection is not None:
                self._queue.put("")
                while not self._stopped.is_set() and not lost.is_set():
                    lost.wait(0.5)
                if lost.is_set():
                    self._on_loss()
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()
            self._stopped.wait(0.1 if connection is not None else RETRY_SECONDS)

    def _connect(self, lost: threading.Event) -> libvirt.virConnect | None:
        try:
            connection = libvirt.open(self._uri)
            connection.setKeepAlive(*KEEPALIVE)
            connection.registerCloseCallback(lambda _connection, _reason, _opaque: lost.set(), None)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened, None)
        except libvirt.libvirtError as error:
            log.debug("no events: %s", error)
            return None
        return connection

    def _happened(self, _connection: object, domain: libvirt.virDomain, *_detail: object) -> None:
        name = domain.name()
        if names.VM_ID.match(name):
            self._queue.put(name)
