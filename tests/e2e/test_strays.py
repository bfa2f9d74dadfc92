"""qemu processes that nobody wants, on a real host: each sorted right, strangers untouched under every policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lvagent.render.unit import service_unit
from tests.e2e.specs import vm
from tests.lab.commands import freeze
from tests.lab.host import TREE, LabHost, child_of, end

pytestmark = pytest.mark.e2e

Json = dict[str, Any]
QEMU = "/usr/bin/qemu-system-x86_64"
BY_HAND = [QEMU, "-machine", "none", "-display", "none", "-S", "-nodefaults"]
STRANGER = "<domain type='qemu'><name>stranger</name><memory>65536</memory><os><type>hvm</type></os></domain>"
MON = "/run/mon.sock"
SECRET = ["-object", "secret,id=s0,data=hunter2"]

ZOMBIE = f"""
import os, sys, time
child = os.fork()
if not child:
    os.execv("{QEMU}", ["{QEMU}", "-version"])
time.sleep(1000)
"""


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def strays(lab: LabHost) -> list[Json]:
    found: list[Json] = lab.api("GET", "/v1/strays").json["processes"]
    return found


@contextmanager
def started(lab: LabHost, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the lab; ended at the end if it still is there."""
    running = lab.popen(list(argv))
    try:
        until(lambda: child_of(running))
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGCONT)  # it stops with a child that a test has stopped
        end(running)


def inside(pid: int) -> int:
    """The pid of a process of the lab as the lab counts."""
    row = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("NSpid:"))
    return int(row.split()[-1])


def sorts(lab: LabHost) -> dict[int, tuple[str, str]]:
    return {one["pid"]: (one["sort"], one["state"]) for one in strays(lab)}


@pytest.fixture
def stranger(agent_lab: LabHost) -> Iterator[int]:
    """A stranger's domain; its pid. It must be the same process after the test."""
    agent_lab.path("/run/stranger.xml").write_text(STRANGER)
    agent_lab.virsh("create", "/run/stranger.xml")
    pid = int(agent_lab.path("/run/libvirt/qemu/stranger.pid").read_text())
    yield pid
    assert int(agent_lab.path("/run/libvirt/qemu/stranger.pid").read_text()) == pid
    assert agent_lab.virsh("domstate", "stranger").stdout.strip() == "running"
    agent_lab.virsh("destroy", "stranger")


def test_each_is_sorted_right_and_killed_only_if_it_is_meant(agent_lab: LabHost, stranger: int) -> None:
    lab = agent_lab
    assert lab.api("PUT", "/v1/vms/i-0000000001", vm(1)).status == 201
    ours = lab.api("GET", "/v1/vms/i-0000000001").json["pid"]
    lab.run(["qemu-img", "create", "-q", "-f", "qcow2", "/run/disk.qcow2", "1M"])
    disk = ["-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=/run/disk.qcow2"]
    with started(lab, *BY_HAND, *SECRET, *disk, "-qmp", f"unix:{MON},server=on,wait=off") as hand:
        with started(lab, sys.executable, "-c", ZOMBIE) as parent:
            by_hand = inside(child_of(hand))
            until(lambda: ("nobody", "zombie") in sorts(lab).values() and lab.path(MON).exists())
            found = {one["pid"]: one for one in strays(lab)}
            assert {ours, stranger} & found.keys() == set()
            [zombie] = found.keys() - {by_hand}
            assert (found[zombie]["sort"], found[zombie]["parent"]) == ("nobody", inside(child_of(parent)))
            one = found[by_hand]
            assert (one["sort"], one["program"], one["sockets"]) == ("nobody", QEMU, [MON])
            assert one["disks"] == ["/run/disk.qcow2"]
            assert 0 < one["age"] < 60
            assert one["arguments"][:2] == [QEMU, "-machine"]
            assert "hunter2" not in json.dumps(found)

            def kill(pid: int, identity: str) -> int:
                return lab.api("POST", f"/v1/strays/{pid}/kill", {"identity": identity}).status

            assert kill(by_hand, "1") == 409
            assert kill(zombie, found[zombie]["identity"]) == 409
            assert (kill(ours, "1"), kill(stranger, "1"), kill(1, "1")) == (404, 404, 404)
            listed = lab.run(["lvagent", "strays", "ls", "--long"]).stdout
            assert str(by_hand) in listed
            assert "hunter2" not in listed
            assert "ended" in lab.run(["lvagent", "strays", "kill", str(by_hand)]).stdout
            assert hand.wait(60) is not None
            assert sorts(lab).keys() == {zombie}
        until(lambda: sorts(lab) == {})
    assert lab.api("GET", "/v1/vms/i-0000000001").json["pid"] == ours
    assert lab.api("DELETE", "/v1/vms/i-0000000001").status == 204


def test_objects_that_nobody_wants(agent_lab: LabHost) -> None:
    lab = agent_lab
    lab.run(["ip", "link", "add", "left0", "group", str(0x6C76), "type", "bridge"])
    lab.run(["ip", "link", "add", "theirs0", "type", "bridge"])
    lab.run(["qemu-img", "create", "-q", "-f", "qcow2", "/var/lib/lvagent/volumes/old.qcow2", "1M"])
    try:
        found = {(one["kind"], one["name"]) for one in lab.api("GET", "/v1/strays").json["objects"]}
        assert found == {("link", "left0"), ("volume", "/var/lib/lvagent/volumes/old.qcow2")}
        assert lab.api("POST", "/v1/sweep").json == {"held": None}
        assert lab.path("/var/lib/lvagent/volumes/old.qcow2").exists()
    finally:
        lab.run(["ip", "link", "del", "left0"])
        lab.run(["ip", "link", "del", "theirs0"])
        lab.path("/var/lib/lvagent/volumes/old.qcow2").unlink()
    assert lab.api("GET", "/v1/strays").json["objects"] == []


def test_one_of_ours_that_libvirt_has_lost(agent_lab: LabHost, stranger: int) -> None:
    lab = agent_lab
    with started(lab, QEMU, *BY_HAND[1:], "-name", "guest=i-0000000077,debug-threads=on") as lost:
        pid = inside(child_of(lost))
        until(lambda: sorts(lab).get(pid) == ("lost", "running"))
        [one] = strays(lab)
        assert lab.api("POST", f"/v1/strays/{pid}/kill", {"identity": one["identity"]}).status == 200


def test_the_policy_stop_ends_strays_and_nothing_else_with_the_units_rights(agent_lab: LabHost, stranger: int) -> None:
    """As systemd has it, with its seccomp filter; strays of root and of another user."""
    lab = agent_lab
    lab.kill_agent(signal.SIGTERM)
    lab.path("/run/lvagent.service").write_text(service_unit(["/usr/bin/lvagent", "serve"]))
    within = [sys.executable, "-P", str(TREE / "tests/e2e/unit_sandbox.py"), "/run/lvagent.service"]
    policy = {"LVAGENT_SWEEP_INTERVAL": "1", "LVAGENT_STRAYS_POLICY": "stop", "LVAGENT_STRAYS_GRACE": "3"}
    lab.start_agent(policy, within=within)
    try:
        assert lab.api("PUT", "/v1/vms/i-0000000001", vm(1)).status == 201
        ours = lab.api("GET", "/v1/vms/i-0000000001").json["pid"]
        begin = time.monotonic()
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *BY_HAND]
        with started(lab, *other) as nobodys, started(lab, *BY_HAND) as hard:
            until(lambda: os.readlink(f"/proc/{child_of(hard)}/exe") == QEMU)
            freeze(hard)  # it hears nothing but SIGKILL
            frozen = child_of(hard)
            assert nobodys.wait(90) is not None
            assert time.monotonic() - begin > 1, "it was seen in one sweep only"
            until(lambda: Path(f"/proc/{frozen}/stat").read_text().split()[2] == "Z", 90)
            os.kill(hard.pid, signal.SIGCONT)
            assert hard.wait(60) is not None
        for _ in range(3):
            assert lab.api("POST", "/v1/sweep").status == 200
        assert lab.api("GET", "/v1/vms/i-0000000001").json["pid"] == ours
        assert lab.api("DELETE", "/v1/vms/i-0000000001").status == 204
    finally:
        lab.kill_agent(signal.SIGTERM)
        lab.start_agent()
