"""What VMs' volumes stand on: nobody else writes to it, and nothing is started on what has become hostile."""

from __future__ import annotations

import pytest

from lvagent.errors import Conflict, SpecError
from lvagent.spec.status import Action, State
from lvagent.spec.vm import VmConfig
from tests.e2e.specs import Spec
from tests.unit.agent.fakes import FakeHost
from tests.unit.agent.test_agent import spec

ONE, TWO = "i-0000000001", "i-0000000002"
FOLDER = "/var/lib/lvagent/volumes"
BASE, TOP, OTHER = (f"{FOLDER}/{name}.qcow2" for name in ("base", "top", "other"))


def disk(path: str, position: int = 0, *, readonly: bool = False) -> Spec:
    return {"path": path, "position": position, **({"readonly": True} if readonly else {"size_gb": 1})}


def having(number: int, *disks: Spec) -> VmConfig:
    return spec(number, volumes=list(disks))


@pytest.fixture
def stacked(host: FakeHost) -> FakeHost:
    """TOP stands on BASE; both are there."""
    host.volumes.paths = {BASE, TOP}
    host.volumes.backing = {TOP: BASE}
    return host


def refused(host: FakeHost, one: VmConfig, *, path: str, other: str) -> str:
    before = host.state()
    with pytest.raises(Conflict) as caught:
        host.agent().put(one)
    assert (caught.value.path, caught.value.other) == (path, other)
    assert host.state() == before
    return caught.value.message


def test_a_volume_upon_one_that_another_vm_writes_to_is_refused(stacked: FakeHost) -> None:
    stacked.agent().put(having(1, disk(BASE)))
    message = refused(stacked, having(2, disk(OTHER), disk(TOP, 1)), path="volumes[1].path", other=ONE)
    assert message == f"the volume {BASE} is in use: see {ONE}"


def test_one_that_another_vm_only_reads_may_be_stood_on(stacked: FakeHost) -> None:
    agent = stacked.agent()
    agent.put(having(1, disk(BASE, readonly=True)))
    assert agent.put(having(2, disk(TOP))).status.state is State.RUNNING


@pytest.mark.parametrize("again", [False, True], ids=["same agent", "restarted"])
def test_what_a_vm_stands_on_is_written_to_by_nobody_else(stacked: FakeHost, *, again: bool) -> None:
    agent = stacked.agent()
    agent.put(having(2, disk(TOP)))
    if not again:
        with pytest.raises(Conflict) as caught:
            agent.put(having(1, disk(BASE)))
        assert (caught.value.path, caught.value.other) == ("volumes[0].path", TWO)
    refused(stacked, having(1, disk(BASE)), path="volumes[0].path", other=TWO)
    agent = stacked.agent()
    agent.put(having(1, disk(BASE, readonly=True)))
    agent.delete(TWO)
    agent.put(having(1, disk(BASE)))


def test_two_may_stand_on_the_same_one(stacked: FakeHost) -> None:
    stacked.volumes.paths.add(OTHER)
    stacked.volumes.backing[OTHER] = BASE
    agent = stacked.agent()
    agent.put(having(1, disk(TOP)))
    agent.put(having(2, disk(OTHER)))


def test_what_was_made_for_another_vm_is_not_stood_on_even_if_it_let_it_go(host: FakeHost) -> None:
    agent = host.agent()
    agent.put(having(1, disk(BASE)))
    agent.put(having(1))
    agent.power(ONE, Action.STOP)
    host.volumes.paths.add(TOP)
    host.volumes.backing = {TOP: BASE}
    message = refused(host, having(2, disk(TOP)), path="volumes[0].path", other=ONE)
    assert message == f"it stands on {BASE}, which was made for {ONE}"


def test_a_change_brings_and_takes_what_a_vm_stands_on(stacked: FakeHost) -> None:
    agent = stacked.agent()
    agent.put(having(2))
    agent.put(having(2, disk(TOP)))
    with pytest.raises(Conflict):
        agent.put(having(1, disk(BASE)))
    agent.put(having(2))
    with pytest.raises(Conflict):  # its guest still runs with it
        agent.put(having(1, disk(BASE)))
    agent.power(TWO, Action.STOP)
    agent.put(having(2, {"path": OTHER, "position": 0, "size_gb": 1}))
    agent.put(having(1, disk(BASE)))


def test_a_change_to_what_another_vm_writes_to_is_undone(stacked: FakeHost) -> None:
    agent = stacked.agent()
    agent.put(having(1, disk(BASE)))
    agent.put(having(2))
    before = stacked.state()
    with pytest.raises(Conflict):
        agent.put(having(2, disk(TOP)))
    assert stacked.state() == before
    assert agent.vm(TWO).spec == having(2)


def test_what_others_stand_on_is_not_deleted_with_its_vm(host: FakeHost) -> None:
    """An overlay that somebody made by hand meanwhile, of what was made for a VM that only reads it."""
    agent = host.agent()
    agent.put(spec(1, volumes=[{"path": BASE, "position": 0, "image": "tiny", "readonly": True}]))
    host.volumes.paths.add(TOP)
    host.volumes.backing = {TOP: BASE}
    agent.put(having(2, disk(TOP)))
    agent.delete(ONE, volumes=True)
    assert host.volumes.paths == {BASE, TOP}


@pytest.mark.parametrize("by_hand", [False, True], ids=["by the API", "by hand"])
def test_what_became_hostile_is_not_started(host: FakeHost, *, by_hand: bool) -> None:
    agent = host.agent()
    agent.put(having(1, disk(BASE)))
    agent.power(ONE, Action.STOP)
    host.volumes.hostile = {BASE}
    start = (lambda: host.domains.start(ONE)) if by_hand else (lambda: agent.power(ONE, Action.START))
    with pytest.raises(SpecError, match="encrypted"):
        start()
    assert agent.vm(ONE).state is State.STOPPED
    host.volumes.hostile = set()
    assert agent.power(ONE, Action.START).state is State.RUNNING


def test_what_a_start_finds_below_is_in_use_from_then_on(stacked: FakeHost) -> None:
    stacked.volumes.backing = {}
    agent = stacked.agent()
    agent.put(having(2, disk(TOP)))
    agent.power(TWO, Action.STOP)
    stacked.volumes.backing = {TOP: BASE}
    agent.power(TWO, Action.START)
    with pytest.raises(Conflict) as caught:
        agent.put(having(1, disk(BASE)))
    assert caught.value.other == TWO


def test_a_start_upon_what_another_writes_to_by_now_is_refused(stacked: FakeHost) -> None:
    """A volume that was rebased by hand while its VM was off."""
    stacked.volumes.backing = {}
    agent = stacked.agent()
    agent.put(having(1, disk(BASE)))
    agent.put(having(2, disk(TOP)))
    agent.power(TWO, Action.STOP)
    stacked.volumes.backing = {TOP: BASE}
    with pytest.raises(Conflict) as caught:
        agent.power(TWO, Action.START)
    assert caught.value.other == ONE
    agent.power(ONE, Action.STOP)
    agent.delete(ONE)
    assert agent.power(TWO, Action.START).state is State.RUNNING
