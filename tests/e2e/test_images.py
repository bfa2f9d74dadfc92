"""Hostile disk files against a real libvirtd, which opens files as root and gives them to qemu."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.specs import nic, vm
from tests.e2e.test_faults import VOLUMES, clear, put
from tests.host.volumes import forge
from tests.host.volumes.canary import Canary
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

ONE, TWO = "i-0000000001", "i-0000000002"
DISK = f"{VOLUMES}/disk.qcow2"
SECRET = "/var/lib/lvagent/secret"


@pytest.fixture
def host(agent_lab: LabHost) -> Iterator[LabHost]:
    clear(agent_lab)
    yield agent_lab
    clear(agent_lab)
    for file in agent_lab.path(VOLUMES).glob("*.qcow2"):
        file.unlink()


def with_disk(number: int, path: str = DISK) -> dict[str, object]:
    return vm(number, nic(host=4 + number), volumes=[{"path": path, "position": 0, "size_gb": 1}])


def owner(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_uid, found.st_gid, found.st_mode


HOSTILE = {
    "backing file": forge.qcow2(backing=SECRET, backing_format="raw"),
    "external data file": forge.with_data_file(SECRET),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("alone", [False, True], ids=["agent", "no agent"])
def test_a_disk_that_was_replaced_after_it_was_checked_is_not_started(host: LabHost, kind: str, *, alone: bool) -> None:
    """By hand, with and without an agent. libvirt has looked at the chain by then (root may); no qemu gets any of it,
    and the file still belongs to whom it did: libvirt gives the files of a chain to qemu's account after the hook.
    """
    assert put(host, with_disk(1)).status == 201
    assert host.api("POST", f"/v1/vms/{ONE}/stop").status == 200
    disk = host.path(DISK)
    sound = disk.read_bytes()
    disk.write_bytes(HOSTILE[kind])
    with contextlib.ExitStack() as stack:
        if alone:
            host.kill_agent()
            stack.callback(host.start_agent)
        canary = stack.enter_context(Canary(host.path(SECRET)))
        before = owner(canary.path)
        refused = host.virsh("start", ONE, check=False)
        assert refused.returncode != 0
        assert "volumes[0].path" in refused.stderr
        assert host.virsh("domstate", ONE).stdout.strip() == "shut off"
        assert (owner(canary.path), canary.whole()) == (before, True)
    disk.write_bytes(sound)
    assert host.virsh("start", ONE).returncode == 0
    host.path(SECRET).unlink()


def test_a_start_by_the_api_says_what_is_wrong(host: LabHost) -> None:
    assert put(host, with_disk(1)).status == 201
    assert host.api("POST", f"/v1/vms/{ONE}/stop").status == 200
    host.path(DISK).write_bytes(HOSTILE["backing file"])
    with Canary(host.path(SECRET)) as canary:
        answer = host.api("POST", f"/v1/vms/{ONE}/start")
        assert not canary.noticed()  # libvirt was not even asked
    host.path(SECRET).unlink()
    assert (answer.status, answer.json["path"]) == (422, "volumes[0].path"), answer.text
    assert "its backing file lies outside" in answer.json["detail"]


def test_a_disk_upon_another_vms_disk(host: LabHost) -> None:
    top = f"{VOLUMES}/top.qcow2"
    assert put(host, with_disk(1)).status == 201
    host.path(top).write_bytes(forge.qcow2(backing=DISK, backing_format="qcow2"))
    answer = put(host, with_disk(2, top))
    assert (answer.status, answer.json.get("path"), answer.json.get("other")) == (409, "volumes[0].path", ONE), (
        answer.text
    )
    assert json.loads(answer.text)["detail"].startswith(f"the volume {DISK} is in use")
    assert host.api("DELETE", f"/v1/vms/{ONE}").status == 204
    assert put(host, with_disk(2, top)).status == 201
    assert put(host, with_disk(1)).status == 409
