"""libvirt, as far as the agent needs it.

Each call has a connection for itself (``libvirt_lines`` says why). A start holds its own until qemu runs; so there are
some for what is short (reads, definitions), and others for starts and stops. While a domain's ``start`` hook runs,
libvirt answers nobody who lists domains or reads that one: nothing here may be called by who holds a lock that the hook
wants.

libvirt's errors become ours in ``libvirt_lines``, where the connections are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import libvirt

from lvagent.errors import NotFound
from lvagent.host.libvirt_lines import Connection, Domain, Lines, Secret, code_of
from lvagent.host.processes import pid
from lvagent.spec import names
from lvagent.spec.status import State
from lvagent.spec.strays import Running

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DomainState:
    """A domain's state: as callers see it, libvirt's reason in plain words, and whether a qemu runs."""

    state: State
    reason: str
    active: bool


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A domain of ours as read: its state, its config XML, and its live XML if it runs."""

    vm: str
    state: DomainState
    config: str
    live: str | None
    persistent: bool


STARTED = DomainState(State.RUNNING, "booted", active=True)
"""The state right after a start; what comes later is told by an event."""

UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class Hypervisor:
    """The domains of ours on one libvirtd. Every method may be called by many threads.

    :param short: short calls that may be in flight.
    :param long: starts and stops that may be.
    :raise NotFound: there is no such domain.
    :raise Unavailable: libvirtd cannot be reached.
    :raise HostError: libvirt refused, in its words.
    """

    def __init__(self, uri: str, *, short: int = 4, long: int = 8) -> None:
        self._short = Lines(uri, short)
        self._long = Lines(uri, long)
        self._emulators: frozenset[str] | None = None

    def close(self) -> None:
        """Close the connections."""
        self._short.close()
        self._long.close()

    def _on(self, line: Lines, vm: str, action: str, function: Callable[[Domain], T]) -> T:
        with line.use(vm, action) as connection:
            return function(connection.lookupByName(vm))

    # reading

    def records(self) -> tuple[DomainRecord, ...]:
        """Every domain that is ours by name, read whole. Those that vanish meanwhile are left out."""
        with self._short.use("domains", "list") as connection:
            found = [_record(domain) for domain in connection.listAllDomains() if names.VM_ID.match(domain.name())]
        return tuple(record for record in found if record is not None)

    def record(self, vm: str) -> DomainRecord | None:
        """One domain, None if there is none of that name."""
        with self._short.use(vm, "read") as connection:
            try:
                return _record(connection.lookupByName(vm))
            except libvirt.libvirtError as error:
                if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise

    def running(self) -> tuple[Running, ...]:
        """Every domain that is active, strangers' too, with the pid of its qemu. Whose it is, is not looked at."""
        with self._short.use("domains", "list") as connection:
            found = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            there = [(domain.name(), domain.UUIDString()) for domain in found]
        return tuple(Running(name, uuid, pid(name), ours=False) for name, uuid in there)

    def emulators(self) -> frozenset[str]:
        """The programs that libvirt starts as qemu, by its capabilities."""
        if self._emulators is None:
            with self._short.use("the capabilities", "read") as connection:
                text = connection.getCapabilities()
            self._emulators = frozenset(re.findall(r"<emulator>([^<]+)</emulator>", text))
        return self._emulators

    def state(self, vm: str) -> DomainState:
        """Its state."""
        return self._on(self._short, vm, "read", _state)

    def xml(self, vm: str) -> str:
        """Its XML, live if it runs; without security-relevant parts."""
        return self._on(self._short, vm, "read", lambda domain: domain.XMLDesc(0))

    # changing

    def define(self, vm: str, xml: str) -> None:
        """Define it, or replace its config.

        libvirt is not asked to validate: it parses its schemas anew each time (tens of ms), and what is rendered here
        is checked against them in the tests.
        """
        with self._short.use(vm, "define") as connection:
            connection.defineXMLFlags(xml, 0)

    def undefine(self, vm: str) -> None:
        """Make sure it is not defined; a running one becomes transient."""
        with contextlib.suppress(NotFound):
            self._on(self._short, vm, "undefine", _undefine)

    def set_element(self, vm: str, element: str, *, config: bool, live: bool) -> None:
        """Replace the element of ours.

        :param config: in the domain's config, the wish; left out if it was undefined while it runs.
        :param live: in the live copy, what was applied; left out if it does not run.
        """
        self._on(self._short, vm, "mark", lambda domain: _mark(domain, element, config=config, live=live))

    # power

    def start(self, vm: str) -> None:
        """Start it; a domain that runs is fine."""
        self._on(self._long, vm, "start", _start)

    def destroy(self, vm: str) -> None:
        """End its qemu at once; one that does not run, or is not there, is fine."""
        with contextlib.suppress(NotFound):
            self._on(self._long, vm, "stop", _destroy)

    def shutdown(self, vm: str) -> None:
        """Press the ACPI power button."""
        flags = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        self._on(self._short, vm, "shut down", lambda domain: domain.shutdownFlags(flags))

    def reboot(self, vm: str) -> None:
        """Ask the guest to reboot, by ACPI."""
        flags = libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN
        self._on(self._short, vm, "reboot", lambda domain: domain.reboot(flags))

    def reset(self, vm: str) -> None:
        """Pull the reset line."""
        self._on(self._short, vm, "reset", lambda domain: domain.reset(0))

    def suspend(self, vm: str) -> None:
        """Stop its CPUs."""
        self._on(self._short, vm, "pause", lambda domain: domain.suspend())

    def resume(self, vm: str) -> None:
        """Let its CPUs run."""
        self._on(self._short, vm, "resume", lambda domain: domain.resume())

    # secrets

    def set_secret(self, vm: str, value: bytes, revision: int) -> None:
        """Keep the VM's user data as of a revision of its wish, beside that of others: read-only connections are
        refused its value.

        :param value: at most 65 536 bytes.
        """
        name = _secret_name(vm, revision)
        with self._short.use(f"secret of {vm}", "keep") as connection:
            found = _find_secret(connection, name) or connection.secretDefineXML(_secret_xml(vm, name))
            found.setValue(value)

    def secret(self, vm: str, revision: int) -> bytes | None:
        """The VM's user data as of a revision, None if it has none."""
        with self._short.use(f"secret of {vm}", "read") as connection:
            kept = _slots(connection).get(vm, {})
            return _value(kept[slot_of(kept, revision)]) if kept else None

    def drop_secret(self, vm: str, but: int | None = None) -> None:
        """Make sure it has no user data.

        :param but: the one of this revision stays, and only what is kept of others goes.
        """
        with self._short.use(f"secret of {vm}", "remove") as connection:
            kept = _slots(connection).get(vm, {})
            for slot, found in kept.items():
                if but is None or slot != slot_of(kept, but):
                    with _absent_is_fine():
                        found.undefine()

    def secrets(self) -> dict[str, tuple[int, ...]]:
        """The VMs that have user data kept, and the revisions at which it was."""
        with self._short.use("secrets", "list") as connection:
            return {vm: tuple(sorted(slots)) for vm, slots in _slots(connection).items()}


SECRET = "lvagent:"


_SLOT = re.compile(rf"{SECRET}(i-[0-9]{{10}})(?::([0-9]{{1,18}}))?\Z")


def slot_of(slots: Iterable[int], revision: int) -> int:
    """Where what a revision has is kept: the last that is not younger. The oldest if all are (a ``virsh define`` of an
    old XML), for it is better than none.
    """
    return max((slot for slot in slots if slot <= revision), default=min(slots))


def _secret_name(vm: str, revision: int) -> str:
    return f"{SECRET}{vm}" if revision == 1 else f"{SECRET}{vm}:{revision}"


def _secret_xml(vm: str, name: str) -> str:
    return (
        "<secret ephemeral='no' private='no'>"
        f"<description>user data of {vm}</description><usage type='vtpm'><name>{name}</name></usage></secret>"
    )


def _find_secret(connection: Connection, name: str) -> Secret | None:
    with _absent_is_fine():
        return connection.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VTPM, name)
    return None


def _slots(connection: Connection) -> dict[str, dict[int, Secret]]:
    """The secrets of ours, by VM and by the revision at which they were kept."""
    found: dict[str, dict[int, Secret]] = {}
    for secret in connection.listAllSecrets():
        if match := _SLOT.match(secret.usageID()):
            found.setdefault(match[1], {})[int(match[2] or 1)] = secret
    return found


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    """Somebody undefined it since it was listed."""
    try:
        yield
    except libvirt.libvirtError as error:
        if code_of(error) != libvirt.VIR_ERR_NO_SECRET:
            raise


def _value(secret: Secret) -> bytes | None:
    with _absent_is_fine():
        return bytes(secret.value())
    return None


_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: State.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: State.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: State.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: State.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: State.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: State.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: State.PAUSED,
}

BY_GUEST = "shut down by the guest"
AWAY = "migrated away"
"""The reason of a domain whose guest powered itself off, be it by itself or because it was asked to."""

_REASONS = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED): "booted",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED): "migrated",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED): "restored",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED): "resumed",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT): "started from a snapshot",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED): "its migration was cancelled",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_SAVE_CANCELED): "its save was cancelled",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_WAKEUP): "woken up",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY): "migrating, its memory is still elsewhere",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER): "paused by user",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): "paused by an I/O error",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): "starting up",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION): "paused to migrate",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE): "paused to be saved",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_DUMP): "paused to be dumped",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG): "paused by its watchdog",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT): "restored from a snapshot, paused",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN): "shutting down",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT): "paused for a snapshot",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): "paused, its guest crashed",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY): "paused after it migrated away",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED): "paused, its migration broke",
    (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED): "its guest panicked",
    (libvirt.VIR_DOMAIN_PMSUSPENDED, libvirt.VIR_DOMAIN_PMSUSPENDED_UNKNOWN): "asleep (ACPI S3)",
    (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_USER): "shutting down",
    (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_UNKNOWN): "shutting down",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT): "restored from a snapshot, stopped",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DAEMON): "libvirt could not reach its qemu, and ended it",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN): BY_GUEST,
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED): "stopped",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): "qemu ended unexpectedly",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED): AWAY,
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED): "saved",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED): "could not be started",
}


_CRASHES = (libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_DAEMON)


def _state(domain: Domain) -> DomainState:
    state, reason = domain.state()
    return domain_state(state, reason, active=bool(domain.isActive()))


def domain_state(state: int, reason: int, *, active: bool) -> DomainState:
    """libvirt's numbers (virDomainState and the reasons of each) as ours."""
    found = _STATES.get(state, State.STOPPED)
    if state == libvirt.VIR_DOMAIN_SHUTOFF and reason in _CRASHES:
        found = State.CRASHED
    if (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP):
        found = State.RUNNING  # nobody paused it: qemu is there, and libvirt lets it go in a moment
    return DomainState(found, _REASONS.get((state, reason), ""), active)


def _record(domain: Domain) -> DomainRecord | None:
    try:
        state = _state(domain)
        live = domain.XMLDesc(0) if state.active else None
        config = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return DomainRecord(domain.name(), state, config, live, bool(domain.isPersistent()))
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _mark(domain: Domain, element: str, *, config: bool, live: bool) -> None:
    """Replace the element in those copies that it has; it may end, or be undefined, while they are looked for."""
    kind, flags = libvirt.VIR_DOMAIN_METADATA_ELEMENT, _copies(domain, config=config, live=live)
    while flags:
        try:
            domain.setMetadata(kind, element, "lvagent", names.ELEMENT_NAMESPACE, flags)
        except libvirt.libvirtError as error:
            left = flags & _copies(domain, config=config, live=live)
            if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID or left == flags:
                raise
            flags = left
        else:
            return


def _copies(domain: Domain, *, config: bool, live: bool) -> int:
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG if config and domain.isPersistent() else 0
    return flags | (libvirt.VIR_DOMAIN_AFFECT_LIVE if live and domain.isActive() else 0)


def _undefine(domain: Domain) -> None:
    if domain.isPersistent():
        domain.undefineFlags(UNDEFINE)


def _start(domain: Domain) -> None:
    try:
        domain.create()
    except libvirt.libvirtError as error:
        if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def _destroy(domain: Domain) -> None:
    if not domain.isActive():
        return
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID:  # it ended by itself meanwhile
            raise
