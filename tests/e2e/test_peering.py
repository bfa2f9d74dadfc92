"""Peerings through the API of a real agent, with VMs that come and go and an agent that is killed.

Domains without disks; that packets go and do not go is tried in tests/host/net. In ``test_guests_of_peered_vpcs`` real
guests talk to each other.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import SshKey
from tests.e2e.specs import Spec, guest, nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A, B, C = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-cccccccccc"
PAIR = f"/v1/peerings/{B}/{A}"
IN_A, IN_B = nic(A), nic(B, "subnet-bbbbbbbbbb", net=1, vni=0)
EQUAL = nic(C, "subnet-cccccccccc", net=0, vni=0)


@pytest.fixture(scope="module")
def peered(lab: LabHost) -> LabHost:
    """A host with an agent that sweeps every second, on which such a wish was kept before."""
    lab.run(["lvagent", "hook", "install"])
    lab.reload_libvirtd()
    lab.start_agent({"LVAGENT_SWEEP_INTERVAL": "1"})
    put(lab, vm(1, IN_A), vm(2, IN_B), vm(3, EQUAL))
    assert lab.api("PUT", PAIR).status == 201
    clear(lab)
    return lab


@pytest.fixture
def host(peered: LabHost) -> Iterator[LabHost]:
    """The same, and a check that the test left nothing."""
    before = peered.snapshot()
    yield peered
    clear(peered)
    assert before.difference(peered.snapshot()) == {}


def clear(lab: LabHost) -> None:
    for one in lab.api("GET", "/v1/peerings").json["items"]:
        assert lab.api("DELETE", f"/v1/peerings/{one['a']}/{one['b']}").status == 204
    for one in lab.api("GET", "/v1/vms").json["items"]:
        assert lab.api("DELETE", f"/v1/vms/{one['id']}?volumes=delete").status == 204


def put(lab: LabHost, *specs: Spec) -> None:
    assert [lab.api("PUT", f"/v1/vms/{spec['id']}", spec).status for spec in specs] == [201] * len(specs)


def state(lab: LabHost) -> str:
    return str(lab.api("GET", PAIR).json["state"])


def links(lab: LabHost) -> dict[str, int]:
    """The ends of links between VPCs, each with its index."""
    found: dict[str, int] = {}
    for vpc in (A, B, C):
        shown = lab.run(["ip", "-n", vpc, "-j", "link"], check=False).stdout or "[]"
        found |= {f"{vpc} {one['ifname']}": one["ifindex"] for one in json.loads(shown) if one["ifname"][:3] == "px-"}
    return found


def routes(lab: LabHost, vpc: str) -> set[str]:
    found: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        found += json.loads(lab.run(["ip", "-n", vpc, family, "-j", "route"], check=False).stdout or "[]")
    return {one["dst"] for one in found if str(one.get("dev")).startswith("px-")}


def until_up(lab: LabHost) -> None:
    deadline = time.monotonic() + 60
    while state(lab) != "up":
        assert time.monotonic() < deadline, lab.agent_log(2000)
        time.sleep(0.1)


def test_its_life(host: LabHost) -> None:
    made = host.api("PUT", PAIR)
    assert (made.status, made.json["a"], made.json["b"], made.json["state"]) == (201, A, B, "waiting")
    put(host, vm(1, IN_A))
    assert (state(host), links(host)) == ("waiting", {})
    put(host, vm(2, IN_B))
    shown = host.api("GET", f"/v1/peerings/{A}/{B}").json
    assert (shown["state"], shown["a_prefixes"]) == ("up", ["10.0.0.0/24", "fd00:a::/64"])
    assert routes(host, A) == {"10.0.1.0/24", "fd00:a:0:1::/64"}
    assert routes(host, B) == {"10.0.0.0/24", "fd00:a::/64"}
    assert host.api("GET", "/v1/peerings").json["items"] == [shown]
    assert host.api("GET", f"/v1/vpcs/{B}").json["peers"] == [A]
    assert host.run(["lvagent", "peering", "ls"]).stdout.split()[4:7] == [A, B, "up"]
    assert host.api("PUT", PAIR).status == 200
    there = links(host)
    assert set(there) == {f"{A} px-bbbbbbbbbb", f"{B} px-aaaaaaaaaa"}
    host.kill_agent(signal.SIGKILL)
    host.start_agent({"LVAGENT_SWEEP_INTERVAL": "1"})
    assert (state(host), links(host)) == ("up", there)
    assert host.run(["lvagent", "doctor", "-o", "json"], check=False).stdout.count("nobody wants it") == 0
    assert host.api("DELETE", PAIR).status == 204
    assert (links(host), routes(host, A)) == ({}, set())
    assert host.api("GET", PAIR).status == host.api("DELETE", PAIR).status == 404


def test_a_vpc_goes_away_and_comes_back(host: LabHost) -> None:
    put(host, vm(1, IN_A), vm(2, IN_B))
    assert host.api("PUT", PAIR).json["state"] == "up"
    assert host.api("DELETE", "/v1/vms/i-0000000002").status == 204
    assert (state(host), links(host)) == ("waiting", {})
    host.kill_agent(signal.SIGKILL)
    host.start_agent({"LVAGENT_SWEEP_INTERVAL": "3600"})  # one each second might be there before we have looked
    put(host, vm(2, IN_B))
    assert state(host) == "up"
    host.run(["ip", "-n", A, "link", "del", "px-bbbbbbbbbb"])
    assert state(host) == "down"
    host.kill_agent(signal.SIGTERM)
    host.start_agent({"LVAGENT_SWEEP_INTERVAL": "1"})
    until_up(host)
    host.run(["ip", "-n", A, "link", "del", "px-bbbbbbbbbb"])
    until_up(host)


def test_prefixes_that_overlap_are_refused_whoever_comes_last(host: LabHost) -> None:
    put(host, vm(1, IN_A), vm(3, EQUAL))
    answer = host.api("PUT", f"/v1/peerings/{A}/{C}")
    assert (answer.status, answer.json["type"]) == (409, "urn:lvagent:error:conflict")
    assert "10.0.0.0/24" in answer.json["detail"]
    assert host.api("GET", "/v1/peerings").json["items"] == []
    assert host.api("PUT", PAIR).status == 201
    answer = host.api(
        "PUT", "/v1/vms/i-0000000002", vm(2, {**IN_B, **{name: IN_A[name] for name in ("ipv4", "gateway_v4")}})
    )
    assert (answer.status, answer.json["path"], answer.json["other"]) == (409, "networks[0].ipv4", f"{A}/{B}")
    assert B not in host.namespaces()


@pytest.mark.slow
def test_guests_of_peered_vpcs(host: LabHost, image: str, ssh_key: SshKey) -> None:
    assert image
    put(host, guest(1, ssh_key.public, IN_A), guest(2, ssh_key.public, IN_B))
    ping = "ping -c 1 -W 2 10.0.1.5 >/dev/null && ping -c 1 -W 2 fd00:a:0:1::5 >/dev/null && echo there"
    for vpc, address in ((A, "10.0.0.5"), (A, "fd00:a::5"), (B, "10.0.1.5"), (B, "fd00:a:0:1::5")):
        host.guest_ssh(vpc, address, "true", ssh_key.private, wait=120)
    for method, answer in (("PUT", "there"), ("DELETE", ""), ("PUT", "there")):
        assert host.api(method, PAIR).status < 300
        tries = f"for i in {'1 2 3 4 5' if answer else '1'}; do {ping} && break; done || true"
        said = host.guest_ssh(A, "10.0.0.5", tries, ssh_key.private, wait=60).stdout
        assert said.strip() == answer, method
