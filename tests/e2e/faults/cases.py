"""One case of the table: an operation, the point it passes, and what happens there."""

from __future__ import annotations

import contextlib
import time

from lvagent.failpoints import HANGING
from tests.e2e.faults.faulty import READ_SECONDS, Call, Faulty
from tests.e2e.faults.operations import BESIDE, OPERATIONS, Operation
from tests.e2e.faults.state import State, look
from tests.lab.host import LabError

READS = ("/v1/vms", "/v1/vpcs", "/healthz")


def reference(faulty: Faulty, operation: Operation) -> tuple[State, State]:
    """The host before and after an operation without a fault."""
    if operation.name not in faulty.known:
        faulty.clear()
        operation.prepare(faulty)
        before = look(faulty.lab) if faulty.lab.agent_pid else None
        assert operation.do(faulty) < 300
        after = look(faulty.lab)
        faulty.known[operation.name] = (before or after, after)
        if operation.name == "clear a create":
            faulty.clear()
            assert look(faulty.lab).difference(after) == {}
    return faulty.known[operation.name]


def case(faulty: Faulty, point: str, name: str, action: str, *, again: str = "") -> None:
    """The host is, after a fault, as before the operation or as after it.

    :param again: a point of the recovery at which the agent is killed once more, if it passes there.
    """
    operation = OPERATIONS[name]
    before, after = reference(faulty, operation)
    faulty.clear()
    operation.prepare(faulty)
    beside = BESIDE.get(point, {}).get(name)
    faulty.arm(f"{point} {action}", *([beside] if beside else []))
    run = {"kill": _killed, "raise": _raised, "hang": _hung}[action]
    if again:
        faulty.again = [f"{again} kill"]
    run(faulty, operation, point)
    wanted = (before, after)
    if beside is None and action == "raise" and name not in ("start", "stop"):
        wanted = (before,) if operation.undone else (after,)
    elif beside is None and action == "hang":
        wanted = (after,)
    faulty.settles(*wanted)


def _killed(faulty: Faulty, operation: Operation, point: str) -> None:
    with contextlib.suppress(OSError, ValueError, LabError):
        operation.do(faulty)
    faulty.await_end()
    assert not any(line.startswith(point) for line in faulty.armed())
    if faulty.again:
        faulty.arm(*faulty.again)
        faulty.again = []
        with contextlib.suppress(LabError):
            faulty.start()
    faulty.revive()


def _raised(faulty: Faulty, operation: Operation, point: str) -> None:
    status = operation.do(faulty)
    assert not any(line.startswith(point) for line in faulty.armed()), f"{point} was not passed"
    assert operation.starts or status >= 500, status


def _hung(faulty: Faulty, operation: Operation, point: str) -> None:
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
