"""Creates and deletes, again and again: nothing stays behind, and the agent does not grow."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.faults.faulty import AGENT, Faulty
from tests.e2e.faults.operations import first
from tests.e2e.faults.state import look
from tests.lab.allocated import allocated, environment

pytestmark = pytest.mark.e2e

FEW, MANY = 20, 1000
SETTLED = 300
"""Cycles after which what is kept of the last things that happened is full: 4096 news, of which a cycle makes 17, and
256 operations."""
EVERY = 20
"""Cycles from one look at the memory to the next."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    descriptors: tuple[str, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What an agent at rest has after so many cycles. ``resident``: KiB; ``blocks``, ``heap_bytes``: see
    ``Allocated``.
    """

    cycle: int
    resident: int
    blocks: int
    heap_bytes: int


GROWTH = {"blocks": 0.3, "heap_bytes": 100.0}
"""What passes as noise, for each cycle, of these members of ``Memory``. An object that is kept is one block or more."""
STEP = 1024
"""KiB that Python takes from the kernel at a time. Resident memory moves up and down by that while nothing more is
allocated, so it can only show what is large; the members in ``GROWTH`` show what is small."""


def sockets(pid: int) -> dict[str, str]:
    """What the sockets of a process's own network namespace are, by their inode."""
    unix = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    netlink = [line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]]
    named = {one[6]: " ".join(["unix", *one[7:]]) for one in unix}
    return {**named, **{one[9]: f"netlink {one[1]}" for one in netlink}}


def held(pid: int) -> Held:
    """Numbers in the names of descriptors (of inodes) are left out, and what is closed meanwhile."""
    folder, known = Path(f"/proc/{pid}/fd"), sockets(pid)
    names = []
    for one in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(folder / one)
            inode = re.sub(r"socket:\[(\d+)\]", r"\1", name)
            names.append(known.get(inode) or re.sub(r"\d+", "N", name))
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
    """Resident memory that is the process's own, KiB: pages of files come and go as the kernel likes."""
    return int(re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def memory(faulty: Faulty, cycle: int) -> Memory:
    """What is there after two sweeps, for the first may still ask for what went a moment before it.

    Of some looks the least counts: the agent's own work goes on, with a buffer of 256 KiB now and then.
    """
    for _ in range(2):
        assert faulty.lab.api("POST", "/v1/sweep").status == 200
    looks = []
    for _ in range(4):
        time.sleep(0.05)
        looks.append((resident(faulty.lab.agent_pid), allocated(faulty.lab)))
    return Memory(
        cycle,
        min(kib for kib, _ in looks),
        min(one.blocks for _, one in looks),
        min(one.heap_bytes for _, one in looks),
    )


def slope(points: Sequence[tuple[int, int]]) -> float:
    """By how much the second grows when the first grows by one, by least squares."""
    middle = sum(x for x, _ in points) / len(points)
    mean = sum(y for _, y in points) / len(points)
    over = sum((x - middle) * (y - mean) for x, y in points)
    return over / sum((x - middle) ** 2 for x, _ in points)


def cycle(faulty: Faulty, number: int) -> None:
    """A VM that was never there before: on a real host an id does not come back."""
    path = f"/v1/vms/i-{100 + number:010}"
    made = faulty.lab.api("PUT", path, first(id=path[-12:]))
    assert made.status == 201, f"{made.text}\n{faulty.lab.agent_log(6000)}"
    assert path[-12:] in faulty.lab.api("GET", "/metrics").text
    gone = faulty.lab.api("DELETE", f"{path}?volumes=delete")
    assert gone.status == 204, f"{gone.text}\n{faulty.lab.agent_log(6000)}"
    assert path[-12:] not in faulty.lab.api("GET", "/metrics").text


def ask_at_once(faulty: Faulty) -> None:
    """Have as many connections to libvirt opened as there may be for short calls: they stay."""
    with ThreadPoolExecutor(12) as callers:
        for _ in range(3):
            asked = [callers.submit(faulty.lab.api, "GET", "/v1/strays") for _ in range(24)]
            assert {one.result().status for one in asked} == {200}


def turn(faulty: Faulty, times: int, after: Callable[[int], None] = lambda _number: None) -> None:
    """So many cycles, after which all is as after the first ones, which fill pools of threads and open connections.

    :param after: called with the number of each cycle when it is done.
    """
    faulty.clear()
    for number in range(8):
        cycle(faulty, times + number)
    ask_at_once(faulty)
    agent = faulty.lab.agent_pid
    before, mine = look(faulty.lab), at_rest(agent)
    for number in range(times):
        cycle(faulty, number)
        after(number + 1)
    faulty.settles(before)
    faulty.until(lambda: not more(held(agent), mine), f"{mine}\n{more(held(agent), mine)}")
    faulty.until(lambda: held(agent).threads <= mine.threads + 2, f"{mine}\n{held(agent)}")
    assert faulty.lab.agent_pid == agent


def test_a_few_cycles_leave_nothing(faulty: Faulty) -> None:
    turn(faulty, FEW)


@pytest.mark.slow
@pytest.mark.faults
def test_a_thousand_cycles_leave_nothing_and_the_agent_does_not_grow(faulty: Faulty) -> None:
    faulty.lab.kill_agent(signal.SIGTERM)
    faulty.lab.start_agent({**AGENT, **environment()})
    begun, times = time.monotonic(), int(os.environ.get("LVAGENT_CYCLES", MANY))
    seen: list[Memory] = []

    def note(number: int) -> None:
        if number % EVERY == 0:
            seen.append(memory(faulty, number))

    turn(faulty, times, note)
    last = [one for one in seen if one.cycle >= min(SETTLED, times // 2)]
    bounds = {**GROWTH, "resident": 1.5 * STEP / (last[-1].cycle - last[0].cycle)}  # one step, in the middle
    growth = {name: slope([(one.cycle, getattr(one, name)) for one in last]) for name in bounds}
    told = ", ".join(f"{name} {getattr(last[-1], name)} ({grown:+.2f} a cycle)" for name, grown in growth.items())
    seconds = (time.monotonic() - begun) / times
    print(f"{times} cycles of {seconds:.2f} s; the last {times - last[0].cycle}: {told}\n{seen}")
    assert all(grown < bounds[name] for name, grown in growth.items()), f"{told}\n{seen}"
