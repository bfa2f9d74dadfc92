"""Definitions that somebody changed by hand: shown field by field, never obeyed by themselves, accepted or undone."""

from __future__ import annotations

import dataclasses
import re

import pytest

from lvagent.agent.core import Agent
from lvagent.errors import Conflict, SpecError
from lvagent.render.element import find_element
from lvagent.spec.status import Action, Drift, Place, Settling
from tests.unit.agent.fakes import OFF, FakeHost
from tests.unit.agent.test_agent import full

VM = "i-0000000001"
PLACE = Place.DEFINITION


def define(host: FakeHost, old: str, new: str) -> None:
    """``virsh edit``: a text of the definition replaced."""
    one = host.domains.found[VM]
    assert re.search(old, one.config), one.config
    one.config = re.sub(old, new, one.config, count=1)


def details(agent: Agent) -> tuple[Drift, ...]:
    assert agent.sweep()
    return agent.vm(VM).drift_details


@pytest.fixture
def agent(host: FakeHost) -> Agent:
    made = host.agent()
    made.put(full(1, cpus=1))
    assert details(made) == ()
    return made


MEMORY = (r'<memory unit="MiB">64</memory>', '<memory unit="KiB">131072</memory>')
CPUS = (r'<vcpu placement="static">1</vcpu>', '<vcpu placement="static">3</vcpu>')
NO_ELEMENT = (r"<metadata>(.|\n)*</metadata>", "")
HOSTDEV = (r"</devices>", "<hostdev mode='subsystem'/></devices>")


def test_an_edit_is_shown_at_the_event_and_never_obeyed(host: FakeHost, agent: Agent) -> None:
    define(host, *MEMORY)
    agent.observe(VM)
    wanted = Drift("memory_mb", 64, 128, PLACE)
    assert (agent.vm(VM).drift, agent.vm(VM).drift_details) == (("memory_mb",), (wanted,))
    before = host.state()
    assert details(agent) == (wanted,)
    assert details(host.agent()) == (wanted,)
    assert host.state() == before


def test_an_edit_is_accepted_as_the_wish(host: FakeHost, agent: Agent) -> None:
    define(host, *MEMORY)
    define(host, *CPUS)
    status = agent.settle(VM, Settling.ACCEPT)
    assert (status.spec.memory_mb, status.spec.cpus, status.revision) == (128, 3, 2)
    assert {(one.path, one.place) for one in status.drift_details} == {
        ("memory_mb", Place.GUEST), ("cpus", Place.GUEST),
    }  # fmt: skip
    agent.power(VM, Action.STOP)
    agent.power(VM, Action.START)
    assert details(agent) == ()


def test_an_edit_is_undone(host: FakeHost, agent: Agent) -> None:
    before = host.domains.found[VM].config
    define(host, *MEMORY)
    status = agent.settle(VM, Settling.RESTORE)
    assert (status.spec.memory_mb, status.drift_details) == (64, ())
    assert '<memory unit="MiB">64</memory>' in host.domains.found[VM].config
    assert before.count("<disk") == host.domains.found[VM].config.count("<disk")


def test_an_old_definition_is_shown_field_by_field(host: FakeHost, agent: Agent) -> None:
    old = host.domains.found[VM].config
    agent.put(full(1, cpus=2, rules=[{"proto": "tcp", "port": 80}]))
    host.domains.found[VM].config = old
    found = {one.path: (one.wanted, one.actual) for one in details(agent) if one.place is PLACE}
    assert (found["revision"], found["cpus"]) == ((2, 1), (2, 1))
    assert "rules" in found
    assert agent.settle(VM, Settling.RESTORE).spec.cpus == 2
    assert [one for one in details(agent) if one.place is PLACE] == []
    host.domains.found[VM].config = old
    assert agent.sweep()
    assert agent.settle(VM, Settling.ACCEPT).spec.cpus == 1


def test_a_definition_without_our_element(host: FakeHost, agent: Agent) -> None:
    define(host, *NO_ELEMENT)
    assert details(agent) == (Drift("revision", 1, None, PLACE),)
    assert agent.settle(VM, Settling.RESTORE).drift == ()
    assert find_element(host.domains.found[VM].config) is not None
    define(host, *NO_ELEMENT)
    define(host, *MEMORY)
    assert agent.settle(VM, Settling.ACCEPT).spec.memory_mb == 128


def test_an_undefined_one_that_runs(host: FakeHost, agent: Agent) -> None:
    host.domains.found[VM].persistent = False
    assert details(agent) == (Drift("definition", "defined", "undefined", PLACE),)
    with pytest.raises(Conflict, match="no definition"):
        agent.settle(VM, Settling.ACCEPT)


REFUSED = {
    "a device that no spec knows": (*HOSTDEV, "devices/hostdev"),
    "another CPU": (r"<cpu (.|\n)*?</cpu>|<cpu [^>]*/>", "<cpu mode='host-passthrough'/>", "cpu"),
    "no console": (r"<serial (.|\n)*?</serial>", "", "devices/serial"),
    "another disk": (r'<source file="[^"]*"', '<source file="/v/other.qcow2"', "volumes"),
    "another MAC": (r'<mac address="[^"]*"', '<mac address="52:54:00:00:00:01"', "networks"),
    "memory that is no number of MiB": (MEMORY[0], '<memory unit="KiB">131073</memory>', "memory_mb"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_spec_can_say_is_refused_by_name_and_can_be_undone(host: FakeHost, agent: Agent, name: str) -> None:
    old, new, part = REFUSED[name]
    define(host, old, new)
    before = host.state()
    with pytest.raises(Conflict) as refusal:
        agent.settle(VM, Settling.ACCEPT)
    assert refusal.value.path == part
    assert "restore" in refusal.value.hint
    assert host.state() == before
    agent.settle(VM, Settling.RESTORE)
    assert details(agent) == ()
    assert new not in host.domains.found[VM].config or not new


def test_an_invalid_spec_is_not_accepted(host: FakeHost, agent: Agent) -> None:
    define(host, CPUS[0], '<vcpu placement="static">100000</vcpu>')
    with pytest.raises(SpecError):
        agent.settle(VM, Settling.ACCEPT)


def test_nothing_to_settle_is_fine(host: FakeHost, agent: Agent) -> None:
    before = host.state()
    for how in Settling:
        assert agent.settle(VM, how).revision == 1
    assert host.state() == before


def test_user_data_is_kept_and_never_shown(host: FakeHost, agent: Agent) -> None:
    agent.put(dataclasses.replace(full(1), user_data=b"hunter2"))
    define(host, *MEMORY)
    assert "hunter2" not in repr(details(agent))
    assert agent.settle(VM, Settling.ACCEPT).spec.user_data == b"hunter2"
    assert set(host.domains.kept[VM].values()) == {b"hunter2"}


def test_a_stopped_one_can_be_settled(host: FakeHost, agent: Agent) -> None:
    agent.power(VM, Action.STOP)
    define(host, *MEMORY)
    assert agent.settle(VM, Settling.ACCEPT).spec.memory_mb == 128
    assert host.domains.found[VM].state == OFF
    assert details(agent) == ()


def test_a_live_copy_that_came_back_from_a_snapshot_is_put_right(host: FakeHost, agent: Agent) -> None:
    """It is what an agent that starts later goes by: here, with the wish in no other place."""
    domain = host.domains.found[VM]
    old = domain.config
    agent.put(full(1, cpus=2, rules=[{"proto": "tcp", "port": 80}]))
    domain.config = domain.live = old
    agent.observe(VM)
    assert host.agent().sweep()
    found = {one.path: (one.wanted, one.actual) for one in details(host.agent()) if one.place is PLACE}
    assert (found["revision"], "rules" in found) == ((2, 1), True)


def test_a_job_that_forbids_it_does_not_matter(host: FakeHost, agent: Agent) -> None:
    domain = host.domains.found[VM]
    old = domain.config
    agent.put(full(1, cpus=2))
    domain.config = domain.live = old
    host.breaker.arm(-1)
    details(agent)
    step = host.breaker.names.index("set_element") + 1
    domain.live = old
    host.breaker.arm(step)
    told = details(agent)
    assert (host.breaker.names[step - 1], find_element(domain.live)) == ("set_element", find_element(old))
    assert "cpus" in {one.path for one in told}
    assert details(agent) == told
    assert find_element(domain.live) != find_element(old)
