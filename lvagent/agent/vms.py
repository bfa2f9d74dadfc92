"""Put and delete of one VM.

The domain is defined first, with the wish in its element and without the mark ``created``: a crash finds it there, and
the next sweep takes away whatever hangs on a domain that never got the mark. Each step of a create registers how it is
undone before or as it is done; the last line of all forgets the undoing. A delete goes the other way: its wish is
written first (``absent``), and who finds it goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lvagent.agent import publications
from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.networks import Networks
from lvagent.agent.plug import HOOK_PHASES, with_hook
from lvagent.agent.ports import Domains, VolumeFolders
from lvagent.agent.remnants import drop_log, tidy_secret
from lvagent.agent.trace import Trace
from lvagent.agent.undo import Undo
from lvagent.agent.vpcs import check_spec
from lvagent.agent.wishes import changed, restart_needed, with_live_fields
from lvagent.errors import Conflict, HostError, LvagentError, NotFound, Unavailable
from lvagent.failpoints import point
from lvagent.host.libvirt import STARTED
from lvagent.plan import wanted
from lvagent.render.domain import DomainOptions, datasource_of, domain_uuid, domain_xml
from lvagent.render.element import Element, find_element, render_element
from lvagent.spec.dump import digest
from lvagent.spec.status import State
from lvagent.spec.vm import VmConfig, Volume

log = logging.getLogger(__name__)

ABSENT = "absent"
ABSENT_WITH_VOLUMES = "absent-with-volumes"


class Vms:
    """Creates, changes and deletes VMs. The caller holds the VM's lock."""

    def __init__(
        self,
        index: Index,
        domains: Domains,
        volumes: VolumeFolders,
        networks: Networks,
        options: DomainOptions,
        boot_id: str,
    ) -> None:
        self._index = index
        self._domains = domains
        self._volumes = volumes
        self._networks = networks
        self._options = options
        self._boot_id = boot_id
        self._beside = ThreadPoolExecutor(max_workers=32, thread_name_prefix="beside")

    # texts

    def element(self, entry: Entry, spec: VmConfig) -> str:
        """The element of ours for this entry, with this spec."""
        return render_element(
            Element(
                spec=dataclasses.replace(spec, user_data=None),
                digest=digest(spec),
                revision=entry.revision,
                power=entry.power,
                boot_id=self._boot_id,
                created=entry.created,
                files=entry.files,
                has_user_data=spec.user_data is not None,
                making=entry.making,
            )
        )

    def xml(self, entry: Entry) -> str:
        """The domain XML of an entry's wish."""
        spec, policy = entry.spec, self._networks.policy
        mtus = {nic.position: wanted.nic_mtu(nic, policy) for nic in spec.networks}
        return domain_xml(spec, self._options, self.element(entry, spec), mtus=mtus)

    # create

    def prepare(self, spec: VmConfig) -> Entry:
        """Check a spec against the host and make the entry of a new VM; touches nothing.

        :raise SpecError: a volume or an MTU that cannot be.
        :raise Conflict: it contradicts another VM.
        """
        wanted.check_mtu(spec, self._networks.policy)
        check_spec(spec, self._index, self._networks.policy)
        self._index.check(spec)
        judged = self._volumes.check(spec.volumes)
        self._index.check(spec, judged.below)
        now = time.monotonic()  # what libvirt was asked before is about another VM of this id
        return Entry(spec, Phase.CREATING, files=judged.missing, below=judged.below, observed_at=now)

    def create(self, spec: VmConfig, trace: Trace) -> None:
        """Make a VM that is not there, and start it; after an error nothing of it is left."""
        with trace.phase("check"):
            entry = self.prepare(spec)
            xml = self.xml(entry)
            with self._index.settling:
                check_spec(spec, self._index, self._networks.policy)  # another may have come meanwhile
                self._index.claim(entry)
        with Undo() as undo:
            undo.add(self._forget, spec)
            self._networks.unpublish(spec.id)  # said of one that had this id, and was undefined by hand
            point("create.claimed")
            with trace.phase("define"):
                self._define_new(entry, xml, undo)
            if entry.files:
                with trace.phase("volume"):
                    self._make_volumes(spec, entry.files, undo)
            self._start(entry, trace, undo)
            point("create.started")
            with trace.phase("commit"):
                self._commit(spec.id)
                point("create.committed")
            undo.forget()
        self.told(spec.id, trace)

    def told(self, vm: str, trace: Trace) -> None:
        """Keep how long the phases of a start took, those of its hook among them."""

        def change(now: Entry) -> Entry:
            hook = tuple(one for one in now.timings if one.phase in HOOK_PHASES)
            return dataclasses.replace(now, timings=with_hook(trace.phases, hook), error=None)

        self._index.update(vm, change)

    def _forget(self, spec: VmConfig) -> None:
        self._index.drop(spec.id)
        self._converge(spec.vpcs)

    def _define_new(self, entry: Entry, xml: str, undo: Undo) -> None:
        vm = entry.spec.id
        if self._domains.record(vm) is not None:  # libvirt would replace a domain of this name and UUID
            raise Conflict(f"libvirt has a domain {vm} that is not of lvagent", path="id", other=vm)
        self._domains.define(vm, xml)
        undo.add(self._domains.undefine, vm)
        undo.add(self.drop_log, vm)
        point("create.defined")
        if entry.spec.user_data is not None:
            undo.add(self._domains.drop_secret, vm)
            self._domains.set_secret(vm, entry.spec.user_data, entry.revision)
        point("create.secret")

    def _make_volumes(self, spec: VmConfig, paths: Sequence[str], undo: Undo) -> None:
        for volume in spec.volumes:
            if volume.path in paths:
                self._make_volume(spec.id, volume, undo)

    def _make_volume(self, vm: str, volume: Volume, undo: Undo) -> None:
        self._volumes.make(vm, volume)
        undo.ground(self._volumes.remove, vm, [volume.path])
        point("volume.made")

    def _start(self, entry: Entry, trace: Trace, undo: Undo) -> None:
        """Start the domain; beside it the VPC is wired and served.

        libvirt works for a while before it makes the tap and calls the hook. The hook finds the wires made, or waits
        for them, or makes them.
        """
        vm = entry.spec.id
        beside = self._beside.submit(self._connect, entry.spec.vpcs, trace)
        undo.ground(self._domains.destroy, vm)
        try:
            with trace.phase("start"):
                self._domains.start(vm)
        finally:
            failure = beside.exception()  # waits: nothing of ours may still run when the undoing begins
            if isinstance(failure, LvagentError):
                raise failure  # it is why the start failed, if that failed
        beside.result()

    def _connect(self, vpcs: Iterable[str], trace: Trace) -> None:
        with trace.phase("wire"):
            for vpc in vpcs:
                self._networks.wire(vpc)
            point("connect.wired")
        with trace.phase("services"):
            for vpc in vpcs:
                self._networks.serve(vpc)
            point("connect.served")

    def keep(self, entry: Entry) -> None:
        """Set the mark (again) on a VM that runs: it was made, or started, by an agent that did not see it through."""
        self._commit(entry.spec.id)

    def _commit(self, vm: str) -> None:
        """Set the mark: from here on the VM is there, whatever happens.

        It stands in the config copy alone: the live one, which says what was applied, is the domain as it was defined.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

        def change(entry: Entry) -> Entry:
            return dataclasses.replace(
                entry,
                created=entry.created or now,
                phase=Phase.LIVE,
                applied=entry.applied or entry.spec,
                domain=entry.domain if entry.domain is not None and entry.domain.active else STARTED,
                observed_at=time.monotonic(),
            )

        entry = self._index.get(vm)
        if entry is not None:
            self._domains.set_element(vm, self.element(change(entry), entry.spec), config=True, live=False)
            self._index.update(vm, change)

    # change

    def change(self, entry: Entry, spec: VmConfig, trace: Trace) -> tuple[str, ...]:
        """Change a VM to another spec; after an error it is as it was.

        :return: the paths of the fields that take effect at its next start.
        """
        vm = spec.id
        with trace.phase("check"):
            wanted.check_mtu(spec, self._networks.policy)
            check_spec(spec, self._index, self._networks.policy)
            publications.check_spec(spec, self._index, self._networks.policy)
            self.check_uuid(entry.spec, spec)
            judged = self._volumes.check(spec.volumes)
            new = judged.missing
        with Undo() as outer, Undo() as undo:
            outer.add(self._restore, entry, spec)
            with self._index.settling:
                check_spec(spec, self._index, self._networks.policy)
                publications.check_spec(spec, self._index, self._networks.policy)
                wish = self._index.update(vm, lambda now: changed(now, spec, judged))
            if wish is None:
                raise NotFound("vm", vm)
            point("change.wished")
            with trace.phase("volume"):
                self._add_volumes(entry, wish, new, undo)
            with trace.phase("define"):
                self._redefine(entry, wish, undo)
            with trace.phase("wire"):
                self._converge(sorted({*entry.carried.vpcs, *entry.spec.vpcs, *spec.vpcs}))
                point("change.converged")
            undo.forget()
            outer.forget()
        if entry.spec.user_data != spec.user_data:
            tidy_secret(self._domains, wish)
        self._index.update(vm, lambda now: dataclasses.replace(now, timings=trace.phases, error=None, former=None))
        return restart_needed(wish)

    def _add_volumes(self, entry: Entry, wish: Entry, new: Sequence[str], undo: Undo) -> None:
        """Make the volumes that a change brings; it is written first that they are ours, for a crash may come."""
        vm = entry.spec.id
        if not new:
            return
        undo.add(self._domains.set_element, vm, self.element(entry, entry.spec), config=True, live=False)
        noted = dataclasses.replace(entry, making=tuple(new))
        self._domains.set_element(vm, self.element(noted, entry.spec), config=True, live=False)
        point("change.noted")
        self._make_volumes(wish.spec, new, undo)

    def unmake(self, entry: Entry) -> None:
        """Take away the volumes of a change that was cut off before its wish was written."""
        vm, used = entry.spec.id, {volume.path for volume in entry.spec.volumes}
        log.info("%s: a change of it was cut off, removing what it made", vm)
        self._volumes.remove(vm, [path for path in self._index.unshared(vm, entry.making) if path not in used])
        self._domains.set_element(
            vm, self.element(dataclasses.replace(entry, making=()), entry.spec), config=True, live=False
        )
        self._index.update(vm, lambda now: dataclasses.replace(now, making=()))

    def check_uuid(self, old: VmConfig, new: VmConfig) -> None:
        """A domain keeps its UUID for life, and the guest's datasource is told by it.

        :raise Conflict: the new spec needs another one.
        """
        uuids = [domain_uuid(spec.id, datasource_of(spec, self._options)) for spec in (old, new)]
        if uuids[0] != uuids[1]:
            hint = "delete the VM (its volumes stay) and create it again"
            raise Conflict("a VM cannot be changed to or from the ec2 datasource", path="datasource", hint=hint)

    def confirm(self, vm: str) -> None:
        """Make sure that libvirt's domain is still ours: somebody may have put another one in its place.

        :raise Conflict: it is a stranger's by now; nothing is done to it.
        """
        record = self._domains.record(vm)
        if record is not None and not any(find_element(xml) for xml in (record.config, record.live) if xml):
            self._index.drop(vm)
            raise Conflict(f"the domain {vm} is no longer of lvagent", other=vm, hint=f"look at it: virsh dumpxml {vm}")

    def _restore(self, entry: Entry, spec: VmConfig) -> None:
        """Go back to a former wish; whether it runs, and with what, may have changed meanwhile."""

        def change(now: Entry) -> Entry:
            applied = None if now.applied is None else with_live_fields(now.applied, entry.spec)
            return dataclasses.replace(entry, applied=applied, domain=now.domain, observed_at=now.observed_at)

        self._index.update(entry.spec.id, change, checked=False)
        self._converge(sorted({*entry.carried.vpcs, *spec.vpcs}))

    def _redefine(self, old: Entry, new: Entry, undo: Undo) -> None:
        vm = new.spec.id
        user_data = new.spec.user_data
        if user_data is not None and user_data != old.spec.user_data:
            undo.add(tidy_secret, self._domains, old)
            self._domains.set_secret(vm, user_data, new.revision)
        point("change.secret")
        undo.ground(self._domains.define, vm, self.xml(old))
        self._domains.define(vm, self.xml(new))
        point("change.defined")
        if new.applied is not None and old.applied is not None:
            undo.add(self.mark_live, old, old.applied)
            self.mark_live(new, new.applied)
        point("change.marked")

    def mark_live(self, entry: Entry, applied: VmConfig) -> None:
        """Write into the live copy of the element what the guest runs with."""
        told = dataclasses.replace(entry, created=None)  # the mark belongs to the config copy
        self._domains.set_element(entry.spec.id, self.element(told, applied), config=False, live=True)

    def _converge(self, vpcs: Iterable[str]) -> None:
        """Converge each of these VPCs; an error in one does not keep the others from it."""
        failures: list[LvagentError] = []
        for vpc in vpcs:
            try:
                self._networks.converge(vpc)
            except LvagentError as error:
                log.warning("%s: %s", vpc, error)
                failures.append(error)
        if failures:
            raise failures[0]

    # delete

    def delete(self, entry: Entry, trace: Trace, *, grace: float, volumes: bool) -> None:
        """Stop a VM and take it away, with all that no other VM needs; who is interrupted goes on later.

        :param grace: seconds that the guest gets to shut down by itself.
        :param volumes: also delete the volumes that the agent made for it.
        """
        vm = entry.spec.id
        power = ABSENT_WITH_VOLUMES if volumes else ABSENT
        gone = dataclasses.replace(entry, phase=Phase.DELETING, power=power)
        with trace.phase("mark"), contextlib.suppress(NotFound):  # undefined by hand: the rest is still to be done
            self._domains.set_element(vm, self.element(gone, gone.carried), config=True, live=True)
        point("delete.marked")
        self._index.update(vm, lambda now: dataclasses.replace(now, phase=Phase.DELETING, power=power))
        with trace.phase("stop"):
            self.end(vm, grace)
        point("delete.stopped")
        self._networks.unpublish(vm)
        point("delete.unpublished")
        if volumes:
            with trace.phase("volumes"):
                self._volumes.remove(vm, self._index.unshared(vm, (*entry.files, *entry.making)))
        point("delete.volumes")
        with trace.phase("undefine"):
            self._domains.drop_secret(vm)
            point("delete.secret")
            self.drop_log(vm)
            point("delete.log")
            self._domains.undefine(vm)
            point("delete.undefined")
        self._index.drop(vm)
        point("delete.forgotten")
        with trace.phase("unwire"):
            self._converge(sorted({*entry.carried.vpcs, *entry.spec.vpcs}))
            point("delete.unwired")

    def drop_log(self, vm: str) -> None:
        """Make sure that there is no log of its console; before its domain goes."""
        drop_log(self._options, vm)

    def end(self, vm: str, grace: float) -> None:
        """End its qemu: softly within ``grace`` seconds, else hard."""
        if grace > 0:
            with contextlib.suppress(NotFound):
                self._soften(vm, time.monotonic() + grace)
        self._domains.destroy(vm)

    def _soften(self, vm: str, deadline: float) -> None:
        if self._domains.state(vm).state is not State.RUNNING:
            return  # a paused guest hears nothing
        with contextlib.suppress(HostError, Unavailable):  # it went down, or was paused, just now; or is saved
            self._domains.shutdown(vm)
        while self._domains.state(vm).active and time.monotonic() < deadline:
            time.sleep(0.1)

    def close(self) -> None:
        """Wait for what runs beside."""
        self._beside.shutdown(wait=True)
