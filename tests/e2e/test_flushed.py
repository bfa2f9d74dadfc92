"""Filters taken away from outside: back at once, not by a sweep, and our own changes cause nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A, B, FABRIC = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "lvfabric"
OTHER = nic(B, "subnet-bbbbbbbbbb", net=1, vni=0)
SEEN = "somebody changed its filter"
CALM = 0.5
"""Seconds in which the agent has heard of all that was done before."""


def until(what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ruleset(lab: LabHost, space: str) -> list[str]:
    """The words of the filter in a namespace, without what counts; tables and sets may come back in another order."""
    return sorted(lab.run(["nft", "-s", "list", "ruleset"], netns=space).stdout.replace(",", " ").split())


def listened_to(lab: LabHost, space: str) -> bool:
    """Whether somebody hears of changes of filters in a namespace: the agent looks twice a second for new ones."""
    rows = [row.split() for row in lab.run(["cat", "/proc/net/netlink"], netns=space).stdout.splitlines()[1:]]
    return any(row[1] == "12" and int(row[3], 16) & 0x40 for row in rows)  # NETLINK_NETFILTER, NFNLGRP_NFTABLES


@pytest.fixture(scope="module")
def quiet(agent_lab: LabHost) -> LabHost:
    """An agent whose clock does not help."""
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent({"LVAGENT_SWEEP_INTERVAL": "3600"})
    return agent_lab


def test_a_flushed_filter_is_back_at_once(quiet: LabHost) -> None:
    lab = quiet
    rules = [{"proto": "tcp", "port": 22}, {"proto": "icmp", "source": "i-0000000002"}]
    assert lab.api("PUT", "/v1/vms/i-0000000001", vm(1, nic(), {**OTHER, "position": 1}, rules=rules)).status == 201
    assert lab.api("PUT", "/v1/vms/i-0000000002", vm(2, nic(host=6), rules=rules)).status == 201
    time.sleep(CALM)
    assert SEEN not in lab.agent_log()
    for space in (A, B, FABRIC):
        until(lambda space=space: listened_to(lab, space), 20)  # type: ignore[misc]
        before = ruleset(lab, space)
        assert {"bridge", "lvagent"} <= set(before)
        commands = [["flush", "ruleset"], ["delete", "table", "bridge", "lvagent"]]
        if space != FABRIC:
            commands += [["flush", "table", family, "lvagent"] for family in ("bridge", "inet")]
        for command in commands:
            lab.run(["nft", *command], netns=space)
            until(lambda space=space, before=before: ruleset(lab, space) == before, 20)  # type: ignore[misc]
    for number in (1, 2):
        assert lab.api("DELETE", f"/v1/vms/i-{number:010}").status == 204


def test_changes_of_ours_cause_nothing(quiet: LabHost) -> None:
    lab = quiet
    time.sleep(CALM)
    before = lab.agent_log(1 << 20).count(SEEN)
    for number in range(1, 4):
        assert lab.api("PUT", f"/v1/vms/i-{number:010}", vm(number)).status == 201
    for port in range(1, 6):
        changed = {**vm(1), "rules": [{"proto": "tcp", "port": port}]}
        assert lab.api("PUT", "/v1/vms/i-0000000001", changed).status == 200
    for number in range(1, 4):
        assert lab.api("DELETE", f"/v1/vms/i-{number:010}").status == 204
    time.sleep(CALM)
    assert lab.agent_log(1 << 20).count(SEEN) == before


def test_a_namespace_that_goes_is_not_held(quiet: LabHost) -> None:
    lab = quiet
    with ThreadPoolExecutor(12) as callers:  # as many connections to libvirt as there may be: they stay
        assert set(callers.map(lambda _: lab.api("GET", "/v1/strays").status, range(72))) == {200}
    time.sleep(CALM)
    descriptors = f"/proc/{lab.agent_pid}/fd"
    before = len(os.listdir(descriptors))
    for _ in range(3):
        assert lab.api("PUT", "/v1/vms/i-0000000001", vm(1)).status == 201
        time.sleep(CALM)
        assert len(os.listdir(descriptors)) > before
        assert lab.api("DELETE", "/v1/vms/i-0000000001").status == 204
        until(lambda: len(os.listdir(descriptors)) <= before, 30)
