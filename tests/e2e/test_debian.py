"""A real distribution: Debian with cloud-init, in a VPC of a real agent, by each of the three datasources. Minutes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import IMAGES, SshKey
from tests.e2e.specs import nic
from tests.lab.host import TREE, LabHost, tree_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

VPC = "vpc-aaaaaaaaaa"
BOOT = 900
"""Seconds; three boots beside each other without KVM take some four minutes."""

SOURCES = ("nocloud", "ec2", "openstack")


def spec(position: int, source: str, key: str) -> dict[str, Any]:
    number = position + 1
    mark = f"#cloud-config\nwrite_files: [{{path: /root/mark, content: {source}}}]\n"
    return {
        "id": f"i-{number:010}",
        "memory_mb": 768,
        "cpus": 1,
        "volumes": [
            {
                "path": f"/var/lib/lvagent/volumes/debian-{source}.qcow2",
                "position": 0,
                "image": "debian",
                "size_gb": 3,
            }
        ],
        "networks": [nic(VPC, host=10 + position)],
        "rules": [{"proto": "tcp", "port": 22}],
        "keys": [key],
        "user_data": mark,
        "datasource": source,
    }


@pytest.fixture(scope="module")
def debians(agent_lab: LabHost, ssh_key: SshKey) -> Iterator[LabHost]:
    environment = {**tree_environment(), "LVAGENT_PATHS_IMAGES": str(IMAGES), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    build = [sys.executable, "-m", "lvagent", "image", "build", "debian"]
    subprocess.run(build, env=environment, cwd=TREE, check=True, timeout=1200)
    for position, source in enumerate(SOURCES):
        one = spec(position, source, ssh_key.public)
        answer = agent_lab.api("PUT", f"/v1/vms/{one['id']}", one)
        assert answer.status == 201, answer.text
    yield agent_lab
    for position in range(len(SOURCES)):
        agent_lab.api("DELETE", f"/v1/vms/i-{position + 1:010}?volumes=delete")


def say(lab: LabHost, key: SshKey, address: str, command: str) -> str:
    return lab.guest_ssh(VPC, address, command, key.private, wait=BOOT, user="debian", check=False).stdout.strip()


@pytest.mark.parametrize(("position", "source"), list(enumerate(SOURCES)), ids=SOURCES)
def test_cloud_init_is_done(debians: LabHost, ssh_key: SshKey, position: int, source: str) -> None:
    address = f"10.0.0.{10 + position}"
    found: dict[str, Any] = {}
    deadline = time.monotonic() + BOOT
    while found.get("status") not in ("done", "error") and time.monotonic() < deadline:
        text = say(debians, ssh_key, address, "cloud-init status --format json")
        found = json.loads(text) if text.startswith("{") else {}
        time.sleep(2)
    assert (found.get("status"), found.get("errors")) == ("done", []), found
    assert found["datasource"].startswith(source)  # "ec2local": found before the network was up
    assert say(debians, ssh_key, address, "sudo cat /root/mark") == source
    assert say(debians, ssh_key, address, "hostname") == f"i-{position + 1:010}"
    addresses = say(debians, ssh_key, address, "ip -o addr show scope global")
    assert f"inet {address}/24" in addresses
    assert f"inet6 fd00:a::{10 + position:x}/128" in addresses
    assert int(say(debians, ssh_key, address, "df --output=size -BM / | tail -1 | tr -dc 0-9")) > 2500
