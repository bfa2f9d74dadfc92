"""The main job with real guests: over HTTP into a VPC, reachable by SSH with the key that metadata gave them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lvagent.spec import names
from tests.e2e.conftest import SshKey
from tests.e2e.specs import guest, nic
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

BOOT = 150
"""Seconds that a guest may take until SSH answers; without KVM, and with others starting beside it."""

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"


def seed(key: str) -> dict[str, Any]:
    """The spelling that a client used first: other cases, no underscores."""
    return {
        "Id": "i-0000000001",
        "MemoryMB": 128,
        "CPUs": 1,
        "Volumes": [{"path": "/var/lib/lvagent/volumes/i-0000000001.qcow2", "position": 0, "image": "tiny"}],
        "Networks": [
            {
                "vxlanid": 100,
                "netname": A,
                "subnetname": "subnet-aaaaaaaaaa",
                "position": 0,
                "ipV4": "10.0.0.5/24",
                "gatewayV4": "10.0.0.1",
                "ipV6": "fd00:a::5/64",
                "gatewayV6": "fd00:a::1",
            }
        ],
        "Rules": [{"proto": "tcp", "port": 22, "source": "", "destination": ""}],
        "Keys": [key],
    }


def twin(number: int, key: str, vpc: str, host: int, mark: str) -> dict[str, Any]:
    """A guest whose addresses another one has in another VPC; its user data leaves a mark."""
    subnet = "subnet-" + vpc[4:]
    place = nic(vpc, subnet, host=host, vni=100 if vpc == A else 200)
    place |= {"ipv6": f"fd00:a::{host}/64", "gateway_v6": "fd00:a::1"}
    return guest(number, key, place, user_data=f"#!/bin/sh\necho {mark} > /root/mark\n")


def two_nics(key: str) -> dict[str, Any]:
    """A guest whose second NIC is in a subnet where others have their first."""
    spec = twin(2, key, A, 6, "a6")
    first = nic(A, "subnet-cccccccccc", net=1, host=6, vni=101)
    return {**spec, "networks": [first, {**spec["networks"][0], "position": 1}]}


ADDRESSES = [
    *((vpc, f"{net}{host}") for vpc in (A, B) for net in ("10.0.0.", "fd00:a::") for host in (5, 6)),
    *((A, f"{net}{host}") for net in ("10.0.1.", "fd00:a:0:1::") for host in (6, 7)),
]
"""All that the guests have."""


@pytest.fixture(scope="module")
def guests(agent_lab: LabHost, ssh_key: SshKey) -> Iterator[LabHost]:
    """Two VPCs with the same addresses in both; in the first one also a second subnet."""
    key = ssh_key.public
    twins = [twin(number, key, B, host, mark) for number, host, mark in ((3, 5, "b5"), (4, 6, "b6"))]
    other = guest(5, key, nic(A, "subnet-cccccccccc", net=1, host=7, vni=101))
    answers = [agent_lab.api("PUT", "/v1/vms/i-0000000001", seed(key))]
    answers += [agent_lab.api("PUT", f"/v1/vms/{spec['id']}", spec) for spec in (two_nics(key), *twins, other)]
    assert [answer.status for answer in answers] == [201] * 5, [answer.text for answer in answers]
    for vpc, address in ADDRESSES:  # SSH is there before the last address is
        say(agent_lab, ssh_key, vpc, address, "true")
    yield agent_lab
    for number in range(1, 6):
        agent_lab.api("DELETE", f"/v1/vms/i-{number:010}?volumes=delete")


def say(lab: LabHost, key: SshKey, vpc: str, address: str, command: str) -> str:
    return lab.guest_ssh(vpc, address, command, key.private, wait=BOOT).stdout.strip()


def test_the_seed_spelling_gives_a_guest_with_both_its_addresses(guests: LabHost, ssh_key: SshKey) -> None:
    assert say(guests, ssh_key, A, "10.0.0.5", "hostname") == "i-0000000001"
    addresses = say(guests, ssh_key, A, "10.0.0.5", "ip -o addr show dev eth0")
    assert "inet 10.0.0.5/24" in addresses
    assert "inet6 fd00:a::5/" in addresses
    assert say(guests, ssh_key, A, "fd00:a::5", "hostname") == "i-0000000001"
    assert "mtu 1450" in say(guests, ssh_key, A, "10.0.0.5", "ip link show dev eth0")
    routes = say(guests, ssh_key, A, "10.0.0.5", "ip route; ip -6 route")
    assert "default via 10.0.0.1" in routes


@pytest.mark.parametrize(("vpc", "host", "name"), [(A, 6, "a6"), (B, 5, "b5"), (B, 6, "b6")])
def test_each_guest_has_its_own_user_data(guests: LabHost, ssh_key: SshKey, vpc: str, host: int, name: str) -> None:
    wait = "i=0; until [ -s /root/mark ] || [ $i -ge 30 ]; do sleep 1; i=$((i + 1)); done; cat /root/mark"
    assert say(guests, ssh_key, vpc, f"10.0.0.{host}", wait) == name


def test_a_second_nic_has_its_addresses_and_brings_no_default_route(guests: LabHost, ssh_key: SshKey) -> None:
    addresses = say(guests, ssh_key, A, "10.0.1.6", "ip -o addr show dev eth1")
    assert "inet 10.0.0.6/24" in addresses
    assert "inet6 fd00:a::6/" in addresses
    routes = say(guests, ssh_key, A, "10.0.1.6", "ip route; ip -6 route").splitlines()
    assert [" ".join(route.split()[:5]) for route in routes if route.startswith("default")] == [
        "default via 10.0.1.1 dev eth0",
        f"default via {gateway_link_local('subnet-cccccccccc')} dev eth0",
    ]


def gateway_link_local(subnet: str) -> str:
    return names.link_local(names.gateway_mac(subnet))


def test_subnets_of_a_vpc_route_to_each_other(guests: LabHost, ssh_key: SshKey) -> None:
    say(guests, ssh_key, A, "10.0.1.7", "hostname")
    for target in ("10.0.1.7", "fd00:a:0:1::7"):
        say(guests, ssh_key, A, "10.0.0.5", f"ping -c 2 -W 5 {target}")


@pytest.mark.parametrize("vpc", [A, B])
def test_neighbours_reach_each_other(guests: LabHost, ssh_key: SshKey, vpc: str) -> None:
    for target in ("10.0.0.6", "fd00:a::6"):
        say(guests, ssh_key, vpc, "10.0.0.5", f"ping -c 2 -W 5 {target}")
    mac = guests.api("GET", f"/v1/vms/i-{2 if vpc == A else 4:010}").json["ports"][-1]["mac"]
    assert mac in say(guests, ssh_key, vpc, "10.0.0.5", "ip neigh show 10.0.0.6")


def test_names_resolve_inside_the_vpc(guests: LabHost, ssh_key: SshKey) -> None:
    found = say(guests, ssh_key, A, "10.0.0.5", "nslookup i-0000000002.vpc.internal")
    assert "10.0.1.6" in found
    assert "fd00:a:0:1::6" in found
    assert "10.0.0.6" not in say(guests, ssh_key, A, "10.0.0.5", "nslookup i-0000000004.vpc.internal || true")


def test_a_guest_reaches_neither_the_host_nor_the_other_vpc(guests: LabHost, ssh_key: SshKey) -> None:
    """What answers as 10.0.0.6 in each VPC is its own; the host's own addresses do not answer at all."""
    for target in ("192.0.2.10", "127.0.0.1:22"):
        closed = f"nc -w 2 {target.split(':')[0]} 22 < /dev/null > /dev/null 2>&1 && echo open || echo closed"
        if target.startswith("192"):
            assert say(guests, ssh_key, A, "10.0.0.5", closed) == "closed"
    assert say(guests, ssh_key, A, "10.0.0.5", "ping -c 1 -W 2 192.0.2.10 > /dev/null && echo yes || echo no") == "no"


def test_virsh_sees_it_all(guests: LabHost) -> None:
    names = guests.virsh("list", "--name").stdout.split()
    assert sorted(names) == [f"i-{number:010}" for number in range(1, 6)]
    xml = guests.virsh("dumpxml", "i-0000000002").stdout
    assert "urn:lvagent:vm:1" in xml
    assert "echo a6" not in xml, "user data is a secret"
    assert set(guests.namespaces()) == {"lvfabric", A, B}


def _round_trip(lab: LabHost, ssh_key: SshKey, *steps: list[str]) -> None:
    for step in steps:
        lab.virsh(*step, timeout=120)
    assert say(lab, ssh_key, A, "10.0.0.6", "hostname") == "i-0000000002"


def test_virsh_destroy_and_start_land_in_the_vpc(guests: LabHost, ssh_key: SshKey) -> None:
    _round_trip(guests, ssh_key, ["destroy", "i-0000000002"], ["start", "i-0000000002"])


def test_virsh_save_and_restore_land_in_the_vpc(guests: LabHost, ssh_key: SshKey) -> None:
    file = "/var/lib/libvirt/qemu/two.save"
    _round_trip(guests, ssh_key, ["save", "i-0000000002", file], ["restore", file])
    guests.path(file).unlink()


def test_pause_resume_reboot_and_a_soft_shutdown(guests: LabHost, ssh_key: SshKey) -> None:
    vm = "/v1/vms/i-0000000004"
    assert guests.api("POST", f"{vm}/pause").json["state"] == "paused"
    assert guests.api("POST", f"{vm}/resume").json["state"] == "running"
    say(guests, ssh_key, B, "10.0.0.6", "hostname")
    before = guests.api("GET", vm).json["pid"]
    assert guests.api("POST", f"{vm}/shutdown").status == 200
    _wait_state(guests, vm, "stopped")
    assert guests.api("POST", f"{vm}/start").json["state"] == "running"
    assert guests.api("GET", vm).json["pid"] != before
    assert say(guests, ssh_key, B, "10.0.0.6", "hostname") == "i-0000000004"


def _wait_state(lab: LabHost, path: str, state: str) -> None:
    deadline = time.monotonic() + 60
    while (found := lab.api("GET", path).json["state"]) != state:
        assert time.monotonic() < deadline, f"{path} is {found}, not {state}"
        time.sleep(0.2)


def test_running_guests_never_notice_that_the_agent_is_killed(guests: LabHost, ssh_key: SshKey) -> None:
    with ThreadPoolExecutor(1) as pool:
        ping = pool.submit(say, guests, ssh_key, A, "10.0.0.6", "ping -c 8 10.0.1.7")
        time.sleep(1)
        guests.kill_agent()
        guests.start_agent()
        output = ping.result()
    assert " 0% packet loss" in output, output
    listed = guests.api("GET", "/v1/vms").json["items"]
    assert [one["state"] for one in listed] == ["running"] * 5
    assert say(guests, ssh_key, A, "10.0.0.5", "wget -q -O - http://169.254.169.254/latest/meta-data/instance-id") == (
        "i-0000000001"
    )


def test_what_explain_says_of_guests_is_so(guests: LabHost, ssh_key: SshKey) -> None:
    assert say(guests, ssh_key, A, "10.0.0.5", "hostname") == "i-0000000001"
    one, two, other, far = (f"i-{number:010}" for number in (1, 2, 3, 5))
    for target, proto, verdict, element in (
        (two, "tcp&port=22", "allowed", "rules[0]"),
        (two, "tcp&port=23", "refused", "no rule"),
        (far, "icmp", "allowed", "rules[1]"),
        ("10.0.0.1", "udp&port=53", "allowed", "gateway"),
        ("169.254.169.254", "tcp&port=80", "allowed", "gateway"),
        (other, "tcp&port=22", "refused", "another VPC with equal prefixes"),
        ("192.0.2.77", "tcp&port=80", "refused", "no uplink"),
    ):
        told = guests.api("POST", f"/v1/explain?from={one}&to={target}&proto={proto}").json
        assert told["live"]["agrees"], told
        assert (told["verdict"], told["decider"]["element"]) == (verdict, element), told["why"]
    shown = guests.run(["lvagent", "explain", "--from", one, "--to", two, "--port", "22", "--live"]).stdout
    assert "the host agrees: it gets to t0000000002-" in shown


def test_after_the_last_delete_the_host_is_as_before(agent_lab: LabHost, ssh_key: SshKey) -> None:
    """Runs on the lab of the guests above, after them: with what they left (nothing) as the beginning."""
    for number in range(1, 6):
        agent_lab.api("DELETE", f"/v1/vms/i-{number:010}?volumes=delete")
    before = agent_lab.snapshot()
    spec = twin(7, ssh_key.public, A, 9, "x")
    assert agent_lab.api("PUT", "/v1/vms/i-0000000007", spec).status == 201
    assert agent_lab.snapshot() != before
    assert agent_lab.api("DELETE", "/v1/vms/i-0000000007?volumes=delete").status in (200, 204)
    assert before.difference(agent_lab.snapshot()) == {}
    assert agent_lab.namespaces() == []
