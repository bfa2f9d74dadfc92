"""The flight recorder: what happened to each VM, in the order in which it happened; it outlives the VM and the agent.

Whoever records only puts a value into a queue, whatever lock he holds; one thread writes. What does not fit into the
queue, or onto the disk, is lost, and nothing waits for it. Every entry carries the VPCs that its VM was in then: by
them it is decided later who may read it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from lvagent.agent.index import Entry, Phase
from lvagent.agent.trace import Trace
from lvagent.errors import LvagentError
from lvagent.spec.status import CONSOLE, PhaseTime, State, TimelineEntry, iso_time

log = logging.getLogger(__name__)

QUEUED = 4096
CONSOLE_BYTES = 2048
"""How much of the serial console is kept when a VM ended badly."""

FIRST = "first"
"""The kind of a state that was there before the agent looked: an entry ``state``, or none."""

QUIET_ENDS = ("stopped", "shut down by the guest", "saved", "migrated away")
"""Reasons of an end that somebody wanted."""

STEP_SECONDS = 1.0
"""A time that is earlier by more than this than what was written before it: the clock was set back."""

Detail = Mapping[str, object]


class Recorder(Protocol):
    """Takes down what happened to a VM; never raises, never waits."""

    def record(self, vm: str, kind: str, detail: Detail) -> None: ...


class Pages(Protocol):
    """Where timelines are kept (``host.timelines.TimelineFiles``)."""

    def append(self, vm: str, line: Mapping[str, object]) -> None: ...
    def read(self, vm: str) -> list[dict[str, object]]: ...
    def tidy(self, there: Iterable[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Note:
    vm: str
    at: float
    kind: str
    detail: Detail
    vpcs: tuple[str, ...]
    noted: float | None = None
    """When it was seen, if that was later than when it happened."""


class Timeline:
    """The timelines of all VMs. May be called by many threads.

    :param pages: where they are kept.
    :param console: the last bytes of a VM's serial console.
    """

    def __init__(self, pages: Pages, console: Callable[[str, int], bytes]) -> None:
        self._pages = pages
        self._console = console
        self._queue: queue.Queue[_Note | threading.Event | None] = queue.Queue(QUEUED)
        self._vpcs: dict[str, tuple[str, ...]] = {}
        self.noted: Callable[[str], None] = lambda _kind: None
        """Is told the kind of each entry; must neither wait nor raise, as ``ended``."""
        self.ended: Callable[[str, str, BaseException | None, float], None] = lambda _vm, _what, _error, _seconds: None
        """Is told of the end of each operation: of which VM, what, with which error, and the seconds that it took."""
        self._writer = threading.Thread(target=self._write, name="timeline", daemon=True)
        self._writer.start()

    # recording

    def record(self, vm: str, kind: str, detail: Detail, *, at: float | None = None) -> None:
        """Take down what happened.

        :param at: when (Unix time); None: now.
        """
        now = time.time()
        vpcs = self._vpcs.get(vm, ())
        self._put(_Note(vm, now, kind, detail, vpcs) if at is None else _Note(vm, at, kind, detail, vpcs, noted=now))

    def _put(self, note: _Note) -> None:
        """Into the queue, if there is room."""
        if note.kind != FIRST:
            self.noted(note.kind)
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(note)

    @contextlib.contextmanager
    def operation(self, vm: str, what: str, trace: Trace, vpcs: Iterable[str] = ()) -> Iterator[None]:
        """Take down an operation, its phases, and how it ended.

        :param vpcs: those that the VM is in, if it may not be known yet.
        """
        known = tuple(vpcs) or self._vpcs.get(vm, ())
        self._vpcs[vm] = known
        begun = time.monotonic()
        try:
            yield
        except BaseException as error:
            told = {"error": "a defect; the agent's log says more"}
            if isinstance(error, LvagentError):
                told = {"error": str(error), "hint": error.hint, "phase": error.phase, "type": error.kind}
            self._end(vm, {"what": what, "outcome": "failed", **told, "ms": _ms(trace.phases)}, known)
            self.ended(vm, what, error, time.monotonic() - begun)
            raise
        self._end(vm, {"what": what, "outcome": "done", "ms": _ms(trace.phases)}, known)
        self.ended(vm, what, None, time.monotonic() - begun)

    def _end(self, vm: str, detail: Detail, known: tuple[str, ...]) -> None:
        """The end of an operation; after a delete nobody else may know any more in which VPCs it was."""
        self._put(_Note(vm, time.time(), "operation", detail, self._vpcs.get(vm) or known))

    def changed(self, before: Entry | None, after: Entry | None) -> None:
        """An entry of the index was added, replaced, or (``after`` None) dropped; see ``Index.watch``."""
        if after is None:
            self._dropped(before)
            return
        vm = after.spec.id
        self._vpcs[vm] = tuple(sorted({*after.carried.vpcs, *after.spec.vpcs}))
        there = None if before is None else before.domain
        if after.domain is None:
            if there is not None and after.phase is not Phase.DELETING:
                self.record(vm, "undefined", {})
        elif after.phase is Phase.CREATING and not after.domain.active:
            pass  # it was just defined
        elif there is None or (there.state, there.reason) != (after.domain.state, after.domain.reason):
            kind = FIRST if before is None else "state"
            self.record(vm, kind, {"state": str(after.domain.state), "reason": after.domain.reason})
        if after.error and (before is None or before.error != after.error):
            self.record(vm, "error", {"error": after.error})

    def _dropped(self, before: Entry | None) -> None:
        """An entry went: by a delete, because its create never ended, or without us."""
        if before is None or before.phase is Phase.CREATING:
            return  # the operation says why
        vm = before.spec.id
        if before.phase is Phase.DELETING:
            self.record(vm, "gone", {"reason": "deleted"})
        elif before.created is None:
            self.record(vm, "gone", {"reason": "it was never finished"})
        elif before.domain is not None:
            self.record(vm, "undefined", {})

    # writing

    def _write(self) -> None:
        while (note := self._queue.get()) is not None:
            if isinstance(note, threading.Event):
                note.set()
            else:
                self._keep(note)

    def _keep(self, note: _Note) -> None:
        kind = note.kind
        if kind == FIRST:  # the agent has just begun: told only if it is news since the one before
            known = next((one for one in reversed(self._pages.read(note.vm)) if one.get("kind") == "state"), None)
            if known is not None and known.get("detail") == note.detail:
                return
            kind = "state"
        self._append(note, kind, note.detail)
        if kind == "state" and _ended_badly(note.detail):
            with contextlib.suppress(OSError):
                tail = self._console(note.vm, CONSOLE_BYTES).decode(errors="replace")
                if tail:
                    self._append(note, CONSOLE, {"tail": tail})

    def _append(self, note: _Note, kind: str, detail: Detail) -> None:
        noted = {} if note.noted is None else {"noted": note.noted}
        line = {"at": note.at, **noted, "kind": kind, "vpcs": note.vpcs, "detail": dict(detail)}
        self._pages.append(note.vm, line)

    # reading

    def entries(self, vm: str) -> tuple[TimelineEntry, ...]:
        """All that is known of a VM, there or gone, oldest first; what was recorded until now is in it."""
        self.flush()
        return self.written(vm)

    def written(self, vm: str) -> tuple[TimelineEntry, ...]:
        """As ``entries``, but for what is not written yet: for who must not wait."""
        found = _in_order(self._pages.read(vm))
        return tuple(entry for line in found if (entry := _entry(line)) is not None)

    def flush(self, seconds: float = 5) -> None:
        """Wait until what was recorded until now is written, or the time is over."""
        written = threading.Event()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(written)
            written.wait(seconds)

    def tidy(self, there: Iterable[str]) -> None:
        """Keep the timelines within their bounds.

        :param there: the VMs that are not gone.
        """
        kept = frozenset(there)
        for vm in [vm for vm in list(self._vpcs) if vm not in kept]:
            self._vpcs.pop(vm, None)
        self._pages.tidy(kept)

    def close(self) -> None:
        """Write what is left, and end."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=5)
            self._writer.join(timeout=5)


def _ms(phases: Iterable[PhaseTime]) -> dict[str, float]:
    return {one.phase: one.ms for one in phases}


def _ended_badly(detail: Detail) -> bool:
    if detail.get("state") in (State.CRASHED, State.FAILED):
        return True
    return detail.get("state") == State.STOPPED and bool(detail.get("reason")) and detail["reason"] not in QUIET_ENDS


def _in_order(lines: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Lines as they were written, in the order in which it happened.

    That is by time, for of some things is written later than they happened; but a clock may be set back, and what was
    written afterwards came afterwards.
    """
    run, latest = 0, 0.0
    found: list[tuple[int, float, dict[str, object]]] = []
    for line in lines:
        at = _number(line.get("at"))
        noted = _number(line.get("noted", at))
        if noted < latest - STEP_SECONDS:
            run, latest = run + 1, 0.0
        latest = max(latest, noted)
        found.append((run, min(at, noted), line))
    return [line for _, _, line in sorted(found, key=lambda one: one[:2])]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _entry(line: Mapping[str, object]) -> TimelineEntry | None:
    """A line as an entry; None for one that this version does not understand."""
    detail, vpcs = line.get("detail"), line.get("vpcs")
    if not isinstance(detail, dict) or not isinstance(vpcs, list):
        return None
    return TimelineEntry(iso_time(_number(line.get("at"))), str(line.get("kind")), tuple(map(str, vpcs)), detail)
