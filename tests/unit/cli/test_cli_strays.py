"""``lvagent strays`` and ``lvagent sweep``; what was edited, in ``vm show``."""

from __future__ import annotations

import dataclasses
import json

from lvagent.spec.status import Drift, Place
from tests.unit.api.fake_agent import STRAY
from tests.unit.api.specs import full
from tests.unit.cli.shell import Shell

LISTED = """\
PID   SORT    STATE    AGE     PROGRAM                      PARENT    WHY
4711  nobody  running  61.5 s  /usr/bin/qemu-system-x86_64  init (1)  libvirt does not know it
"""
LONG = """
4711  identity 123456, uid 0, seen in 2 sweeps
  arguments: qemu -S
  sockets: /run/mon.sock
  disks: /v/a.qcow2
  taps: \n"""
OBJECTS = """
KIND    NAME          WHY
volume  /v/old.qcow2  no VM has it
"""


def test_ls(shell: Shell) -> None:
    assert shell.run("strays", "ls").stdout == LISTED + OBJECTS
    assert shell.run("strays", "ls", "--long").stdout == LISTED + LONG + OBJECTS
    assert json.loads(shell.run("strays", "ls", "-o", "json").stdout)["processes"][0]["pid"] == STRAY.pid


def test_what_a_stray_says_does_not_reach_the_terminal_as_it_is(shell: Shell) -> None:
    evil = dataclasses.replace(STRAY, arguments=("\x1b[2J\nfake",), parent_name="\x1b]0;x")
    shell.agent.stray_processes[STRAY.pid] = evil
    assert "\x1b" not in shell.run("strays", "ls", "--long").stdout


def test_kill(shell: Shell) -> None:
    assert shell.run("strays", "kill", "1").exit_code == 3
    assert shell.run("strays", "kill", "4711", "--identity", "1").exit_code == 4
    assert shell.run("strays", "kill", "4711").stdout == "4711 ended\n"
    assert shell.run("strays", "ls").stdout.startswith("no stray processes\n")


def test_sweep(shell: Shell) -> None:
    shell.agent.held = "nothing is removed: 60 objects would go"
    assert shell.run("sweep").stdout == "nothing is removed: 60 objects would go\n"
    assert shell.run("sweep", "--force").stdout == "done\n"


def test_a_definition_without_our_element_is_shown(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=json.dumps(full()).encode())
    drift = Drift("revision", 2, None, Place.DEFINITION)
    shell.agent._vms["i-0000000001"] = dataclasses.replace(shell.agent._vms["i-0000000001"], drift_details=(drift,))
    assert "edited         revision: wanted 2, is none\n" in shell.run("vm", "show", "i-0000000001").stdout


def test_what_was_edited_is_shown_and_settled(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=json.dumps(full()).encode())
    drift = Drift("memory_mb", 128, 256, Place.DEFINITION)
    status = shell.agent._vms["i-0000000001"]
    shell.agent._vms["i-0000000001"] = dataclasses.replace(status, drift=("memory_mb",), drift_details=(drift,))
    assert "edited         memory_mb: wanted 128, is 256\n" in shell.run("vm", "show", "i-0000000001").stdout
    assert "changed by hand" in shell.run("vm", "ls").stdout
    assert shell.run("vm", "restore", "i-0000000001").stdout == "i-0000000001 running\n"
    assert "edited" not in shell.run("vm", "show", "i-0000000001").stdout
    assert shell.run("vm", "accept", "i-0000000001").exit_code == 0
    assert shell.agent.calls[-2:] == [("restore", "i-0000000001"), ("accept", "i-0000000001")]
