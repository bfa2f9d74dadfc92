"""Why a VM is as it is: each case has its words."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from lvagent.spec.why import RULES, Case, Json, Rule, explain

VM = "i-0000000001"
START = datetime.datetime(2026, 11, 26, 12, 0, 0, tzinfo=datetime.UTC)
SSH = {"proto": "tcp", "port": 22, "port_end": None, "direction": None}
RUNS = {"state": "running", "reason": "booted", "error": None, "drift": [], "rules": [SSH]}


def drifted(place: str) -> Json:
    return {**RUNS, "drift": ["memory_mb"], "drift_details": [{"path": "memory_mb", "place": place}]}


def at(second: float) -> str:
    return (START + datetime.timedelta(seconds=second)).isoformat(timespec="milliseconds")


def entry(second: float, kind: str, **detail: object) -> Json:
    return {"at": at(second), "kind": kind, "vpcs": [], "detail": detail}


def done(second: float, what: str) -> Json:
    return entry(second, "operation", what=what, outcome="done", ms={})


def undone(second: float, what: str, error: str, phase: str = "") -> Json:
    return entry(second, "operation", what=what, outcome="failed", error=error, phase=phase, hint="mend it")


def state(second: float, name: str, reason: str) -> Json:
    return entry(second, "state", state=name, reason=reason)


MADE = [entry(0, "plugged"), state(1, "running", "booted"), done(1, "create")]
HEARD = [*MADE, entry(5, "dhcp", address="10.0.0.5"), entry(6, "metadata", requests=3)]
REFUSED = entry(2, "not plugged", error="cannot plug t0: no bridge", hint="look")

CASES: dict[str, tuple[Json | None, list[Json], str, str]] = {
    "well": (RUNS, HEARD, "nothing is wrong with it", f"lvagent vm ssh {VM}"),
    "no state yet": (RUNS, [done(1, "create")], "nothing is wrong with it", "vm log"),
    "port": ({"state": "stopped", "reason": ""}, [REFUSED], "its port could not be plugged", "look"),
    "port of a create": (None, [REFUSED, undone(3, "create", "refused")], "port could not be plugged", "look"),
    "port mended": (RUNS, [REFUSED, *HEARD], "nothing is wrong", "vm ssh"),
    "port, then stopped": (
        {"state": "stopped", "reason": "stopped"},
        [REFUSED, done(3, "stop")],
        f"asked to stop at {at(3)}",
        "start",
    ),
    "stopped, then published": (
        {"state": "stopped", "reason": "stopped"},
        [*HEARD, done(7, "stop"), done(8, "ports"), undone(9, "floating", "taken")],
        f"asked to stop at {at(7)}",
        "start",
    ),
    "create failed": (
        None,
        [undone(2, "create", "no space", "volume")],
        "create failed in the phase volume at 2026-11-26T12:00:02.000+00:00: no space",
        "mend it",
    ),
    "gone": (None, HEARD, "nothing tells why", ""),
    "change failed": (
        RUNS,
        [*HEARD, undone(9, "change", "no space", "volume")],
        "change failed in the phase vol",
        "mend",
    ),
    "change failed, then killed": (
        {"state": "stopped", "reason": "stopped"},
        [*HEARD, undone(9, "change", "no space"), state(30, "stopped", "stopped")],
        "stopped outside of lvagent",
        "start",
    ),
    "deleted": (None, [*HEARD, done(9, "delete")], f"it was deleted at {at(9)}", ""),
    "delete taken up": (None, [*HEARD, entry(9, "gone", reason="deleted")], f"it was deleted at {at(9)}", ""),
    "create given up": (None, [entry(9, "gone", reason="it was never finished")], "its create was interrupted", "PUT"),
    "gone by hand": (None, [*HEARD, entry(9, "undefined")], f"undefined by hand, seen at {at(9)}", "PUT"),
    "undefined": ({"state": "failed", "reason": ""}, [*HEARD, entry(9, "undefined")], "undefined by hand", "DELETE"),
    "pending": ({"state": "pending"}, [], "it is being made", "in a moment"),
    "deleting": ({"state": "deleting"}, HEARD, "it is being deleted", "in a moment"),
    "killed": (
        {"state": "crashed", "reason": "qemu ended unexpectedly"},
        [*HEARD, state(13, "crashed", "qemu ended unexpectedly")],
        "ended unexpectedly (killed, out of memory, or a defect), 12 s after it was started",
        f"/var/log/libvirt/qemu/{VM}.log",
    ),
    "killed, and wanted": (
        {"state": "crashed", "reason": "qemu ended unexpectedly", "wanted": "running", "restart": "on-failure"},
        [*HEARD, state(13, "crashed", "qemu ended unexpectedly")],
        "it is started again by itself",
        "look again",
    ),
    "killed, the clock set back": (
        {"state": "crashed", "reason": "qemu ended unexpectedly"},
        [*HEARD, state(-9000, "crashed", "qemu ended unexpectedly")],
        "ended unexpectedly (killed, out of memory, or a defect)",
        f"/var/log/libvirt/qemu/{VM}.log",
    ),
    "port, then the clock set back and stopped": (
        {"state": "stopped", "reason": "stopped"},
        [REFUSED, done(-9000, "stop")],
        f"asked to stop at {at(-9000)}",
        "start",
    ),
    "change failed, then the clock set back and killed": (
        {"state": "stopped", "reason": "stopped"},
        [*HEARD, undone(9, "change", "no space"), state(-9000, "stopped", "stopped")],
        "stopped outside of lvagent",
        "start",
    ),
    "given up": (
        {"state": "failed", "reason": "given up"},
        [*HEARD, done(20, "restart"), entry(31, "given up", reason="qemu ended unexpectedly", tries=5)],
        f"after 5 restarts, so it was given up at {at(31)}: qemu ended unexpectedly",
        "vm start",
    ),
    "given up, then undefined": (
        {"state": "failed", "reason": "libvirt has no such domain"},
        [*HEARD, entry(31, "given up", reason="qemu ended unexpectedly", tries=5), entry(40, "undefined")],
        f"undefined by hand, seen at {at(40)}",
        "PUT its spec again",
    ),
    "panic": (
        {"state": "crashed", "reason": "panic", "process": {"pid": 7}},
        [*HEARD, state(13, "crashed", "panic")],
        "its guest crashed (panic), 12 s after it was started",
        "vm stop",
    ),
    "powered off": (
        {"state": "stopped", "reason": "shut down by the guest"},
        [*HEARD, state(21, "stopped", "shut down by the guest")],
        "the guest shut itself down at",
        "vm start",
    ),
    "destroyed": (
        {"state": "stopped", "reason": "stopped"},
        [*HEARD, state(21, "stopped", "stopped")],
        "stopped outside of lvagent (virsh destroy, say)",
        "vm start",
    ),
    "not started": ({"state": "stopped", "reason": ""}, [], "not started since the host was booted", "vm start"),
    "start refused": (
        {"state": "stopped", "reason": "could not be started"},
        [state(2, "stopped", "could not be started")],
        "libvirt could not start it",
        "says why",
    ),
    "disk full": ({"state": "paused", "reason": "paused by an I/O error"}, HEARD, "I/O error", "df"),
    "paused": ({"state": "paused", "reason": "paused by user"}, HEARD, "it is paused by user", "resume"),
    "outdated": ({**RUNS, "error": "libvirt has an older definition"}, HEARD, "older definition", "operations.md"),
    "silent": (RUNS, MADE, "it never asked for an address", "vm log"),
    "silent since its restart": (RUNS, [*HEARD, state(50, "running", "booted")], "it never asked", "vm log"),
    "no metadata": (RUNS, HEARD[:-1], "never asked for metadata", "cloud-init"),
    "no SSH": ({**RUNS, "rules": []}, HEARD, "no rule lets SSH in", '"port": 22'),
    "refused": (RUNS, [*HEARD, entry(40, "refused", **{"in": 7, "out": 0})], "kept 7 packets out", "vm rules"),
    "drift": (drifted("guest"), HEARD, "an older memory_mb", "vm start"),
    "edited": (drifted("definition"), HEARD, "changed memory_mb in its definition", "vm accept"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_case_has_its_words(name: str) -> None:
    status, entries, what, todo = CASES[name]
    found = explain(Case(VM, status, entries, START + datetime.timedelta(seconds=600)))
    assert what in found.what
    assert todo in found.todo


def test_a_young_guest_is_given_time() -> None:
    found = explain(Case(VM, RUNS, MADE, START + datetime.timedelta(seconds=31)))
    assert found.what == "it was started 30 s ago, and has not asked for an address yet"


def test_every_rule_says_something_in_some_case() -> None:
    late = START + datetime.timedelta(seconds=600)

    def speaks(rule: Rule) -> bool:
        return any(rule(Case(VM, status, entries, late)) is not None for status, entries, _, _ in CASES.values())

    assert [rule for rule in RULES if not speaks(rule)] == []


@pytest.mark.parametrize(
    ("rule", "opens"),
    [
        ({"proto": "any"}, True),
        ({"proto": "tcp", "port": 0}, True),
        ({"proto": "tcp", "port": 20, "port_end": 30, "direction": "ingress"}, True),
        ({"proto": "tcp", "port": 80}, False),
        ({"proto": "udp", "port": 22}, False),
        ({"proto": "tcp", "port": 22, "direction": "egress"}, False),
    ],
)
def test_which_rules_let_ssh_in(rule: dict[str, Any], opens: bool) -> None:
    found = explain(Case(VM, {**RUNS, "rules": [rule]}, HEARD, START + datetime.timedelta(seconds=600)))
    assert ("no rule lets SSH in" not in found.what) is opens
