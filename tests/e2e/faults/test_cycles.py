"""Creates and deletes, again and again: nothing stays behind, and the agent does not grow."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.faults.faulty import Faulty
from tests.e2e.faults.operations import first
from tests.e2e.faults.state import look

pytestmark = pytest.mark.e2e

FEW, MANY = 20, 1000
GROWTH = 3.0
"""KiB of resident memory per cycle that pass as noise of the allocator, over the last half."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    descriptors: tuple[str, ...]
    threads: int


def held(pid: int) -> Held:
    """Numbers in the names of descriptors (of sockets, of inodes) are left out, and what is closed meanwhile."""
    folder = Path(f"/proc/{pid}/fd")
    names = []
    for one in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            names.append(re.sub(r"\d+", "N", os.readlink(folder / one)))
    return Held(tuple(sorted(names)), len(os.listdir(f"/proc/{pid}/task")))


def at_rest(pid: int) -> Held:
    """What a process holds while nothing is asked of it: the least of some looks, for its own work goes on."""
    looks = []
    for _ in range(10):
        time.sleep(0.2)
        looks.append(held(pid))
    return min(looks, key=lambda one: len(one.descriptors))


def more(now: Held, before: Held) -> Counter[str]:
    """Descriptors that were not held before; a pooled one that was closed meanwhile is no leak."""
    return Counter(now.descriptors) - Counter(before.descriptors)


def resident(pid: int) -> int:
    """Resident memory, KiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def slope(values: list[int]) -> float:
    """KiB per cycle, by least squares."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    over = sum((x - middle) * (y - mean) for x, y in enumerate(values))
    return over / sum((x - middle) ** 2 for x in range(len(values)))


def cycle(faulty: Faulty) -> None:
    assert faulty.put(first()) == 201
    assert faulty.delete() == 204


def turn(faulty: Faulty, times: int) -> list[int]:
    """So many cycles, after which all is as after the first ones; the memory after each.

    The first cycles fill pools of threads and open connections, which stay.
    """
    faulty.clear()
    for _ in range(8):
        cycle(faulty)
    agent = faulty.lab.agent_pid
    before, mine = look(faulty.lab), at_rest(agent)
    memory = []
    for _ in range(times):
        cycle(faulty)
        memory.append(resident(agent))
    faulty.settles(before)
    faulty.until(lambda: not more(held(agent), mine), f"{mine}\n{held(agent)}")
    assert held(agent).threads <= mine.threads + 2, (mine, held(agent))
    assert faulty.lab.agent_pid == agent
    return memory


def test_a_few_cycles_leave_nothing(faulty: Faulty) -> None:
    turn(faulty, FEW)


@pytest.mark.slow
@pytest.mark.faults
def test_a_thousand_cycles_leave_nothing_and_the_agent_does_not_grow(faulty: Faulty) -> None:
    memory = turn(faulty, int(os.environ.get("LVAGENT_CYCLES", MANY)))
    last = memory[len(memory) // 2 :]
    print(f"{len(memory)} cycles: {memory[0]} -> {memory[-1]} KiB, {slope(last):+.2f} KiB a cycle in the last half")
    assert slope(last) < GROWTH
