"""What hands, crashes and races do to the agent: each case once went wrong, or nearly."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lvagent.agent import locks
from lvagent.agent.core import Agent
from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.errors import Conflict, HostError, LvagentError, NotFound, Unavailable, Vanished
from lvagent.host.libvirt import DomainState
from lvagent.host.volumes import Judged
from lvagent.plan.resources import Bridge, Dhcp, Fabric, Netns, PortFilter, Resource, Vxlan
from lvagent.render.element import find_element, parse_element, render_element
from lvagent.spec.status import Action, Outcome, State
from lvagent.spec.vm import VmConfig
from tests.e2e.specs import nic
from tests.unit.agent.fakes import POLICY, FakeHost, _swap
from tests.unit.agent.test_agent import KEY, full, spec

VM, OTHER = "i-0000000001", "i-0000000002"
A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
DISK = "/var/lib/lvagent/volumes/1.qcow2"
STRANGER = f"<domain><name>{VM}</name></domain>"


def _garble(host: FakeHost, vm: str) -> None:
    """Make our element unreadable in both copies, as a hand or a newer version may."""
    one = host.domains.found[vm]
    one.config = one.config.replace("<spec>", "<spec>!")
    one.live = one.live.replace("<spec>", "<spec>!") if one.live else None


# a running VM that cannot be read


def test_under_a_running_vm_that_cannot_be_read_nothing_is_swept(host: FakeHost) -> None:
    host.agent().put(full(1))
    _garble(host, VM)
    before = host.state()
    agent = host.agent()
    assert (agent.vms(), host.state()) == ((), before)


def test_a_neighbour_comes_and_goes_beside_a_vm_that_cannot_be_read(host: FakeHost) -> None:
    host.agent().put(full(1))
    _garble(host, VM)
    agent = host.agent()
    agent.put(full(2))
    served = host.dhcp.served[A]
    assert [(one.vm, one.ipv4) for one in served.hosts] == [(VM, "10.0.0.5"), (OTHER, "10.0.0.6")]
    agent.delete(OTHER, volumes=True)
    assert [one.vm for one in host.dhcp.served[A].hosts if one.vm == VM] == [VM]
    assert {one.tap for one in host.wires.there if isinstance(one, PortFilter)} >= {"t0000000001-0"}


def test_a_vm_that_becomes_unreadable_stays_known(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    _garble(host, VM)
    agent.sweep()
    told = agent.vm(VM)
    assert (told.spec, told.state) == (full(1), State.RUNNING)
    assert told.error == "metadata: the element of lvagent cannot be read"


def test_a_create_does_not_replace_a_domain_that_cannot_be_read(host: FakeHost) -> None:
    host.agent().put(spec(1))
    _garble(host, VM)
    before = host.state()
    with pytest.raises(Conflict):
        host.agent().put(spec(1))
    assert host.state() == before


# strangers


def test_a_create_does_not_replace_a_strangers_domain(host: FakeHost) -> None:
    agent = host.agent()
    host.domains.define(VM, STRANGER)
    before = host.state()
    with pytest.raises(Conflict):
        agent.put(full(1))
    assert host.state() == before


@pytest.mark.parametrize("act", ["delete", "start", "change"])
def test_a_domain_that_became_a_strangers_is_not_touched(host: FakeHost, act: str) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.power(VM, Action.STOP)
    host.domains.found[VM].config = STRANGER
    before = host.state()["domains"]
    with pytest.raises(Conflict):
        _act(agent, act)
    assert host.state()["domains"] == before
    with pytest.raises(NotFound):
        agent.vm(VM)


def _act(agent: Agent, act: str) -> None:
    if act == "delete":
        agent.delete(VM)
    elif act == "start":
        agent.power(VM, Action.START)
    else:
        agent.put(spec(1, memory_mb=256))


def test_a_sweep_forgets_a_domain_that_became_a_strangers(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.power(VM, Action.STOP)
    host.domains.found[VM].config = STRANGER
    agent.sweep()
    assert (agent.vms(), host.wires.there, host.dhcp.served) == ((), set(), {})


# libvirt goes away


def test_a_rollback_without_libvirt_takes_nothing_from_a_guest_that_runs(host: FakeHost) -> None:
    agent = host.agent()
    _fail_from(host, "set_element", {"set_element", "destroy", "undefine", "drop_secret"})
    with pytest.raises(Unavailable):
        agent.put(full(1))
    _heal(host)
    assert host.volumes.paths == {DISK}
    agent.sweep()
    assert agent.vm(VM).state is State.RUNNING
    assert agent.put(full(1)).outcome is Outcome.UNCHANGED
    assert [one.vm for one in host.dhcp.served[A].hosts] == [VM]


def test_what_a_rollback_could_not_undo_is_undone_by_the_next_put(host: FakeHost) -> None:
    agent = host.agent()
    _fail_from(host, "start", {"start", "destroy", "undefine", "drop_secret"})
    with pytest.raises(Unavailable):
        agent.put(full(1))
    _heal(host)
    assert agent.put(full(1)).outcome is Outcome.CREATED
    assert (agent.vm(VM).state, host.volumes.paths) == (State.RUNNING, {DISK})


def _fail_from(host: FakeHost, first: str, names: set[str]) -> None:
    """From the call ``first`` on, libvirt is away for these calls."""
    seen: list[str] = []

    def step(name: str) -> None:
        seen.append(name)
        if name in names and first in seen:
            raise Unavailable("libvirtd")

    host.breaker.step = step  # type: ignore[method-assign]


def _heal(host: FakeHost) -> None:
    host.breaker.step = lambda name: None  # type: ignore[method-assign]


# crashes


def test_a_volume_that_a_change_was_making_is_known_as_ours_after_a_crash(host: FakeHost) -> None:
    agent = host.agent()
    before = host.state()
    agent.put(spec(1))
    _fail_from(host, "define", {"define", "set_element", "remove volumes"})
    with pytest.raises(LvagentError):
        agent.put(full(1))
    _heal(host)
    assert host.volumes.paths == {DISK}
    again = host.agent()
    again.delete(VM, volumes=True)
    assert host.state() == before


def test_a_domain_that_starts_while_the_sweep_looks_is_not_discarded(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    element = parse_element(find_element(host.domains.found[VM].config) or "")
    unfinished = render_element(dataclasses.replace(element, created=None))
    host.domains.found[VM].config = _swap(host.domains.found[VM].config, unfinished)
    old = host.domains.record(VM)
    assert old is not None
    stopped = dataclasses.replace(
        old, live=None, state=dataclasses.replace(old.state, state=State.STOPPED, active=False)
    )
    host.domains.records = lambda: (stopped,)  # type: ignore[method-assign]
    host.agent()
    assert (host.volumes.paths, set(host.domains.found)) == ({DISK}, {VM})


# hands


def test_a_running_vm_that_was_undefined_can_be_deleted(host: FakeHost) -> None:
    agent = host.agent()
    before = host.state()
    agent.put(full(1))
    host.domains.undefine(VM)
    agent.sweep()
    assert agent.vm(VM).state is State.RUNNING
    agent.delete(VM, volumes=True)
    assert host.state() == before


def test_an_old_definition_is_shown_and_not_obeyed_and_a_put_mends_it(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    old = host.domains.found[VM].config
    agent.put(spec(1, memory_mb=256))
    host.domains.found[VM].config = old
    agent.sweep()
    told = agent.vm(VM)
    assert (told.spec.memory_mb, told.error is None) == (256, False)
    assert agent.put(spec(1, memory_mb=256)).outcome is Outcome.CHANGED
    agent.sweep()
    assert (agent.vm(VM).error, agent.vm(VM).revision) == (None, 3)
    assert host.agent().vm(VM).spec.memory_mb == 256


def test_a_definition_without_our_element_keeps_what_the_running_guest_has(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    before = host.state()
    host.domains.found[VM].config = STRANGER
    stranger = host.state()
    for one in (agent, host.agent()):
        one.sweep()
        assert (one.vm(VM).state, one.vm(VM).spec, host.state()) == (State.RUNNING, spec(1), stranger)
    agent.put(spec(1))
    assert host.state()["wires"] == before["wires"]
    assert host.domains.found[VM].config != STRANGER


def test_a_vm_that_libvirt_started_after_a_boot_and_that_ended_is_not_started_again(host: FakeHost) -> None:
    host.agent().put(spec(1))
    host.agent(boot_id="boot-2")  # libvirt's autostart was faster
    host.domains.destroy(VM)
    assert host.agent(boot_id="boot-2").vm(VM).state is State.STOPPED


def test_deleting_a_vm_leaves_a_volume_that_another_has_by_now(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(full(1))
    agent.put(spec(1))
    agent.power(VM, Action.STOP)
    agent.put(spec(2, volumes=[{"path": DISK, "position": 0, "size_gb": 1}]))
    agent.delete(VM, volumes=True)
    assert host.volumes.paths == {DISK}


# the hook


def test_a_vm_that_is_being_deleted_does_not_start(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    _fail_from(host, "undefine", {"undefine"})
    with pytest.raises(Unavailable):
        agent.delete(VM)
    _heal(host)
    with pytest.raises(HostError, match="is being deleted"):
        host.domains.start(VM)
    host.agent(sweep=False)
    with pytest.raises(HostError, match="is being deleted"):
        host.domains.start(VM)


def test_a_restored_vm_that_contradicts_a_running_one_does_not_start(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(host=5)))
    saved = host.domains.found[VM].config
    agent.delete(VM)
    agent.put(spec(2, nic(host=5)))
    with pytest.raises(Conflict) as caught:
        agent.plugger.start(VM, saved, lambda: True)
    assert caught.value.other == OTHER
    assert [one.spec.id for one in agent.vms()] == [OTHER]


def test_a_start_during_a_change_keeps_what_it_started_with(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(host=5)))
    agent.power(VM, Action.STOP)
    check = host.volumes.check

    def meanwhile(volumes: Any) -> Judged:  # noqa: ANN401 - as the fake
        host.volumes.check = check  # type: ignore[method-assign] - the start judges them, too
        host.domains.start(VM)
        return check(volumes)

    host.volumes.check = meanwhile  # type: ignore[method-assign]
    result = agent.put(spec(1, nic(host=6)))
    assert result.restart_needed == ("networks[0].ipv4", "networks[0].ipv6")
    assert [one.ipv4 for one in host.dhcp.served[A].hosts] == ["10.0.0.5"]


def test_a_start_that_could_not_be_plugged_leaves_nothing_applied(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.power(VM, Action.STOP)
    _fail_from(host, "plug", {"plug"})
    with pytest.raises(Unavailable):
        host.domains.start(VM)
    _heal(host)
    assert agent.put(spec(1, memory_mb=256)).restart_needed == ()


def test_while_a_change_may_be_undone_its_former_addresses_are_kept_free(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(host=5)))
    agent.power(VM, Action.STOP)
    refused: list[str] = []
    define = host.domains.define

    def meanwhile(vm: str, xml: str) -> None:
        if vm == OTHER or refused:
            return define(vm, xml)
        with pytest.raises(Conflict) as caught:
            agent.put(spec(2, nic(host=5)))
        refused.append(caught.value.other)
        raise HostError(vm, "define", "told to fail")

    host.domains.define = meanwhile  # type: ignore[method-assign]
    with pytest.raises(HostError, match="told to fail"):
        agent.put(spec(1, nic(host=6)))
    assert (refused, agent.vm(VM).spec) == ([VM], spec(1, nic(host=5)))
    agent.put(spec(1, nic(host=6)))
    agent.put(spec(2, nic(host=5)))


# events


def test_an_answer_that_is_older_than_what_is_known_says_nothing(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.power(VM, Action.STOP)
    state = host.domains.state

    def slow(vm: str) -> Any:  # noqa: ANN401 - as the fake
        old = state(vm)
        host.domains.state = state  # type: ignore[method-assign]
        agent.power(VM, Action.START)
        return old

    host.domains.state = slow  # type: ignore[method-assign]
    agent.observe(VM)
    assert agent.vm(VM).state is State.RUNNING


# the network


class _Arrives(Index):
    """Its first look at the members finds none; then one has come."""

    def __init__(self, members: tuple[VmConfig, ...]) -> None:
        super().__init__()
        self._later = members
        self._looks = 0

    def members(self, vpc: str) -> tuple[VmConfig, ...]:
        self._looks += 1
        return () if self._looks == 1 else self._later

    def vpcs(self) -> frozenset[str]:
        return frozenset({A})


def test_the_first_of_a_vpc_that_comes_while_the_last_goes_is_served_on_wires(host: FakeHost) -> None:
    there: list[bool] = []
    ensure = host.dhcp.ensure

    def on_wires(wanted: Dhcp) -> None:
        there.append(Netns(wanted.vpc) in host.wires.there)
        ensure(wanted)

    host.dhcp.ensure = on_wires  # type: ignore[method-assign]
    index = _Arrives((spec(1, {**nic(), "vxlanid": 0}),))
    Networks(index, host.wires, host.dhcp, host.metadata, POLICY, host._locks).converge(A)
    assert there == [True]


def test_a_segment_that_a_dead_vpc_still_crosses_is_left_to_its_own_removal(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1))
    agent.put(spec(2, nic(B, "subnet-bbbbbbbbbb", net=1, vni=7)))
    _garble(host, OTHER)
    again = host.agent()
    again.delete(VM)
    assert {one.vni for one in host.wires.there if isinstance(one, Bridge | Vxlan)} == {7}


def test_a_key_reaches_a_guest_whose_other_changes_wait(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(spec(1, nic(host=5)))
    agent.put(spec(1, nic(host=6), keys=["ssh-ed25519 " + KEY]))
    live = parse_element(find_element(host.domains.found[VM].live or "") or "")
    assert (live.spec.networks, live.spec.keys) == (spec(1, nic(host=5)).networks, ("ssh-ed25519 " + KEY,))


def test_a_vm_that_is_deleted_during_a_sweep_gets_nothing_back(host: FakeHost) -> None:
    in_b = [nic(B, "subnet-bbbbbbbbbb", net=1, vni=0, host=6 + at, position=1 - at) for at in range(2)]
    agent = host.agent()
    agent.put(spec(1, nic(A), in_b[0]))
    before = host.state()
    agent.put(spec(2, in_b[1]))
    host.wires.when_counted = lambda vpc: agent.delete(OTHER) if vpc == A else None
    assert agent.sweep()
    assert host.state() == before


def test_a_delete_does_not_fail_for_others_who_wire_all_the_time(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all VPCs share goes when nobody wires; on a busy host that may be a sweep later."""
    monkeypatch.setattr(locks, "ALONE_SECONDS", 0.0, raising=False)
    agent = host.agent()
    agent.put(spec(1))
    with agent._networks.locks.fabric(alone=False):
        agent.delete(VM)
    assert agent.vms() == ()
    assert host.wires.there == {Fabric(POLICY.fabric)}
    assert agent.sweep()
    assert host.state() == FakeHost(host._locks).state()


def test_a_vpc_that_goes_while_the_underlay_side_is_looked_over_ends_no_sweep(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> frozenset[Resource]:
        raise Vanished(B, "read", "find vi-bbbbbbbbbb: No such device")

    agent = host.agent()
    agent.put(spec(1))
    with monkeypatch.context() as patched:
        patched.setattr(host.wires, "fabric", gone)
        agent.delete(VM)
        assert agent.sweep()
    assert host.wires.there == {Fabric(POLICY.fabric)}
    assert agent.sweep()
    assert host.wires.there == set()


def test_an_answer_about_the_vm_that_had_this_id_before_says_nothing_of_this_one(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = host.agent()
    agent.put(spec(1))
    state = host.domains.state

    def late(vm: str) -> DomainState:
        """Between the question and what comes of it the VM goes, and one of its id is about to be made."""
        monkeypatch.setattr(host.domains, "state", state)
        told = state(vm)
        agent.delete(VM)
        agent._index.claim(agent._vms.prepare(spec(1)))
        return told

    monkeypatch.setattr(host.domains, "state", late)
    agent.observe(VM)
    new = agent._index.get(VM)
    assert new is not None
    assert (new.domain, new.applied) == (None, None)


def test_a_look_that_nobody_waits_for_says_what_went_wrong(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_vm: str) -> DomainState:
        raise KeyError("a defect")

    agent = host.agent()
    agent.put(spec(1))
    monkeypatch.setattr(host.domains, "state", broken)
    agent.observe(VM)
    assert "a defect" in caplog.text
