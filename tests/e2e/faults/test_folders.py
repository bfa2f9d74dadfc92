"""The agent's folders go while VMs run: nothing of what they are is kept there."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import SshKey
from tests.e2e.faults.faulty import Faulty
from tests.e2e.specs import Spec, guest, nic, vm
from tests.lab.host import TREE, LabHost, Result

pytestmark = pytest.mark.e2e

VPCS = (("vpc-aaaaaaaaaa", 0), ("vpc-bbbbbbbbbb", 1), ("vpc-cccccccccc", 2))
PING = TREE / "tests/lab/ping.py"
NEAR, FAR = "control-near", "control-far"
SECONDS = 25
METERED = re.compile(r" (ct count|limit rate) over ")
"""Elements that the kernel adds for guests that speak."""
RULES = [{"proto": "tcp", "port": 443}]


def fleet() -> list[Spec]:
    """Ten VMs without disks in three VPCs."""
    return [
        vm(10 + number, nic(vpc, f"subnet-{vpc[4:]}", net=net, vni=200 + net, host=20 + number), rules=RULES)
        for number in range(10)
        for vpc, net in [VPCS[number % 3]]
    ]


def pair(key: str) -> list[Spec]:
    """Two guests of the first VPC that boot: one pings the other."""
    return [guest(number, key, nic("vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", vni=200, host=number)) for number in (31, 32)]


def answers(lab: LabHost) -> dict[str, object]:
    """What the agent lists and what the VPCs serve."""
    found: dict[str, object] = {path: lab.api("GET", path).json for path in ("/v1/vpcs", "/v1/subnets")}
    vms = lab.api("GET", "/v1/vms").json["items"]
    volatile = ("timings", "process", "observed_at", "changed_at")
    found["vms"] = [{name: value for name, value in one.items() if name not in volatile} for one in vms]
    for one in vms:
        rules = lab.api("GET", f"/v1/vms/{one['id']}/rules").json["rules"]
        counters = ("packets", "bytes", "last_hit")
        found[f"rules of {one['id']}"] = [{k: v for k, v in rule.items() if k not in counters} for rule in rules]
    for vpc, _ in VPCS:
        lines = lab.run(["nft", "-s", "list", "ruleset"], netns=vpc).stdout.split("\n")
        found[f"filter of {vpc}"] = sorted(line for line in lines if not METERED.search(line))
        folder = lab.path(f"/run/lvagent/dnsmasq/{vpc}")
        found[f"leases of {vpc}"] = sorted(
            (str(one.relative_to(folder)), one.read_text())
            for one in folder.rglob("*")
            if one.is_file() and "pid" not in one.name and "leases" not in one.name
        )
        found[f"metadata of {vpc}"] = "169.254.169.254:80" in lab.run(["ss", "-Hltn"], netns=vpc).stdout
    return found


def apart(before: dict[str, object], now: dict[str, object]) -> dict[str, object]:
    """What differs, and of lists only that."""
    found: dict[str, object] = {}
    for name in before:
        one, other = before[name], now.get(name)
        if one != other and isinstance(one, list) and isinstance(other, list):
            found[name] = [[x for x in one if x not in other], [x for x in other if x not in one]]
        elif one != other:
            found[name] = (one, other)
    return found


@pytest.fixture
def running(faulty: Faulty, ssh_key: SshKey, image: str) -> Iterator[Faulty]:
    """The fleet and two guests that boot."""
    assert image
    faulty.clear()
    assert faulty.lab.api("DELETE", "/v1/vms/i-0000000001").status == 204
    for spec in (*pair(ssh_key.public), *fleet()):
        assert faulty.put(spec) == 201
    yield faulty
    faulty.revive()
    for one in faulty.lab.api("GET", "/v1/vms").json["items"]:
        assert faulty.lab.api("DELETE", f"/v1/vms/{one['id']}?volumes=delete").status == 204


@pytest.fixture
def control(faulty: Faulty) -> Iterator[None]:
    """Two namespaces and a veth, which nobody touches: what they lose, the machine loses."""
    lines = [f"netns add {NEAR}", f"netns add {FAR}", f"link add near netns {NEAR} type veth peer name far netns {FAR}"]
    lines += [f"-n {NEAR} addr add 198.51.100.1/24 dev near", f"-n {NEAR} link set near up"]
    lines += [f"-n {FAR} addr add 198.51.100.2/24 dev far", f"-n {FAR} link set far up"]
    for line in lines:
        faulty.lab.run(["ip", *line.split()])
    yield
    for name in (NEAR, FAR):
        faulty.lab.run(["ip", "netns", "delete", name])


def lost(done: Result) -> int:
    """How many pings of a report had no answer."""
    counts = re.findall(r"(\d+) packets transmitted, (\d+)", done.stdout)
    assert counts, done.stdout + done.stderr
    sent, received = map(int, counts[0])
    return sent - received


def forget_everything(lab: LabHost) -> None:
    """What docs/operations.md calls rebuilt, or may be deleted when no agent runs."""
    lab.run(["sh", "-c", "rm -rf /var/lib/lvagent/state /run/lvagent/dnsmasq /run/lvagent/locks"])
    lab.run(["sh", "-c", "rm -f /run/lvagent/agent.lock /run/lvagent/api.sock /run/lvagent/hook.sock"])


def test_vms_and_their_network_outlive_the_folders_of_the_agent(
    running: Faulty, control: None, ssh_key: SshKey
) -> None:
    lab = running.lab
    for address in ("10.0.0.31", "10.0.0.32"):
        lab.guest_ssh("vpc-aaaaaaaaaa", address, "true", ssh_key.private, wait=120)
    before = answers(lab)
    ping = f"ping -q -c {SECONDS}"
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(
            lab.guest_ssh, "vpc-aaaaaaaaaa", "10.0.0.31", f"{ping} 10.0.0.32", ssh_key.private, check=False
        )
        beside = pool.submit(lab.run, [sys.executable, "-IS", str(PING), "198.51.100.2", str(SECONDS)], netns=NEAR)
        lab.kill_agent(signal.SIGKILL)
        forget_everything(lab)
        running.arm()
        running.start()
        running.until(lambda: answers(lab)["vms"] == before["vms"], "the VMs differ", 60)
        now = answers(lab)
        assert apart(before, now) == {}
        assert not ours.done(), "the pings ended before the agent was back"
        assert lost(ours.result()) <= lost(beside.result())
