"""What people do with virsh behind the agent's back: shown, never obeyed, accepted or undone; and a host's reboot."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

Json = dict[str, Any]
VM, PATH, A = "i-0000000001", "/v1/vms/i-0000000001", "vpc-aaaaaaaaaa"
SWEEPS = {"LVAGENT_SWEEP_INTERVAL": "1"}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
DISK = {"path": "/var/lib/lvagent/volumes/x.qcow2", "position": 0, "size_gb": 1}


def until(what: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def swept(lab: LabHost) -> Json:
    """The VM after a sweep."""
    assert lab.api("POST", "/v1/sweep").status == 200
    found: Json = lab.api("GET", PATH).json
    return found


def edits(found: Json) -> dict[str, tuple[object, object]]:
    details = found["drift_details"]
    return {one["path"]: (one["wanted"], one["actual"]) for one in details if one["place"] == "definition"}


def tap(lab: LabHost) -> str:
    """The line of its tap in its VPC: with its index, so that another one would be noticed."""
    return lab.run(["ip", "-n", A, "-o", "link", "show", "t0000000001-0"]).stdout


def edit(lab: LabHost, old: str, new: str) -> None:
    """``virsh edit``, by define."""
    text = lab.virsh("dumpxml", "--inactive", "--security-info", VM).stdout
    assert old in text, text
    lab.path("/run/edited.xml").write_text(text.replace(old, new, 1))
    lab.virsh("define", "/run/edited.xml")


@pytest.fixture
def made(agent_lab: LabHost) -> Iterator[LabHost]:
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent(SWEEPS)
    spec = vm(1, volumes=[DISK], user_data="#!/bin/sh\n", rules=[{"proto": "icmp"}])
    assert agent_lab.api("PUT", PATH, spec).status == 201
    yield agent_lab
    assert agent_lab.api("DELETE", f"{PATH}?volumes=delete").status == 204


def test_what_libvirt_makes_of_ours_is_no_edit(made: LabHost) -> None:
    assert swept(made)["drift_details"] == []
    before = swept(made)["revision"]
    for word in ("accept", "restore"):
        assert made.api("POST", f"{PATH}/{word}").json["revision"] == before


def test_an_edit_is_shown_and_accepted(made: LabHost) -> None:
    link, pid = tap(made), swept(made)["pid"]
    made.virsh("setvcpus", VM, "1", "--config")
    edit(made, "<memory unit='KiB'>65536</memory>", "<memory unit='KiB'>98304</memory>")
    until(lambda: edits(made.api("GET", PATH).json) == {"memory_mb": (64, 96)})
    assert (swept(made)["state"], swept(made)["memory_mb"]) == ("running", 64)
    assert "96" in made.run(["lvagent", "vm", "show", VM]).stdout
    assert made.run(["lvagent", "vm", "accept", VM]).returncode == 0
    now = swept(made)
    assert (now["memory_mb"], edits(now), now["drift"], now["pid"]) == (96, {}, ["memory_mb"], pid)
    assert tap(made) == link
    for action in ("stop", "start"):
        assert made.api("POST", f"{PATH}/{action}").status == 200
    assert (swept(made)["drift"], swept(made)["has_user_data"]) == ([], True)


def test_what_no_spec_can_say_is_refused_and_undone(made: LabHost) -> None:
    edit(made, "</devices>", "<rng model='virtio'><backend model='random'>/dev/random</backend></rng></devices>")
    refused = made.api("POST", f"{PATH}/accept")
    assert (refused.status, refused.json.get("path")) == (409, "devices/rng")
    assert made.api("POST", f"{PATH}/restore").status == 200
    assert made.api("POST", f"{PATH}/accept").status == 200


def test_a_definition_without_our_element_and_none_at_all(made: LabHost) -> None:
    link = tap(made)
    text = made.virsh("dumpxml", "--inactive", VM).stdout
    head, tail = text.split("<metadata>")[0], text.split("</metadata>")[1]
    made.path("/run/edited.xml").write_text(head + tail)
    made.virsh("define", "/run/edited.xml")
    until(lambda: "revision" in edits(made.api("GET", PATH).json))
    assert tap(made) == link
    assert made.api("POST", f"{PATH}/restore").status == 200
    assert edits(swept(made)) == {}
    made.virsh("undefine", VM)
    assert edits(swept(made)) == {"definition": ("defined", "undefined")}
    assert tap(made) == link
    assert made.api("POST", f"{PATH}/accept").status == 409
    assert made.api("POST", f"{PATH}/restore").status == 200
    assert (edits(swept(made)), tap(made)) == ({}, link)
    assert VM in made.virsh("list", "--all", "--persistent").stdout


def test_an_old_definition_comes_back(made: LabHost) -> None:
    old = made.virsh("dumpxml", "--inactive", "--security-info", VM).stdout
    changed = vm(1, volumes=[DISK], user_data="#!/bin/sh\n", cpus=2)
    assert made.api("PUT", PATH, changed).status == 200
    made.path("/run/edited.xml").write_text(old)
    made.virsh("define", "/run/edited.xml")
    found = edits(swept(made))
    assert (found["cpus"], found["revision"], "rules" in found) == ((2, 1), (2, 1), True)
    assert made.api("POST", f"{PATH}/restore").json["cpus"] == 2
    assert edits(swept(made)) == {}


# a reboot of the host


def power_cut(lab: LabHost, *vms: str) -> None:
    """End qemus without a word to libvirt's clients, while neither runs."""
    pids = [lab.path(f"/run/libvirt/qemu/{one}.pid").read_text() for one in vms]
    lab.kill_libvirtd()
    lab.run(["kill", "-9", *pids])
    for space in lab.namespaces():
        lab.run(["ip", "netns", "del", space])


def test_after_a_reboot_those_that_were_wanted_running_run_and_no_others(agent_lab: LabHost) -> None:
    lab = agent_lab
    lab.kill_agent(signal.SIGTERM)
    lab.start_agent(SWEEPS)
    numbers = range(1, 6)
    for number in numbers:
        assert lab.api("PUT", f"/v1/vms/i-{number:010}", vm(number)).status == 201
    assert lab.api("POST", "/v1/vms/i-0000000005/stop").status == 200
    lab.kill_agent(signal.SIGTERM)
    lab.virsh("destroy", "i-0000000004")  # while the agent is away, and the host stays up
    lab.start_agent(SWEEPS)
    assert lab.api("POST", "/v1/sweep").status == 200
    assert states(lab) == ["running", "running", "running", "stopped", "stopped"]
    assert lab.api("POST", "/v1/vms/i-0000000004/start").status == 200

    lab.kill_agent(signal.SIGKILL)
    power_cut(lab, *(f"i-{number:010}" for number in range(1, 5)))
    lab.path("/run/boot_id").write_text(f"{uuid.uuid4()}\n")
    lab.run(["mount", "--bind", "/run/boot_id", BOOT_ID])
    try:
        lab.start_libvirtd()
        lab.start_agent(SWEEPS)
        until(lambda: states(lab) == ["running"] * 4 + ["stopped"])
        taps = lab.run(["ip", "-n", A, "-br", "link"]).stdout
        assert all(f"t{number:010}-0" in taps for number in range(1, 5))
        lab.virsh("destroy", "i-0000000001")
        for _ in range(3):
            assert lab.api("POST", "/v1/sweep").status == 200
        assert states(lab) == ["stopped", "running", "running", "running", "stopped"]
    finally:
        lab.run(["umount", BOOT_ID])
    for number in numbers:
        assert lab.api("DELETE", f"/v1/vms/i-{number:010}").status == 204


def states(lab: LabHost) -> list[str]:
    return [one["state"] for one in lab.api("GET", "/v1/vms").json["items"]]


def test_a_libvirt_that_has_lost_its_definitions_takes_nothing_with_it(agent_lab: LabHost) -> None:
    """The folder of definitions was not mounted, say, and the host was booted."""
    lab = agent_lab
    lab.kill_agent(signal.SIGTERM)
    few = {**SWEEPS, "LVAGENT_SWEEP_REMOVALS": "5"}
    lab.start_agent(few)
    assert lab.api("PUT", PATH, vm(1, nic())).status == 201
    lab.kill_agent(signal.SIGTERM)
    lab.virsh("destroy", VM)
    lab.virsh("undefine", VM)
    lab.start_agent(few)
    assert A in lab.namespaces()
    assert "more than 5" in lab.api("GET", "/readyz").json["checks"]["removals"]
    objects = lab.api("GET", "/v1/strays").json["objects"]
    assert {"netns", "ruleset", "dnsmasq"} <= {one["kind"] for one in objects}
    assert "done" in lab.run(["lvagent", "sweep", "--force"]).stdout
    assert A not in lab.namespaces()
    assert lab.api("GET", "/readyz").json["checks"]["removals"] == "ok"
