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
VM, PATH, A, B = "i-0000000001", "/v1/vms/i-0000000001", "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
SWEEPS = {"LVAGENT_SWEEP_INTERVAL": "1"}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
DISK = {"path": "/var/lib/lvagent/volumes/x.qcow2", "position": 0, "size_gb": 1}


def until(what: Callable[[], object], seconds: float = 60) -> None:
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


@pytest.fixture(scope="module")
def sweeping(agent_lab: LabHost) -> LabHost:
    """The lab with an agent that sweeps often."""
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent(SWEEPS)
    return agent_lab


@pytest.fixture
def made(sweeping: LabHost) -> Iterator[LabHost]:
    spec = vm(1, volumes=[DISK], user_data="#!/bin/sh\n", rules=[{"proto": "icmp"}])
    assert sweeping.api("PUT", PATH, spec).status == 201
    yield sweeping
    assert sweeping.api("DELETE", f"{PATH}?volumes=delete").status == 204


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


# snapshots


def snapshot(lab: LabHost, name: str) -> None:
    lab.virsh("snapshot-create-as", VM, name)


def revert(lab: LabHost, name: str) -> None:
    lab.virsh("snapshot-revert", VM, name)


def power(lab: LabHost, *actions: str) -> None:
    for action in actions:
        assert lab.api("POST", f"{PATH}/{action}").status == 200


def put(lab: LabHost, *nics: Json, **more: object) -> None:
    sent = vm(1, *nics, **{"volumes": [DISK], "user_data": "#!/bin/sh\n", "rules": [{"proto": "icmp"}], **more})
    assert lab.api("PUT", PATH, sent).status == 200


def places(lab: LabHost) -> list[str]:
    """The VPCs that its first tap is in."""
    return [one for one in lab.namespaces() if "t0000000001-0" in lab.run(["ip", "-n", one, "-br", "link"]).stdout]


@pytest.mark.parametrize(("word", "cpus"), [("accept", 1), ("restore", 2)])
def test_a_running_guest_that_is_reverted_keeps_its_port(made: LabHost, word: str, cpus: int) -> None:
    snapshot(made, "before")
    put(made, cpus=2, rules=[{"proto": "tcp", "port": 22}])
    revert(made, "before")
    until(lambda: edits(made.api("GET", PATH).json).get("revision") == (2, 1))
    found, link = swept(made), tap(made)
    assert (found["state"], found["reason"], found["cpus"]) == ("running", "started from a snapshot", 2)
    assert (edits(found)["cpus"], "rules" in edits(found)) == ((2, 1), True)
    assert made.run(["lvagent", "vm", word, VM]).returncode == 0
    now = swept(made)
    assert (now["cpus"], edits(now), now["pid"], tap(made)) == (cpus, {}, found["pid"], link)
    assert now["has_user_data"]


def test_one_that_is_off_is_reverted(made: LabHost) -> None:
    power(made, "stop")
    snapshot(made, "off")
    for revision, (word, memory) in enumerate((("restore", 80), ("accept", 64)), 2):
        put(made, memory_mb=80)
        revert(made, "off")
        assert edits(swept(made)) == {"revision": (revision, 1), "memory_mb": (80, 64)}
        power(made, word)
        assert (edits(swept(made)), swept(made)["memory_mb"]) == ({}, memory)
    power(made, "start")
    assert swept(made)["drift_details"] == []
    revert(made, "off")  # while it runs: this stops it, and somebody meant that
    time.sleep(1.5)
    stopped = swept(made)
    assert (stopped["state"], stopped["wanted"]) == ("stopped", "running")
    assert stopped["reason"] == "restored from a snapshot, stopped"


def test_a_guest_reverted_to_what_it_was_in_another_vpc(made: LabHost) -> None:
    """It is plugged where the wish says. An agent that starts later knows that, though the snapshot says otherwise."""
    snapshot(made, "in-a")
    put(made, nic(B, "subnet-bbbbbbbbbb", net=7, vni=0))
    power(made, "stop", "start")
    assert (places(made), A in made.namespaces()) == ([B], False)
    revert(made, "in-a")
    until(lambda: "networks[0].netname" in edits(made.api("GET", PATH).json))
    assert places(made) == [B]
    until(lambda: B in made.virsh("dumpxml", VM).stdout)
    made.kill_agent()
    made.start_agent(SWEEPS)
    assert edits(swept(made))["networks[0].netname"] == (B, A)
    assert (places(made), made.run(["lvagent", "doctor"]).returncode) == ([B], 0)
    power(made, "accept")
    assert (places(made), swept(made)["networks"][0]["netname"]) == ([B], A)
    power(made, "stop", "start")
    assert (places(made), swept(made)["drift_details"], B in made.namespaces()) == ([A], [], False)


def test_a_snapshot_with_a_port_that_no_wish_knows_is_refused(made: LabHost) -> None:
    both = [nic(host=5), nic(B, "subnet-bbbbbbbbbb", net=7, vni=0, position=1)]
    put(made, *both)
    power(made, "stop", "start")
    snapshot(made, "both")
    put(made)
    power(made, "stop", "start")
    refused = made.virsh("snapshot-revert", VM, "both", check=False).stderr
    assert "no such network" in refused
    assert "lvagent vm accept" in refused
    assert (swept(made)["state"], places(made)) == ("stopped", [])
    power(made, "accept")
    revert(made, "both")
    assert (swept(made)["state"], places(made), B in made.namespaces()) == ("running", [A], True)


# a reboot of the host


def power_cut(lab: LabHost, *vms: str) -> None:
    """End qemus without a word to libvirt's clients, while neither runs."""
    pids = [lab.path(f"/run/libvirt/qemu/{one}.pid").read_text() for one in vms]
    lab.kill_libvirtd()
    lab.run(["kill", "-9", *pids])
    for space in lab.namespaces():
        lab.run(["ip", "netns", "del", space])


def test_after_a_reboot_those_that_were_wanted_running_run_and_no_others(sweeping: LabHost) -> None:
    lab = sweeping
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
