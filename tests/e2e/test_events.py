"""What happens to VMs is seen, told, and answered: with real libvirtd and qemus, and a guest that powers itself off.

The agent sweeps once an hour here: what is shown comes from events alone.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import SshKey
from tests.e2e.specs import guest, nic, vm
from tests.lab.host import LabHost
from tests.lab.stream import Seen, Stream

pytestmark = pytest.mark.e2e

VM, A = "i-0000000001", "vpc-aaaaaaaaaa"
OFF = "(sleep 1; poweroff -f) </dev/null >/dev/null 2>&1 &"
RARELY = {"LVAGENT_SWEEP_INTERVAL": "3600"}


class Watched:
    """The lab, and its event streams."""

    def __init__(self, lab: LabHost) -> None:
        self.lab = lab

    def stream(self, query: str = "", last: str = "") -> Stream:
        return Stream(str(self.lab.path("/run/lvagent/api.sock")), query, last)

    def made(self, **more: object) -> None:
        answer = self.lab.api("PUT", f"/v1/vms/{VM}", vm(1, **more))
        assert answer.status in (200, 201), answer.text

    def act(self, action: str) -> int:
        return self.lab.api("POST", f"/v1/vms/{VM}/{action}").status

    def vm(self) -> Any:  # noqa: ANN401 - JSON is of any type
        return self.lab.api("GET", f"/v1/vms/{VM}").json

    def look(self) -> Any:  # noqa: ANN401 - JSON is of any type
        return self.lab.api("GET", f"/v1/vms/{VM}/status").json

    def kill(self, number: str = "-KILL") -> int:
        """Send its qemu a signal, by its pid."""
        pid: int = self.vm()["pid"]
        self.lab.run(["kill", number, str(pid)])
        return pid

    def until(self, what: Callable[[], object], seconds: float = 30) -> float:
        """Wait for something to be true.

        :return: how long that took, in seconds.
        """
        begin = time.monotonic()
        while not what():
            assert time.monotonic() < begin + seconds, self.lab.agent_log(2000)
            time.sleep(0.005)
        return time.monotonic() - begin

    def state(self, *wanted: str, seconds: float = 30) -> float:
        return self.until(lambda: self.vm()["state"] in wanted, seconds)


@pytest.fixture(scope="module")
def watching(agent_lab: LabHost) -> Watched:
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent(RARELY)
    return Watched(agent_lab)


@pytest.fixture
def watched(watching: Watched) -> Iterator[Watched]:
    yield watching
    watching.lab.api("DELETE", f"/v1/vms/{VM}?volumes=delete")


def lifecycle(event: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.detail["event"] == event


def state(wanted: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.detail["state"] == wanted


def test_what_is_done_by_hand_is_shown_at_once(watched: Watched) -> None:
    watched.made()
    virsh, took = watched.lab.virsh, {}
    with watched.stream(f"?vm={VM}") as stream:
        virsh("suspend", VM)
        took["paused"] = watched.state("paused")
        assert watched.vm()["reason"] == "paused by user"
        assert watched.look()["qemu"] == {"status": "paused", "running": False}
        virsh("resume", VM)
        took["running"] = watched.state("running")
        virsh("reset", VM)
        stream.wait("qmp", lifecycle("RESET"))
        virsh("destroy", VM)
        took["stopped"] = watched.state("stopped")
        stream.wait("state", state("stopped"))
        for event in ("suspended", "resumed", "stopped"):
            stream.wait("lifecycle", lifecycle(event))
        assert stream.states() == ["paused", "running", "stopped"]
        assert {seen.told["vm"] for seen in stream.events} == {VM}
        assert {tuple(seen.told["vpcs"]) for seen in stream.events} == {(A,)}
    print({what: f"{1000 * seconds:.0f} ms" for what, seconds in took.items()})
    time.sleep(2.5)
    assert (watched.vm()["state"], watched.vm()["wanted"]) == ("stopped", "running")  # that was not a crash


def test_a_killed_qemu_is_a_crash_and_comes_back(watched: Watched) -> None:
    watched.made()
    with watched.stream() as stream:
        before = watched.vm()
        killed = time.monotonic()
        pid = watched.kill()
        crashed = stream.wait("state", state("crashed"))
        assert crashed.detail["reason"] == "qemu ended unexpectedly"
        print(f"told after {1000 * (crashed.at - killed):.0f} ms (kill and the way there among them)")
        assert stream.wait("restart-due").detail["seconds"] == 1
        assert stream.wait("restart").detail["attempt"] == 1
        stream.wait("state", state("running"))
    after = watched.vm()
    assert (after["state"], after["wanted"], after["pid"] != pid) == ("running", "running", True)
    assert after["process"]["started_at"] > before["process"]["started_at"]
    assert after["changed_at"] > before["changed_at"]


def test_one_that_is_never_to_be_restarted_stays_crashed(watched: Watched) -> None:
    watched.made(restart="never")
    watched.kill()
    watched.state("crashed")
    time.sleep(2.5)
    assert (watched.vm()["state"], watched.vm()["wanted"]) == ("crashed", "running")
    assert watched.lab.api("PUT", f"/v1/vms/{VM}", vm(1, restart="on-failure")).status == 200
    watched.state("running")


def test_a_stop_wins_over_a_restart_that_is_due(watched: Watched) -> None:
    watched.made()
    watched.kill()
    watched.state("crashed")
    assert watched.act("stop") == 200
    time.sleep(2.5)
    assert (watched.vm()["pid"], watched.vm()["wanted"]) == (None, "stopped")


def test_the_sixth_crash_is_the_last_until_somebody_starts_it(watched: Watched) -> None:
    watched.made()
    with watched.stream() as stream:
        for attempt in range(1, 6):
            watched.kill()
            stream.wait("restart", lambda seen, number=attempt: seen.detail["attempt"] == number)  # type: ignore[misc]
            watched.state("running")
        watched.kill()
        stream.wait("restart-given-up")
        pauses = [seen.detail["seconds"] for seen in stream.events if seen.kind == "restart-due"]
    assert pauses == [1, 2, 4, 8, 16]
    failed = watched.vm()
    assert (failed["state"], failed["wanted"]) == ("failed", "running")
    assert failed["reason"].startswith("given up: started again 5 times within 10 minutes")
    assert failed["reason"].endswith("qemu ended unexpectedly")
    assert watched.act("start") == 200
    assert watched.vm()["state"] == "running"
    watched.kill()
    watched.state("crashed")
    watched.state("running")


def test_the_process_is_told_as_the_kernel_has_it(watched: Watched) -> None:
    watched.made()
    assert watched.look()["process"] == watched.vm()["process"]
    assert watched.vm()["process"]["state"] == "running"
    watched.kill("-STOP")
    watched.until(lambda: watched.vm()["process"]["state"] == "stopped")
    watched.kill("-CONT")
    watched.until(lambda: watched.vm()["process"]["state"] == "running")
    found = watched.look()
    assert found["domain"] == {"state": "running", "reason": "booted"}
    assert (found["qemu"], found["qemu_error"]) == ({"status": "running", "running": True}, None)
    watched.act("stop")
    found = watched.look()
    assert (found["state"], found["qemu"], found["process"]) == ("stopped", None, None)


def test_events_go_on_after_libvirtd_was_killed(watched: Watched) -> None:
    watched.made()
    with watched.stream() as stream:
        watched.lab.kill_libvirtd()
        watched.lab.start_libvirtd()
        stream.wait("resync")
        watched.lab.virsh("suspend", VM)
        stream.wait("lifecycle", lifecycle("suspended"))
        watched.state("paused")


def test_what_ended_while_libvirtd_was_away_is_found(watched: Watched) -> None:
    watched.made(restart="never")
    pid = watched.vm()["pid"]
    with watched.stream() as stream:
        watched.lab.kill_libvirtd()
        watched.lab.run(["kill", "-KILL", str(pid)])
        watched.lab.start_libvirtd()
        stream.wait("resync")
        watched.state("crashed", "stopped")
    assert watched.vm()["pid"] is None


def test_who_comes_back_gets_what_he_missed(watched: Watched) -> None:
    watched.made()
    with watched.stream() as stream:
        watched.lab.virsh("suspend", VM)
        stream.wait("state", state("paused"))
    watched.lab.virsh("resume", VM)
    watched.state("running")
    with watched.stream(last=stream.last) as again:
        again.wait("state", state("running"))
        assert again.states() == ["running"]
        ids = [seen.id for seen in (*stream.events, *again.events)]
        assert len(set(ids)) == len(ids)
    with watched.stream(last="00000000.7") as stranger:
        assert stranger.wait("reset").detail == {"reason": "the id is of another run of the agent"}


def test_an_agent_that_stops_ends_its_streams(watched: Watched) -> None:
    with watched.stream() as stream:
        begin = time.monotonic()
        assert watched.lab.kill_agent(signal.SIGTERM) == 0
        assert stream.ended.wait(10)
        assert time.monotonic() - begin < 8
    watched.lab.start_agent(RARELY)


def test_a_guest_that_powers_itself_off_stays_off(watched: Watched, ssh_key: SshKey) -> None:
    lab = watched.lab
    assert lab.api("PUT", f"/v1/vms/{VM}", guest(1, ssh_key.public, nic())).status == 201
    with watched.stream(f"?vm={VM}") as stream:
        lab.guest_ssh(A, "10.0.0.5", OFF, ssh_key.private, wait=150)
        stopped = stream.wait("state", state("stopped"), 60)
        assert stopped.detail["reason"] == "shut down by the guest"
        stream.wait("wanted")
    assert (watched.vm()["state"], watched.vm()["wanted"]) == ("stopped", "stopped")
    lab.kill_agent()
    lab.start_agent(RARELY)
    assert (watched.vm()["state"], watched.vm()["wanted"]) == ("stopped", "stopped")
    assert lab.api("PUT", f"/v1/vms/{VM}", guest(1, ssh_key.public, nic(), restart="always")).status == 200
    assert watched.act("start") == 200
    with watched.stream(f"?vm={VM}") as stream:
        lab.guest_ssh(A, "10.0.0.5", OFF, ssh_key.private, wait=150)
        stream.wait("restart")
        stream.wait("state", state("running"), 60)
