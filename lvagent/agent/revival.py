"""VMs that ended though they are wanted running: which stay so, and which are started again, and when.

Whoever sees that something changed (an event, the sweep) says ``look``; what is to be done is decided under the VM's
lock, by what libvirt says then. So it does not matter how often that is said, nor by whom.

* It crashed: started again, as its ``restart`` says.
* Its guest shut itself down: with ``restart: always`` the same; else that is its wish from now on, so that neither the
  sweep nor a boot of the host starts it. Not while the host itself goes down: then its guests are shut down, too.
* It migrated away, and its definition stayed here: it runs elsewhere, with the same disks. Its wish is to be stopped.
* Whatever else ended it (``virsh destroy``, a save): it stays as it is, and its wish, too.

A try takes the same way as a start that somebody asks for.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lvagent.agent import restart
from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.locks import VmLocks
from lvagent.agent.news import News
from lvagent.agent.ports import Domains
from lvagent.agent.power import Power
from lvagent.agent.restart import Tries
from lvagent.agent.timeline import Timeline
from lvagent.agent.trace import Trace
from lvagent.agent.vms import Vms
from lvagent.errors import LvagentError, NotFound, Unavailable
from lvagent.host.libvirt import AWAY, BY_GUEST, DomainState
from lvagent.spec.status import Action, State

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.5
"""When to look again at a VM that somebody works on."""

AT_ONCE = 4
"""VMs that are started again at the same time."""


class Revival:
    """Decides, and starts what is due.

    :param going_down: whether the host is about to stop.
    :param clock: seconds; never goes back.
    """

    def __init__(
        self,
        index: Index,
        locks: VmLocks,
        domains: Domains,
        vms: Vms,
        power: Power,
        news: News,
        timeline: Timeline,
        *,
        going_down: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._locks = locks
        self._domains = domains
        self._vms = vms
        self._power = power
        self._news = news
        self._timeline = timeline
        self._going_down = going_down
        self._clock = clock
        self._changed = threading.Condition()
        self._tries: dict[str, Tries] = {}
        self._looks: dict[str, float] = {}
        self._under_way = 0
        self._stopped = False
        self._starts = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="start-again")
        self._thread = threading.Thread(target=self._run, name="revival", daemon=True)

    def start(self) -> None:
        """Start what is due, from now on."""
        self._thread.start()

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._starts.shutdown(wait=True, cancel_futures=True)

    # what others say and ask

    def look(self, vm: str) -> None:
        """Something may have ended this VM. Never waits."""
        self._look_at(vm, self._clock())

    def forget(self, vm: str) -> None:
        """Somebody said what he wants of this VM: earlier tries do not count, and none is due."""
        with self._changed:
            self._tries.pop(vm, None)

    def failure(self, vm: str) -> str | None:
        """Why it is not started again any more; None: that is not so."""
        with self._changed:
            tries = self._tries.get(vm)
            return tries.failure if tries is not None and tries.given_up else None

    @property
    def idle(self) -> bool:
        """Whether no start is under way."""
        with self._changed:
            return not self._under_way

    # when

    def _look_at(self, vm: str, when: float) -> None:
        with self._changed:
            self._looks[vm] = min(when, self._looks.get(vm, when))
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self.work()
            except Exception:  # this thread is the only one that starts VMs again: like the sweep's it must go on
                log.exception("looking after VMs that ended")
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._next() <= self._clock(), self._pause())

    def _next(self) -> float:
        due = (tries.due for tries in self._tries.values() if tries.due is not None)
        return min((*self._looks.values(), *due), default=float("inf"))

    def _pause(self) -> float:
        return max(0.0, min(self._next() - self._clock(), 60.0))

    def work(self) -> None:
        """Do what is due now."""
        now = self._clock()
        with self._changed:
            looks = [vm for vm, when in self._looks.items() if when <= now]
            for vm in looks:
                del self._looks[vm]
        for vm in looks:
            self._judge(vm)
        with self._changed:
            due = [vm for vm, tries in self._tries.items() if tries.due is not None and tries.due <= now]
            for vm in due:
                self._tries[vm] = restart.begun(self._tries[vm], now)
                self._under_way += 1
        for vm in due:
            self._starts.submit(self._start, vm)

    # what

    def _judge(self, vm: str) -> None:
        """Decide what the end of a VM means, if it has ended."""
        with self._locks.attempt(vm) as held:
            if not held:
                self._look_at(vm, self._clock() + BUSY_SECONDS)
                return
            try:
                entry, state = self._fresh(vm)
                if entry is None:
                    self.forget(vm)
                elif state is not None and state.active:
                    self._runs(vm)
                elif state is not None:
                    self._ended(entry, state)
            except LvagentError as error:  # the sweep comes again
                log.warning("%s: %s", vm, error)

    def _fresh(self, vm: str) -> tuple[Entry | None, DomainState | None]:
        """The VM, if it is wanted running and somebody saw it through its create, and its state in libvirt now."""
        entry = self._index.get(vm)
        if entry is None or entry.phase is not Phase.LIVE or entry.power != "running" or entry.created is None:
            return None, None
        try:
            state = self._domains.state(vm)
        except NotFound:
            return None, None
        self._index.observed(vm, state)
        return entry, None if entry.outdated else state

    def _runs(self, vm: str) -> None:
        if self.failure(vm) is not None:  # somebody started it by hand
            self.forget(vm)

    def _ended(self, entry: Entry, state: DomainState) -> None:
        vm, crashed, shut_down = entry.spec.id, state.state is State.CRASHED, state.reason == BY_GUEST
        again = (crashed or shut_down) and restart.covers(entry.spec.restart, crashed=crashed)
        away = state.reason == AWAY
        if not again and not shut_down and not away:
            return
        if self._going_down() and not away:
            log.info("%s: %s while the host goes down", vm, state.reason)
        elif again:
            self._count(vm, state.reason)
        else:
            self._vms.confirm(vm)
            self._power.wish(vm, "stopped")
            log.info("%s: %s; it stays so", vm, state.reason)

    def _count(self, vm: str, reason: str) -> None:
        now = self._clock()
        with self._changed:
            before = self._tries.get(vm, Tries())
            after = self._tries[vm] = restart.ended(before, now, reason)
            self._changed.notify_all()
        if after is before:
            return
        if after.given_up:
            log.warning("%s: %s", vm, after.failure)
            self._news.publish(vm, "restart-given-up", reason=after.reason, tries=len(after.begun))
            self._timeline.record(vm, "given up", {"reason": after.reason, "tries": len(after.begun)})
        elif after.due is not None:
            log.warning("%s: %s; it is started again in %.0f s", vm, reason, after.due - now)
            self._news.publish(vm, "restart-due", reason=reason, seconds=round(after.due - now, 1))

    def _start(self, vm: str) -> None:
        try:
            with self._locks.hold(vm):
                self._again(vm)
        finally:
            self._now(vm, restart.tried)
            with self._changed:
                self._under_way -= 1

    def _again(self, vm: str) -> None:
        """Start it, if it is still so that it should be."""
        try:
            entry, state = self._fresh(vm)
            tries = self._known(vm)
            if entry is None:
                self.forget(vm)
            elif state is not None and not state.active and tries is not None:
                self._news.publish(vm, "restart", attempt=len(tries.begun), reason=tries.reason)
                self._vms.confirm(vm)
                trace = Trace()
                with self._timeline.operation(vm, "restart", trace):
                    self._power.act(entry, Action.START, trace)
        except Unavailable as error:
            log.warning("%s: %s", vm, error)
            self._now(vm, lambda now: restart.put_off(now, self._clock()))
        except LvagentError as error:
            self._failed(vm, str(error))
        except Exception:  # nobody waits for this thread
            log.exception("starting %s again", vm)

    def _known(self, vm: str) -> Tries | None:
        """What was tried; None: somebody said something else meanwhile, or the agent stops."""
        with self._changed:
            return None if self._stopped else self._tries.get(vm)

    def _now(self, vm: str, change: Callable[[Tries], Tries]) -> None:
        with self._changed:
            if vm in self._tries:
                self._tries[vm] = change(self._tries[vm])
                self._changed.notify_all()

    def _failed(self, vm: str, message: str) -> None:
        self._index.update(vm, lambda now: dataclasses.replace(now, error=message))
        self._now(vm, restart.tried)
        if self._known(vm) is not None:
            self._count(vm, f"it could not be started: {message}")
