"""What the agent keeps of root's rights on a host, and that a VM's whole life needs no more than that."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.host.privileges import NUMBERS
from lvagent.render.unit import CAPABILITIES, service_unit
from tests.e2e.specs import guest, nic, vm
from tests.lab.host import TREE, LabHost, tree_environment

pytestmark = pytest.mark.e2e

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
KEPT = sum(1 << NUMBERS[name] for name in CAPABILITIES)
OTHER = nic("vpc-bbbbbbbbbb", "subnet-bbbbbbbbbb", net=1, vni=0, position=1)


def status(pid: int, task: str = "") -> dict[str, str]:
    """/proc/PID/status, of a thread if one is named."""
    text = Path(f"/proc/{pid}/task/{task or pid}/status").read_text()
    return {name: value.strip() for name, _, value in (row.partition(":") for row in text.splitlines())}


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def inside(lab: LabHost, text: str) -> list[int]:
    """The pids, as the lab counts, of processes with this text in their command lines."""
    return [int(pid) for pid in lab.run(["pgrep", "-f", "--", text], check=False).stdout.split()]


def test_every_thread_has_what_is_documented_and_no_more(agent_lab: LabHost) -> None:
    assert agent_lab.api("PUT", "/v1/vms/i-0000000001", vm(1)).status == 201
    told = []
    for task in os.listdir(f"/proc/{agent_lab.agent_pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            told.append(status(agent_lab.agent_pid, task))
    assert len(told) > 3
    for found in told:
        assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {KEPT}
        assert {int(found[name], 16) for name in ("CapInh", "CapAmb")} == {0}
        assert (found["NoNewPrivs"], found["Umask"]) == ("1", "0077")
    limits = Path(f"/proc/{agent_lab.agent_pid}/limits").read_text().splitlines()
    assert [row.split()[4:6] for row in limits if row.startswith("Max core file")] == [["0", "0"]]
    assert "CAP_" not in agent_lab.agent_log()
    assert agent_lab.api("DELETE", "/v1/vms/i-0000000001").status == 204


TRIES = r"""
import ctypes, mmap, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    return 0 if getattr(libc, name)(*words) >= 0 else ctypes.get_errno()
def memory(prot):
    try:
        mmap.mmap(-1, 4096, prot=prot)
    except PermissionError:
        return 1
    return 0
print(call("unshare", 0x10000000), call("unshare", 0x04000000), call("ptrace", 0, 0, 0, 0), memory(7), memory(3),
      call("socket", 29, 3, 1), call("socket", 16, 3, 0), call("setns", 0, 0))
"""


def test_the_filters_around_it_are_such(lab: LabHost) -> None:
    lab.path("/run/lvagent.service").write_text(service_unit(["/usr/bin/lvagent", "serve"]))
    within = [sys.executable, "-P", str(TREE / "tests/e2e/unit_sandbox.py"), "/run/lvagent.service"]
    done = lab.run([*within, sys.executable, "-c", TRIES], env=tree_environment())
    assert done.stdout.split() == ["1", "0", "1", "1", "0", "97", "0", "1"]  # EPERM; 97: EAFNOSUPPORT


def test_a_whole_life_as_the_unit_has_it(agent_lab: LabHost) -> None:
    """With the unit's seccomp filters around it, made here as systemd makes them."""
    agent_lab.kill_agent(signal.SIGTERM)
    unit = agent_lab.path("/run/lvagent.service")
    unit.write_text(service_unit(["/usr/bin/lvagent", "serve"]))
    within = [sys.executable, "-P", str(TREE / "tests/e2e/unit_sandbox.py"), "/run/lvagent.service"]
    agent_lab.start_agent({"LVAGENT_SWEEP_INTERVAL": "1", "LVAGENT_VOLUMES_COPY": "full"}, within=within)
    assert status(agent_lab.agent_pid)["Seccomp_filters"] == "1"
    spec = guest(1, KEY, nic(), OTHER, user_data="#!/bin/sh\n")
    path = f"/v1/vms/{spec['id']}"
    assert agent_lab.api("PUT", path, spec).status == 201
    for action, state in (("stop", "stopped"), ("start", "running"), ("pause", "paused"), ("resume", "running")):
        assert agent_lab.api("POST", f"{path}/{action}").status == 200
        assert agent_lab.api("GET", path).json["state"] == state
    services = {text: inside(agent_lab, text) for text in ("lvagent.metadata", "conf-file=.*vpc-bbbbbbbbbb")}
    for pids in services.values():
        agent_lab.run(["kill", "-9", *map(str, pids)])
    until(lambda: all((new := inside(agent_lab, text)) and new != old for text, old in services.items()))
    agent_lab.kill_agent()
    agent_lab.start_agent(within=within)
    assert agent_lab.api("PUT", path, {**spec, "keys": []}).status == 200
    assert agent_lab.api("DELETE", f"{path}?volumes=delete").status == 204
    assert agent_lab.run(["ls", "/run/netns", "/var/lib/lvagent/volumes"]).stdout.count("vpc-") == 0
    assert inside(agent_lab, "conf-file=") == []


def test_what_it_makes_is_closed_to_others_but_for_a_reason(agent_lab: LabHost) -> None:
    spec = guest(1, KEY, user_data="#!/bin/sh\n")
    assert agent_lab.api("PUT", f"/v1/vms/{spec['id']}", spec).status == 201
    places = ["/run/lvagent", "/var/lib/lvagent/volumes", "/var/lib/lvagent/state"]
    found = agent_lab.run(
        ["find", *places, "-mindepth", "1", "-perm", "/007", "-printf", "%m %p\n"]
    ).stdout.splitlines()
    dnsmasq = "/run/lvagent/dnsmasq"
    assert [row for row in found if dnsmasq not in row] == []
    assert {row.split()[0] for row in found} == {"755", "644"}
    assert agent_lab.api("DELETE", f"/v1/vms/{spec['id']}?volumes=delete").status == 204


def test_where_it_cannot_drop_it_says_so_and_goes_on(fresh_lab: Callable[[], LabHost]) -> None:
    lab = fresh_lab()
    lab.run(["lvagent", "hook", "install"])
    lab.reload_libvirtd()
    lab.start_agent(within=["setpriv", "--bounding-set", "-setpcap"])
    assert "the agent has no CAP_SETPCAP" in lab.agent_log()
    assert "the commands of the agent keep all capabilities" in lab.agent_log()
    assert lab.api("PUT", "/v1/vms/i-0000000001", vm(1)).status == 201
    assert lab.api("DELETE", "/v1/vms/i-0000000001").status == 204
