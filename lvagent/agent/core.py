"""The agent: what the API, the hook and the clock call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lvagent.agent import views
from lvagent.agent.bound import Bound
from lvagent.agent.edits import Settler
from lvagent.agent.healer import Healer
from lvagent.agent.index import Entry, Phase
from lvagent.agent.measures import Standing
from lvagent.agent.outside import Outside
from lvagent.agent.parts import Parts as Parts
from lvagent.agent.peering import Peers
from lvagent.agent.plug import Plugger
from lvagent.agent.power import WISHES, Power
from lvagent.agent.preview import Preview
from lvagent.agent.recover import Recovery
from lvagent.agent.revival import Revival
from lvagent.agent.strays import Strays
from lvagent.agent.trace import Trace, Watch
from lvagent.agent.vms import Vms
from lvagent.agent.wishes import restart_needed
from lvagent.agent.witness import Witness
from lvagent.errors import Conflict, LvagentError, NotFound, Unavailable
from lvagent.host import memory
from lvagent.host.processes import Qemus
from lvagent.memo import forget_unasked
from lvagent.plan.wanted import Policy
from lvagent.spec.metrics import Metrics
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.status import (
    Action,
    LookView,
    Outcome,
    Plan,
    PutResult,
    Readiness,
    Settling,
    VmStatus,
)
from lvagent.spec.strays import StraysView, StrayView, SweepView
from lvagent.spec.vm import VmConfig

log = logging.getLogger(__name__)


class Agent(Outside):
    """One host's agent. Every method may be called by many threads at once."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._beside = ThreadPoolExecutor(max_workers=8, thread_name_prefix="hook-services")
        self._vms = Vms(parts.index, parts.domains, parts.volumes, parts.networks, parts.options, parts.boot_id)
        self._settler = Settler(parts.index, parts.domains, self._vms)
        self._power = Power(parts.index, parts.domains, parts.volumes, self._vms)
        self._preview = Preview(parts.index, parts.networks, self._vms)
        self._bound = Bound(parts.settings.sweep.removals)
        self._recovery = Recovery(
            parts.index,
            self._locks,
            parts.domains,
            parts.volumes,
            parts.networks,
            self._vms,
            self._bound,
            parts.boot_id,
            starts=parts.settings.libvirt.starts,
        )
        self._strays = Strays(
            parts.index, parts.domains, parts.processes, parts.networks, parts.volumes, parts.settings
        )
        self.revival = Revival(
            parts.index,
            self._locks,
            parts.domains,
            self._vms,
            self._power,
            parts.news,
            parts.timeline,
            going_down=parts.going_down,
            clock=parts.clock,
        )
        self._witness = Witness(parts.index, parts.domains, parts.networks, parts.news, self.revival.look, self._glance)
        self._qemus = Qemus()
        self.news = parts.news
        self.happened = self._witness.happened
        self.observe = self._witness.observe
        self.plugger = Plugger(parts.index, parts.networks, parts.volumes, self._beside, parts.timeline)
        self.heal = Healer(parts.index, parts.networks, lambda where: self.tally.healed.note((where,))).heal
        self.peers = Peers(parts.index, parts.networks, parts.peerings, self._ready)
        self._swept = threading.Event()
        self._sweeping = threading.Lock()
        self._trouble = "the first sweep is not done"

    # what changes

    def put(
        self, spec: VmConfig, *, create_only: bool = False, confined: bool = False, watch: Watch | None = None
    ) -> PutResult:
        """Create the VM, or change it to this spec; all or nothing. See ``api.protocol.Agent``."""
        self._ready()
        with self._locks.hold(spec.id):
            entry = self._index.get(spec.id)
            if self.revival.failure(spec.id) is not None or (entry is not None and entry.spec != spec):
                self.revival.forget(spec.id)
                self.revival.look(spec.id)  # comes when this is done: one that was given up is started again
            trace = Trace(watch)
            if entry is not None and (entry.phase is Phase.CREATING or entry.domain is None or entry.spec == spec):
                # A create that was not undone wholly; a domain undefined, or defined anew by hand just now.
                entry = self._recovery.look(spec.id)
            if confined:
                self._confine(spec, entry)
            if entry is None:
                with self._timeline.operation(spec.id, "create", trace, spec.vpcs):
                    self._vms.create(spec, trace)
                return self._result(Outcome.CREATED, spec.id)
            if entry.phase is Phase.DELETING:
                raise Conflict(
                    f"{spec.id} is being deleted", path="id", other=spec.id, hint="try again when it is gone"
                )
            if entry.spec == spec and not entry.outdated:
                return self._result(Outcome.UNCHANGED, spec.id)
            if create_only and entry.spec != spec:
                raise Conflict(f"{spec.id} exists with another spec", path="id", other=spec.id, hint="PUT changes it")
            self._vms.confirm(spec.id)
            with self._timeline.operation(spec.id, "change", trace):
                self._vms.change(entry, spec, trace)
            return self._result(Outcome.CHANGED, spec.id)

    def _confine(self, spec: VmConfig, entry: Entry | None) -> None:
        """See that a VM takes no volume but new ones, and those that it has.

        :raise Conflict: one is there already, and not this VM's.
        """
        own = set() if entry is None else {v.path for vm in (entry.spec, entry.carried) for v in vm.volumes}
        for index, volume in enumerate(spec.volumes):
            at = f"volumes[{index}].path"
            if volume.path not in own and self._parts.volumes.there(volume.path, at):
                hint = "choose another path: who is limited to some VPCs makes new volumes only"
                raise Conflict(f"{volume.path} is there already", path=at, hint=hint)

    def _result(self, outcome: Outcome, vm: str) -> PutResult:
        entry = self._entry(vm)
        return PutResult(outcome, self._status(entry), restart_needed(entry))

    def delete(self, vm: str, *, grace: float = 0, volumes: bool = False, watch: Watch | None = None) -> None:
        """Stop the VM and take it away. See ``api.protocol.Agent``."""
        self._ready()
        with self._locks.hold(vm):
            entry = self._entry(vm)
            self._vms.confirm(vm)
            self.revival.forget(vm)
            trace = Trace(watch)
            with self._timeline.operation(vm, "delete", trace):
                self._vms.delete(entry, trace, grace=grace, volumes=volumes)
            self._qemus.forget(vm)

    def power(self, vm: str, action: Action) -> VmStatus:
        """Start, shutdown, stop, reboot, reset, pause or resume."""
        self._ready()
        with self._locks.hold(vm):
            entry = self._entry(vm)
            if entry.phase is Phase.DELETING:
                raise Conflict(f"{vm} is being deleted", other=vm)
            self._vms.confirm(vm)
            if action in WISHES:
                self.revival.forget(vm)
            trace = Trace()
            with self._timeline.operation(vm, action, trace):
                self._power.act(entry, action, trace)
            return self._status(self._entry(vm))

    def settle(self, vm: str, how: Settling) -> VmStatus:
        """Accept a definition that was changed by hand, or restore the wish; see ``agent.edits``."""
        self._ready()
        with self._locks.hold(vm):
            entry = self._entry(vm)
            if entry.phase is not Phase.LIVE:
                raise Conflict(f"{vm} is being made or deleted", other=vm)
            trace = Trace()
            with self._timeline.operation(vm, how, trace):
                self._settler.settle(entry, how, trace)
            self._recovery.look(vm)
            return self._status(self._entry(vm))

    # what is told

    def _status(self, entry: Entry, policy: Policy | None = None) -> VmStatus:
        vm = entry.spec.id
        active = entry.domain is not None and entry.domain.active
        return views.status(
            entry,
            policy or self._networks.policy,
            self._index.stale_since,
            process=self._qemus.of(vm) if active else None,
            failure=None if active else self.revival.failure(vm),
        )

    def vm(self, vm: str) -> VmStatus:
        """One VM."""
        self._ready()
        return self._status(self._entry(vm))

    def vms(self) -> Sequence[VmStatus]:
        """All VMs, by id."""
        self._ready()
        return tuple(self._status(entry) for entry in self._index.all())

    def look(self, vm: str) -> LookView:
        """One VM, looked at afresh: in libvirt, in /proc, and by its qemu's monitor."""
        self._ready()
        self._entry(vm)
        asked_at = time.monotonic()
        try:
            state = self._domains.state(vm)
        except NotFound:
            state = None
        self._index.observed(vm, state, asked_at=asked_at)
        qemu, refusal = self._asked(vm) if state is not None and state.active else (None, None)
        domain = None if state is None else (state.state.value, state.reason)
        return LookView(self._status(self._entry(vm)), domain, qemu, refusal)

    def _asked(self, vm: str) -> tuple[tuple[str, bool] | None, str | None]:
        """What qemu says of itself, or why it does not."""
        try:
            found = self._parts.monitors.qmp(vm, Qmp("query-status"))
        except LvagentError as error:
            return None, str(error)
        told = found if isinstance(found, Mapping) else {}
        return (str(told.get("status", "")), told.get("running") is True), None

    # qemu's monitors

    def qmp(self, vm: str, command: Qmp) -> object:
        """Send a QMP command to a VM that runs; see ``host.qmp.Monitor``."""
        self._check_runs(vm)
        return self._parts.monitors.qmp(vm, command)

    def hmp(self, vm: str, command: Hmp) -> str:
        """Send an HMP command to a VM that runs; see ``host.qmp.Monitor``."""
        self._check_runs(vm)
        return self._parts.monitors.hmp(vm, command)

    def _check_runs(self, vm: str) -> None:
        self._ready()
        entry = self._entry(vm)
        if entry.domain is None or not entry.domain.active:
            raise Conflict(f"{vm} does not run: it has no monitor", other=vm, hint="start it")

    # plans and readiness

    def plan(self, spec: VmConfig, *, confined: bool = False) -> Plan:
        """What ``put`` would do; touches nothing."""
        self._ready()
        if confined:
            self._confine(spec, self._index.get(spec.id))
        return self._preview.plan(spec)

    def readiness(self) -> Readiness:
        """Whether the agent can serve now."""
        libvirt = "ok" if self._index.stale_since is None else "cannot be read"
        checks = (("libvirt", libvirt), ("first sweep", "ok" if self._swept.is_set() else self._trouble))
        ready = all(answer == "ok" for _, answer in checks)
        return Readiness(ready, (*checks, ("removals", self._bound.trouble or "ok")))  # it serves all the same

    def metrics(self) -> Metrics:
        """All that is measured, as it is known by now; also before the agent is ready, and while libvirtd hangs."""
        ready, held, strays = self.readiness().ready, bool(self.held), self._strays.known
        return self._measures.metrics(Standing(ready, held, strays, self.news.told, self.news.waiting, self._status))

    @property
    def trouble(self) -> str:
        """Why the last sweep that failed did."""
        return self._trouble

    @property
    def held(self) -> str:
        """Why the last sweep removed nothing; empty if it did, or had nothing to remove."""
        return self._bound.trouble

    def _ready(self) -> None:
        if not self._swept.is_set():
            raise Unavailable("the agent", hint=f"it has just started: {self._trouble}")

    # strays and the sweep

    def strays(self) -> StraysView:
        """qemu processes and objects of ours that nobody wants."""
        self._ready()
        return self._strays.view()

    def kill_stray(self, pid: int, identity: str) -> StrayView:
        """End a stray; see ``agent.strays.Strays.kill``."""
        self._ready()
        return self._strays.kill(pid, identity)

    def sweep_now(self, *, force: bool) -> SweepView:
        """Sweep at once.

        :param force: remove also more than a sweep may.
        :raise Unavailable: it could not be done.
        """
        self._ready()
        if not self.sweep(force=force):
            raise Unavailable("a sweep", hint=self._trouble)
        return SweepView(self.held)

    # what the clock and events call

    def sweep(self, *, force: bool = False) -> bool:
        """One pass over everything; whether it could be done (libvirt could be read)."""
        with self._sweeping:
            begun = time.monotonic()
            done = self._sweep(force=force)
            self._measures.swept(done=done, seconds=time.monotonic() - begun)
            return done

    def _sweep(self, *, force: bool) -> bool:
        try:
            self.peers.load()
            self._recovery.sweep(force=force)
            forget_unasked()  # it has asked for all that there is
            self._swept.set()
            self._look_out()
        except LvagentError as error:
            self._trouble = str(error)
            log.warning("sweep: %s", error)
            return False
        except Exception:
            log.exception("sweep")
            self._trouble = "the sweep failed, see the log"
            return False
        self._look_for_strays()
        memory.trim()
        return True

    def _look_out(self) -> None:
        entries = self._index.all()
        for entry in entries:
            if entry.domain is not None and not entry.domain.active:
                self.revival.look(entry.spec.id)
        self._qemus.keep(entry.spec.id for entry in entries)
        self._take_down()

    def _look_for_strays(self) -> None:
        """That they could not be looked for is no reason not to serve."""
        try:
            self._strays.sweep()
        except LvagentError as error:
            log.warning("strays: %s", error)
        except Exception:
            log.exception("strays")

    def lose(self) -> None:
        """Note that libvirtd has gone or hangs: what is told is what was seen last, until it can be read again."""
        self._index.stale_since = self._index.stale_since or time.time()

    def start(self) -> None:
        """Start again what ends, from now on."""
        self.revival.start()

    def _glance(self, vm: str) -> None:
        """See whether somebody changed libvirt's definition of a VM by hand."""
        record = self._domains.record(vm)
        if record is not None:
            self._recovery.glance(record)

    def close(self) -> None:
        """Wait for what is under way and close what is open; VMs and VPCs stay."""
        self.revival.close()
        self._witness.close()
        self._measures.close()
        self._strays.close()
        self._vms.close()
        self._beside.shutdown(wait=True)
        self._networks.close()
        self._parts.monitors.close()
        self._domains.close()
        self._timeline.close()
