"""What happens to VMs is seen, told, and answered: with real libvirtd and qemus, and a guest that powers itself off.

The agent sweeps once an hour here: what is shown comes from events alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
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
VOLUMES = "/var/lib/lvagent/volumes"
FULL, OTHER = f"{VOLUMES}/full", f"{VOLUMES}/other.qcow2"
FILL = "(dd if=/dev/urandom of=/dev/vdb bs=1M count=4 conv=fsync) </dev/null >/dev/null 2>&1 &"
OPEN_CHANNEL = "modprobe virtio_console; for i in 1 2 3 4 5; do sleep 1 </dev/vport1p1 && break; sleep 0.2; done"
BITE = """
for dev in /sys/bus/pci/devices/*; do [ $(cat $dev/device) = 0x25ab ] && dog=$dev; done
echo 1 >$dog/enable
base=$(head -1 $dog/resource | cut -d" " -f1)
unlock() { devmem $((base + 12)) 16 0x80; devmem $((base + 12)) 16 0x86; }
unlock; devmem $base 32 0x100; unlock; devmem $((base + 4)) 32 0x100
printf '\\002' | dd of=$dog/config bs=1 seek=104 conv=notrunc 2>&1
"""
"""Start an i6300esb watchdog that nobody feeds, as its data sheet has it (Intel 6300ESB, chapter 16)."""
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

    def until(self, what: Callable[[], object], seconds: float = 60) -> float:
        """Wait for something to be true.

        :return: how long that took, in seconds.
        """
        begin = time.monotonic()
        while not what():
            assert time.monotonic() < begin + seconds, self.lab.agent_log(2000)
            time.sleep(0.005)
        return time.monotonic() - begin

    def state(self, *wanted: str, seconds: float = 60) -> float:
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


def told(**wanted: object) -> Callable[[Seen], bool]:
    return lambda seen: wanted.items() <= seen.detail.items()


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


def test_what_is_done_to_memory_disks_and_clock_is_told(watched: Watched) -> None:
    watched.made(volumes=[{"path": f"{VOLUMES}/x.qcow2", "position": 0, "size_gb": 1}])
    virsh = watched.lab.virsh
    watched.lab.run(["qemu-img", "create", "-q", "-f", "qcow2", OTHER, "1M"])
    with watched.stream(f"?vm={VM}") as stream:
        virsh("save", VM, "/run/saved")
        stream.wait("migration-iteration")
        assert stream.wait("job-completed", told(operation="save")).detail["time_elapsed"] > 0
        stream.wait("lifecycle", told(event="stopped", detail="saved"))
        stream.wait("state", told(state="stopped", reason="saved"))
        virsh("restore", "/run/saved")
        stream.wait("lifecycle", told(event="started", detail="restored"))
        stream.wait("state", told(state="running", reason="restored"))
        stream.wait("guest-agent", told(state="disconnected", reason="channel"))
        virsh("blockcopy", VM, "vda", f"{VOLUMES}/copy.qcow2", "--transient-job", "--wait", "--finish")
        for status in ("ready", "cancelled"):
            stream.wait("block-job", told(device="vda", job="copy", status=status))
        virsh("attach-disk", VM, OTHER, "vdb", "--subdriver", "qcow2", "--live")
        stream.wait("device-added", told(device="virtio-disk1"))
        for written in ("0x70 0x00", "0x71 0x30"):  # the seconds of its clock
            virsh("qemu-monitor-command", VM, "--hmp", f"o /b {written}")
        assert isinstance(stream.wait("rtc-change").detail["seconds"], int)
        virsh("reset", VM)
        stream.wait("reboot")
    watched.lab.run(["rm", OTHER, f"{VOLUMES}/copy.qcow2", "/run/saved"])


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
        assert watched.lab.kill_agent(signal.SIGTERM) == 0  # it waits for no stream
        assert stream.ended.wait(30)
    watched.lab.start_agent(RARELY)


@pytest.fixture
def narrow(watching: Watched) -> Iterator[None]:
    """A folder for volumes with room for one MiB."""
    watching.lab.run(["mkdir", FULL])
    watching.lab.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "full", FULL])
    yield
    watching.lab.run(["umount", FULL])
    watching.lab.run(["rmdir", FULL])


class InGuest:
    """A guest with a second disk for which there is no room, and what happens to it."""

    def __init__(self, watched: Watched, key: SshKey) -> None:
        self.watched, self.lab, self.key = watched, watched.lab, key
        self.spec = guest(1, key.public, nic())
        self.spec["volumes"].append({"path": f"{FULL}/d.qcow2", "position": 1, "size_gb": 1})

    def put(self, status: int, **more: object) -> None:
        assert self.lab.api("PUT", f"/v1/vms/{VM}", {**self.spec, **more}).status == status

    def ssh(self, command: str) -> str:
        return self.lab.guest_ssh(A, "10.0.0.5", command, self.key.private, wait=150).stdout

    def resume(self, stream: Stream, reason: str) -> None:
        """Let it go on, after it was seen to be paused for a reason."""
        stream.wait("state", told(state="paused", reason=reason))
        assert self.watched.act("resume") == 200

    def change_disks(self, stream: Stream) -> None:
        """Unplug a disk, which the guest has to agree to, and fill another one's host."""
        self.lab.run(["qemu-img", "create", "-q", "-f", "qcow2", OTHER, "1M"])
        self.lab.virsh("attach-disk", VM, OTHER, "vdc", "--subdriver", "qcow2", "--live")
        self.watched.until(lambda: "vdc" in self.ssh("cat /proc/partitions"))
        self.lab.virsh("detach-disk", VM, "vdc", "--live")
        stream.wait("device-removed", told(device="virtio-disk2"))
        self.lab.virsh("domblkthreshold", VM, "vdb", "400k")
        self.ssh(FILL)
        stream.wait("io-error", told(device="virtio-disk1", action="pause", reason="enospc"))
        stream.wait("block-threshold")
        stream.wait("lifecycle", told(event="suspended", detail="I/O error"))
        self.lab.run(["mount", "-o", "remount,size=16m", FULL])
        self.resume(stream, "paused by an I/O error")

    def add_watchdog(self) -> None:
        """Give it one, by ``virsh edit``: no spec can say it, and it is no drift."""
        text = self.lab.virsh("dumpxml", "--inactive", VM).stdout
        dog = "<watchdog model='i6300esb' action='pause'/></devices>"
        self.lab.path("/run/edited.xml").write_text(text.replace("</devices>", dog))
        self.lab.virsh("define", "/run/edited.xml")


def test_what_a_guest_does_is_told_and_one_that_powers_itself_off_stays_off(
    watched: Watched, ssh_key: SshKey, narrow: None
) -> None:
    inside = InGuest(watched, ssh_key)
    inside.put(201)
    with watched.stream(f"?vm={VM}") as stream:
        inside.ssh(OPEN_CHANNEL)
        stream.wait("guest-agent", told(state="connected", reason="channel"))
        inside.change_disks(stream)
        inside.ssh(OFF)
        stopped = stream.wait("state", state("stopped"), 60)
        assert stopped.detail["reason"] == "shut down by the guest"
        stream.wait("wanted")
    assert (watched.vm()["state"], watched.vm()["wanted"]) == ("stopped", "stopped")
    inside.lab.kill_agent()
    inside.lab.start_agent(RARELY)
    assert (watched.vm()["state"], watched.vm()["wanted"]) == ("stopped", "stopped")
    inside.put(200, restart="always")
    inside.add_watchdog()
    assert watched.act("start") == 200
    with watched.stream(f"?vm={VM}") as stream:
        inside.ssh(BITE)
        stream.wait("watchdog", told(action="pause"))
        stream.wait("lifecycle", told(event="suspended", detail="watchdog"))
        inside.resume(stream, "paused by its watchdog")
        inside.ssh(OFF)
        stream.wait("restart")
        stream.wait("state", lambda seen: seen.detail["state"] == "running" and seen.detail["reason"] == "booted", 60)


@pytest.fixture
def other_host(fresh_lab: Callable[[], LabHost]) -> LabHost:
    """A second host with an agent."""
    host = fresh_lab()
    host.run(["lvagent", "hook", "install"])
    host.reload_libvirtd()
    host.start_agent(RARELY)
    return host


def migrate(source: LabHost, target: LabHost, *more: str) -> None:
    """Live, with the definition, over a socket in a folder that both see."""
    with tempfile.TemporaryDirectory(prefix="lvagent-migration-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)  # qemu's account makes the socket
        virsh = ["virsh", "-q", "-c", source.libvirt_uri, "migrate", "--live", "--persistent", *more, VM]
        over = [target.libvirt_uri, "--migrateuri", f"unix://{folder}/socket"]
        subprocess.run([*virsh, *over], check=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_a_live_migration_there_and_back(watched: Watched, other_host: LabHost) -> None:
    """Not minutes: left out of each run for its second host."""
    watched.made()
    there = Watched(other_host)
    with watched.stream() as left, there.stream() as came:
        migrate(watched.lab, other_host, "--undefinesource")
        for event in ("suspended", "stopped"):
            left.wait("lifecycle", told(event=event, detail="migrated"))
        left.wait("migration-iteration")
        assert left.wait("job-completed", told(operation="migration out")).detail["downtime"] >= 0
        for event in ("started", "resumed"):
            came.wait("lifecycle", told(event=event, detail="migrated"))
        came.wait("state", told(state="running", reason="migrated"))
        assert (came.states()[0], "failed" in came.states()) == ("pending", False)
    assert "t0000000001-0" in other_host.run(["ip", "-n", A, "-br", "link"]).stdout
    assert [lab.api("POST", "/v1/sweep").status for lab in (watched.lab, other_host)] == [200, 200]
    assert (watched.lab.api("GET", f"/v1/vms/{VM}").status, A in watched.lab.namespaces()) == (404, False)
    migrate(other_host, watched.lab)
    watched.state("running")
    assert (watched.vm()["reason"], watched.vm()["drift_details"]) == ("migrated", [])
    there.state("stopped")  # its definition stayed, and must not be started beside the one that runs
    there.until(lambda: there.vm()["wanted"] == "stopped")
    assert other_host.api("DELETE", f"/v1/vms/{VM}").status == 204
    assert "t0000000001-0" in watched.lab.run(["ip", "-n", A, "-br", "link"]).stdout
