"""What we know of every VM of ours, in memory.

Filled from libvirt at start and kept by puts, deletes and events. Readers and conflict checks use it, because libvirt
cannot always be asked (while a hook runs it answers nobody), and because two creates at once must see each other before
libvirt knows either. Losing it is harmless: it is read back.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lvagent.errors import Conflict
from lvagent.host.libvirt import DomainState
from lvagent.plan.peers import Beside, beside
from lvagent.spec.claims import Below
from lvagent.spec.conflicts import Claims, check_peering
from lvagent.spec.peerings import Peering, Peerings
from lvagent.spec.status import Drift, PhaseTime, State
from lvagent.spec.vm import VmConfig


class Phase(StrEnum):
    """Where a VM is in its life with us."""

    CREATING = "creating"
    LIVE = "live"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Entry:
    """A VM. ``spec`` is the wish, ``applied`` what its running guest was started with (None: it does not run).

    ``observed_at``: time of the last look at libvirt (monotonic clock: the host's may be set back). ``files``:
    volumes that the agent made (or is making); ``making``: those of a change that a crash cut off.
    ``former``: the wish before a change that is under way and may yet be undone; it stays claimed. ``outdated``: the
    config that libvirt has is older than the wish (a ``virsh define`` of an old XML, or of one without our element).
    ``edits``: in what libvirt's definition, changed by hand, differs from the wish. ``below``: what its volumes stand
    on, of the wish and of what runs; None: not looked at yet. ``changed_at``: Unix time since which it is shown as it
    is; the index sets it.
    """

    spec: VmConfig
    phase: Phase
    applied: VmConfig | None = None
    revision: int = 1
    power: str = "running"
    created: str | None = None
    files: tuple[str, ...] = ()
    domain: DomainState | None = None
    timings: tuple[PhaseTime, ...] = ()
    error: str | None = None
    observed_at: float = 0.0
    making: tuple[str, ...] = ()
    former: VmConfig | None = None
    outdated: bool = False
    below: tuple[Below, ...] | None = None
    edits: tuple[Drift, ...] = ()
    changed_at: float = field(default=0.0, compare=False)

    @property
    def shown(self) -> tuple[State, str]:
        """The state of the VM and why, in plain words."""
        if self.phase is Phase.CREATING:
            return State.PENDING, "being made"
        if self.phase is Phase.DELETING:
            return State.DELETING, "being deleted"
        if self.domain is None:
            return State.FAILED, "libvirt has no such domain"
        return self.domain.state, self.domain.reason

    @property
    def carried(self) -> VmConfig:
        """The spec that the network must carry now: what the guest runs with, else the wish."""
        return self.applied or self.spec


Change = Callable[[Entry], Entry]
Report = Callable[[Entry | None, Entry | None], None]
"""Is told what an entry was and what it is, under the index's lock: it must neither wait nor raise."""


class Index:
    """All entries. Every method is atomic; entries are values, so a reader never sees half a change.

    :param report: is told of every change, once ``loaded``.
    """

    def __init__(self, report: Report = lambda _before, _after: None) -> None:
        self._report = report
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._wishes = Claims()
        self._applied = Claims()
        self._former = Claims()
        self.peerings = Peerings()
        """Which VPCs are peered, as was asked for."""
        self.watch: Report = lambda _before, _after: None
        """Is told of every change, also of what is only read back when the agent starts."""
        self.stale_since: float | None = None
        self.loaded = False  # whether libvirt has been read once, so that members are all the members
        self.settling = threading.Lock()
        """Held while a wish is compared with others and settled: of two that meet one is refused. Never for longer."""

    def get(self, vm: str) -> Entry | None:
        """The entry of a VM, if there is one."""
        return self._entries.get(vm)

    def all(self) -> tuple[Entry, ...]:
        """Every entry, by id."""
        with self._lock:
            return tuple(self._entries[vm] for vm in sorted(self._entries))

    def check(self, spec: VmConfig, below: Sequence[Below] = ()) -> None:
        """Raise Conflict if the spec contradicts another VM's.

        :param below: what its volumes stand on: nobody else's, unless that is read-only there too.
        """
        with self._lock:
            for claims in self._books:
                claims.check(spec, below)
                claims.check_apart(spec, self.peerings)
            self._check_made(spec.id, below)

    @property
    def _books(self) -> tuple[Claims, ...]:
        return self._wishes, self._applied, self._former

    def peer(self, new: Peering) -> bool:
        """Note that two VPCs are peered; from now on VMs whose prefixes would overlap conflict with it.

        :return: whether that is new.
        :raise Conflict: prefixes overlap that are there.
        """
        with self._lock:
            if new in self.peerings:
                return False
            check_peering(new, self.peerings, self._books)
            self.peerings = self.peerings.plus(new)
            return True

    def part(self, old: Peering) -> None:
        """Note that two VPCs are not peered any more."""
        with self._lock:
            self.peerings = self.peerings.minus(old)

    def adopt_peerings(self, there: Iterable[Peering]) -> None:
        """Take these peerings for all that there are, conflicts or not: they were asked for."""
        with self._lock:
            self.peerings = Peerings(there)

    def _check_made(self, vm: str, below: Sequence[Below]) -> None:
        """What was made for another VM is its own, also while it does not have it."""
        for one in below:
            for entry in self._entries.values():
                shared = any(volume.path == one.path and volume.readonly for volume in entry.spec.volumes)
                if entry.spec.id != vm and one.path in entry.files and not shared:
                    message = f"it stands on {one.path}, which was made for {entry.spec.id}"
                    raise Conflict(message, path=one.at, other=entry.spec.id, hint="copy it: qemu-img convert")

    def check_start(self, spec: VmConfig, below: Sequence[Below] = ()) -> None:
        """Raise Conflict if the spec contradicts what a VM has that runs, or is being made.

        Two wishes that contradict each other cannot be put, but libvirt may bring them (a restore, a ``virsh define``).
        """
        with self._lock:
            try:
                self.check(spec, below)
                return
            except Conflict:
                others = [entry for entry in self._entries.values() if entry.spec.id != spec.id]
        running = Claims()
        for entry in others:
            if entry.applied or entry.phase is Phase.CREATING:
                running.add(entry.carried, entry.below or ())
        running.check(spec, below)
        running.check_apart(spec, self.peerings)

    def claim(self, entry: Entry) -> None:
        """Add a new VM; from now on others conflict with it.

        :raise Conflict: it contradicts another VM, or its id is taken.
        """
        with self._lock:
            if entry.spec.id in self._entries:
                raise Conflict(f"{entry.spec.id} exists", path="id", other=entry.spec.id)
            self.check(entry.spec, entry.below or ())
            self._put(entry)

    def adopt(self, entry: Entry) -> None:
        """Add or replace a VM as libvirt has it, conflicts or not: what is there is there."""
        with self._lock:
            self._put(entry)

    def update(self, vm: str, change: Change, *, checked: bool = True) -> Entry | None:
        """Replace an entry by a changed one; None if it is gone.

        :param checked: whether a new wish is compared with the others; not for one that goes back to its former.
        :raise Conflict: the changed spec contradicts another VM's; nothing was changed.
        """
        with self._lock:
            entry = self._entries.get(vm)
            if entry is None:
                return None
            changed = change(entry)
            if checked and changed.spec != entry.spec:
                self.check(changed.spec, changed.below or ())
            self._put(changed)
            return changed

    def _put(self, entry: Entry) -> None:
        vm = entry.spec.id
        before = self._entries.get(vm)
        same = before is not None and before.shown == entry.shown
        entry = dataclasses.replace(entry, changed_at=before.changed_at if before and same else time.time())
        self._entries[vm] = entry
        self._tell(before, entry)
        self._wishes.drop(vm)
        self._wishes.add(entry.spec, entry.below or ())
        self._applied.drop(vm)
        if entry.applied is not None and entry.applied != entry.spec:
            self._applied.add(entry.applied)
        self._former.drop(vm)
        if entry.former is not None:
            self._former.add(entry.former)

    def _tell(self, before: Entry | None, after: Entry | None) -> None:
        self.watch(before, after)
        if self.loaded:
            self._report(before, after)

    def drop(self, vm: str) -> None:
        """Forget a VM."""
        with self._lock:
            gone = self._entries.pop(vm, None)
            if gone is not None:
                self._tell(gone, None)
                for claims in self._books:
                    claims.drop(vm)

    def unshared(self, vm: str, paths: Iterable[str]) -> tuple[str, ...]:
        """Those of these volumes that no other VM has: one may be shared by readers, or have been handed on."""
        with self._lock:
            others = [entry for entry in self._entries.values() if entry.spec.id != vm]
        wishes = [spec for entry in others for spec in (entry.spec, entry.applied, entry.former) if spec is not None]
        used = {volume.path for spec in wishes for volume in spec.volumes}
        used |= {one.path for entry in others for one in entry.below or ()}
        return tuple(path for path in paths if path not in used)

    def members(self, vpc: str) -> tuple[VmConfig, ...]:
        """The specs that a VPC must carry now, by id."""
        with self._lock:
            carried = (self._entries[vm].carried for vm in sorted(self._entries))
            return tuple(spec for spec in carried if vpc in spec.vpcs)

    def near(self, vpc: str) -> tuple[Beside, ...]:
        """The VPCs to which a VPC leads now by a peering, with their members."""
        with self._lock:
            return beside(vpc, self.peerings, self.members)

    def vpcs(self) -> frozenset[str]:
        """The VPCs that some VM has a NIC in."""
        with self._lock:
            return frozenset(vpc for entry in self._entries.values() for vpc in entry.carried.vpcs)

    def vpcs_of(self, vm: str) -> tuple[str, ...]:
        """The VPCs that a VM is in, by its wish and by what it runs with; none if there is no such VM."""
        entry = self._entries.get(vm)
        return () if entry is None else (*entry.spec.vpcs, *entry.carried.vpcs)

    def observed(self, vm: str, state: DomainState | None, *, asked_at: float | None = None) -> None:
        """Note what libvirt said of a VM. One that does not run has nothing applied.

        :param asked_at: when libvirt was asked (monotonic clock); an answer to an older question than what is known by
            now says nothing. None: just now, by who holds the VM's lock.
        """

        def change(entry: Entry) -> Entry:
            if asked_at is not None and asked_at < entry.observed_at:
                return entry
            active = state is not None and state.active
            applied = (entry.applied or entry.spec) if active else None
            return dataclasses.replace(entry, domain=state, applied=applied, observed_at=time.monotonic())

        self.update(vm, change)
