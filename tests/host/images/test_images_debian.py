"""The Debian image with cloud-init: each datasource ends "done", with addresses, key, user data and a grown root."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.host.images.cloud import MTU, Cloud, ec2, overlay

pytestmark = [pytest.mark.host, pytest.mark.slow]

UUID = "ec2e1916-9099-7caf-fd21-012345abcdef"
HOSTNAME = "web.vpc.internal"
USER_DATA = b"#!/bin/sh\necho ran > /run/user-data-ran\n"

HINTS = {
    "nocloud": "type=1,serial=ds=nocloud-net;s=http://169.254.169.254/nocloud/",
    "ec2": f"type=1,serial={UUID},uuid={UUID}",
    "openstack": "type=1,product=OpenStack Nova",
}


def nocloud_tree(key: str) -> dict[str, bytes]:
    meta = f"instance-id: i-1\nlocal-hostname: {HOSTNAME}\npublic-keys:\n  - {key}\n"
    return {"/nocloud/meta-data": meta.encode(), "/nocloud/user-data": USER_DATA, "/nocloud/vendor-data": b""}


def ec2_tree(key: str) -> dict[str, bytes]:
    tree = ec2("i-1", "web", [key], USER_DATA)
    tree["/latest/meta-data/"] = b"instance-id\nlocal-hostname\nhostname\npublic-keys/\n"
    tree["/latest/meta-data/hostname"] = HOSTNAME.encode()
    # Without this one cloud-init tries for half a minute, twice.
    tree["/latest/dynamic/instance-identity"] = b"document\n"
    tree["/latest/dynamic/instance-identity/document"] = b"{}"
    return tree | {path.replace("latest", "2009-04-04", 1): content for path, content in tree.items()}


def openstack_tree(key: str) -> dict[str, bytes]:
    meta = {"uuid": "u-1", "hostname": HOSTNAME, "name": "web", "public_keys": {"key": key}}
    tree = {"/openstack": b"latest\n", "/openstack/": b"latest\n"}
    tree |= {"/openstack/latest/": b"meta_data.json\nuser_data\n", "/openstack/latest/user_data": USER_DATA}
    return tree | {"/openstack/latest/meta_data.json": json.dumps(meta).encode()}


TREES = {"nocloud": nocloud_tree, "ec2": ec2_tree, "openstack": openstack_tree}


@pytest.mark.parametrize("source", HINTS)
def test_cloud_init_is_done(source: str, two_nics: Cloud, debian: Path) -> None:
    two_nics.serve_dhcp()
    two_nics.serve_metadata(TREES[source](two_nics.public_key))
    disk = overlay(debian, two_nics.folder, "6G")
    guest = two_nics.boot(disk, "-smbios", HINTS[source], memory=768, translated=256)
    guest.wait_for("login:", 300)

    def ask(command: str) -> str:
        return guest.ssh(command, user="debian", timeout=300).strip()

    status = ask("cloud-init status --wait --long")
    assert status.split("\n")[-1].lower().startswith(f"datasource{source}"), status
    assert re.search(r"^\.*\n?status: done$", status, re.MULTILINE), status
    assert ask("hostname") == "web"
    assert ask("cat /run/user-data-ran") == "ran"
    assert ask("systemctl --failed --no-legend") == ""
    held = re.findall(r"(eth\d) +inet6? (\S+)", ask("ip -o addr show scope global"))
    assert sorted(held) == [
        ("eth0", "10.9.0.5/24"),
        ("eth0", "fd09::5/128"),
        ("eth1", "10.9.1.5/24"),
        ("eth1", "fd09:1::5/128"),
    ]
    routes = re.findall(r"default via \S+ dev (\S+)", ask("ip route show default; ip -6 route show default"))
    assert routes == ["eth0", "eth0"]
    assert ask("cat /sys/class/net/eth[01]/mtu").split() == [str(MTU), str(MTU)]
    assert "10.9.1.5" in ask("getent ahostsv4 guest1.vpc.internal")
    assert int(ask("df --output=size -B1G / | tail -1")) >= 5
    guest.press_power()
    assert guest.process.wait(120) == 0
