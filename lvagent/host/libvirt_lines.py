"""Connections to libvirt: opened when needed, again after they broke, with few calls at a time on each.

libvirt's errors become ours here, in one table.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol, cast

import libvirt

from lvagent.errors import HostError, LvagentError, NotFound, Unavailable

CALLS = 4
"""Calls in flight on one connection: libvirtd's max_client_requests is 5, and one stays for keepalive's sake."""


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

BROKEN = (
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_GNUTLS_ERROR,
)
OPEN_SECONDS = 5.0
"""How long a caller waits for a connection; 10 ms are usual."""

libvirt.registerErrorHandler(lambda _context, _error: None, None)


def code_of(error: libvirt.libvirtError) -> int:
    """The number of a libvirt error (virErrorNumber), -1 if it has none."""
    return cast(int, error.get_error_code() or -1)


def translate(error: libvirt.libvirtError, resource: str, action: str) -> LvagentError:
    """libvirt's error as one of ours."""
    code = code_of(error)
    message = cast(str, error.get_error_message() or str(error))
    if code in ABSENT:
        return NotFound("vm", resource)
    lost = code in (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR) and _LOST.search(message)
    if code in BROKEN or lost:
        return Unavailable("libvirtd", hint="is it running? try: virsh -c qemu:///system version")
    return HostError(resource, action, _HOOK.sub("", " ".join(message.split())))


def _connecting(uri: str) -> Future[Connection]:
    """A connection that a thread opens; an agent that ends does not wait for it."""
    future: Future[Connection] = Future()

    def connect() -> None:
        try:
            made = cast(Connection, libvirt.open(uri))
        except libvirt.libvirtError as error:
            future.set_exception(error)
            return
        with contextlib.suppress(libvirt.libvirtError):
            made.setKeepAlive(5, 3)
        future.set_result(made)

    threading.Thread(target=connect, name="libvirt-open", daemon=True).start()
    return future


class Line:
    """One connection, opened when needed, again after it broke; at most ``CALLS`` calls at a time.

    A libvirtd that hangs takes a connection and never answers it; keepalive begins after that. So it is opened in a
    thread beside, which the next caller finds still at it.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._places = threading.BoundedSemaphore(CALLS)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._opening: Future[Connection] | None = None

    @contextlib.contextmanager
    def use(self, resource: str, action: str) -> Iterator[Connection]:
        with self._places:
            try:
                yield self._open()
            except libvirt.libvirtError as error:
                raise translate(error, resource, action) from error

    def _open(self) -> Connection:
        with self._lock:
            if self._connection is not None and self._connection.isAlive() == 1:
                return self._connection
            self._close()
            self._opening = self._opening or _connecting(self._uri)
            try:
                self._connection = self._opening.result(timeout=OPEN_SECONDS)
            except TimeoutError:
                raise Unavailable("libvirtd", hint="it does not answer: is it stopped, or very busy?") from None
            except libvirt.libvirtError:
                self._opening = None
                raise
            self._opening = None
            return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._lock:
            self._close()
