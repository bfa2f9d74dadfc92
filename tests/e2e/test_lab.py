"""The lab host itself: it works, and it leaves nothing on the machine, however the run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.folders import remove_leftovers
from tests.lab.host import TREE, LabError, LabHost, end

pytestmark = pytest.mark.e2e

DISKLESS = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <interface type='ethernet'><target dev='tx-{name}'/><model type='virtio'/></interface>
    <serial type='pty'><log file='/var/log/libvirt/qemu/{name}-console.log' append='off'/></serial>
  </devices>
</domain>
"""


KINDS = {"namespaces", "links", "addresses", "routes", "rulesets", "mounts", "processes", "domains", "files"}


def machine_links() -> list[str]:
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    return sorted(link["ifname"] for link in links)


def machine_namespaces() -> list[str]:
    return sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []


def processes_naming(text: str) -> list[str]:
    """Command lines of the machine that contain a text, without our own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found


def define(lab: LabHost, name: str) -> None:
    lab.path(f"/run/{name}.xml").write_text(DISKLESS.format(name=name))
    lab.virsh("define", f"/run/{name}.xml")


def wait_until(true: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return bool(true())


def test_a_domain_starts_and_is_destroyed_at_once(lab: LabHost) -> None:
    before = lab.snapshot()
    define(lab, "quick")
    lab.virsh("start", "quick")
    running = lab.snapshot()
    started = time.monotonic()
    lab.virsh("destroy", "quick")
    assert time.monotonic() - started < 8  # libvirt polls a dead qemu that nobody reaps for 15
    lab.virsh("undefine", "quick")

    assert running.domains == ("quick running",)
    assert [line.split()[0] for line in before.difference(running)["links"]["new"]] == ["tx-quick"]
    assert len(before.difference(running)["processes"]["new"]) == 1
    assert before.difference(lab.snapshot()) == {}


def test_the_machine_sees_nothing_of_it_and_it_nothing_of_the_machine(lab: LabHost) -> None:
    define(lab, "hidden")
    lab.virsh("start", "hidden")
    lab.run(["ip", "netns", "add", "vpc-labonly000"])

    assert "tx-hidden" not in machine_links()
    assert "vpc-labonly000" not in Path("/proc/self/mounts").read_text()
    assert "vpc-labonly000" not in machine_namespaces()
    assert lab.namespaces() == ["vpc-labonly000"]
    assert sorted(json_names(lab)) == ["eth0", "lo", "tx-hidden", "wire"]
    assert not lab.path("/dev/kvm").exists()

    lab.run(["ip", "netns", "del", "vpc-labonly000"])
    lab.virsh("destroy", "hidden")
    lab.virsh("undefine", "hidden")


def test_namespaces_of_the_machine_that_come_and_go_change_no_snapshot() -> None:
    name = f"lvtest-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with LabHost() as lab:
            before = lab.snapshot()
            subprocess.run(["ip", "netns", "del", name], check=True)
            assert before.difference(lab.snapshot()) == {}
            assert name not in "".join(before.mounts)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_no_place_has_two_mounts(lab: LabHost) -> None:
    """Of two at one place under /dev libvirt would move the upper, and fail at the other."""
    places = [line.split()[1] for line in lab.snapshot().mounts]
    assert [place for place in places if place.startswith(("/dev/", "/run/")) and places.count(place) > 1] == []


def json_names(lab: LabHost) -> list[str]:
    named = [link["ifname"] for link in json.loads(lab.run(["ip", "-j", "link"]).stdout)]
    return [name for name in named if not name.endswith("0") or name == "eth0"]  # gre0, sit0: the kernel's own


def test_libvirt_answers_outside_through_its_socket(lab: LabHost) -> None:
    assert len(lab.libvirt_uri) < 100
    done = subprocess.run(["virsh", "-c", lab.libvirt_uri, "hostname"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == lab.name


def test_guests_outlive_a_killed_libvirtd(lab: LabHost) -> None:
    define(lab, "lasting")
    lab.virsh("start", "lasting")
    before = lab.snapshot()
    lab.kill_libvirtd()
    lab.start_libvirtd()
    assert wait_until(lambda: before.difference(lab.snapshot()) == {}, 30), before.difference(lab.snapshot())
    lab.virsh("destroy", "lasting")
    lab.virsh("undefine", "lasting")


def test_a_hook_is_found_after_a_reload(lab: LabHost) -> None:
    hook = lab.path("/etc/libvirt/hooks/qemu")
    hook.write_text('#!/bin/sh\necho "$1 $2" >>/run/hook.seen\ncat >/dev/null\n')
    hook.chmod(0o755)
    lab.reload_libvirtd()
    define(lab, "hooked")
    lab.virsh("start", "hooked")
    lab.virsh("destroy", "hooked")
    lab.virsh("undefine", "hooked")
    hook.unlink()
    lab.reload_libvirtd()
    seen = lab.path("/run/hook.seen").read_text().split("\n")
    assert seen[:3] == ["hooked prepare", "hooked start", "hooked started"]


def test_a_snapshot_sees_each_kind_of_change(lab: LabHost) -> None:
    lab.run(["ip", "netns", "add", "first"])  # from then on /run/netns is a mount
    lab.run(["ip", "netns", "del", "first"])
    before = lab.snapshot()
    lab.run(["ip", "netns", "add", "seen"])
    lab.run(["ip", "-n", "seen", "link", "add", "br-x", "up", "type", "bridge"])
    lab.run(["ip", "-n", "seen", "addr", "add", "10.9.9.1/24", "dev", "br-x"])
    lab.run(["nft", "add", "table", "inet", "seen"], netns="seen")
    lab.path("/var/lib/lvagent/volumes/seen.qcow2").write_bytes(b"")
    sleeper = lab.popen(["sleep", "1000"])
    define(lab, "seen")
    assert wait_until(lambda: before.difference(lab.snapshot()).get("processes"), 30)

    changed = before.difference(lab.snapshot())
    assert set(changed) == KINDS
    assert changed["processes"] == {"gone": [], "new": ["sleep 1000"]}
    assert changed["domains"] == {"gone": [], "new": ["seen shut off"]}

    assert end(sleeper) == -signal.SIGKILL
    lab.virsh("undefine", "seen")
    lab.run(["ip", "netns", "del", "seen"])
    lab.path("/var/lib/lvagent/volumes/seen.qcow2").unlink()
    assert wait_until(lambda: before.difference(lab.snapshot()) == {}, 30), before.difference(lab.snapshot())


def test_a_command_that_overruns_its_time_is_ended_inside(lab: LabHost) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run(["sleep", "1234"], timeout=0.3)
    assert "sleep 1234" not in lab.snapshot().processes


def test_a_bad_command_says_what_it_wrote(lab: LabHost) -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        lab.run(["ls", "/nowhere"])


def test_two_hosts_are_apart(lab: LabHost) -> None:
    with LabHost() as other:
        other.start_libvirtd()
        define(other, "mine")
        assert lab.virsh("list", "--all", "--name").stdout.split() == []
        assert other.virsh("list", "--all", "--name").stdout.split() == ["mine"]
        assert other.host_uuid != lab.host_uuid
        assert other.virsh("hostname").stdout.strip() == other.name


def test_a_host_that_cannot_be_made_leaves_nothing() -> None:
    host = LabHost(underlay="not-an-address")
    with pytest.raises(LabError, match="no host came up"):
        host.__enter__()
    assert host.folder.name.startswith("lvagent-lab-")
    assert not host.folder.exists()


RUNNER = """\
import signal, sys, time
from tests.lab.host import LabHost
signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in the background ignores it
with LabHost(sys.argv[1]) as lab:
    lab.start_libvirtd()
    lab.path("/run/x.xml").write_text(sys.stdin.read())
    lab.virsh("define", "/run/x.xml")
    lab.virsh("start", "orphan")
    lab.popen(["sleep", "4321"])
    print("up", lab.pid, lab.folder, flush=True)
    time.sleep(600)
"""


def start_runner(name: str) -> tuple[subprocess.Popen[str], int, Path]:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, name], cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    with runner.stdin as stdin:
        stdin.write(DISKLESS.format(name="orphan"))
    word, init, folder = runner.stdout.readline().split()
    assert word == "up"
    assert Path(folder).is_dir()
    return runner, int(init), Path(folder)


def remains(name: str) -> list[str]:
    """What is left of a host: its two processes name it, and so does the qemu of its guest through its path."""
    return processes_naming(name) + processes_naming("guest=orphan") + processes_naming("sleep 4321")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_runner_is_ended(number: signal.Signals) -> None:
    name = f"lab-ended-{number.value}-{os.getpid()}"
    runner, init, folder = start_runner(name)
    assert len(remains(name)) >= 4
    assert "tx-orphan" not in machine_links()

    runner.send_signal(number)
    runner.wait(60)
    assert wait_until(lambda: not Path(f"/proc/{init}").exists() and remains(name) == [], 60), remains(name)
    assert wait_until(lambda: not folder.exists(), 60)


def test_nothing_runs_on_when_the_keeper_is_killed() -> None:
    name = f"lab-keeper-{os.getpid()}"
    runner, init, folder = start_runner(name)
    keeper = int(Path(f"/proc/{init}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(keeper, signal.SIGKILL)
    assert wait_until(lambda: not Path(f"/proc/{init}").exists(), 60)
    assert processes_naming("guest=orphan") == []
    runner.kill()
    runner.wait()
    remove_leftovers()
    assert wait_until(lambda: not folder.exists(), 30)  # a host that somebody else starts now may be at it too


def test_a_frozen_agent_answers_nobody_until_it_is_thawed(lab: LabHost) -> None:
    lab.start_agent()
    lab.freeze_agent()
    with pytest.raises(TimeoutError):
        lab.api("GET", "/healthz", timeout=0.5)
    lab.thaw_agent()
    assert lab.api("GET", "/healthz").status == 200
    assert lab.kill_agent() == -signal.SIGKILL
