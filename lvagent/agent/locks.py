"""Locks, and the one order in which they are taken.

    VM (in this process, spans a whole put or delete)  ->  services of a VPC  ->  wires of a VPC  ->  fabric

Who needs the wires of two VPCs, for the link between them, takes those of the VPC whose name sorts first, then the
others, and holds nothing else of either. Nobody who holds wires waits for services.

The two locks of a VPC are flocks on files in the run folder, so that the hook working alone takes part. They span only
netlink, nft, dnsmasq and metadata work, never a call to libvirt: while a ``start`` hook runs, libvirt makes others
wait for it, and the hook wants the wires. The hook takes ``wires`` only, never a VM's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lvagent.errors import Unavailable

ALONE_SECONDS = 5.0
"""How long is waited for a moment in which nobody wires; on a busy host there may be none."""


class VmLocks:
    """A lock per VM id; two callers of the same VM wait for each other, others do not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: dict[str, int] = {}

    @contextlib.contextmanager
    def hold(self, vm: str) -> Iterator[None]:
        """Hold the VM's lock."""
        with self._guard:
            self._users[vm] = self._users.get(vm, 0) + 1
            lock = self._locks.setdefault(vm, threading.Lock())
        try:
            with lock:
                yield
        finally:
            self._leave(vm)

    @contextlib.contextmanager
    def attempt(self, vm: str) -> Iterator[bool]:
        """Hold the VM's lock if nobody has it or waits for it; yields whether it is held."""
        with self._guard:
            free = vm not in self._users
            if free:
                self._users[vm] = 1
                self._locks[vm] = threading.Lock()
                self._locks[vm].acquire()
        if not free:
            yield False
            return
        try:
            yield True
        finally:
            self._locks[vm].release()
            self._leave(vm)

    def _leave(self, vm: str) -> None:
        with self._guard:
            self._users[vm] -= 1
            if self._users[vm] == 0:
                del self._users[vm], self._locks[vm]


class VpcLocks:
    """The flocks of VPCs, in a folder: ``<vpc>.wires`` and ``<vpc>.services``.

    Each acquisition opens the file anew, so the lock also works between threads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def wires(self, vpc: str, *, within: float = 30) -> Iterator[None]:
        """Namespace, links, filters and taps of a VPC.

        :param within: seconds to wait at most.
        :raise Unavailable: somebody held it all that time.
        """
        with self._hold(f"{vpc}.wires", within):
            yield

    @contextlib.contextmanager
    def both(self, one: str, other: str, *, within: float = 10) -> Iterator[None]:
        """The wires of two VPCs, whichever is named first.

        :param within: seconds to wait at most, for each.
        :raise Unavailable: somebody held one of them all that time.
        """
        first, second = sorted((one, other))
        with self.wires(first, within=within), self.wires(second, within=within):
            yield

    @contextlib.contextmanager
    def services(self, vpc: str, *, within: float = 60) -> Iterator[None]:
        """dnsmasq and metadata of a VPC; taken before its wires when both are needed."""
        with self._hold(f"{vpc}.services", within):
            yield

    @contextlib.contextmanager
    def fabric(self, *, alone: bool) -> Iterator[None]:
        """The underlay side that all VPCs share, taken last.

        :param alone: False while wiring a VPC (many may); True while taking away what no VPC needs.
        """
        within, kind = (ALONE_SECONDS, fcntl.LOCK_EX) if alone else (30.0, fcntl.LOCK_SH)
        with self._hold("fabric", within, kind):
            yield

    @contextlib.contextmanager
    def _hold(self, name: str, within: float, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, name, time.monotonic() + within, kind)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, name: str, deadline: float, kind: int) -> None:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Unavailable(f"the lock {name}", hint="another operation on this VPC is still at work") from None
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
