"""Strays: counted over sweeps, told of or stopped; and what must never be touched."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest

from lvagent.agent.core import Agent
from lvagent.config import Settings, StraySettings, Sweep
from lvagent.errors import Conflict, NotFound
from lvagent.plan.resources import Netns, Plug
from lvagent.spec.strays import Process, Running, Sort
from tests.unit.agent.fakes import FakeHost
from tests.unit.agent.test_agent import full

VM = "i-0000000001"
A = "vpc-aaaaaaaaaa"
REPORT = Settings(sweep=Sweep(interval=0))
STOP = Settings(strays=StraySettings("stop", 3), sweep=Sweep(interval=0))
BY_HAND = Process(
    pid=300, identity="1", state="S", program="/usr/bin/qemu-system-x86_64", age=1.0, uid=0, parent=7,
    parent_name="sh", arguments=("qemu-system-x86_64", "-S", "-object", "secret,id=a,data=hunter2"),
)  # fmt: skip
LOST = dataclasses.replace(BY_HAND, pid=301, arguments=("qemu", "-name", "guest=i-0000000009"))
ZOMBIE = dataclasses.replace(BY_HAND, pid=302, state="Z", arguments=())
THEIRS = dataclasses.replace(BY_HAND, pid=400, arguments=("qemu", "-name", "guest=web"))
OURS = dataclasses.replace(BY_HAND, pid=100, arguments=("qemu", "-name", f"guest={VM}"))
OTHERS = dataclasses.replace(BY_HAND, pid=401, arguments=("qemu", "-name", "guest=desktop"))


@pytest.fixture
def crowd(host: FakeHost) -> FakeHost:
    """A host with a qemu of each sort."""
    for one in (BY_HAND, LOST, ZOMBIE, THEIRS, OURS, OTHERS):
        host.processes.there[one.pid] = one
    host.domains.strangers.append(Running("web", "uuid-web", 400, ours=False))
    host.domains.pids[VM] = 100
    return host


def until(what: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def sorts(agent: Agent) -> dict[int, Sort]:
    return {one.pid: one.sort for one in agent.strays().processes}


def test_strays_are_told_and_nobody_else(crowd: FakeHost) -> None:
    agent = crowd.agent(settings=REPORT)
    agent.put(full(1))
    assert sorts(agent) == {300: Sort.NOBODY, 301: Sort.LOST, 302: Sort.NOBODY}
    assert "hunter2" not in repr(agent.strays())
    for _ in range(10):
        assert agent.sweep()
    assert {one.sweeps for one in agent.strays().processes} == {11}
    assert crowd.processes.ended == []


def test_a_stray_is_stopped_after_its_grace_and_nobody_else_is(crowd: FakeHost) -> None:
    agent = crowd.agent(settings=STOP)
    agent.put(full(1))
    assert agent.sweep()
    assert crowd.processes.ended == []
    assert agent.sweep()
    until(lambda: len(crowd.processes.ended) == 2)
    for _ in range(5):
        assert agent.sweep()
    assert sorted(crowd.processes.ended) == [(300, "softly"), (301, "softly")]
    assert crowd.processes.there.keys() == {302, 400, 100, 401}
    agent.close()


def test_a_stray_that_becomes_another_process_is_counted_anew(crowd: FakeHost) -> None:
    agent = crowd.agent(settings=STOP)
    agent.put(full(1))
    assert agent.sweep()
    crowd.processes.there[300] = dataclasses.replace(BY_HAND, identity="2")
    assert agent.sweep()
    until(lambda: crowd.processes.ended)
    assert crowd.processes.ended == [(301, "softly")]
    agent.close()


def test_sweeps_that_follow_at_once_count_as_one(crowd: FakeHost) -> None:
    agent = crowd.agent(settings=dataclasses.replace(STOP, sweep=Sweep(interval=30)))
    for _ in range(10):
        assert agent.sweep()
    assert {one.sweeps for one in agent.strays().processes} == {1}
    assert crowd.processes.ended == []


def test_it_is_sorted_afresh_before_it_is_stopped(crowd: FakeHost) -> None:
    """libvirt may have found it again, or it may be a stranger's by now."""
    agent = crowd.agent(settings=STOP)
    strays = agent._strays
    crowd.domains.strangers.append(Running("again", "uuid", 300, ours=False))
    strays._stop((300, "1"))
    with pytest.raises(NotFound):
        agent.kill_stray(300, "1")
    assert crowd.processes.ended == []


def test_kill_hits_the_stray_that_is_meant(crowd: FakeHost) -> None:
    agent = crowd.agent(settings=REPORT)
    agent.put(full(1))
    with pytest.raises(Conflict, match="another process"):
        agent.kill_stray(300, "2")
    for pid in (100, 400, 401, 1, 999):
        with pytest.raises(NotFound):
            agent.kill_stray(pid, "1")
    with pytest.raises(Conflict, match="zombie"):
        agent.kill_stray(302, "1")
    assert crowd.processes.ended == []
    assert agent.kill_stray(300, "1").sort is Sort.NOBODY
    assert crowd.processes.ended == [(300, "hard")]


def test_objects_that_nobody_wants_are_told(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    assert [one.kind for one in agent.strays().objects] == ["domain"]  # the fake gives it no process
    host.processes.there[100] = OURS
    host.domains.pids[VM] = 100
    assert agent.strays().objects == ()
    host.wires.there |= {Netns("vpc-zzzzzzzzzz"), Plug("vpc-yyyyyyyyyy", "subnet-y", "t0000000008-0", 1500)}
    host.wires.there |= {Netns("vpc-yyyyyyyyyy")}
    host.volumes.paths |= {"/var/lib/lvagent/volumes/old.qcow2"}
    host.wires.in_root |= {"t0000000001-0", "t0000000007-0", "vi-aaaaaaaaaa"}
    found = {(one.kind, one.name): one.why for one in agent.strays().objects}
    assert found["netns", "namespace vpc-zzzzzzzzzz"] == "no VM wants it; a sweep removes it"
    assert "stays while t0000000008-0" in found["netns", "namespace vpc-yyyyyyyyyy"]
    assert ("tap", "t0000000008-0") in found
    assert {name for kind, name in found if kind == "link"} == {"t0000000007-0", "vi-aaaaaaaaaa"}
    assert "never removed" in found["volume", "/var/lib/lvagent/volumes/old.qcow2"]
    assert agent.sweep()
    left = {(one.kind, one.name) for one in agent.strays().objects}
    assert left == found.keys() - {("netns", "namespace vpc-zzzzzzzzzz")}
