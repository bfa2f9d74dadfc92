"""Locks: who waits for whom, how long, and that nothing stays held."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvagent.agent.locks import VmLocks, VpcLocks
from lvagent.errors import Unavailable

ONE, TWO = "i-0000000001", "i-0000000002"
A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"


def test_two_callers_of_one_vm_wait_for_each_other() -> None:
    locks, inside, most = VmLocks(), 0, 0
    guard = threading.Lock()

    def work(_number: int) -> None:
        nonlocal inside, most
        with locks.hold(ONE):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with guard:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(20)))
    assert (most, inside) == (1, 0)


def test_callers_of_different_vms_do_not_wait() -> None:
    locks = VmLocks()
    with locks.hold(ONE), locks.hold(TWO), locks.attempt("i-0000000003") as held:
        assert held


def test_an_attempt_gets_only_what_nobody_has() -> None:
    locks, answers = VmLocks(), []
    with locks.hold(ONE), locks.attempt(ONE) as held:
        answers.append(held)
    with locks.attempt(ONE) as held, locks.attempt(ONE) as again:
        answers += [held, again]
    with locks.attempt(ONE) as held:
        answers.append(held)
    assert answers == [False, True, False, True]


def test_an_attempt_leaves_it_to_those_who_wait() -> None:
    locks, waiting = VmLocks(), threading.Event()

    def wait() -> None:
        waiting.set()
        with locks.hold(ONE):
            pass

    with locks.attempt(ONE) as held:
        assert held
        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait(30)
        while locks._users[ONE] < 2:
            time.sleep(0.001)
        with locks.attempt(ONE) as second:
            assert not second
    thread.join(30)
    assert (thread.is_alive(), locks._locks, locks._users) == (False, {}, {})


def test_a_lock_is_free_after_an_error_and_nothing_is_kept() -> None:
    locks = VmLocks()
    for lock in (locks.hold(ONE), locks.attempt(ONE)):
        with pytest.raises(ValueError, match="told to"), lock:
            raise ValueError("told to")
    with locks.attempt(ONE) as held:
        assert held
    assert (locks._locks, locks._users) == ({}, {})


def test_the_wires_of_a_vpc_are_held_by_one_and_others_are_told_in_time(tmp_path: Path) -> None:
    locks, other = VpcLocks(tmp_path / "locks"), VpcLocks(tmp_path / "locks")
    with locks.wires(A):
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=f"the lock {A}.wires is not available"), other.wires(A, within=0.05):
            pass
        assert time.monotonic() - begin >= 0.05
        with other.wires(B, within=0), other.services(A, within=0), other.fabric(alone=True):
            pass
    with other.wires(A, within=0):
        pass
    assert sorted(path.name for path in (tmp_path / "locks").iterdir()) == [
        "fabric", f"{A}.services", f"{A}.wires", f"{B}.wires",
    ]  # fmt: skip


def test_many_wire_on_the_fabric_and_one_alone_takes_away(tmp_path: Path) -> None:
    locks = VpcLocks(tmp_path / "locks")
    gone: list[str] = []

    def alone() -> None:
        with locks.fabric(alone=True):
            gone.append("alone")

    with locks.fabric(alone=False), locks.fabric(alone=False):
        thread = threading.Thread(target=alone)
        thread.start()
        thread.join(0.05)
        assert (thread.is_alive(), gone) == (True, [])
    thread.join(30)
    assert gone == ["alone"]


def test_a_flock_is_free_after_an_error(tmp_path: Path) -> None:
    locks = VpcLocks(tmp_path / "locks")
    with pytest.raises(ValueError, match="told to"), locks.wires(A):
        raise ValueError("told to")
    with locks.wires(A, within=0):
        pass


def test_none_of_many_at_once_meets_another(tmp_path: Path) -> None:
    locks, inside, most = VpcLocks(tmp_path / "locks"), [], []

    def work(number: int) -> None:
        with locks.wires(A):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.001)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert most == [1] * 24
