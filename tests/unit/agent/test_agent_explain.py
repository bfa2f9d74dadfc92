"""The agent's answers about flows: out of what it knows, and of what the host saw."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvagent.agent.core import Agent
from lvagent.errors import Conflict, LvagentError, NotFound, Vanished
from lvagent.host.probe import Seen
from lvagent.host.wishes import WishFiles
from lvagent.plan.explain.probe import Probe
from lvagent.plan.sessions import KeptFlow, Tuple
from lvagent.spec import names
from lvagent.spec.flow import Live, parse_flow
from lvagent.spec.parse import parse_vm
from lvagent.spec.status import Action, SessionsView, VmSessions
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.e2e.specs import nic, vm
from tests.unit.agent.fakes import FakeHost
from tests.unit.plan.test_uplinks import WAYS

A = "vpc-aaaaaaaaaa"
ONE, TWO = "i-0000000001", "i-0000000002"
SSH = parse_flow(ONE, TWO, "tcp", 22)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path / "locks")
    found.policy = dataclasses.replace(found.policy, uplinks=WAYS)
    return found


@pytest.fixture
def agent(fake: FakeHost) -> Agent:
    """An agent with two VMs in a VPC behind NAT."""
    made = fake.agent()
    made.put_vpc(A, VpcConfig(uplink=UplinkMode.NAT))
    for number in (1, 2):
        made.put(parse_vm(vm(number, nic(host=4 + number), rules=[{"proto": "tcp", "port": 22}])))
    return made


def test_a_walk_over_what_is_known_touches_nothing(fake: FakeHost, agent: Agent) -> None:
    found = agent.explain(SSH)
    assert (found.walk.allowed, found.live, fake.wires.probes) == (True, None, [])
    assert not agent.explain(parse_flow(ONE, TWO, "tcp", 23)).walk.allowed
    agent.power(TWO, Action.STOP)
    assert agent.explain(SSH).walk.decider.element == "it does not run"
    for flow in (parse_flow("i-0000000009", TWO, "tcp", 22), parse_flow(ONE, "i-0000000009", "tcp", 22)):
        with pytest.raises(NotFound):
            agent.explain(flow)


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (
            Vanished("the probe", "send", "no port"),
            "cannot send the probe: no port (it went away meanwhile; try again)",
        ),
        (Conflict("no link leads to 2001:db8::1", hint="ip route"), "no link leads to 2001:db8::1 (ip route)"),
    ],
)
def test_a_packet_that_has_no_way_in_or_none_any_more_is_not_sent(
    fake: FakeHost, agent: Agent, monkeypatch: pytest.MonkeyPatch, refusal: LvagentError, text: str
) -> None:
    def refuse(_probe: Probe) -> Seen:
        raise refusal

    monkeypatch.setattr(fake.wires, "probe", refuse)
    found = agent.explain(SSH, live=True)
    assert (found.walk.allowed, found.live) == (True, Live(False, False, None, text))


def test_of_a_wish_that_cannot_be_read_nothing_is_said(fake: FakeHost, agent: Agent, tmp_path: Path) -> None:
    out = parse_flow(ONE, "198.51.100.10", "tcp", 80)
    assert agent.explain(out).walk.allowed
    (tmp_path / "vpcs").mkdir()
    (tmp_path / "vpcs" / f"{A}.json").write_text("{")
    fake.wishes = WishFiles(tmp_path / "vpcs", names.VPC_NAME)
    again = fake.agent()
    assert again.explain(SSH).walk.allowed  # does not leave the VPC
    with pytest.raises(Conflict, match=f"the way out of {A} is not known: its file cannot be read"):
        again.explain(out)
    again.put_vpc(A, VpcConfig(uplink=UplinkMode.NAT))
    assert again.explain(out).walk.allowed


def test_the_host_agrees_or_does_not(fake: FakeHost, agent: Agent) -> None:
    assert agent.explain(SSH, live=True).live == Live(
        True, True, True, "the host agrees: it gets there", "", ("a chain",)
    )
    assert [one.entry for one in fake.wires.probes] == ["t0000000001-0"]
    fake.wires.seen = Seen(False, "it was dropped", "root: ip filter FORWARD: policy drop", ())
    told = agent.explain(SSH, live=True).live
    assert told is not None
    assert (told.agrees, told.decider) == (False, "root: ip filter FORWARD: policy drop")
    assert told.text == "the host does NOT agree: it was dropped"
    other = agent.explain(parse_flow(ONE, TWO, "tcp", 23), live=True).live
    assert other is not None
    assert other.agrees


def test_what_cannot_be_sent_is_not(fake: FakeHost, agent: Agent) -> None:
    agent.power(ONE, Action.STOP)
    told = agent.explain(SSH, live=True).live
    assert told is not None
    assert (told.sent, told.agrees, fake.wires.probes) == (False, None, [])


def test_a_vpc_tells_the_flows_by_its_uplink(fake: FakeHost, agent: Agent) -> None:
    begun = Tuple(ip_address("10.0.0.5"), ip_address("9.9.9.9"), 6, 1, 2)
    answer = Tuple(ip_address("9.9.9.9"), ip_address("198.19.0.3"), 6, 2, 1)
    fake.wires.kept_flows[A] = [KeptFlow(begun, answer, 70)]
    assert agent.vpc(A).sessions == SessionsView(1, 70, True, (VmSessions(ONE, 1, 70),))
    assert [view.sessions for view in agent.vpcs()] == [None]
    agent.put_vpc(A, VpcConfig(uplink=UplinkMode.NONE))
    assert agent.vpc(A).sessions is None
