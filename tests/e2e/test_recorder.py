"""The flight recorder with a real guest: what it does is in its timeline, and ``lvagent why`` says it in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import SshKey
from tests.e2e.specs import guest, nic
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

VM = "i-0000000001"
BOOT_SECONDS = 180


def timeline(lab: LabHost) -> list[dict[str, Any]]:
    answer = lab.api("GET", f"/v1/vms/{VM}/timeline")
    assert answer.status == 200, answer.text
    items: list[dict[str, Any]] = answer.json["items"]
    return items


def kinds(lab: LabHost) -> list[str]:
    return [one["kind"] for one in timeline(lab)]


def why(lab: LabHost) -> str:
    return lab.run(["lvagent", "why", VM]).stdout


def wait_for(what: Callable[[], bool], seconds: float, lab: LabHost) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, (timeline(lab), lab.agent_log())
        time.sleep(0.5)


def test_a_life_of_a_guest(agent_lab: LabHost, ssh_key: SshKey) -> None:
    lab = agent_lab
    assert lab.api("PUT", f"/v1/vms/{VM}", guest(1, ssh_key.public, nic(host=5), restart="never")).status == 201
    assert kinds(lab)[:3] == ["plugged", "state", "operation"]
    assert "has not asked for an address yet" in why(lab)
    wait_for(lambda: {"dhcp", "metadata"} <= set(kinds(lab)), BOOT_SECONDS, lab)
    found = {one["kind"]: one["detail"] for one in timeline(lab)}
    assert found["dhcp"]["address"] in ("10.0.0.5", "fd00:a::5")
    assert found["metadata"]["requests"] > 0
    assert {"hook", "plug"} <= found["plugged"]["ms"].keys()
    assert "from outside nothing is wrong with it" in why(lab)

    pid = lab.path(f"/run/libvirt/qemu/{VM}.pid").read_text().strip()
    lab.run(["kill", "-9", pid])
    wait_for(lambda: lab.api("GET", f"/v1/vms/{VM}").json["state"] == "crashed", 60, lab)
    assert "its qemu ended unexpectedly" in why(lab)
    assert f"-> lvagent vm log {VM}" in why(lab)
    wait_for(lambda: "console" in kinds(lab), 60, lab)
    (console,) = (one["detail"]["tail"] for one in timeline(lab) if one["kind"] == "console")
    assert console

    before = timeline(lab)
    lab.kill_agent()
    lab.virsh("start", VM)
    lab.start_agent()
    after = timeline(lab)
    assert [one for one in before if one not in after] == []
    assert [one["detail"].get("by") for one in after if one["kind"] == "plugged"] == [None, "the hook, working alone"]
    states = [one["detail"] for one in after if one["kind"] == "state"]
    assert states[-1] == {"state": "running", "reason": "booted"}

    assert lab.api("DELETE", f"/v1/vms/{VM}?volumes=delete").status == 204
    assert f"{VM}: it was deleted at " in why(lab)
    assert [one for one in after if one not in timeline(lab)] == []
    mode = lab.run(["stat", "-c", "%a %U", f"/var/lib/lvagent/state/timelines/{VM}.jsonl"]).stdout
    assert mode == "600 root\n"


def test_a_create_that_fails_says_why(agent_lab: LabHost) -> None:
    spec = {"id": "i-0000000008", "memory_mb": 64, "cpus": 1, "networks": [{**nic(host=8), "mtu": 9000}]}
    assert agent_lab.api("PUT", "/v1/vms/i-0000000008", spec).status == 422
    text = agent_lab.run(["lvagent", "why", "i-0000000008"]).stdout
    assert "i-0000000008: create failed in the phase check at" in text
    assert "9000 is more than the segment carries" in text
