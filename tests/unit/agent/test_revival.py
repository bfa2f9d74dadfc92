"""VMs that end though they are wanted running: who is started again, when, and who wins."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lvagent.agent.core import Agent
from lvagent.agent.news import Follower
from lvagent.errors import HostError, LvagentError, Unavailable
from lvagent.host.libvirt import AWAY, BY_GUEST
from lvagent.observe.intake import Batch, Event
from lvagent.render.element import parse_element
from lvagent.spec.status import Action, State
from tests.unit.agent.fakes import FakeHost
from tests.unit.agent.test_agent import full, spec

VM = "i-0000000001"
CRASH = "qemu ended unexpectedly"


class Story:
    """An agent with a VM, and the clock of its host."""

    def __init__(self, host: FakeHost, **more: object) -> None:
        self.host = host
        self.agent: Agent = host.agent()
        self.follower: Follower = self.agent.news.follow()
        self.agent.put(full(1, **more))
        self.kinds()

    def kinds(self) -> list[str]:
        """What was published since the last look."""
        found = []
        while (item := self.follower.take(0)) is not None:
            found.append(item.kind)
        return found

    def end(self, state: State = State.CRASHED, reason: str = CRASH) -> None:
        """Its qemu ends, and the agent sees it."""
        self.host.domains.end(VM, state, reason)
        self.agent.observe(VM)
        self.agent.revival.work()

    def after(self, seconds: float) -> None:
        """What is due within these seconds is begun, and ends."""
        self.host.now += seconds
        self.agent.revival.work()
        self.settle()

    def settle(self) -> None:
        """All starts that were begun are over: nothing of them has the VM's lock."""
        deadline = time.monotonic() + 30
        while not self.agent.revival.idle:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    @property
    def state(self) -> tuple[State, str]:
        status = self.agent.vm(VM)
        return status.state, status.wanted

    @property
    def power(self) -> str:
        """What libvirt's copy of the wish says."""
        return parse_element(self.host.domains.found[VM].config).power


@pytest.fixture
def story(host: FakeHost) -> Iterator[Story]:
    made = Story(host)
    yield made
    made.agent.close()


def test_a_crash_is_started_again_after_its_pause(story: Story) -> None:
    story.end()
    assert story.state == (State.CRASHED, "running")
    story.after(0.9)
    assert story.state == (State.CRASHED, "running")
    story.after(0.2)
    assert story.state == (State.RUNNING, "running")
    assert story.kinds() == ["state", "restart-due", "restart", "state"]


def test_the_sixth_crash_is_the_last_until_somebody_starts_it(story: Story) -> None:
    for pause in (1, 2, 4, 8, 16):
        story.end()
        story.after(pause - 0.1)
        assert story.state[0] is State.CRASHED
        story.after(0.2)
        assert story.state[0] is State.RUNNING
    story.end()
    assert story.kinds()[-1] == "restart-given-up"
    story.after(3600)
    assert story.state == (State.FAILED, "running")
    assert story.agent.vm(VM).reason.endswith(f"and ended again: {CRASH}")
    story.agent.power(VM, Action.START)
    assert story.state == (State.RUNNING, "running")
    story.end()
    story.after(1.1)
    assert story.state == (State.RUNNING, "running")


def test_its_timeline_tells_of_restarts_and_that_it_was_given_up(story: Story) -> None:
    for pause in (1, 2, 4, 8, 16, 0):
        story.end()
        story.after(pause)
    told = story.agent.timeline(VM)
    restarts = [one for one in told if one.detail.get("what") == "restart"]
    assert [one.detail["outcome"] for one in restarts] == ["done"] * 5
    assert [dict(one.detail) for one in told if one.kind == "given up"] == [{"reason": CRASH, "tries": 5}]
    assert [one.vpcs for one in restarts] == [story.agent.vm(VM).spec.vpcs] * 5


def test_a_put_gives_it_another_chance(story: Story) -> None:
    for pause in (1, 2, 4, 8, 16, 0):
        story.end()
        story.after(pause)
    assert story.state[0] is State.FAILED
    story.agent.put(full(1))
    story.agent.revival.work()
    story.after(1.1)
    assert story.state[0] is State.RUNNING


def test_one_started_by_hand_is_not_failed_any_more(story: Story) -> None:
    for pause in (1, 2, 4, 8, 16, 0):
        story.end()
        story.after(pause)
    story.host.domains.start(VM)
    story.agent.observe(VM)
    story.agent.revival.work()
    story.end()
    story.after(1.1)
    assert story.state[0] is State.RUNNING


def test_a_vm_that_is_never_started_again(host: FakeHost) -> None:
    story = Story(host, restart="never")
    story.end()
    story.after(100)
    assert story.state == (State.CRASHED, "running")
    story.agent.put(full(1, restart="on-failure"))
    assert story.agent.vm(VM).drift == ()
    story.agent.revival.work()
    story.after(1.1)
    assert story.state == (State.RUNNING, "running")
    story.agent.close()


def test_a_guest_that_shuts_itself_down_stays_down(story: Story) -> None:
    story.end(State.STOPPED, BY_GUEST)
    assert (story.state, story.power) == ((State.STOPPED, "stopped"), "stopped")
    assert story.kinds() == ["state", "wanted"]
    story.after(100)
    again = story.host.agent(boot_id="boot-2")
    assert again.vm(VM).state is State.STOPPED
    again.close()


def test_what_libvirt_does_not_keep_is_not_told(story: Story) -> None:
    story.host.breaker.refuse = "set_element"
    story.end(State.STOPPED, BY_GUEST)
    assert (story.state, story.power) == ((State.STOPPED, "running"), "running")
    assert story.kinds() == ["state"]
    story.host.breaker.refuse = ""
    story.end(State.STOPPED, BY_GUEST)
    assert (story.state, story.power) == ((State.STOPPED, "stopped"), "stopped")
    assert story.kinds() == ["wanted"]


def test_a_guest_that_shut_itself_down_while_the_agent_was_away_stays_down(story: Story) -> None:
    story.host.domains.end(VM, State.STOPPED, BY_GUEST)
    again = story.host.agent()
    again.revival.work()
    assert (again.vm(VM).state, again.vm(VM).wanted) == (State.STOPPED, "stopped")
    again.close()


def test_a_crash_while_the_agent_was_away_is_started_again(story: Story) -> None:
    story.host.domains.end(VM, State.CRASHED, CRASH)
    story.agent = story.host.agent()
    story.agent.revival.work()
    story.after(1.1)
    assert story.state == (State.RUNNING, "running")


def test_one_that_always_runs_is_started_again_after_a_shutdown(host: FakeHost) -> None:
    story = Story(host, restart="always")
    story.end(State.STOPPED, BY_GUEST)
    story.after(1.1)
    assert story.state == (State.RUNNING, "running")
    story.agent.power(VM, Action.SHUTDOWN)
    story.host.domains.end(VM, State.STOPPED, BY_GUEST)
    story.agent.observe(VM)
    story.agent.revival.work()
    story.after(100)
    assert story.state == (State.STOPPED, "stopped")
    story.agent.close()


@pytest.mark.parametrize("reason", ["stopped", "saved", "could not be started", ""])
def test_what_others_did_is_left_as_it_is(story: Story, reason: str) -> None:
    story.end(State.STOPPED, reason)
    story.after(100)
    assert (story.state, story.power) == ((State.STOPPED, "running"), "running")


@pytest.mark.parametrize("going_down", [False, True])
def test_one_that_runs_elsewhere_is_not_to_run_here(host: FakeHost, going_down: bool) -> None:
    story = Story(host, restart="always")
    story.host.going_down = going_down
    story.end(State.STOPPED, AWAY)
    story.after(100)
    assert (story.state, story.power) == ((State.STOPPED, "stopped"), "stopped")
    story.agent.close()


@pytest.mark.parametrize(("state", "reason"), [(State.STOPPED, BY_GUEST), (State.CRASHED, CRASH)])
def test_a_host_that_goes_down_takes_its_guests_along(story: Story, state: State, reason: str) -> None:
    story.host.going_down = True
    story.end(state, reason)
    story.after(100)
    assert (story.state[1], story.power) == ("running", "running")
    story.host.going_down = False
    story.host.domains.end(VM, State.STOPPED, "")  # libvirt forgets why at a boot
    again = story.host.agent(boot_id="boot-2")
    assert again.vm(VM).state is State.RUNNING
    again.close()


def test_who_stops_it_during_a_pause_wins(story: Story) -> None:
    story.end()
    story.agent.power(VM, Action.STOP)
    story.after(100)
    assert story.state == (State.STOPPED, "stopped")


def test_a_delete_during_a_pause_wins(story: Story) -> None:
    story.end()
    story.agent.delete(VM)
    story.after(100)
    assert story.agent.vms() == ()
    assert VM not in story.host.domains.found


def test_a_start_that_fails_is_tried_again_and_counts(story: Story) -> None:
    story.host.volumes.hostile = {"/var/lib/lvagent/volumes/1.qcow2"}
    story.end()
    for pause in (1, 2, 4, 8, 16):
        story.after(pause + 0.1)
    status = story.agent.vm(VM)
    assert (status.state, status.wanted) == (State.FAILED, "running")
    assert "could not be started: " in status.reason
    assert "encrypted" in status.reason
    assert status.error is not None


@pytest.mark.parametrize("error", [Unavailable("libvirtd"), HostError(VM, "start", "no")])
def test_a_start_that_could_not_even_be_tried_does_not_count(
    story: Story, error: LvagentError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_vm: str) -> None:
        raise error

    story.end()
    with monkeypatch.context() as patch:
        patch.setattr(story.host.domains, "start", fails)
        for _ in range(20):
            story.after(1.1)
    counted = isinstance(error, HostError)
    story.kinds()
    story.after(1.1)
    found = [item for item in story.kinds() if item == "restart"]
    assert (story.state[0] is State.RUNNING, found == ["restart"]) == (not counted, not counted)


def test_a_vm_that_somebody_works_on_is_looked_at_later(story: Story) -> None:
    story.host.domains.end(VM, State.CRASHED, CRASH)
    story.agent.observe(VM)
    with story.agent.revival._locks.hold(VM):
        story.agent.revival.work()
        assert "restart-due" not in story.kinds()
    story.after(0.6)
    assert story.kinds() == ["restart-due"]


def test_a_stranger_in_its_place_is_not_started(story: Story) -> None:
    story.end()
    story.host.domains.found[VM].config = "<domain><name>i-0000000001</name></domain>"
    story.after(1.1)
    assert not story.host.domains.found[VM].state.active


def test_an_older_definition_is_not_started(story: Story) -> None:
    old = story.host.domains.found[VM].config
    story.agent.put(full(1, cpus=2))
    story.host.domains.found[VM].config = old
    story.host.domains.end(VM, State.CRASHED, CRASH)
    story.agent.sweep()
    story.agent.revival.work()
    story.after(100)
    assert not story.host.domains.found[VM].state.active


def test_events_of_our_vms_are_published_and_of_no_others(story: Story) -> None:
    other = "i-0000000099"
    lost = Event(VM, "lifecycle", {"event": "stopped", "detail": "crashed"})
    story.agent.happened(Batch((Event(other, "reboot"), lost, Event(VM, "tray", {"device": "x"})), resync="lost"))
    assert story.kinds()[:3] == ["resync", "lifecycle", "tray"]


def test_a_guest_cannot_fill_the_news(story: Story) -> None:
    story.agent.happened(Batch(tuple(Event(VM, "rtc-change", {"seconds": number}) for number in range(5000))))
    assert 50 < len(story.kinds()) < 500


def test_the_thread_does_what_is_due(host: FakeHost) -> None:
    story = Story(host)
    story.agent.start()
    host.domains.end(VM, State.CRASHED, CRASH)
    story.agent.observe(VM)
    deadline = time.monotonic() + 30
    while story.state[0] is not State.RUNNING:
        assert time.monotonic() < deadline
        host.now += 0.2
        story.agent.revival.look(VM)
        time.sleep(0.01)
    story.agent.close()


def test_a_second_vm_is_not_touched(story: Story) -> None:
    story.agent.put(spec(2))
    story.end()
    story.after(1.1)
    assert story.agent.vm("i-0000000002").state is State.RUNNING


def test_the_same_put_again_does_not_begin_anew(story: Story) -> None:
    for pause in (1, 2, 4):
        story.end()
        story.agent.put(full(1))
        story.agent.revival.work()
        story.after(pause - 0.1)
        assert story.state[0] is State.CRASHED, pause
        story.after(0.2)
        assert story.state[0] is State.RUNNING
