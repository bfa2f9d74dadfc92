"""The flight recorder: what is in a VM's timeline, when, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from lvagent.agent.core import Agent
from lvagent.agent.timeline import Timeline
from lvagent.errors import HostError, NotFound
from lvagent.host.libvirt import DomainState
from lvagent.spec.parse import parse_vm
from lvagent.spec.status import Action, State, TimelineEntry
from lvagent.spec.vm import VmConfig
from tests.unit.agent.fakes import FakeHost, FakePages

VM, A = "i-0000000001", "vpc-aaaaaaaaaa"
CRASHED = DomainState(State.CRASHED, "qemu ended unexpectedly", active=False)


def spec(**more: Any) -> VmConfig:  # noqa: ANN401
    nic = {"vxlanid": 0, "netname": A, "subnetname": "subnet-aaaaaaaaaa", "position": 0}
    nic |= {"ipv4": "10.0.0.5/24", "gateway_v4": "10.0.0.1"}
    return parse_vm({"id": VM, "memory_mb": 64, "cpus": 1, "networks": [nic], **more}, user_data_max=100)


def kinds(entries: Sequence[TimelineEntry]) -> list[str]:
    return [one.kind for one in entries]


def last(agent: Agent, kind: str) -> Mapping[str, object]:
    return [one.detail for one in agent.timeline(VM) if one.kind == kind][-1]


def end(host: FakeHost, agent: Agent, state: DomainState) -> None:
    host.domains.found[VM].state, host.domains.found[VM].live = state, None
    agent.observe(VM)


def test_a_life(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    agent.put(spec())
    agent.put(spec(memory_mb=128))
    agent.power(VM, Action.STOP)
    agent.delete(VM)
    found = agent.timeline(VM)
    assert sorted(kinds(found)) == sorted(["plugged", "state", *["operation"] * 3, "state", "gone", "operation"])
    told = [one.detail for one in found if one.kind == "operation"]
    assert [(one["what"], one["outcome"]) for one in told] == [
        ("create", "done"),
        ("change", "done"),
        ("stop", "done"),
        ("delete", "done"),
    ]
    phases = told[0]["ms"]
    assert isinstance(phases, dict)
    assert {"check", "define", "start", "wire", "commit"} <= phases.keys()
    assert {one.vpcs for one in found} == {(A,)}
    assert [one.at for one in found] == sorted(one.at for one in found)


def test_it_outlives_the_vm_and_the_agent(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    agent.delete(VM)
    before = agent.timeline(VM)
    agent.close()
    assert host.agent().timeline(VM) == before
    with pytest.raises(NotFound):
        host.agent().timeline("i-0000000009")


def test_a_new_agent_tells_only_what_is_news(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    before = kinds(agent.timeline(VM))
    agent.close()
    assert kinds(host.agent().timeline(VM)) == before
    host.domains.found[VM].state, host.domains.found[VM].live = CRASHED, None
    assert last(host.agent(), "state") == {"state": "crashed", "reason": "qemu ended unexpectedly"}


def test_what_failed_says_where_and_why(host: FakeHost) -> None:
    agent = host.agent()
    host.breaker.arm(3)
    with pytest.raises(HostError):
        agent.put(spec())
    host.breaker.arm(-1)
    (entry,) = (one for one in agent.timeline(VM) if one.kind == "operation")
    assert (entry.detail["what"], entry.detail["outcome"], entry.vpcs) == ("create", "failed", (A,))
    assert "told to fail" in str(entry.detail["error"])
    assert entry.detail["phase"]


def test_a_port_that_cannot_be_plugged(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    agent.power(VM, Action.STOP)
    agent.power(VM, Action.START)
    assert kinds(agent.timeline(VM)).count("plugged") == 2
    strange = host.domains.found[VM].config.replace("t0000000001-0", "t0000000001-7")
    with pytest.raises(HostError):
        agent.plugger.start(VM, strange, lambda: True)
    assert "t0000000001-7" in str(last(agent, "not plugged")["error"])
    agent.plugger.start("i-0000000009", "<domain/>", lambda: True)
    with pytest.raises(NotFound):  # of a stranger's nothing is taken down
        agent.timeline("i-0000000009")


def test_the_end_of_the_console_is_kept_when_it_ended_badly(host: FakeHost) -> None:
    host.console = b"x" * 4000 + b"Kernel panic"
    agent = host.agent()
    agent.put(spec())
    agent.power(VM, Action.STOP)
    assert "console" not in kinds(agent.timeline(VM))
    agent.power(VM, Action.START)
    end(host, agent, CRASHED)
    tail = str(last(agent, "console")["tail"])
    assert (len(tail), tail[-12:]) == (2048, "Kernel panic")


def test_a_domain_undefined_by_hand(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    end(host, agent, DomainState(State.STOPPED, "shut down by the guest", active=False))
    del host.domains.found[VM]
    agent.observe(VM)
    assert agent.sweep()
    assert kinds(agent.timeline(VM))[-2:] == ["state", "undefined"]


def test_a_create_that_a_crash_interrupted(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    agent.power(VM, Action.STOP)
    domain = host.domains.found[VM]
    domain.config = domain.config.replace(' created="', ' was="')
    agent.close()
    again = host.agent()
    assert VM not in host.domains.found
    assert last(again, "gone") == {"reason": "it was never finished"}


def test_leases_are_told_once_also_after_a_restart(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    host.dhcp.leases = {"10.0.0.5": 1_700_000_000.0, "10.0.0.9": 1_700_000_000.0}
    for _ in range(3):
        assert agent.sweep()
    agent.close()
    again = host.agent()
    assert again.sweep()
    assert [one.at for one in again.timeline(VM) if one.kind == "dhcp"] == ["2023-11-14T22:13:20.000+00:00"]
    host.dhcp.leases["10.0.0.5"] += 1800
    assert kinds(again.timeline(VM)).count("dhcp") == 2


def test_metadata_requests_are_counted_and_paced(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec())
    host.metadata.requests = {VM: (3, 1_700_000_000)}
    assert last(agent, "metadata") == {"requests": 3, "all": [3]}
    host.metadata.requests = {VM: (9, 1_700_000_100)}
    assert last(agent, "metadata")["requests"] == 3  # ten minutes have not passed
    agent.close()
    again = host.agent()
    assert last(again, "metadata") == {"requests": 6, "all": [9]}


class Stuck(FakePages):
    """Pages on a disk that hangs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def append(self, vm: str, line: Mapping[str, object]) -> None:
        assert self.go.wait(60)
        super().append(vm, line)


def test_a_disk_that_hangs_holds_nobody_up() -> None:
    pages = Stuck()
    timeline = Timeline(pages, lambda _vm, _count: b"")
    for number in range(6000):
        timeline.record(VM, "state", {"number": number})
    timeline.flush(0.01)
    pages.go.set()
    timeline.close()
    kept = [line["detail"]["number"] for line in pages.read(VM)]  # type: ignore[index]
    assert kept[:4096] == list(range(4096))
    assert kept == sorted(kept)
    assert len(kept) < 6000


def test_lines_of_others_are_left_out() -> None:
    pages = FakePages()
    good = {"at": 1.0, "kind": "state", "vpcs": [A], "detail": {"state": "running"}}
    for line in ({}, {"at": "x", "detail": 3, "vpcs": []}, {"detail": {}, "vpcs": "a"}, good):
        pages.append(VM, line)
    timeline = Timeline(pages, lambda _vm, _count: b"")
    assert [(one.at, one.detail) for one in timeline.entries(VM)] == [
        ("1970-01-01T00:00:01.000+00:00", {"state": "running"})
    ]
    timeline.close()


def test_a_clock_that_was_set_back_does_not_change_what_came_first() -> None:
    day = 86_400.0
    lines: list[tuple[float, float | None, str]] = [
        (5 * day, None, "a"),
        (5 * day + 2, None, "c"),
        (5 * day + 1, 5 * day + 3, "b"),  # a lease, seen later
        (8 * day, None, "d"),  # set forward
        (2 * day, None, "e"),  # set back
        (7 * day, 2 * day + 1, "f"),  # a lease of the time before
        (2 * day + 2, None, "h"),
        (2 * day + 1.9, None, "g"),  # two threads
    ]
    pages = FakePages()
    for at, noted, kind in lines:
        more = {} if noted is None else {"noted": noted}
        pages.append(VM, {"at": at, **more, "kind": kind, "vpcs": [A], "detail": {}})
    timeline = Timeline(pages, lambda _vm, _most: b"")
    assert "".join(kinds(timeline.entries(VM))) == "abcdefgh"
    timeline.close()
