"""libvirt's events in words: what it numbers, as its header files name it (libvirt-domain.h)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import libvirt

from lvagent.observe.intake import Plain

LIFECYCLE: Mapping[int, tuple[str, Sequence[str]]] = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: ("defined", ("added", "updated", "renamed", "from snapshot")),
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: ("undefined", ("removed", "renamed")),
    libvirt.VIR_DOMAIN_EVENT_STARTED: ("started", ("booted", "migrated", "restored", "from snapshot", "woken up")),
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: (
        "suspended",
        ("paused", "migrated", "I/O error", "watchdog", "restored", "from snapshot", "API error", "postcopy",
         "postcopy failed"),
    ),
    libvirt.VIR_DOMAIN_EVENT_RESUMED: (
        "resumed", ("unpaused", "migrated", "from snapshot", "postcopy", "postcopy failed"),
    ),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: (
        "stopped", ("shut down", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot"),
    ),
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: ("shutdown", ("finished", "by the guest", "by the host")),
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: ("asleep", ("to memory", "to disk")),
    libvirt.VIR_DOMAIN_EVENT_CRASHED: ("crashed", ("panicked", "crash kernel loaded")),
}  # fmt: skip
"""The events of a domain's life, each with its details, both by libvirt's number."""


def lifecycle(event: int, detail: int) -> dict[str, Plain]:
    """A lifecycle event."""
    name, details = LIFECYCLE.get(event, (f"event {event}", ()))
    return {"event": name, "detail": word(details, detail)}


def word(words: Sequence[str], number: int) -> str:
    """The word of a number; the number itself if libvirt is newer than this table."""
    return words[number] if 0 <= number < len(words) else str(number)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event. ``members``: the names of what the callback is told; empty: it is left out.

    ``words``: for those that are numbers with names.
    """

    name: str
    members: Sequence[str] = ()
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def detail(self, values: Sequence[object]) -> dict[str, Plain]:
        """What a callback was told, by name."""
        told = [(name, value) for name, value in zip(self.members, values, strict=False) if name]
        return {name: self._plain(name, value) for name, value in told}

    def _plain(self, name: str, value: object) -> Plain:
        if name in self.words and isinstance(value, int):
            return word(self.words[name], value)
        return value if isinstance(value, str | int | float | None) else str(value)


class JobKind(Kind):
    """The end of a job: its callback is told all figures at once, by libvirt's names; ``members`` are those of use."""

    __slots__ = ()

    def detail(self, values: Sequence[object]) -> dict[str, Plain]:
        """What a callback was told, as far as libvirt told it."""
        figures = values[0] if values and isinstance(values[0], Mapping) else {}
        return {name: self._plain(name, figures[name]) for name in self.members if name in figures}


_JOBS = ("unknown", "pull", "copy", "commit", "active commit", "backup")

KINDS: Mapping[int, Kind] = {
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: Kind("reboot"),
    libvirt.VIR_DOMAIN_EVENT_ID_RTC_CHANGE: Kind("rtc-change", ("seconds",)),
    libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG: Kind(
        "watchdog",
        ("action",),
        {"action": ("none", "pause", "reset", "power off", "shut down", "debug", "inject NMI")},
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: Kind(
        "io-error", ("", "device", "action", "reason"), {"action": ("none", "pause", "report")}
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2: Kind(
        "block-job",
        ("device", "job", "status"),
        {"job": _JOBS, "status": ("completed", "failed", "cancelled", "ready")},
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD: Kind("block-threshold", ("device", "", "threshold", "excess")),
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: Kind("tray", ("device", "change"), {"change": ("open", "close")}),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: Kind("device-added", ("device",)),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: Kind("device-removed", ("device",)),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: Kind("device-removal-failed", ("device",)),
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: Kind(
        "guest-agent",
        ("state", "reason"),
        {"state": ("unknown", "connected", "disconnected"), "reason": ("unknown", "domain started", "channel")},
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION: Kind("migration-iteration", ("iteration",)),
    libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: JobKind(
        "job-completed",
        ("operation", "success", "time_elapsed", "downtime", "data_total", "errmsg"),
        {
            "operation": (
                "unknown", "start", "save", "restore", "migration in", "migration out", "snapshot", "snapshot revert",
                "dump", "backup", "snapshot delete",
            ),
        },
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE: Kind(
        "memory-failure",
        ("recipient", "action"),
        {"recipient": ("hypervisor", "guest"), "action": ("ignore", "inject", "fatal", "reset")},
    ),
}  # fmt: skip
"""The other events, by the id that they are registered with."""
