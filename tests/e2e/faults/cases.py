"""One case of the table: an operation, the point it passes, and what happens there."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from http.client import HTTPException

from lvagent.failpoints import HANGING
from tests.e2e.faults.faulty import READ_SECONDS, Call, Faulty
from tests.e2e.faults.operations import BESIDE, OPERATIONS, Operation
from tests.e2e.faults.state import State
from tests.lab.host import LabError

POWER = ("start", "stop")
DONE = ("power.acted",)
"""Where an error cannot undo what was done to a guest."""

READS = ("/v1/vms", "/v1/vpcs", "/healthz")


def reference(faulty: Faulty, operation: Operation) -> tuple[State, State]:
    """The host before and after an operation without a fault."""
    if operation.name not in faulty.known:
        faulty.clear()
        operation.prepare(faulty)
        before = faulty.steady() if faulty.lab.agent_pid else None
        assert operation.do(faulty) < 300
        if operation.name == "start":
            faulty.swept()  # a dnsmasq that forgets the leases of a VM that was started anew is away for a moment
        after = faulty.steady()
        faulty.known[operation.name] = (before or after, after)
    return faulty.known[operation.name]


def case(faulty: Faulty, point: str, name: str, action: str, *, again: str = "") -> None:
    """The host is, after a fault, as before the operation or as after it.

    A power action that was cut off by a crash may have left its wish: what is to run is asked anew, never guessed.

    :param again: a point of the recovery at which the agent is killed once more, if it passes there.
    """
    operation = OPERATIONS[name]
    before, after = reference(faulty, operation)
    faulty.clear()
    operation.prepare(faulty)
    beside = BESIDE.get(point, {}).get(name)
    faulty.arm(f"{point} {action}", *([beside] if beside else []))
    if action == "kill":
        _killed(faulty, operation, point, again)
        wished = (dataclasses.replace(before, wishes=after.wishes, told=()),) if name in POWER else ()
        faulty.settles(before, after, *wished)
        return
    status = (_raised if action == "raise" else _hung)(faulty, operation, point)
    if operation.undone and status >= 500 and point not in DONE:
        faulty.settles(before)
    else:
        faulty.settles(after)


def _killed(faulty: Faulty, operation: Operation, point: str, again: str) -> None:
    with contextlib.suppress(OSError, ValueError, HTTPException, LabError):
        operation.do(faulty)
    faulty.await_end()
    assert not any(line.startswith(point) for line in faulty.armed())
    if again:
        faulty.arm(f"{again} kill")
        with contextlib.suppress(OSError, HTTPException, LabError):
            faulty.start()
        faulty.swept()
    faulty.revive()


def _raised(faulty: Faulty, operation: Operation, point: str) -> int:
    """The status; a sweep beside the operation may have met the fault instead of it."""
    status = operation.do(faulty)
    faulty.until(lambda: not any(line.startswith(point) for line in faulty.armed()), f"{point} is not passed", 30)
    return status


def _hung(faulty: Faulty, operation: Operation, point: str) -> int:
    call = Call(lambda: operation.do(faulty))
    faulty.until(lambda: f"{point} {HANGING}" in faulty.armed(), f"{point} is not passed")
    for path in READS:
        began = time.monotonic()
        status = faulty.lab.api("GET", path).status
        assert time.monotonic() - began < READ_SECONDS, path
        assert status == 200 or (operation.starts and status == 503), (path, status)
    faulty.arm(*(line for line in faulty.armed() if HANGING not in line))
    status = call.join()
    assert 200 <= status < 300 or point == "undo.step", status
    return status
