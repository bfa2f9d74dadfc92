"""What a VM's life is news of, and what a fresh look at it tells."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from lvagent.agent.core import Agent
from lvagent.agent.news import Plain
from lvagent.errors import HostError, Unavailable
from lvagent.spec.status import Action
from tests.e2e.specs import nic
from tests.unit.agent.fakes import FakeHost
from tests.unit.agent.test_agent import spec

VM, A, B = "i-0000000001", "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"


def news(agent: Agent) -> list[tuple[str, Mapping[str, Plain]]]:
    """All that was published."""
    follower = agent.news.follow(0)
    found = []
    while (item := follower.take(0)) is not None:
        found.append((item.kind, item.detail))
    return found


def test_a_life(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.put(spec(1, cpus=2))
    agent.power(VM, Action.PAUSE)
    agent.power(VM, Action.STOP)
    agent.delete(VM)
    assert news(agent) == [
        ("state", {"state": "pending", "reason": "being made"}),
        ("created", {"revision": 1}),
        ("state", {"state": "running", "reason": "booted", "before": "pending"}),
        ("changed", {"revision": 2}),
        ("drift", {"paths": "cpus"}),
        ("state", {"state": "paused", "reason": "paused by user", "before": "running"}),
        ("wanted", {"wanted": "stopped"}),
        ("state", {"state": "stopped", "reason": "", "before": "paused"}),
        ("drift", {"paths": ""}),
        ("state", {"state": "deleting", "reason": "being deleted", "before": "stopped"}),
        ("deleted", {}),
    ]


def test_a_create_that_fails_is_gone(host: FakeHost) -> None:
    agent = host.agent()
    host.breaker.arm(2)
    with pytest.raises(HostError):
        agent.put(spec(1))
    assert [kind for kind, _ in news(agent)] == ["state", "gone"]


def test_who_was_there_before_the_agent_is_no_news(host: FakeHost) -> None:
    host.agent().put(spec(1))
    again = host.agent()
    assert news(again) == []
    host.domains.found.clear()
    again.sweep()
    assert [kind for kind, _ in news(again)] == ["gone"]


def test_an_item_has_the_vpcs_that_the_vm_was_and_is_in(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.put(spec(1, nic(B, "subnet-bbbbbbbbbb", vni=0)))
    follower, scopes = agent.news.follow(0), []
    while (item := follower.take(0)) is not None:
        scopes.append((item.kind, item.vpcs))
    assert scopes[0] == ("state", {A})
    assert scopes[3] == ("changed", {A, B})


def test_an_older_definition_is_drift(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    old = host.domains.found[VM].config
    agent.put(spec(1, cpus=2))
    host.domains.found[VM].config = old
    agent.sweep()
    assert ("drift", {"definition": "older than what is wanted"}) in news(agent)


def test_when_it_changed_stays_until_it_changes(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    first = agent.vm(VM).changed_at
    agent.sweep()
    assert agent.vm(VM).changed_at == first
    time.sleep(0.002)  # it is told in milliseconds
    agent.power(VM, Action.PAUSE)
    assert agent.vm(VM).changed_at > first


def test_a_fresh_look(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = host.agent()
    agent.put(spec(1))
    host.domains.suspend(VM)  # no event came
    found = agent.look(VM)
    assert (found.status.state, found.domain) == ("paused", ("paused", "paused by user"))
    assert (found.qemu, found.qemu_error) == (("running", False), None)

    def hangs(_vm: str, _command: object) -> object:
        raise Unavailable("an answer")

    monkeypatch.setattr(host.monitors, "qmp", hangs)
    found = agent.look(VM)
    assert (found.qemu, found.qemu_error) == (None, "an answer is not available")
    agent.power(VM, Action.STOP)
    found = agent.look(VM)
    assert (found.domain, found.qemu, found.qemu_error) == (("stopped", ""), None, None)
    del host.domains.found[VM]
    assert agent.look(VM).domain is None
