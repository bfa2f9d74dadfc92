"""The agent on a host in memory: all or nothing at every step, and the same again changes nothing."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from lvagent.agent import recover
from lvagent.agent.core import Agent
from lvagent.errors import Conflict, HostError, LvagentError, NotFound
from lvagent.memo import forget_unasked
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.parse import parse_vm
from lvagent.spec.status import Action, Outcome, State
from lvagent.spec.vm import VmConfig
from tests.e2e.specs import nic, vm
from tests.unit.agent.fakes import FakeHost


def spec(number: int, *nics: dict[str, Any], **more: object) -> VmConfig:
    return parse_vm(vm(number, *nics, **more))


def full(number: int, **more: object) -> VmConfig:
    """A VM that needs one of everything."""
    disk = {"path": f"/var/lib/lvagent/volumes/{number}.qcow2", "position": 0, "size_gb": 1}
    return spec(number, volumes=[disk], user_data="#!/bin/sh\n", **more)


def test_a_put_makes_everything_and_a_delete_leaves_nothing(host: FakeHost) -> None:
    agent = host.agent()
    before = host.state()
    result = agent.put(full(1))
    assert (result.outcome, result.status.state) == (Outcome.CREATED, State.RUNNING)
    assert result.status.timings[0].phase == "check"
    assert set(host.state()["volumes"]) == {"/var/lib/lvagent/volumes/1.qcow2"}  # type: ignore[call-overload]
    assert {type(one).__name__ for one in host.wires.there} == {
        "Netns", "Ruleset", "Fabric", "Bridge", "Vxlan", "Subnet", "Veth", "PortFilter", "Firewall", "Plug",
    }  # fmt: skip
    host.wires.unplug("i-0000000001")
    agent.delete("i-0000000001", volumes=True)
    assert host.state() == before


def test_a_delete_keeps_volumes_unless_told(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    agent.delete("i-0000000001")
    assert host.volumes.paths == {"/var/lib/lvagent/volumes/1.qcow2"}


def test_a_volume_that_was_there_is_never_deleted(host: FakeHost) -> None:
    host.volumes.paths = {"/var/lib/lvagent/volumes/1.qcow2"}
    agent = host.agent()
    agent.put(full(1))
    agent.delete("i-0000000001", volumes=True)
    assert host.volumes.paths == {"/var/lib/lvagent/volumes/1.qcow2"}


def _fail_at_every_step(host: FakeHost, agent: Agent, operation: Any) -> int:  # noqa: ANN401 - any callable
    """Let the operation fail at step 1, 2, ... until it goes through; after each failure the host is as before."""
    before = host.state()
    for at in range(1, 100):
        host.breaker.arm(at)
        try:
            operation()
        except HostError as error:
            host.breaker.at = -1
            assert error.phase, f"step {at} has no phase"  # noqa: PT017 - the loop goes on after it
            assert host.state() == before, f"step {at}: {host.breaker.names[at - 1 :]}"
        else:
            host.breaker.at = -1
            return at - 1
    raise AssertionError("it never went through")


def test_a_create_that_fails_at_any_step_leaves_nothing(host: FakeHost) -> None:
    agent = host.agent()
    assert _fail_at_every_step(host, agent, lambda: agent.put(full(1))) >= 12
    assert agent.vm("i-0000000001").state is State.RUNNING


def test_a_second_create_that_fails_leaves_the_first(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    second = full(2, networks=[nic(host=9), nic("vpc-bbbbbbbbbb", "subnet-bbbbbbbbbb", net=1, vni=7, position=1)])
    assert _fail_at_every_step(host, agent, lambda: agent.put(second)) >= 12


def test_a_change_that_fails_at_any_step_leaves_the_vm_as_it_was(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    changed = full(1, keys=["ssh-ed25519 " + KEY], memory_mb=128)
    assert _fail_at_every_step(host, agent, lambda: agent.put(changed)) >= 3


KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIDH4vZ0nLw4jv2mCgMTNvF8uZJv5H0b7L5qYzgQ6q4xg"


def test_a_delete_that_fails_goes_on_by_the_next_sweep(host: FakeHost) -> None:
    for at in range(1, 30):
        agent = host.agent()
        before = host.state()
        agent.put(full(1))
        host.wires.unplug("i-0000000001")
        host.breaker.arm(at)
        try:
            agent.delete("i-0000000001", volumes=True)
        except HostError:
            failed = host.breaker.names[at - 1]
            host.breaker.arm(-1)
            agent.sweep()
            if failed == "set_element":  # the wish could not be written: nothing has happened
                agent.delete("i-0000000001", volumes=True)
            assert host.state() == before, f"step {at}"
        else:
            host.breaker.at = -1
            assert at > 6
            return
    raise AssertionError("it never went through")


class _Crash(BaseException):
    """The agent's process is gone: nothing of it runs any more."""


def test_a_crash_at_any_step_of_a_create_is_whole_or_gone_after_the_restart(host: FakeHost) -> None:
    before = host.state()
    outcomes = set()
    for at in range(1, 40):
        agent = host.agent()
        host.breaker.arm(at, lasting=True)
        try:
            agent.put(full(1))
            ended = True
        except LvagentError:
            ended = False
        host.breaker.arm(-1)
        again = host.agent()
        if "i-0000000001" in host.domains.found:
            assert again.vm("i-0000000001").state is State.RUNNING
            outcomes.add("whole")
            host.wires.unplug("i-0000000001")
            again.delete("i-0000000001", volumes=True)
        else:
            outcomes.add("gone")
        assert host.state() == before, f"step {at}"
        if ended:
            assert outcomes == {"whole", "gone"}
            return
    raise AssertionError("it never went through")


def test_the_same_spec_again_changes_nothing(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    before, host.breaker.calls = host.state(), 0
    assert agent.put(full(1)).outcome is Outcome.UNCHANGED
    assert (host.state(), host.breaker.calls) == (before, 0)


def test_create_only_refuses_another_spec(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    with pytest.raises(Conflict, match="exists with another spec"):
        agent.put(full(1, memory_mb=256), create_only=True)


def test_a_change_says_what_needs_a_restart_and_gives_the_rest_at_once(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    result = agent.put(full(1, memory_mb=256, keys=["ssh-ed25519 " + KEY]))
    assert (result.outcome, result.restart_needed, result.status.drift) == (
        Outcome.CHANGED, ("memory_mb",), ("memory_mb",),
    )  # fmt: skip
    guests = dict(host.metadata.served["vpc-aaaaaaaaaa"].guests)
    assert guests["10.0.0.5"].keys == ("ssh-ed25519 " + KEY,)
    agent.power("i-0000000001", Action.STOP)
    assert agent.power("i-0000000001", Action.START).drift == ()


def test_a_changed_address_is_served_from_the_next_start_on(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(host=5)))
    agent.put(spec(1, nic(host=6)))
    assert [one.ipv4 for one in host.dhcp.served["vpc-aaaaaaaaaa"].hosts] == ["10.0.0.5"]
    with pytest.raises(Conflict):
        agent.put(spec(2, nic(host=5)))
    agent.power("i-0000000001", Action.STOP)
    agent.power("i-0000000001", Action.START)
    agent.sweep()
    assert [one.ipv4 for one in host.dhcp.served["vpc-aaaaaaaaaa"].hosts] == ["10.0.0.6"]


def test_a_restarted_agent_knows_the_same(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    agent.put(full(2))
    before, told = (
        host.state(),
        [dataclasses.replace(one, observed_at="", changed_at="", timings=()) for one in agent.vms()],
    )
    again = host.agent()
    assert host.state() == before
    assert [dataclasses.replace(one, observed_at="", changed_at="", timings=()) for one in again.vms()] == told


def test_what_a_dead_agent_left_of_a_vpc_goes_with_the_sweep(host: FakeHost) -> None:
    before = host.state()
    agent = host.agent()
    agent.put(full(1))
    host.wires.unplug("i-0000000001")
    host.domains.found.clear()
    host.domains.kept.clear()
    host.volumes.paths.clear()
    host.agent()
    assert host.state() == before


def test_a_vm_that_stopped_is_started_again_only_after_a_boot_of_the_host(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    host.domains.destroy("i-0000000001")
    assert host.agent().vm("i-0000000001").state is State.STOPPED
    assert host.agent(boot_id="boot-2").vm("i-0000000001").state is State.RUNNING
    host.agent(boot_id="boot-2").power("i-0000000001", Action.STOP)
    assert host.agent(boot_id="boot-3").vm("i-0000000001").state is State.STOPPED


def test_a_domain_that_is_not_ours_is_left_alone(host: FakeHost) -> None:
    host.domains.define("i-0000000009", "<domain><name>i-0000000009</name></domain>")
    before = host.state()
    agent = host.agent()
    assert (agent.vms(), host.state()) == ((), before)
    with pytest.raises(NotFound):
        agent.delete("i-0000000009")


def test_two_creates_of_one_id_at_once_make_one(host: FakeHost) -> None:
    agent = host.agent()
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(agent.put(full(1)).outcome)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Outcome.CREATED] + [Outcome.UNCHANGED] * 7


@pytest.mark.parametrize("action", [Action.RESET, Action.PAUSE, Action.REBOOT, Action.SHUTDOWN])
def test_a_guest_that_ends_just_before_what_is_asked_of_it_is_a_conflict(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    def end(vm: str) -> None:
        host.domains.end(vm, State.STOPPED, "shut down by the guest")
        raise HostError(vm, action, "Requested operation is not valid: domain is not running")

    agent = host.agent()
    agent.put(spec(1))
    method = {Action.PAUSE: "suspend"}.get(action, action.value)
    monkeypatch.setattr(host.domains, method, end)
    with pytest.raises(Conflict, match=f"is stopped: it cannot {action}"):
        agent.power("i-0000000001", action)
    assert agent.vm("i-0000000001").wanted == "running"


def test_power_refuses_what_makes_no_sense(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    assert agent.power("i-0000000001", Action.PAUSE).state is State.PAUSED
    assert agent.power("i-0000000001", Action.PAUSE).state is State.PAUSED
    with pytest.raises(Conflict, match="it cannot reboot"):
        agent.power("i-0000000001", Action.REBOOT)
    assert agent.power("i-0000000001", Action.RESUME).state is State.RUNNING


def test_the_hook_refuses_a_port_that_the_spec_does_not_know(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    two = host.agent()
    xml = host.domains.found["i-0000000001"].config.replace("t0000000001-0", "t0000000001-7")
    with pytest.raises(HostError, match="t0000000001-7"):
        two.plugger.start("i-0000000001", xml, lambda: True)


def test_a_plan_touches_nothing(host: FakeHost) -> None:
    agent = host.agent()
    before, host.breaker.calls = host.state(), 0
    plan = agent.plan(full(1))
    assert (host.state(), host.breaker.calls) == (before, 0)
    assert plan.outcome is Outcome.CREATED
    assert "make namespace vpc-aaaaaaaaaa" in plan.steps
    assert "t0000000001-0" in plan.xml


def test_a_plan_refuses_what_the_put_would(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    for call in (agent.put, agent.plan):
        with pytest.raises(Conflict, match="ec2 datasource"):
            call(spec(1, datasource="ec2"))


# who is limited to some VPCs


def test_confined_a_vm_takes_no_volume_that_is_there(host: FakeHost) -> None:
    host.volumes.paths = {"/var/lib/lvagent/volumes/1.qcow2"}
    agent = host.agent()
    before = host.state()
    for call in (agent.put, agent.plan):
        with pytest.raises(Conflict) as refused:
            call(full(1), confined=True)  # type: ignore[operator]
        assert (refused.value.path, refused.value.other) == ("volumes[0].path", "")
    assert host.state() == before
    assert agent.put(full(1)).outcome is Outcome.CREATED


def test_confined_a_vm_keeps_its_own_volumes(host: FakeHost) -> None:
    agent = host.agent()
    assert agent.put(full(1), confined=True).outcome is Outcome.CREATED
    assert agent.put(full(1), confined=True).outcome is Outcome.UNCHANGED
    assert agent.put(full(1, cpus=2), confined=True).outcome is Outcome.CHANGED
    assert agent.put(spec(1), confined=True).outcome is Outcome.CHANGED
    assert agent.put(full(1), confined=True).outcome is Outcome.CHANGED  # its guest still runs with that volume


# qemu's monitors


def test_a_monitor_is_asked_of_a_vm_that_runs(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    assert agent.qmp("i-0000000001", Qmp("query-status")) == {"status": "running"}
    assert agent.hmp("i-0000000001", Hmp("info status")) == "VM status: running\r\n"
    agent.power("i-0000000001", Action.STOP)
    with pytest.raises(Conflict, match="does not run"):
        agent.qmp("i-0000000001", Qmp("query-status"))
    with pytest.raises(NotFound):
        agent.hmp("i-0000000002", Hmp("info status"))
    assert host.monitors.asked == [("i-0000000001", "query-status"), ("i-0000000001", "info status")]
    agent.close()
    assert host.monitors.closed


def test_what_a_definition_means_is_forgotten_with_it(host: FakeHost) -> None:
    agent = host.agent()
    forget_unasked()
    forget_unasked()
    agent.put(spec(1))
    for number in range(2, 12):
        agent.put(spec(number))
        agent.sweep()
        host.wires.unplug(f"i-{number:010}")
        agent.delete(f"i-{number:010}")
    assert len(recover._element) > 2
    agent.sweep()
    agent.sweep()
    assert len(recover._element) == 2, "the config and the live copy of the one that is there"
