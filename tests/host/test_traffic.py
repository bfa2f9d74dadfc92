"""What is counted is what the kernel counts: of links, of flows, of processes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import time
from pathlib import Path

import pytest

from lvagent.host import conntrack, netns, traffic, usage
from lvagent.host.netlink import NETFILTER, Socket
from lvagent.host.run import run
from lvagent.spec.metrics import Amount, Traffic
from tests.lab.aside import until

pytestmark = pytest.mark.host

TRACKED = "table inet t { chain c { type filter hook output priority 0; ct state new counter; }\n }"


def told(name: str) -> Traffic:
    """What ip says that a link has carried."""
    out = run(["ip", "-s", "-j", "link", "show", "dev", name])
    found = json.loads(out)[0]["stats64"]
    came, went = found["rx"], found["tx"]
    return Traffic(
        Amount(came["packets"], came["bytes"]), Amount(went["packets"], went["bytes"]), came["dropped"], went["dropped"]
    )


def test_what_links_carried_and_how_many_flows_are_kept() -> None:
    def body() -> None:
        with contextlib.closing(Socket()) as route, contextlib.closing(Socket(NETFILTER)) as netfilter:
            run(["nft", "-f", "-"], stdin=TRACKED)
            for line in ("link set lo up", "link add one type bridge"):  # that is not up: it would send of itself
                run(["ip", *line.split()])
            assert traffic.carried(route)["lo"] == Traffic(Amount(0, 0), Amount(0, 0))
            before = conntrack.room(netfilter)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for port in range(2000, 2005):
                    sender.sendto(bytes(100), ("127.0.0.1", port))
            assert until(lambda: traffic.carried(route)["lo"] == told("lo"), 10)  # what comes back may come late
            carried = traffic.carried(route)
            assert carried["lo"].sent.packets >= 5
            assert carried["lo"].sent.bytes >= 500
            assert set(carried) >= {"lo", "one"}
            assert conntrack.room(netfilter)[0] == before[0] + 5 == len(conntrack.kept(100))
            assert before[1] == int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())

    netns.scratch(body)


def test_what_a_process_takes() -> None:
    with subprocess.Popen(
        ["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read line"], stdin=-1
    ) as busy:
        deadline = time.monotonic() + 60
        while (found := usage.usage(busy.pid)) is None or found.cpu_seconds < 0.05:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        assert 100_000 < found.resident_bytes < 100 << 20
        assert busy.stdin is not None
        busy.stdin.close()
    assert usage.usage(busy.pid) is None


def test_what_the_agent_itself_takes() -> None:
    found = usage.own()
    assert found is not None
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert abs(found.usage.resident_bytes - int(status["VmRSS"].split()[0]) * 1024) < 32 << 20
    assert abs(found.virtual_bytes - int(status["VmSize"].split()[0]) * 1024) < 512 << 20
    assert found.usage.cpu_seconds == pytest.approx(sum(os.times()[:2]), abs=1)
    assert found.most_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found.threads >= 1
    assert 0 < time.time() - found.started_at < 86_400
    with open("/dev/null"):
        more = usage.own()
    assert more is not None
    assert more.files == found.files + 1
