"""GET /metrics of a real agent: what it tells is what there is, it changes with it, and goes with it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.specs import vm
from tests.lab import daemons
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A, ONE, TWO = "vpc-aaaaaaaaaa", "i-0000000001", "i-0000000002"
SECONDS = 60
"""For what is seen by a look or an event; on a quiet machine it is there within 5."""

Samples = dict[tuple[str, str], float]


def scrape(lab: LabHost) -> Samples:
    """Samples by name and labels: ``("lvagent_vm_running", "vm=i-0000000001")``."""
    answer = lab.api("GET", "/metrics", timeout=20)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (one.name, ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }


def until(lab: LabHost, what: Callable[[Samples], object], seconds: float = SECONDS) -> Samples:
    """The first samples of which it is so."""
    deadline = time.monotonic() + seconds
    while not what(found := scrape(lab)):
        assert time.monotonic() < deadline, "\n".join(f"{key} {value}" for key, value in sorted(found.items()))
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def host(agent_lab: LabHost) -> Iterator[LabHost]:
    """Two VMs without disks in a VPC with an uplink."""
    assert agent_lab.api("PUT", f"/v1/vpcs/{A}", {"uplink": "nat"}).status == 200
    for number in (1, 2):
        assert agent_lab.api("PUT", f"/v1/vms/i-{number:010}", vm(number)).status == 201
    yield agent_lab
    for one in agent_lab.api("GET", "/v1/vms").json["items"]:
        assert agent_lab.api("DELETE", f"/v1/vms/{one['id']}").status == 204


def test_what_there_is(host: LabHost) -> None:
    carried = "lvagent_port_bytes_total", f"direction=in,position=0,vm={ONE},vpc={A}"
    found = until(host, lambda now: now.get(("lvagent_vpc_uplink_up", f"vpc={A}")) == 1 and now.get(carried))
    assert found == found | {
        ("lvagent_ready", ""): 1,
        ("lvagent_libvirt_stale", ""): 0,
        ("lvagent_vpc_vms", f"state=running,vpc={A},wanted=running"): 2,
        ("lvagent_vpc_uplink_info", f"mode=nat,vpc={A}"): 1,
        ("lvagent_transit_slots_used", ""): 1,
        ("lvagent_subnet_addresses_used", f"family=ipv4,subnet=subnet-aaaaaaaaaa,vpc={A}"): 2,
        ("lvagent_vm_memory_bytes", f"vm={ONE}"): 64 << 20,
        ("lvagent_operation_duration_seconds_count", "operation=create,outcome=done"): 2,
        ("lvagent_http_requests_total", "method=PUT,route=/v1/vms/{id},status=2xx"): 2,
        ("lvagent_vm_refused_packets_total", f"direction=in,vm={ONE}"): 0,
    }
    assert found["process_start_time_seconds", ""] == pytest.approx(time.time(), abs=300)
    assert found["lvagent_vpc_flows_limit", f"vpc={A}"] > 1000
    qemu = int(host.api("GET", f"/v1/vms/{ONE}").json["pid"])
    fields = host.path(f"/proc/{qemu}/stat").read_text().rpartition(")")[2].split()
    assert 0 < found["lvagent_vm_cpu_seconds_total", f"vm={ONE}"] <= (int(fields[11]) + int(fields[12])) / 100
    assert found["lvagent_vm_resident_memory_bytes", f"vm={ONE}"] > 10 << 20
    links = host.run(["ip", "-n", A, "-s", "link", "show", "t0000000001-0"]).stdout.split("\n")
    sent = float(links[5].split()[0])  # by the tap: what the guest got
    assert 0 < found[carried] <= sent
    shown = host.run(["lvagent", "metrics", "vm_running", ONE]).stdout
    assert shown == f'lvagent_vm_running{{vm="{ONE}"}} 1.0\n'


def test_a_packet_that_is_refused_is_counted(host: LabHost) -> None:
    told = host.api("POST", f"/v1/explain?from={TWO}&to={ONE}&proto=tcp&port=23").json
    assert (told["verdict"], told["live"]["agrees"]) == ("refused", True)
    found = until(host, lambda now: now["lvagent_vm_refused_packets_total", f"direction=in,vm={ONE}"])
    assert found["lvagent_vm_refused_packets_total", f"direction=in,vm={ONE}"] == 1
    assert found["lvagent_vm_refused_packets_total", f"direction=in,vm={TWO}"] == 0
    assert found["lvagent_vm_refused_bytes_total", f"direction=in,vm={ONE}"] >= 40


def test_a_crash_and_what_the_agent_makes_of_it(host: LabHost) -> None:
    host.run(["kill", "-KILL", str(host.api("GET", f"/v1/vms/{ONE}").json["pid"])])
    counted = "lvagent_operation_duration_seconds_count", "operation=restart,outcome=done"
    found = until(host, lambda now: now.get(counted) == 1 and now["lvagent_vm_running", f"vm={ONE}"] == 1)
    assert found["lvagent_vm_restarts_total", f"vm={ONE}"] == 1
    assert found["lvagent_vm_crashes_total", f"vm={ONE}"] == 1
    assert found["lvagent_vm_crashes_total", f"vm={TWO}"] == 0


def test_a_vm_that_is_stopped_and_one_that_is_deleted(host: LabHost) -> None:
    assert host.api("POST", f"/v1/vms/{TWO}/stop").status == 200
    found = scrape(host)
    assert found["lvagent_vpc_vms", f"state=stopped,vpc={A},wanted=stopped"] == 1
    assert (found["lvagent_vm_running", f"vm={TWO}"], found["lvagent_vm_wanted_running", f"vm={TWO}"]) == (0, 0)
    assert ("lvagent_vm_cpu_seconds_total", f"vm={TWO}") not in found
    assert host.api("DELETE", f"/v1/vms/{TWO}").status == 204
    assert [key for key in scrape(host) if TWO in key[1]] == []


def test_a_scrape_is_in_time_while_libvirtd_hangs(host: LabHost) -> None:
    pid, times = daemons.pid(host, daemons.LIBVIRTD_PID), []
    host.run(["kill", "-STOP", str(pid)])
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            begun = time.monotonic()
            found = scrape(host)
            times.append(time.monotonic() - begun)
            assert found["lvagent_vm_running", f"vm={ONE}"] == 1, "as it was seen last"
            assert ("lvagent_vpc_flows", f"vpc={A}") in found
            if found["lvagent_libvirt_stale_seconds", ""] > 1:
                break
            assert time.monotonic() < deadline, "it does not say that this is old"
            time.sleep(0.2)
    finally:
        host.run(["kill", "-CONT", str(pid)])
    print(f"{len(times)} scrapes, the slowest {max(times) * 1000:.0f} ms")
    assert (found["lvagent_ready", ""], found["lvagent_libvirt_stale", ""]) == (0, 1)
    assert max(times) < 8, "of a busy machine; nobody waits for libvirtd, which hangs all the while"
    found = until(host, lambda now: now["lvagent_ready", ""])
    assert found["lvagent_libvirt_stale_seconds", ""] == 0


def test_a_vpc_goes_with_its_last_vm_and_counts_go_with_the_agent(host: LabHost) -> None:
    assert host.api("DELETE", f"/v1/vms/{ONE}").status == 204
    assert host.api("DELETE", f"/v1/vpcs/{A}").status == 204
    found = until(host, lambda now: now["lvagent_transit_slots_used", ""] == 0)
    assert [key for key in found if ONE in key[1] or A in key[1]] == []
    assert found["lvagent_operation_duration_seconds_count", "operation=delete,outcome=done"] == 2
    host.kill_agent(signal.SIGTERM)
    host.start_agent()
    assert not any(name == "lvagent_operation_duration_seconds_count" for name, _ in scrape(host))
