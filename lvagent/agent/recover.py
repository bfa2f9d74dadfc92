"""The sweep: what libvirt and the host have, compared with the wish, and brought together.

At start, at intervals, and after an event. It only acts on what bears our mark; when libvirt cannot be read it removes
nothing; and it never waits for a VM that somebody works on, but leaves it to them.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import time
from concurrent.futures import ThreadPoolExecutor

from lvagent.agent.bound import Bound
from lvagent.agent.edits import edits
from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.locks import VmLocks
from lvagent.agent.networks import Networks
from lvagent.agent.plug import entry_of
from lvagent.agent.ports import Domains, VolumeFolders
from lvagent.agent.remnants import keep_secret, tidy_secret
from lvagent.agent.trace import Trace
from lvagent.agent.vms import ABSENT_WITH_VOLUMES, Vms
from lvagent.agent.wishes import with_live_fields
from lvagent.errors import LvagentError, SpecError
from lvagent.failpoints import point
from lvagent.host.libvirt import DomainRecord
from lvagent.memo import remembered
from lvagent.render.element import Element, find_element, parse_element
from lvagent.spec import names
from lvagent.spec.claims import Below
from lvagent.spec.vm import VmConfig

log = logging.getLogger(__name__)

OUTDATED = "libvirt has an older definition of it than what was asked for: lvagent vm restore, or accept"


class Recovery:
    """Fills the index from libvirt, finishes what was interrupted, and converges every VPC."""

    def __init__(
        self,
        index: Index,
        locks: VmLocks,
        domains: Domains,
        volumes: VolumeFolders,
        networks: Networks,
        vms: Vms,
        bound: Bound,
        boot_id: str,
        *,
        starts: int,
    ) -> None:
        self._index = index
        self._locks = locks
        self._domains = domains
        self._volumes = volumes
        self._networks = networks
        self._vms = vms
        self._bound = bound
        self._boot_id = boot_id
        self._starts = starts
        self._asleep: queue.SimpleQueue[str] = queue.SimpleQueue()

    def sweep(self, *, force: bool = False) -> None:
        """One pass over everything.

        :param force: remove also more than a sweep may.
        :raise Unavailable: libvirt could not be read; nothing was removed.
        """
        self._networks.prepare()
        point("sweep.prepared")
        known = {entry.spec.id for entry in self._index.all()}
        try:
            records = {record.vm: record for record in self._domains.records()}
            secrets = self._domains.secrets()
        except LvagentError:
            self._index.stale_since = self._index.stale_since or time.time()
            raise
        self._index.stale_since = None
        point("sweep.read")
        for vm in sorted(known | records.keys()):
            self._one(vm, records.get(vm))
        self._index.loaded = True
        for vm, slots in sorted(secrets.items()):
            self._secret(vm, slots)
        for entry in self._index.all():
            if entry.spec.user_data is not None and entry.spec.id not in secrets:
                self._keep_secret(entry.spec.id)
        self._wake()
        point("sweep.settled")
        self._converge(force=force)

    def _one(self, vm: str, record: DomainRecord | None) -> None:
        with self._locks.attempt(vm) as held:
            if not held:
                return  # a put or a delete is at work on it
            try:
                self._settle(vm, record)
            except LvagentError as error:
                self._note(vm, error)

    def _note(self, vm: str, error: LvagentError) -> None:
        log.warning("%s: %s", vm, error)
        message = str(error)
        self._index.update(vm, lambda now: dataclasses.replace(now, error=message))

    def look(self, vm: str) -> Entry | None:
        """Settle one VM now; the caller holds its lock.

        :return: its entry; None if there is nothing of ours.
        """
        self._settle(vm, self._domains.record(vm))
        return self._index.get(vm)

    def glance(self, record: DomainRecord) -> None:
        """Note what somebody changed in a definition, if nobody works on the VM."""
        with self._locks.attempt(record.vm) as held:
            known = self._index.get(record.vm) if held else None
            if known is not None and known.phase is Phase.LIVE:
                found = edits(known, record, _element(record.config))
                self._index.update(record.vm, lambda now: dataclasses.replace(now, edits=found))
                self._mark(known, record)

    def _mark(self, entry: Entry, record: DomainRecord) -> None:
        """See that the live copy of our element says what was plugged.

        That of a guest that was restored, or reverted to a snapshot, says what it had when it was saved. An agent that
        starts later would believe it, and look for the ports of a running guest in the wrong place.
        """
        live = _element(record.live)
        if live is None or entry.applied is None or live.spec.id != record.vm:
            return
        told = dataclasses.replace(entry.applied, user_data=None)
        if live.revision < entry.revision or live.spec != told:
            try:
                self._vms.mark_live(entry, entry.applied)
            except LvagentError as error:  # a job (a save, a migration) forbids it: the next sweep tries again
                log.info("%s: %s", record.vm, error)

    def _settle(self, vm: str, record: DomainRecord | None) -> None:
        if self._may_be_old(vm, record):
            record = self._domains.record(vm)
        entry = None if record is None else self._read(record)
        if record is None or entry is None:
            self._index.drop(vm)
        elif entry.phase is Phase.DELETING:
            log.info("%s: going on with its delete", vm)
            self._vms.delete(entry, Trace(), grace=0, volumes=entry.power == ABSENT_WITH_VOLUMES)
        elif entry.outdated:
            self._mark(entry, record)  # shown, never obeyed by itself
        elif entry.created is None and not record.state.active:
            self._discard(entry)
        elif entry.created is None:
            self._vms.keep(entry)
            point("sweep.kept")
        else:
            if entry.making:
                self._vms.unmake(entry)
            self._mark(entry, record)
            self._revive(entry, record)

    def _may_be_old(self, vm: str, record: DomainRecord | None) -> bool:
        """Whether a put, a delete, a hook or an event may have come between reading the list and taking the lock."""
        known = self._index.get(vm)
        if not self._index.loaded:
            return known is not None  # a hook brought it
        return record is None or known is None or known.domain != record.state or not self._same(known, record)

    def _same(self, known: Entry, record: DomainRecord) -> bool:
        found = _element(record.config)
        return found is not None and found.revision == known.revision

    def _read(self, record: DomainRecord) -> Entry | None:
        """The entry of a domain as libvirt has it, put into the index; None for a stranger's.

        :raise SpecError: it is ours and cannot be read.
        """
        known = self._index.get(record.vm)
        config, live = _element(record.config), _element(record.live)
        wish = max((one for one in (config, live) if one), key=lambda one: one.revision, default=None)
        if wish is None:
            _check_strange(record)
        if wish is None or wish.spec.id != record.vm:
            return None  # a stranger's, or a copy of one of ours under another name
        if known is not None and known.revision > (config.revision if config else -1):
            entry = dataclasses.replace(known, outdated=True)
        else:
            entry = self._entry(wish, known, outdated=wish is not config)
        if entry.below is None:
            entry = dataclasses.replace(entry, below=self._below(wish, live))
        entry = dataclasses.replace(
            entry,
            applied=self._applied(wish, live, known, active=record.state.active),
            domain=record.state,
            observed_at=time.monotonic(),
            error=OUTDATED if entry.outdated else None,
        )
        entry = dataclasses.replace(entry, edits=edits(entry, record, config))
        self._index.adopt(entry)
        return entry

    def _entry(self, wish: Element, known: Entry | None, *, outdated: bool) -> Entry:
        return dataclasses.replace(
            entry_of(wish),
            spec=self._with_secret(wish, known),
            timings=known.timings if known else (),
            outdated=outdated,
            below=known.below if known is not None and known.revision == wish.revision else None,
        )

    def _below(self, wish: Element, live: Element | None) -> tuple[Below, ...] | None:
        """What the volumes of a VM stand on; None, to be asked again, if one of them cannot be judged."""
        running = () if live is None else live.spec.volumes
        try:
            return self._volumes.check(tuple(dict.fromkeys((*wish.spec.volumes, *running)))).below
        except LvagentError as error:
            log.debug("%s: %s", wish.spec.id, error)
            return None

    def _with_secret(self, wish: Element, known: Entry | None) -> VmConfig:
        if not wish.has_user_data:
            return wish.spec
        if known is not None and known.revision == wish.revision and known.spec.user_data is not None:
            return dataclasses.replace(wish.spec, user_data=known.spec.user_data)
        return dataclasses.replace(wish.spec, user_data=self._domains.secret(wish.spec.id, wish.revision))

    def _applied(self, wish: Element, live: Element | None, known: Entry | None, *, active: bool) -> VmConfig | None:
        if not active:
            return None
        if known is not None and known.applied is not None:
            return known.applied  # what this agent plugged is better known here than by a restored XML
        running = dataclasses.replace((live or wish).spec, user_data=None)
        return with_live_fields(running, self._with_secret(wish, known))

    def _discard(self, entry: Entry) -> None:
        """Take away a VM that was never finished: its volumes were made for it and hold nothing yet."""
        vm = entry.spec.id
        if self._domains.state(vm).active:
            return  # libvirt was just starting it
        log.info("%s: was never finished, removing what there is of it", vm)
        self._volumes.remove(vm, self._index.unshared(vm, entry.files))
        point("sweep.discarding")
        self._domains.drop_secret(vm)
        self._vms.drop_log(vm)
        self._domains.undefine(vm)
        point("sweep.discarded")
        self._index.drop(vm)

    def _revive(self, entry: Entry, record: DomainRecord) -> None:
        """Note one that was wanted running before the host's last boot, to be started again."""
        found = _element(record.config)
        booted = found is None or found.boot_id != self._boot_id
        if booted and not record.state.active and entry.power == "running":
            self._asleep.put(entry.spec.id)
        elif booted and record.state.active:  # by libvirt's autostart, or by hand: that is noted, once
            self._vms.keep(entry)

    def _wake(self) -> None:
        """Start those that the host's reboot has stopped: their networks first, then some at once."""
        vms = [self._asleep.get() for _ in range(self._asleep.qsize())]
        entries = [entry for vm in vms if (entry := self._index.get(vm)) is not None]
        for vpc in sorted({vpc for entry in entries for vpc in entry.spec.vpcs}):
            try:
                self._networks.bring(vpc)
            except LvagentError as error:
                log.warning("%s: %s", vpc, error)
        if vms:
            with ThreadPoolExecutor(max_workers=self._starts, thread_name_prefix="wake") as pool:
                list(pool.map(self._start_again, vms))

    def _start_again(self, vm: str) -> None:
        with self._locks.attempt(vm) as held:
            entry = self._index.get(vm)
            if not held or entry is None or entry.power != "running":
                return
            log.info("%s: the host was booted since, starting it again", vm)
            try:
                self._volumes.check(entry.spec.volumes)
                self._domains.start(vm)
                point("sweep.restarted")
                self._vms.keep(entry)
            except LvagentError as error:
                self._note(vm, error)

    def _secret(self, vm: str, slots: tuple[int, ...]) -> None:
        """Let go of user data that nobody wants: of a VM that is gone, of a wish that was given up or has changed."""
        entry = self._index.get(vm)
        if entry is not None and (entry.outdated or (slots[1:] == () and entry.spec.user_data is not None)):
            return
        with self._locks.attempt(vm) as held:
            entry = self._index.get(vm)
            if held and entry is not None and not entry.outdated:
                tidy_secret(self._domains, entry)
            elif held and entry is None and self._domains.record(vm) is None:
                self._domains.drop_secret(vm)

    def _keep_secret(self, vm: str) -> None:
        with self._locks.attempt(vm) as held:
            entry = self._index.get(vm)
            if held and entry is not None and entry.phase is Phase.LIVE:
                try:
                    keep_secret(self._domains, entry)
                except LvagentError as error:
                    log.warning("%s: %s", vm, error)

    def _converge(self, *, force: bool) -> None:
        """Bring every VPC to what is wanted, and then take away what is not, unless that is too much."""
        known = sorted(self._networks.known())
        excess = {vpc: count for vpc in known if (count := self._bring(vpc))}
        gone = len(excess.keys() - self._index.vpcs())
        if fabric := self._loose_fabric():
            excess["the underlay side"] = fabric
        self._networks.counters.forget(known)
        if not self._bound.admits(excess, gone=gone, vpcs=len(known), force=force):
            return
        for vpc in sorted(excess.keys() & set(known)):
            try:
                self._networks.converge(vpc)
            except LvagentError as error:
                log.warning("%s: %s", vpc, error)
        if excess:
            self._networks.tidy_fabric()

    def _loose_fabric(self) -> int:
        """How many objects on the underlay side nobody wants; none while not all can be read."""
        try:
            return len(self._networks.leftovers.fabric())
        except LvagentError as error:
            log.warning("the underlay side: %s", error)
            return 0

    def _bring(self, vpc: str) -> int:
        excess = 0
        try:
            excess = self._networks.bring(vpc)
            point("sweep.converged")
            self._networks.replug(vpc)
            self._networks.counters.look(vpc)
        except LvagentError as error:
            log.warning("%s: %s", vpc, error)
        return excess


@remembered(1 << 12)
def _element(xml: str | None) -> Element | None:
    """The element in a domain's XML; None if it has none, or one that cannot be read.

    Remembered: from one sweep to the next most XML is the same, and reading it is most of a sweep's work.
    """
    try:
        text = find_element(xml) if xml else None
        return parse_element(text) if text else None
    except SpecError as error:
        log.warning("%s", error)
        return None


def _check_strange(record: DomainRecord) -> None:
    """Tell a domain of ours that cannot be read from a stranger's.

    :raise SpecError: it bears our mark.
    """
    if names.ELEMENT_NAMESPACE in record.config or names.ELEMENT_NAMESPACE in (record.live or ""):
        raise SpecError("metadata", "the element of lvagent cannot be read", f"mend it: virsh edit {record.vm}")
