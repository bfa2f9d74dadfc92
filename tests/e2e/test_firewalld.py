"""An agent on a host with firewalld: what an operator sees, and what becomes of it by setting."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.specs import vm
from tests.lab.aside import Aside
from tests.lab.firewalls import PACKAGES, Firewalld
from tests.lab.host import LabHost
from tests.lab.unpacked import unpacked

pytestmark = pytest.mark.e2e

A, VM = "vpc-aaaaaaaaaa", "i-0000000001"
CHAIN = "table inet firewalld, chain filter_FORWARD"
RULE = "root: inet firewalld filter_FWD_public: reject with icmpx admin-prohibited"


@pytest.fixture(scope="module")
def firewalld(agent_lab: LabHost) -> Iterator[Firewalld]:
    """firewalld as Debian sets it up, in the network of the lab's root."""
    with Aside(unpacked(*PACKAGES), agent_lab.argv([])) as aside:
        yield Firewalld(aside)


def until(what: Callable[[], object], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def trouble(lab: LabHost) -> list[str]:
    """What the API tells of the VPC's uplink."""
    return list(lab.api("GET", f"/v1/vpcs/{A}").json["uplink"]["trouble"])


def live(lab: LabHost) -> dict[str, object]:
    """What became of a packet that was sent."""
    told = lab.api("POST", f"/v1/explain?from={VM}&to=198.51.100.7&proto=tcp&port=443").json
    assert told["verdict"] == "allowed"
    return dict(told["live"])


def test_what_firewalld_rejects_is_named_everywhere(agent_lab: LabHost, firewalld: Firewalld) -> None:
    lab = agent_lab
    assert lab.api("PUT", f"/v1/vpcs/{A}", {"uplink": "nat"}).status == 200
    assert lab.api("PUT", f"/v1/vms/{VM}", vm(1)).status == 201
    (told,) = trouble(lab)
    assert told.startswith(f"{CHAIN}: a rule in chain filter_FWD_public (firewalld) drops what VPCs send out")
    assert CHAIN in lab.run(["lvagent", "vpc", "show", A]).stdout
    doctor = lab.run(["lvagent", "doctor"], check=False)
    assert (doctor.returncode, CHAIN in doctor.stdout, "set uplink.foreign to accept" in doctor.stdout) == (
        1,
        True,
        True,
    )
    seen = live(lab)
    assert (seen["agrees"], seen["decider"]) == (False, RULE), seen
    explain = ["lvagent", "explain", "--from", VM, "--to", "198.51.100.7", "--port", "443", "--live"]
    done = lab.run(explain, check=False)
    assert (done.returncode, RULE in done.stdout) == (1, True), done.stdout

    lab.kill_agent(signal.SIGTERM)
    lab.start_agent({"LVAGENT_UPLINK_FOREIGN": "accept", "LVAGENT_SWEEP_INTERVAL": "3600"})
    assert until(lambda: trouble(lab) == [])
    assert live(lab)["agrees"] is True
    doctor = lab.run(["lvagent", "doctor"], check=False)
    assert CHAIN not in "".join(line for line in doctor.stdout.splitlines() if "uplinks of VPCs" in line)
    for command in ("firewall-cmd --reload", "nft flush ruleset"):
        firewalld.tell(command)
        assert until(lambda: live(lab)["agrees"]), command
    assert lab.api("DELETE", f"/v1/vms/{VM}?volumes=delete").status == 204
    assert "lvagent uplinks" not in lab.run(["nft", "list", "ruleset"]).stdout
