"""How much a sweep may take away, and who may say that it may take more."""

from __future__ import annotations

from lvagent.agent.core import Agent
from lvagent.config import Settings, Sweep
from lvagent.plan.resources import Netns
from tests.e2e.specs import nic
from tests.unit.agent.fakes import FakeHost
from tests.unit.agent.test_agent import spec

MANY = 12


def fill(host: FakeHost, agent: Agent) -> None:
    """As many VMs, each in a VPC of its own."""
    for number in range(1, MANY + 1):
        names = (f"vpc-{number:010}", f"subnet-{number:010}")
        agent.put(spec(number, nic(*names, net=number, vni=number)))


def lose(host: FakeHost, *numbers: int) -> None:
    """Take domains away, with their qemu, as if libvirt never had them."""
    for number in numbers:
        host.wires.unplug(f"i-{number:010}")
        del host.domains.found[f"i-{number:010}"]


def vpcs(host: FakeHost) -> int:
    return len([one for one in host.wires.there if isinstance(one, Netns)])


def told(agent: Agent) -> str:
    return dict(agent.readiness().checks)["removals"]


def test_a_few_go_without_a_word(host: FakeHost) -> None:
    agent = host.agent()
    fill(host, agent)
    lose(host, 1, 2)
    assert agent.sweep()
    assert (vpcs(host), told(agent)) == (MANY - 2, "ok")


def test_a_libvirt_that_has_lost_all_takes_nothing_with_it(host: FakeHost) -> None:
    agent = host.agent(settings=Settings(sweep=Sweep(removals=10_000)))
    fill(host, agent)
    before = host.state()
    lose(host, *range(1, MANY + 1))
    again = host.agent()
    for one in (agent, again, again):
        assert one.sweep()
        assert {name: host.state()[name] for name in ("wires", "dhcp", "metadata")} == {
            name: before[name] for name in ("wires", "dhcp", "metadata")
        }
    assert "12 of 12 VPCs" in told(agent)
    assert "lvagent sweep --force" in told(again)
    assert agent.readiness().ready


def test_more_objects_than_the_setting_stay(host: FakeHost) -> None:
    agent = host.agent(settings=Settings(sweep=Sweep(removals=5)))
    fill(host, agent)
    lose(host, 1)
    assert agent.sweep()
    assert (vpcs(host), "more than 5" in told(agent)) == (MANY, True)
    assert agent.sweep_now(force=False).held == told(agent)
    assert agent.sweep_now(force=True).held == ""
    assert (vpcs(host), told(agent)) == (MANY - 1, "ok")


def test_what_shrinks_by_itself_is_removed_again(host: FakeHost) -> None:
    agent = host.agent(settings=Settings(sweep=Sweep(removals=30)))
    fill(host, agent)
    gone = dict(host.domains.found)
    lose(host, *range(1, 7))
    assert agent.sweep()
    assert vpcs(host) == MANY
    host.domains.found |= {vm: one for vm, one in gone.items() if vm != "i-0000000001"}
    assert agent.sweep()
    assert (vpcs(host), told(agent)) == (MANY - 1, "ok")


def test_a_delete_is_no_sweep(host: FakeHost) -> None:
    agent = host.agent(settings=Settings(sweep=Sweep(removals=1)))
    fill(host, agent)
    for number in range(1, MANY + 1):
        agent.delete(f"i-{number:010}")
    assert vpcs(host) == 0
