"""Connections to libvirt: opened when needed, again after they broke, with one call at a time on each.

Two calls on one connection share its reading: one thread reads for both, and hands that over when it has its answer.
When keepalive gives such a connection up, libvirt 9.0 writes into the stack of a thread that has gone: the process ends
by a signal. A connection with a single call is given up as it should be. They cost libvirtd a socket each.

libvirt's errors become ours here, in one table.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol, cast

import libvirt

from lvagent.errors import HostError, LvagentError, NotFound, Unavailable, Vanished
from lvagent.host import descriptors


class Domain(Protocol):
    """The methods of libvirt.virDomain that are used (libvirt-python has no type stubs)."""

    def name(self) -> str: ...
    def UUIDString(self) -> str: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def create(self) -> int: ...
    def destroy(self) -> int: ...
    def shutdownFlags(self, flags: int = 0) -> int: ...  # noqa: N802
    def reboot(self, flags: int = 0) -> int: ...
    def reset(self, flags: int = 0) -> int: ...
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def undefineFlags(self, flags: int = 0) -> int: ...  # noqa: N802
    def isActive(self) -> int: ...  # noqa: N802
    def isPersistent(self) -> int: ...  # noqa: N802
    def state(self, flags: int = 0) -> list[int]: ...
    def metadata(self, kind: int, uri: str | None, flags: int = 0) -> str: ...
    def setMetadata(self, kind: int, metadata: str | None, key: str | None, uri: str, flags: int = 0) -> int: ...  # noqa: N802


class Secret(Protocol):
    """The methods of libvirt.virSecret that are used."""

    def setValue(self, value: bytes, flags: int = 0) -> int: ...  # noqa: N802
    def value(self, flags: int = 0) -> bytes: ...
    def undefine(self) -> int: ...
    def usageID(self) -> str: ...  # noqa: N802


class Connection(Protocol):
    """The methods of libvirt.virConnect that are used."""

    def isAlive(self) -> int: ...  # noqa: N802
    def close(self) -> int: ...
    def setKeepAlive(self, interval: int, count: int) -> int: ...  # noqa: N802
    def getCapabilities(self) -> str: ...  # noqa: N802
    def listAllDomains(self, flags: int = 0) -> list[Domain]: ...  # noqa: N802
    def lookupByName(self, name: str) -> Domain: ...  # noqa: N802
    def defineXMLFlags(self, xml: str, flags: int = 0) -> Domain: ...  # noqa: N802
    def secretDefineXML(self, xml: str, flags: int = 0) -> Secret: ...  # noqa: N802
    def secretLookupByUsage(self, kind: int, usage: str) -> Secret: ...  # noqa: N802
    def listAllSecrets(self, flags: int = 0) -> list[Secret]: ...  # noqa: N802
    def getLibVersion(self) -> int: ...  # noqa: N802
    def getVersion(self) -> int: ...  # noqa: N802
    def getDomainCapabilities(  # noqa: N802
        self, emulator: str | None, arch: str, machine: str, kind: str, flags: int = 0
    ) -> str: ...


_HOOK = re.compile(r"Hook script execution failed: .* unexpected exit status \d+: lvagent: ")
"""What libvirt puts before the reason that our hook gave."""

ABSENT = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_ERR_NO_DOMAIN_METADATA)
_LOST = re.compile(r"End of file while reading data|client socket is closed|Cannot (recv|write) data|socket|keepalive")
"""What libvirt says, under a code for everything, when a connection breaks in the middle of a call."""

_ENDED = re.compile(
    r"Unable to (read from|write to) monitor|End of file from (qemu )?monitor|monitor (was|is) closed"
    r"|domain is no longer running",
    re.IGNORECASE,
)
"""What it says of a domain whose qemu ends while it is asked; it may not have noticed itself yet."""

BROKEN = (
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_GNUTLS_ERROR,
)
OPEN_SECONDS = 5.0
"""How long a caller waits for a connection; 10 ms are usual."""

HANGING_SECONDS = 0.3
"""How long the next ones wait, once somebody did so in vain: an operation has many steps to undo."""

libvirt.registerErrorHandler(lambda _context, _error: None, None)


def code_of(error: libvirt.libvirtError) -> int:
    """The number of a libvirt error (virErrorNumber), -1 if it has none."""
    return cast(int, error.get_error_code() or -1)


def ended(error: libvirt.libvirtError) -> bool:
    """Whether a call failed because the domain's qemu ended in the middle of it."""
    return bool(_ENDED.search(cast(str, error.get_error_message() or "")))


def translate(error: libvirt.libvirtError, resource: str, action: str) -> LvagentError:
    """libvirt's error as one of ours."""
    code = code_of(error)
    message = cast(str, error.get_error_message() or str(error))
    if code in ABSENT:
        return NotFound("vm", resource)
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        hint = f"libvirt is at something else with it: {' '.join(message.split())}"
        return Unavailable(f"libvirt's lock of {resource}", hint=hint)
    lost = code in (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR) and _LOST.search(message)
    if ended(error) and action != "start":  # one that ends as it starts says why
        return Vanished(resource, action, " ".join(message.split()), hint="its qemu has just ended")
    if code in BROKEN or lost:
        return Unavailable("libvirtd", hint="is it running? try: virsh -c qemu:///system version")
    return HostError(resource, action, _HOOK.sub("", " ".join(message.split())))


DESCRIPTORS = 16
"""What a new connection takes, and more. GLib, which libvirt uses, ends the process that has none left for it."""


def opened(uri: str) -> Connection:
    """A new connection to libvirtd. It waits as long as a libvirtd that hangs lets it.

    :raise libvirt.libvirtError: there is none.
    :raise Unavailable: no descriptors are left for it.
    """
    descriptors.spare(DESCRIPTORS)
    return cast(Connection, libvirt.open(uri))


def opening(uri: str, keepalive: tuple[int, int]) -> Future[Connection]:
    """A connection that a thread opens; an agent that ends does not wait for it.

    :param keepalive: seconds between two questions whether libvirtd is there, and how many may stay without an answer.
    """
    future: Future[Connection] = Future()

    def connect() -> None:
        try:
            made = opened(uri)
        except (libvirt.libvirtError, LvagentError) as error:
            future.set_exception(error)
            return
        with contextlib.suppress(libvirt.libvirtError):
            made.setKeepAlive(*keepalive)
        future.set_result(made)

    threading.Thread(target=connect, name="libvirt-open", daemon=True).start()
    return future


KEEPALIVE = (5, 3)
"""A libvirtd that hangs is given up after some 20 s by who changes something: an error there costs a create."""


class Hangs(Unavailable):
    """libvirtd takes a connection, and says nothing."""


class Line:
    """One connection for one caller at a time, opened when needed, again after it broke.

    A libvirtd that hangs takes a connection and never answers it; keepalive begins after that. So it is opened in a
    thread beside, which the next caller finds still at it.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connection: Connection | None = None
        self._opening: Future[Connection] | None = None

    def open(self, seconds: float) -> Connection:
        """The connection.

        :param seconds: how long it may take.
        :raise libvirt.libvirtError: there is no libvirtd.
        :raise Hangs: it does not answer.
        """
        if self._connection is not None and self._connection.isAlive() == 1:
            return self._connection
        self.close()
        self._opening = self._opening or opening(self._uri, KEEPALIVE)
        try:
            self._connection = self._opening.result(timeout=seconds)
        except TimeoutError:
            raise Hangs("libvirtd", hint="it does not answer: is it stopped, or very busy?") from None
        except (libvirt.libvirtError, LvagentError):
            self._opening = None
            raise
        self._opening = None
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.close()
            self._connection = None


class Lines:
    """As many connections as calls may be in flight; the one that was used last is used next.

    :param calls: at most; who comes after that waits.
    """

    def __init__(self, uri: str, calls: int) -> None:
        self._free: queue.LifoQueue[Line] = queue.LifoQueue()
        for _ in range(calls):
            self._free.put(Line(uri))
        self._hangs = False

    @contextlib.contextmanager
    def use(self, resource: str, action: str) -> Iterator[Connection]:
        """A connection, for this caller alone.

        :param resource: what he works on, for the error.
        :param action: what he does, for the error.
        :raise LvagentError: libvirt's error as ours.
        """
        line = self._free.get()
        try:
            yield self._opened(line)
        except libvirt.libvirtError as error:
            raise translate(error, resource, action) from error
        finally:
            self._free.put(line)

    def _opened(self, line: Line) -> Connection:
        try:
            connection = line.open(HANGING_SECONDS if self._hangs else OPEN_SECONDS)
        except Hangs:
            self._hangs = True
            raise
        self._hangs = False
        return connection

    def close(self) -> None:
        """Close the connections that nobody uses; one with a call that hangs ends with the process."""
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._free.get_nowait())
        for line in lines:
            line.close()
            self._free.put(line)
