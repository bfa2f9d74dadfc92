"""Operations: what changes a VM runs in a thread of its own, whoever waits for it.

A client that hangs up cancels nothing. Operations of one VM run one after the other, in the order they came; those of
different VMs beside each other. The last ones that ended are kept for who asks later; all is forgotten when the agent
ends, for an operation is either done by then or taken up by the next sweep.
"""

from __future__ import annotations

import collections
import datetime
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lvagent.agent.news import Plain
from lvagent.api.problems import Unexpected
from lvagent.api.protocol import Watch
from lvagent.api.workers import Workers
from lvagent.errors import LvagentError, NotFound, Unavailable
from lvagent.spec.status import PhaseTime, PutResult, VmStatus

log = logging.getLogger(__name__)

Result = PutResult | VmStatus | None
Work = Callable[[Watch], Result]

KEPT = 256
"""How many operations are remembered after their end."""

QUEUED = 4
"""How many operations may be unfinished, for each that may run."""


class Lane(StrEnum):
    """By which door an operation was asked for. Each has threads and places of its own, so that neither fills both."""

    SOCKET = "socket"
    TCP = "tcp"


class Progress(StrEnum):
    """How far an operation is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class OperationView:
    """An operation at one moment. Times are RFC 3339; ``ended_at`` None while it runs."""

    id: str
    kind: str
    vm: str
    status: Progress
    phases: tuple[PhaseTime, ...]
    result: Result
    error: LvagentError | None
    started_at: str
    ended_at: str | None


class Operation:
    """One change of one VM, running or done. ``vpcs``: those that the VM was in, or will be, when it was asked for."""

    def __init__(
        self,
        kind: str,
        vm: str,
        work: Work,
        *,
        vpcs: Iterable[str],
        lane: Lane,
        same: Hashable,
        phases: Sequence[PhaseTime],
    ) -> None:
        self.vpcs = frozenset(vpcs)
        self.lane = lane
        self.id = f"op-{secrets.token_hex(8)}"
        self.kind = kind
        self.vm = vm
        self.same = same
        self._work: Work | None = work
        self._changed = threading.Condition()
        self._phases = list(phases)
        self._progress = Progress.RUNNING
        self._result: Result = None
        self._error: LvagentError | None = None
        self._started_at = _now()
        self._ended_at: str | None = None
        self._listeners: list[Listener] = []

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._progress is Progress.RUNNING

    def run(self) -> None:
        """Do the work; whatever it raises becomes the outcome."""
        work, self._work = self._work, None
        assert work is not None, "an operation runs once"
        try:
            result = work(self._note)
        except LvagentError as error:
            self._end(Progress.FAILED, None, error)
        except Exception:
            unexpected = Unexpected()
            log.exception("error %s in %s of %s", unexpected.ident, self.kind, self.vm)
            self._end(Progress.FAILED, None, unexpected)
        else:
            self._end(Progress.SUCCEEDED, result, None)

    def _note(self, phase: PhaseTime) -> None:
        with self._changed:
            self._phases.append(phase)
            self._changed.notify_all()

    def _end(self, progress: Progress, result: Result, error: LvagentError | None) -> None:
        with self._changed:
            self._progress, self._result, self._error = progress, result, error
            self._ended_at = _now()
            self.same = None
            listeners, self._listeners = self._listeners, []
            self._changed.notify_all()
        view = self.view()
        for listener in listeners:
            listener(view)

    def when_ended(self, listener: Listener) -> None:
        """Have a function called at its end, or now if it has ended. It must not raise."""
        with self._changed:
            if self.running:
                self._listeners.append(listener)
                return
        listener(self.view())

    def wait(self, seconds: float, seen: int | None = None) -> None:
        """Wait for its end, or, if ``seen`` is given, until it has more than that many phases."""

        def enough() -> bool:
            return not self.running or (seen is not None and len(self._phases) > seen)

        with self._changed:
            self._changed.wait_for(enough, seconds)

    def view(self) -> OperationView:
        """How it stands now."""
        with self._changed:
            return OperationView(
                id=self.id,
                kind=self.kind,
                vm=self.vm,
                status=self._progress,
                phases=tuple(self._phases),
                result=self._result,
                error=self._error,
                started_at=self._started_at,
                ended_at=self._ended_at,
            )


Listener = Callable[[OperationView], None]
Told = Callable[[str, str, Mapping[str, Plain], frozenset[str]], None]
"""``agent.news.News.tell``: of which VM, what, with which details, in which VPCs."""


class Seats:
    """Where callers of one door wait, so that there are always threads left to answer with.

    :param most: how many may wait at once; a caller beyond that is told at once how things stand.
    """

    def __init__(self, most: int) -> None:
        self._seats = threading.BoundedSemaphore(most)

    def wait(self, operation: Operation, seconds: float, seen: int | None = None) -> None:
        """``operation.wait``, if there is a seat left to wait on."""
        if seconds > 0 and operation.running and self._seats.acquire(blocking=False):
            try:
                operation.wait(seconds, seen)
            finally:
                self._seats.release()


class Operations:
    """All operations of an agent.

    :param most: how many of each lane run at once; four times as many may be unfinished.
    :param told: is told that one began, and how it ended.
    """

    def __init__(self, *, most: int, told: Told = lambda _vm, _kind, _detail, _vpcs: None) -> None:
        self._told = told
        self._lock = threading.Lock()
        self._most = most * QUEUED
        self._queues: dict[str, collections.deque[Operation]] = {}
        self._known: dict[str, Operation] = {}
        self._ended: collections.deque[str] = collections.deque()
        self._unfinished: Counter[Lane] = Counter()
        self._closed = False
        self._workers = {lane: Workers(self._run, most=most, name=f"operation-{lane}") for lane in Lane}

    def submit(
        self,
        kind: str,
        vm: str,
        work: Work,
        *,
        vpcs: Iterable[str] = (),
        lane: Lane = Lane.SOCKET,
        same: Hashable = None,
        phases: Sequence[PhaseTime] = (),
    ) -> Operation:
        """Have something done to a VM, after all that was asked of it before.

        :param vpcs: the VPCs of the VM; who may not see them all does not see the operation.
        :param lane: whose threads and places it takes.
        :param same: if the last unfinished operation of this VM was given an equal value, that one is the answer.
        :param phases: what was done for it already.
        :raise Unavailable: there is too much to do already, or the agent is stopping.
        """
        with self._lock:
            queue = self._queues.get(vm)
            if queue and same is not None and queue[-1].same == same:
                return queue[-1]
            self._admit(lane)
            operation = Operation(kind, vm, work, vpcs=vpcs, lane=lane, same=same, phases=phases)
            self._known[operation.id] = operation
            self._unfinished[lane] += 1
            queue = self._queues.setdefault(vm, collections.deque())
            queue.append(operation)
            if len(queue) == 1:
                self._workers[lane].put(operation)
            return operation

    def _admit(self, lane: Lane) -> None:
        if self._closed:
            raise Unavailable("the agent", hint="it is stopping; try again when it is back")
        if self._unfinished[lane] >= self._most:
            raise Unavailable("a worker", hint=f"{self._most} operations are under way; try again soon")

    def _run(self, operation: Operation) -> None:
        named = {"operation": operation.id, "action": operation.kind}
        self._told(operation.vm, "operation-started", named, operation.vpcs)
        operation.run()
        view = operation.view()
        failed = {} if view.error is None else {"problem": view.error.kind, "error": str(view.error)}
        self._told(operation.vm, "operation-ended", {**named, "status": view.status.value, **failed}, operation.vpcs)
        with self._lock:
            self._unfinished[operation.lane] -= 1
            queue = self._queues[operation.vm]
            queue.popleft()
            if queue:
                self._workers[queue[0].lane].put(queue[0])
            else:
                del self._queues[operation.vm]
            self._ended.append(operation.id)
            if len(self._ended) > KEPT:
                del self._known[self._ended.popleft()]

    def queued(self, vm: str) -> tuple[Operation, ...]:
        """What is being done to this VM, and what will be after it."""
        with self._lock:
            return tuple(self._queues.get(vm, ()))

    def get(self, ident: str) -> Operation:
        """One operation.

        :raise NotFound: there is none of this id, or it ended long ago.
        """
        with self._lock:
            if ident not in self._known:
                raise NotFound("operation", ident)
            return self._known[ident]

    def all(self) -> tuple[Operation, ...]:
        """All that are known, oldest first."""
        with self._lock:
            return tuple(self._known.values())

    def close(self, timeout: float) -> bool:
        """Take no more and wait for those that are under way.

        :param timeout: seconds to wait at most.
        :return: whether all have ended.
        """
        with self._lock:
            self._closed = True
        deadline = time.monotonic() + timeout
        for operation in self.all():
            operation.wait(max(0.0, deadline - time.monotonic()))
        stopped = [workers.stop(max(0.0, deadline - time.monotonic())) for workers in self._workers.values()]
        return all(stopped)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
