"""Things that go wrong, on a real libvirtd with real (diskless) domains: after each, the host is as before."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A = "vpc-aaaaaaaaaa"
VOLUMES = "/var/lib/lvagent/volumes"
SWEEPS = {"LVAGENT_SWEEP_INTERVAL": "1"}


def put(lab: LabHost, spec: dict[str, Any]) -> Any:  # noqa: ANN401 - an Answer
    return lab.api("PUT", f"/v1/vms/{spec['id']}", spec)


def clear(lab: LabHost) -> None:
    for one in lab.api("GET", "/v1/vms").json["items"]:
        assert lab.api("DELETE", f"/v1/vms/{one['id']}?volumes=delete").status in (200, 204)


@pytest.fixture(scope="module")
def warm(agent_lab: LabHost) -> LabHost:
    """The lab after the VPC was there once (its lock files stay), with an agent that sweeps every second."""
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent(SWEEPS)
    assert put(agent_lab, vm(99, nic(host=99))).status == 201
    clear(agent_lab)
    return agent_lab


@pytest.fixture
def host(warm: LabHost) -> Iterator[LabHost]:
    """The lab, and a check that the test left nothing in it."""
    agent_lab = warm
    clear(agent_lab)
    before = agent_lab.snapshot()
    yield agent_lab
    clear(agent_lab)
    assert before.difference(agent_lab.snapshot()) == {}


def taps(lab: LabHost, vpc: str) -> set[str]:
    names = lab.run(["ip", "-n", vpc, "-br", "link"]).stdout.split("\n")
    return {name.split()[0] for name in names if name.startswith("t0")}


# bad input

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"colour": "red"}, "colour"),
    "wrong type": ({"memory_mb": "64"}, "memory_mb"),
    "VNI too large": ({"networks": [nic(vni=2_000_001)]}, "networks[0].vxlanid"),
    "address outside its prefix": ({"networks": [{**nic(), "gateway_v4": "10.9.0.1"}]}, "networks[0]"),
    "address of the gateway": ({"networks": [{**nic(), "ipv4": "10.0.0.1/24"}]}, "networks[0].ipv4"),
    "no networks": ({"networks": []}, "networks"),
    "two NICs at one position": (
        {"networks": [nic(), nic(subnet="subnet-bbbbbbbbbb", net=1, vni=2)]},
        "networks[1].position",
    ),
    "volume outside the folders": (
        {"volumes": [{"path": "/etc/x.qcow2", "position": 0, "size_gb": 1}]},
        "volumes[0].path",
    ),
    "unknown image": (
        {"volumes": [{"path": f"{VOLUMES}/x.qcow2", "position": 0, "image": "nosuch"}]},
        "volumes[0].image",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_leaves_no_trace(host: LabHost, name: str) -> None:
    change, path = BAD[name]
    answer = put(host, {**vm(1), **change})
    assert answer.status == 422, answer.text
    assert answer.json["path"].startswith(path), answer.json
    assert answer.headers["content-type"].startswith("application/problem+json")


def test_a_duplicate_key_and_a_bad_id_are_refused(host: LabHost) -> None:
    assert host.api("POST", "/v1/vms", b'{"id":"i-0000000001","Id":"i-0000000001"}').status == 422
    assert host.api("PUT", "/v1/vms/i-1", vm(1)).status in (404, 422)
    assert host.api("POST", "/v1/vms", {**vm(1), "id": "i-1"}).status == 422


def look(file: Path) -> tuple[int, ...]:
    """All of a file that must stay as it is; the time of the last access may not."""
    found = file.lstat()
    return (found.st_mode, found.st_ino, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns)


def _link(lab: LabHost) -> None:
    lab.path(f"{VOLUMES}/x.qcow2").symlink_to("/etc/passwd")


def _node(lab: LabHost) -> None:
    lab.run(["mknod", f"{VOLUMES}/x.qcow2", "b", "7", "0"])


def _backed(lab: LabHost) -> None:
    lab.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", f"{VOLUMES}/x.qcow2", "1M"]
    )


def _data_file(lab: LabHost) -> None:
    lab.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "data_file=/var/lib/lvagent/secret.raw",
            f"{VOLUMES}/x.qcow2",
            "1M",
        ]
    )


@pytest.mark.parametrize("lay", [_link, _node, _backed, _data_file], ids=lambda lay: lay.__name__.strip("_"))
def test_a_hostile_volume_is_refused_and_not_touched(host: LabHost, lay: Callable[[LabHost], None]) -> None:
    lay(host)
    file = host.path(f"{VOLUMES}/x.qcow2")
    before = look(file)
    answer = put(host, vm(1, volumes=[{"path": f"{VOLUMES}/x.qcow2", "position": 0, "size_gb": 1}]))
    assert (answer.status, answer.json["path"]) == (422, "volumes[0].path"), answer.text
    assert look(file) == before
    file.unlink()


def test_conflicts_name_the_other_vm(host: LabHost) -> None:
    assert put(host, vm(1, nic(host=5))).status == 201
    for other in (
        vm(2, nic(host=5)),
        vm(2, nic(subnet="subnet-bbbbbbbbbb", net=1)),
        vm(2, {**nic(host=6), "vxlanid": 7}),
    ):
        answer = put(host, other)
        assert (answer.status, answer.json["other"]) == (409, "i-0000000001"), answer.text
    assert host.api("POST", "/v1/vms", vm(1, nic(host=6))).status == 409
    assert put(host, vm(1, nic(host=5))).status == 200


# what breaks


def test_without_libvirtd_a_put_is_refused_and_later_goes_through(host: LabHost) -> None:
    host.stop_libvirtd()
    try:
        answer = put(host, vm(1))
        assert (answer.status, answer.json["type"]) == (503, "urn:lvagent:error:unavailable"), answer.text
        assert host.api("GET", "/v1/vms").status == 200
        assert A not in host.namespaces()
    finally:
        host.start_libvirtd()
    assert put(host, vm(1)).status == 201


def test_a_full_disk_is_told_with_its_phase(host: LabHost) -> None:
    host.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", VOLUMES])
    try:
        host.run(["sh", "-c", f"head -c 65536 /dev/zero > {VOLUMES}/filler || true"])
        disk = {"path": f"{VOLUMES}/x.qcow2", "position": 0, "size_gb": 1}
        answer = put(host, vm(1, volumes=[disk]))
        assert (answer.status, answer.json["phase"]) == (500, "volume"), answer.text
        assert A not in host.namespaces()
        assert host.run(["ls", "-A", VOLUMES]).stdout.split() == ["filler"]
    finally:
        host.run(["umount", VOLUMES])


def test_a_qemu_that_dies_at_once_is_told_and_rolled_back(host: LabHost) -> None:
    answer = put(host, vm(1, memory_mb=900_000))
    assert (answer.status, answer.json["phase"]) == (500, "start"), answer.text
    assert host.virsh("list", "--all", "--name").stdout.split() == []


def test_a_dnsmasq_that_cannot_start_is_told_and_rolled_back(host: LabHost) -> None:
    host.run(["mount", "--bind", "/usr/bin/false", "/usr/sbin/dnsmasq"])
    try:
        answer = put(host, vm(1))
        assert (answer.status, answer.json["phase"]) == (500, "services"), answer.text
        assert host.virsh("list", "--all", "--name").stdout.split() == []
    finally:
        host.run(["umount", "/usr/sbin/dnsmasq"])


def test_a_strangers_domain_of_the_same_name_is_untouched(host: LabHost) -> None:
    xml = "<domain type='qemu'><name>i-0000000001</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    host.path("/run/stranger.xml").write_text(xml)
    host.virsh("define", "/run/stranger.xml")
    before = host.virsh("dumpxml", "i-0000000001").stdout
    answer = put(host, vm(1))
    assert answer.status == 409, answer.text
    assert host.virsh("dumpxml", "i-0000000001").stdout == before
    host.virsh("start", "i-0000000001")
    host.virsh("destroy", "i-0000000001")
    host.virsh("undefine", "i-0000000001")
    host.path("/run/stranger.xml").unlink()


# at once


def test_twenty_creates_at_once_while_others_list(host: LabHost) -> None:
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not stop.is_set():
            answer = host.api("GET", "/v1/vms")
            if answer.status != 200:
                failures.append(answer.text)
            host.virsh("list", "--all", timeout=60)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda number: put(host, vm(number, nic(host=10 + number))), range(1, 21)))
    finally:
        stop.set()
        reader.join()
    assert ([answer.status for answer in answers], failures) == ([201] * 20, [])
    assert taps(host, A) == {f"t{number:010}-0" for number in range(1, 21)}


def test_one_id_twice_at_once_makes_one(host: LabHost) -> None:
    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(answer.status for answer in pool.map(lambda _: put(host, vm(1)), range(6)))
    assert statuses.count(201) >= 1
    assert set(statuses) <= {200, 201}, statuses
    assert host.virsh("list", "--name").stdout.split() == ["i-0000000001"]


def test_create_against_delete_of_one_id(host: LabHost) -> None:
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(put, host, vm(1)) for _ in range(3)]
        calls += [pool.submit(host.api, "DELETE", "/v1/vms/i-0000000001") for _ in range(3)]
        statuses = [call.result().status for call in calls]
    assert set(statuses) <= {200, 201, 204, 404, 409}, statuses
    listed = host.api("GET", "/v1/vms").json["items"]
    assert len(listed) == len(host.virsh("list", "--name").stdout.split())
    assert all(one["state"] == "running" for one in listed)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7])
def test_a_kill_at_any_moment_of_a_create_leaves_it_whole_or_gone(host: LabHost, delay: float) -> None:
    disk = {"path": f"{VOLUMES}/x.qcow2", "position": 0, "size_gb": 1}
    assert put(host, vm(1, nic(host=5))).status == 201
    before = host.snapshot()
    call = threading.Thread(target=lambda: _quietly(lambda: put(host, vm(2, nic(host=6), volumes=[disk]))))
    call.start()
    time.sleep(delay)
    host.kill_agent(signal.SIGKILL)
    call.join()
    host.start_agent(SWEEPS)
    if host.api("GET", "/v1/vms/i-0000000002").status == 404:
        assert before.difference(host.snapshot()) == {}
    else:
        assert host.api("GET", "/v1/vms/i-0000000002").json["state"] == "running"
        assert "t0000000002-0" in taps(host, A)
        assert host.path(f"{VOLUMES}/x.qcow2").exists()
    assert host.api("GET", "/v1/vms/i-0000000001").json["state"] == "running"


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except (OSError, ValueError) as error:
        print(f"the agent went away: {error}")


# the hook


def test_the_hook_works_alone_when_the_agent_is_down(host: LabHost) -> None:
    assert put(host, vm(1)).status == 201
    host.virsh("destroy", "i-0000000001")
    host.kill_agent()
    try:
        host.virsh("start", "i-0000000001")
        assert taps(host, A) == {"t0000000001-0"}
        up = host.run(["ip", "-n", A, "-br", "link", "show", "t0000000001-0"]).stdout
        assert "UP" in up
    finally:
        host.start_agent(SWEEPS)
    assert host.api("GET", "/v1/vms/i-0000000001").json["state"] == "running"


def test_a_hook_whose_agent_hangs_ends_with_an_error_within_ten_seconds(host: LabHost) -> None:
    assert put(host, vm(1)).status == 201
    host.virsh("destroy", "i-0000000001")
    host.freeze_agent()
    try:
        begin = time.monotonic()
        done = host.virsh("start", "i-0000000001", check=False, timeout=60)
        assert done.returncode != 0
        assert time.monotonic() - begin < 25  # it hangs until it is thawed
        assert "t0000000001-0" not in taps(host, A)
    finally:
        host.thaw_agent()
    assert host.api("POST", "/v1/vms/i-0000000001/start").json["state"] == "running"


def test_a_strangers_domain_starts_whatever_the_agent_does(host: LabHost) -> None:
    xml = "<domain type='qemu'><name>stranger</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    host.path("/run/stranger.xml").write_text(xml)
    host.freeze_agent()
    try:
        host.virsh("create", "/run/stranger.xml", timeout=30)
    finally:
        host.thaw_agent()
    assert host.api("GET", "/v1/vms").json["items"] == []
    host.virsh("destroy", "stranger")
    host.path("/run/stranger.xml").unlink()
