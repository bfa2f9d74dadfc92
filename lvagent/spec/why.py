"""Why a VM is as it is: rules over its status and its timeline, the first that fits. PURE.

Both are as the API answers them, so that the rules work wherever these can be read.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

Json = Mapping[str, object]

PATIENCE_SECONDS = 90.0
"""How long a guest may take until it asks for its address; emulated ones are slow."""

SOON_SECONDS = 5.0
"""Within which what is seen in libvirt after an operation is still of its making."""

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class Reason:
    """``what`` happened, in plain words, and what to do about it (``todo``; empty: nothing)."""

    what: str
    todo: str = ""


BESIDE = ("ports", "floating")
"""Operations that do nothing to a VM itself."""


@dataclass(frozen=True, slots=True)
class Case:
    """A VM: its status (None: it is gone), its timeline, and the time at which one looks."""

    vm: str
    status: Json | None
    entries: Sequence[Json]
    now: datetime.datetime

    @property
    def state(self) -> str:
        """Its state; empty: it is gone."""
        return "" if self.status is None else str(self.status.get("state"))

    def last(self, *kinds: str) -> Json | None:
        """The last entry of one of these kinds; what leads to a VM from outside says nothing of how it runs."""
        found = (one for one in reversed(self.entries) if one.get("kind") in kinds)
        return next((one for one in found if detail(one).get("what") not in BESIDE), None)

    def since_start(self, kind: str) -> Json | None:
        """The last entry of a kind since the guest was started."""
        entry, start = self.last(kind), self._start
        return entry if entry is not None and (start is None or self.follows(entry, start)) else None

    def follows(self, one: Json, other: Json) -> bool:
        """Whether an entry comes after another one. Their order tells, not their times: the clock may be set back."""
        order = [id(entry) for entry in self.entries]
        return order.index(id(one)) > order.index(id(other))

    @property
    def _start(self) -> Json | None:
        begun = ("booted", "restored", "migrated")
        states = (one for one in reversed(self.entries) if one.get("kind") == "state")
        return next((one for one in states if detail(one).get("reason") in begun), None)

    @property
    def started(self) -> str:
        """When the guest was started last (RFC 3339); empty: that is not known."""
        return "" if self._start is None else str(self._start["at"])

    def ran(self, end: Json) -> str:
        """How long it ran until an entry, in words; empty if that is not known, or the clock was set back meanwhile."""
        seconds = _seconds(self.started, str(end["at"])) if self.started else -1.0
        return f", {seconds:.0f} s after it was started" if seconds >= 0 else ""


def detail(entry: Json) -> Json:
    """What an entry has to say."""
    return cast(Json, entry.get("detail") or {})


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _seconds(begin: str, end: str) -> float:
    return (_time(end) - _time(begin)).total_seconds()


def _soon(one: Json, other: Json) -> bool:
    return 0 <= _seconds(str(one["at"]), str(other["at"])) <= SOON_SECONDS


Rule = Callable[[Case], Reason | None]


def refused_start(case: Case) -> Reason | None:
    """The hook could not plug its port: libvirt did not start it."""
    entry = case.last("not plugged", "plugged")
    if entry is None or entry["kind"] == "plugged" or case.state in ("running", "paused"):
        return None
    after = case.last("operation")
    if after is not None and detail(after).get("outcome") == "done" and case.follows(after, entry):
        return None  # something else was asked for since
    told = detail(entry)
    text = f"its port could not be plugged, so it was not started: {told.get('error')}"
    return Reason(text, str(told.get("hint") or "lvagent doctor"))


def failed_operation(case: Case) -> Reason | None:
    """The last thing that was asked for failed."""
    entry = case.last("operation")
    if entry is None or detail(entry).get("outcome") != "failed":
        return None
    state = case.last("state")
    if state is not None and case.follows(state, entry) and not _soon(entry, state):
        return None  # more happened since
    told = detail(entry)
    where = f" in the phase {told['phase']}" if told.get("phase") else ""
    what = f"{told.get('what')} failed{where} at {entry['at']}: {told.get('error')}"
    return Reason(what, str(told.get("hint") or "mend that, and ask for it again"))


def gone(case: Case) -> Reason | None:
    """It is not there any more."""
    entry = case.last("operation", "undefined", "gone")
    if case.status is not None:
        return None
    if entry is None:
        return Reason("it is gone, and nothing tells why")
    told, at = detail(entry), entry["at"]
    if told.get("outcome") == "failed":
        return failed_operation(case)
    if told.get("what") == "delete" or told.get("reason") == "deleted":
        return Reason(f"it was deleted at {at}")
    if entry["kind"] == "gone":
        return Reason(f"its create was interrupted, and what there was of it was removed at {at}", "PUT it again")
    if entry["kind"] == "undefined":
        return Reason(f"libvirt has no such domain: undefined by hand, seen at {at}", "PUT its spec again")
    return Reason("it is gone, and nothing tells why")


def given_up(case: Case) -> Reason | None:
    """It crashed so often that it is not started again any more."""
    entry, undone = case.last("given up"), case.last("undefined")
    if case.state != "failed" or entry is None or (undone is not None and case.follows(undone, entry)):
        return None
    told = detail(entry)
    what = f"it ended again after {told.get('tries')} restarts, so it was given up at {entry['at']}"
    return Reason(f"{what}: {told.get('reason')}", _look_into(case))


def _look_into(case: Case) -> str:
    """Where it may say why it ended."""
    return f"lvagent vm log {case.vm}; /var/log/libvirt/qemu/{case.vm}.log; then lvagent vm start {case.vm}"


def undefined(case: Case) -> Reason | None:
    """Somebody took its domain away."""
    entry = case.last("undefined")
    if case.state != "failed":
        return None
    at = f", seen at {entry['at']}" if entry is not None else ""
    return Reason(f"libvirt has no such domain: it was undefined by hand{at}", "PUT its spec again, or DELETE it")


def under_way(case: Case) -> Reason | None:
    """Something is being done to it."""
    words = {"pending": "it is being made", "deleting": "it is being deleted"}
    return Reason(words[case.state], "look again in a moment") if case.state in words else None


def crashed(case: Case) -> Reason | None:
    """Its qemu ended by no wish of anybody."""
    if case.state != "crashed":
        return None
    entry = case.last("state")
    ran = case.ran(entry) if entry is not None else ""
    status = case.status or {}
    if status.get("process"):
        what = f"its guest crashed ({status.get('reason')}){ran}; its qemu goes on, with its memory"
        return Reason(what, f"lvagent vm log {case.vm}; then lvagent vm stop {case.vm}, lvagent vm start {case.vm}")
    what = f"its qemu ended unexpectedly (killed, out of memory, or a defect){ran}"
    if status.get("wanted") == "running" and status.get("restart") in ("on-failure", "always"):
        return Reason(f"{what}; it is started again by itself", "look again in a minute")
    return Reason(what, _look_into(case))


def stopped(case: Case) -> Reason | None:
    """It does not run."""
    if case.state != "stopped":
        return None
    entry, asked = case.last("state"), case.last("operation")
    reason = str((case.status or {}).get("reason"))
    start = f"lvagent vm start {case.vm}"
    at = f" at {entry['at']}{case.ran(entry)}" if entry is not None else ""
    if asked is not None and detail(asked).get("what") in ("stop", "shutdown"):
        return Reason(f"it was asked to {detail(asked)['what']} at {asked['at']}", start)
    if reason == "shut down by the guest":
        return Reason(f"the guest shut itself down{at}", start)
    if reason == "could not be started":
        return Reason(f"libvirt could not start it{at}", f"/var/log/libvirt/qemu/{case.vm}.log says why; {start}")
    if reason == "stopped":
        return Reason(f"it was stopped outside of lvagent (virsh destroy, say){at}", start)
    return Reason(f"it does not run: {reason or 'it was not started since the host was booted'}", start)


def paused(case: Case) -> Reason | None:
    """Its CPUs stand still."""
    if case.state != "paused":
        return None
    if (case.status or {}).get("reason") == "paused by an I/O error":
        text = "qemu paused it at an I/O error: the disk of its volumes is full, or broken"
        return Reason(text, f"df; make room; then lvagent vm resume {case.vm}")
    return Reason(f"it is {(case.status or {}).get('reason') or 'paused'}", f"lvagent vm resume {case.vm}")


def troubled(case: Case) -> Reason | None:
    """The agent itself has something to say of it."""
    error = (case.status or {}).get("error")
    return Reason(str(error), "docs/operations.md, When something is wrong") if error else None


def silent(case: Case) -> Reason | None:
    """It runs and never spoke to its VPC."""
    if case.state != "running" or not case.started or case.since_start("dhcp") or case.since_start("metadata"):
        return None
    age = max(0.0, (case.now - _time(case.started)).total_seconds())
    if age < PATIENCE_SECONDS:
        return Reason(f"it was started {age:.0f} s ago, and has not asked for an address yet", "look again in a minute")
    text = "it never asked for an address: the guest's network did not come up"
    return Reason(text, f"lvagent vm log {case.vm} (does it boot? has it a driver for virtio, a DHCP client?)")


def no_metadata(case: Case) -> Reason | None:
    """It has its address and no keys."""
    if case.state != "running" or not case.since_start("dhcp") or case.last("metadata"):
        return None
    text = "it has its address, and never asked for metadata: it has no SSH keys from there"
    return Reason(text, "does its image have cloud-init? is datasource the one that it looks for?")


def closed(case: Case) -> Reason | None:
    """It is well, and no rule lets SSH in."""
    rules = cast(Sequence[Json], (case.status or {}).get("rules") or ())
    if case.state != "running" or any(map(_opens_ssh, rules)):
        return None
    text = "it runs, but no rule lets SSH in"
    return Reason(text, f'PUT it with a rule {{"proto": "tcp", "port": {SSH_PORT}}}; lvagent vm rules {case.vm}')


def _opens_ssh(rule: Json) -> bool:
    if rule.get("direction") == "egress" or rule.get("proto") not in ("tcp", "any"):
        return False
    first = cast(int, rule.get("port") or 0)
    return not first or first <= SSH_PORT <= cast(int, rule.get("port_end") or first)


def refused(case: Case) -> Reason | None:
    """The filter dropped packets to it."""
    entry = case.since_start("refused")
    if case.state != "running" or entry is None or not detail(entry).get("in"):
        return None
    text = f"it runs; its rules kept {detail(entry)['in']} packets out, the last told at {entry['at']}"
    return Reason(text, f"lvagent vm rules {case.vm}: is what you miss among them?")


def drifting(case: Case) -> Reason | None:
    """It runs with an older spec, or somebody changed its definition by hand."""
    details = cast(Sequence[Mapping[str, object]], (case.status or {}).get("drift_details") or ())
    if not details:
        return None
    fields = [str(one["path"]) for one in details if one["place"] == "guest"]
    if not fields:
        text = f"somebody changed {', '.join(str(one['path']) for one in details)} in its definition by hand"
        return Reason(
            text, f"lvagent vm show {case.vm}, then lvagent vm restore {case.vm} or lvagent vm accept {case.vm}"
        )
    text = f"it runs with an older {', '.join(fields)} than was asked for"
    return Reason(text, f"lvagent vm stop {case.vm}, then lvagent vm start {case.vm}")


RULES: tuple[Rule, ...] = (
    refused_start,
    gone,
    given_up,
    undefined,
    under_way,
    crashed,
    failed_operation,
    stopped,
    paused,
    troubled,
    silent,
    no_metadata,
    closed,
    refused,
    drifting,
)
"""In this order; the first that has something to say."""


def explain(case: Case) -> Reason:
    """What happened last, in plain words, and what to do."""
    found = (rule(case) for rule in RULES)
    todo = f"lvagent vm ssh {case.vm}; lvagent vm log {case.vm}"
    well = Reason("it runs, and from outside nothing is wrong with it", todo)
    return next((reason for reason in found if reason is not None), well)
