"""What a crash, a failed action and a clock that is set back leave behind."""

from __future__ import annotations

import time

import pytest

from lvagent.errors import HostError, LvagentError
from lvagent.host.libvirt import DomainState, slot_of
from lvagent.spec.dump import dump_vm
from lvagent.spec.parse import parse_vm
from lvagent.spec.status import Action, Outcome, State
from lvagent.spec.vm import VmConfig
from tests.e2e.specs import nic, vm
from tests.unit.agent.fakes import FakeHost

ONE = "i-0000000001"
VOLUMES = "/var/lib/lvagent/volumes"


def spec(disks: int, user_data: str | None, **more: object) -> VmConfig:
    made = [{"path": f"{VOLUMES}/{number}.qcow2", "position": number, "size_gb": 1} for number in range(disks)]
    return parse_vm(vm(1, nic(), volumes=made, user_data=user_data, **more))


OLD, NEW = spec(1, "#!/bin/true\n"), spec(2, "#!/bin/false\n", rules=[{"proto": "tcp", "port": 22}])
BARE = spec(1, None)


@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (BARE, NEW), (OLD, BARE)])
def test_a_crash_at_any_step_of_a_change_leaves_one_wish_whole(host: FakeHost, old: VmConfig, new: VmConfig) -> None:
    outcomes: dict[str, object] = {}
    for at in range(1, 40):
        agent = host.agent()
        agent.put(old)
        host.breaker.arm(at, lasting=True)  # nothing works from here on, the undoing neither: as if killed
        try:
            agent.put(new)
            ended = True
        except LvagentError:
            ended = False
        host.breaker.arm(-1)
        again = host.agent()
        found = again.vm(ONE).spec
        assert found in (old, new), (at, dump_vm(found, secrets=True))
        which = "old" if found == old else "new"
        state = {name: host.state()[name] for name in ("volumes", "wires", "dhcp", "metadata")}
        state["secrets"] = [list(kept.values()) for kept in host.domains.kept.values()]
        assert outcomes.setdefault(which, state) == state, (at, which)
        again.delete(ONE, volumes=True)
        assert (host.domains.kept, host.volumes.paths) == ({}, set())
        if ended:
            assert set(outcomes) == {"old", "new"}
            return
    raise AssertionError("the change never ended")


def test_user_data_belongs_to_its_revision() -> None:
    assert [slot_of((1, 4), revision) for revision in (1, 3, 4, 9)] == [1, 1, 4, 4]
    assert slot_of((4, 7), 2) == 4


@pytest.mark.parametrize(("before", "action"), [(Action.STOP, Action.START), (Action.START, Action.STOP)])
def test_an_action_that_fails_leaves_the_wish_as_it_was(host: FakeHost, before: Action, action: Action) -> None:
    agent = host.agent()
    agent.put(OLD)
    agent.power(ONE, before)
    state, wanted = host.state(), agent.vm(ONE).wanted
    host.breaker.arm(2)  # the wish is written, then the action fails
    with pytest.raises(HostError):
        agent.power(ONE, action)
    host.breaker.arm(-1)
    assert (host.state(), agent.vm(ONE).wanted) == (state, wanted)


def test_what_happens_is_seen_after_the_clock_was_set_back(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = host.agent()
    agent.put(OLD)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    host.domains.found[ONE].state = DomainState(State.PAUSED, "paused by user", active=True)
    agent.observe(ONE)
    assert agent.vm(ONE).state is State.PAUSED


def test_a_lost_libvirtd_is_told_until_it_was_read_again(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(OLD)
    assert (agent.readiness().ready, agent.vm(ONE).stale) == (True, False)
    agent.lose()
    assert (agent.readiness().ready, agent.vm(ONE).stale) == (False, True)
    assert agent.sweep()
    assert (agent.readiness().ready, agent.vm(ONE).stale) == (True, False)


def test_the_same_spec_puts_right_what_was_defined_by_hand_just_now(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(OLD)
    domain = host.domains.found[ONE]
    right = domain.config
    begin, end = right.index("<metadata>"), right.index("</metadata>") + len("</metadata>")
    domain.config = right[:begin] + right[end:]
    assert agent.put(OLD).outcome is Outcome.CHANGED
    assert "urn:lvagent:vm:1" in host.domains.found[ONE].config
    assert agent.put(OLD).outcome is Outcome.UNCHANGED
