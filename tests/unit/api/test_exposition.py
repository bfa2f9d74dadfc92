"""What is measured, as text: Prometheus reads it back, names follow its conventions, and nothing tells too much."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from lvagent import __version__
from lvagent.agent.tally import SHORT, Durations
from lvagent.api.exposition import CONTENT_TYPE, exposition
from lvagent.spec.access import Role
from lvagent.spec.metrics import (
    Amount,
    Counted,
    HostMetrics,
    Metrics,
    PortMetrics,
    ProcessMetrics,
    SubnetMetrics,
    Traffic,
    Usage,
    VmMetrics,
    VpcMetrics,
    narrow,
)
from lvagent.spec.peerings import Peering, PeeringState, PeeringView
from lvagent.spec.status import State
from tests.unit.api.doors import TcpDoor
from tests.unit.api.specs import vm as vm_spec
from tests.unit.api.test_api_limited import BOTH, MINE, THEIRS, both, elsewhere

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
ONE, TWO = "i-0000000001", "i-0000000002"
HOSTILE = 'say "hi"\\\nlvagent_ready 0'
"""A value of a label that would be a sample of its own, were it not escaped."""


def durations(*seconds: float) -> Durations:
    made = Durations(SHORT)
    for one in seconds:
        made.note(("/v1/vms/{id}", "GET"), one)
    return made


def host(**more: Any) -> HostMetrics:  # noqa: ANN401 - fields of a dataclass
    counted = Counted(
        sweeps={},
        requests=durations(0.002, 0.002, 0.2, 99).all(),
        answers={("/v1/vms/{id}", "GET", "2xx"): 4},
        happened={("refused",): 2},
        repaired=3,
    )
    process = ProcessMetrics(Usage(1.5, 50 << 20), 300 << 20, 1_790_000_000.5, 30, 1024, 12)
    plain = {
        "ready": True, "stale_since": None, "swept_at": 990.0, "swept_seconds": 0.25, "held": False, "strays": 1,
        "news": 17, "streams": (3, 9), "slots": 32767, "slots_used": 1, "floating": 1, "process": process,
        "counted": counted,
    }  # fmt: skip
    return HostMetrics(**{**plain, **more})


def model(**more: Any) -> Metrics:  # noqa: ANN401 - fields of a dataclass
    port = PortMetrics(A, "subnet-aaaaaaaaaa", 0, {4: 1, 6: 1}, 2, Traffic(Amount(5, 500), Amount(7, 700), 1, 2))
    vms = (
        VmMetrics(
            ONE, (A,), State.RUNNING, "running", 64 << 20, 2, usage=Usage(12.25, 90 << 20), drift=2,
            crashes=4, restarts=3, refused_in=Amount(7, 420), refused_out=Amount(1, 60), ports=(port,),
            sessions={A: (6, 6000)}, published={A: 10}, floating={A: 1},
        ),
        VmMetrics(
            TWO, (A, B), State.CRASHED, "running", 32 << 20, 1, troubled=True,
            ports=(PortMetrics(A, "subnet-aaaaaaaaaa", 0, {4: 1}), PortMetrics(B, "subnet-bbbbbbbbbb", 1, {4: 1})),
        ),
    )  # fmt: skip
    subnets = (SubnetMetrics("subnet-aaaaaaaaaa", 253), SubnetMetrics("subnet-cccccccccc", None))
    carried = Traffic(Amount(50, 5000), Amount(70, 7000))
    vpcs = (
        VpcMetrics(A, "nat", True, 0, subnets, carried, flows=9, most_flows=100, looked_at=999.5),
        VpcMetrics(B, "none", False, troubles=1),
    )
    peering = PeeringView(Peering(A, B), PeeringState.WAITING, "there is no VM", (), ())
    return Metrics(**{"at": 1000.0, "host": host(), "vpcs": vpcs, "vms": vms, "peerings": (peering,), **more})


def families(metrics: Metrics) -> dict[str, Metric]:
    return {one.name: one for one in text_string_to_metric_families(exposition(metrics).decode())}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name, and values of labels in the order of the labels' names."""
    found = {}
    for family in text_string_to_metric_families(exposition(metrics).decode()):
        for one in family.samples:
            key = one.name, tuple(value for _, value in sorted(one.labels.items()))
            assert key not in found, key
            found[key] = one.value
    return found


def test_it_is_read_back_as_it_was_measured() -> None:
    found = samples(model())
    assert found == found | {
        ("lvagent_build_info", (__version__,)): 1,
        ("lvagent_ready", ()): 1,
        ("lvagent_libvirt_stale", ()): 0,
        ("lvagent_libvirt_stale_seconds", ()): 0,
        ("lvagent_sweep_last_success_timestamp_seconds", ()): 990,
        ("lvagent_sweep_repairs_total", ()): 3,
        ("lvagent_stray_processes", ()): 1,
        ("lvagent_event_streams", ()): 2,
        ("lvagent_event_stream_backlog", ()): 9,
        ("lvagent_transit_slots_used", ()): 1,
        ("lvagent_timeline_entries_total", ("refused",)): 2,
        ("lvagent_http_requests_total", ("GET", "/v1/vms/{id}", "2xx")): 4,
        ("process_open_fds", ()): 30,
        ("process_start_time_seconds", ()): 1_790_000_000.5,
        ("lvagent_vpc_vms", ("running", A, "running")): 1,
        ("lvagent_vpc_vms", ("crashed", A, "running")): 1,
        ("lvagent_vpc_vms", ("crashed", B, "running")): 1,
        ("lvagent_vpc_uplink_info", ("nat", A)): 1,
        ("lvagent_vpc_uplink_info", ("none", B)): 1,
        ("lvagent_vpc_uplink_up", (A,)): 1,
        ("lvagent_vpc_uplink_bytes_total", ("out", A)): 5000,
        ("lvagent_vpc_uplink_bytes_total", ("in", A)): 7000,
        ("lvagent_vpc_flows", (A,)): 9,
        ("lvagent_vpc_flows_limit", (A,)): 100,
        ("lvagent_vpc_published_ports", (A,)): 10,
        ("lvagent_vpc_published_ports", (B,)): 0,
        ("lvagent_vpc_floating_addresses", (A,)): 1,
        ("lvagent_vpc_dhcp_leases", (A,)): 2,
        ("lvagent_vpc_peerings", ("waiting", A)): 1,
        ("lvagent_vpc_peerings", ("waiting", B)): 1,
        ("lvagent_vpc_looked_timestamp_seconds", (A,)): 999.5,
        ("lvagent_subnet_addresses_used", ("ipv4", "subnet-aaaaaaaaaa", A)): 2,
        ("lvagent_subnet_addresses_used", ("ipv6", "subnet-aaaaaaaaaa", A)): 1,
        ("lvagent_subnet_addresses_limit", ("ipv4", "subnet-aaaaaaaaaa", A)): 253,
        ("lvagent_vm_info", (TWO, B)): 1,
        ("lvagent_vm_running", (ONE,)): 1,
        ("lvagent_vm_running", (TWO,)): 0,
        ("lvagent_vm_wanted_running", (TWO,)): 1,
        ("lvagent_vm_error", (TWO,)): 1,
        ("lvagent_vm_drift_fields", (ONE,)): 2,
        ("lvagent_vm_crashes_total", (ONE,)): 4,
        ("lvagent_vm_restarts_total", (ONE,)): 3,
        ("lvagent_vm_cpu_seconds_total", (ONE,)): 12.25,
        ("lvagent_vm_resident_memory_bytes", (ONE,)): 90 << 20,
        ("lvagent_vm_refused_packets_total", ("in", ONE)): 7,
        ("lvagent_vm_refused_bytes_total", ("out", ONE)): 60,
        ("lvagent_vm_uplink_sessions", (ONE, A)): 6,
        ("lvagent_vm_uplink_session_bytes", (ONE, A)): 6000,
        ("lvagent_port_bytes_total", ("out", "0", ONE, A)): 500,
        ("lvagent_port_packets_total", ("in", "0", ONE, A)): 7,
        ("lvagent_port_dropped_packets_total", ("in", "0", ONE, A)): 2,
    }


def test_what_is_not_known_is_left_out_and_not_told_as_zero() -> None:
    found = samples(model())
    for absent in (
        ("lvagent_vm_cpu_seconds_total", (TWO,)),
        ("lvagent_vpc_uplink_up", (B,)),
        ("lvagent_vpc_flows", (B,)),
        ("lvagent_vpc_dhcp_leases", (B,)),
        ("lvagent_subnet_addresses_limit", ("ipv4", "subnet-cccccccccc", A)),
        ("lvagent_port_bytes_total", ("in", "0", TWO, A)),
    ):
        assert absent not in found
    fresh = samples(model(host=host(swept_at=None, swept_seconds=None, process=None)))
    assert not any("last_success" in name or name.startswith("process_") for name, _ in fresh)


def test_a_histogram_is_cumulative_and_holds_all() -> None:
    found = samples(model())
    route = ("GET", "/v1/vms/{id}")
    buckets = {
        float(labels[0]): value
        for (name, labels), value in found.items()
        if name.endswith("request_duration_seconds_bucket")
    }
    assert buckets[0.0025] == 2
    assert (buckets[0.1], buckets[0.25], buckets[30.0], buckets[math.inf]) == (2, 3, 3, 4)
    assert found["lvagent_http_request_duration_seconds_count", route] == 4
    assert found["lvagent_http_request_duration_seconds_sum", route] == pytest.approx(99.204)
    assert [value for _, value in sorted(buckets.items())] == sorted(buckets.values())


def test_how_old_what_is_told_is() -> None:
    found = samples(model(host=host(ready=False, stale_since=940.0)))
    assert [found[f"lvagent_{name}", ()] for name in ("ready", "libvirt_stale", "libvirt_stale_seconds")] == [0, 1, 60]


def test_values_of_labels_are_escaped() -> None:
    hostile = VpcMetrics(HOSTILE, "nat", True)
    found = samples(model(vpcs=(hostile,)))
    assert found["lvagent_vpc_uplink_up", (HOSTILE,)] == 1
    assert found["lvagent_ready", ()] == 1


BASE = re.compile(r"_(seconds|bytes|packets|total|info|fds|threads|cpus|slots|streams|sessions|flows|leases)")


def test_names_follow_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    text = exposition(model()).decode()
    for name, family in families(model()).items():
        assert re.fullmatch(r"(lvagent|process)_[a-z0-9_]+[a-z0-9]", name), name
        assert not re.search(r"_(ms|milliseconds|kb|kib|mb|mib|percent|count|sum|bucket)$", name), name
        assert (f"# TYPE {name}_total counter" in text) == (family.type == "counter"), name
        assert family.type != "histogram" or name.endswith("_seconds")
        assert family.documentation.endswith("."), name
        assert family.type != "gauge" or not name.endswith("_total"), name
        for one in family.samples:
            assert set(one.labels) <= {
                "vm", "vpc", "subnet", "family", "position", "direction", "state", "wanted", "mode", "version",
                "outcome", "operation", "route", "method", "status", "kind", "where", "le",
            }  # fmt: skip
    assert text.endswith("\n")
    assert text.count("# TYPE ") == text.count("# HELP ")


def test_who_is_limited_to_some_vpcs_is_told_of_no_other_and_nothing_of_the_host() -> None:
    theirs = VmMetrics("i-0000000009", (B,), State.RUNNING, "running", 1, 1, sessions={B: (1, 1)})
    whole = model()
    whole = model(vms=(*whole.vms, theirs))
    text = exposition(narrow(whole, lambda vpcs: set(vpcs) == {A})).decode()
    for word in (B, TWO, theirs.id, "process_", "lvagent_http", "lvagent_ready", "strays", "transit", 'state="waiting'):
        assert word not in text, word
    found = samples(narrow(whole, lambda vpcs: set(vpcs) == {A}))
    assert found["lvagent_vm_running", (ONE,)] == 1
    assert found["lvagent_subnet_addresses_used", ("ipv4", "subnet-aaaaaaaaaa", A)] == 1, "without TWO's"
    assert ("lvagent_vpc_flows", (A,)) not in found, "TWO has some of them"
    alone = samples(narrow(model(vms=whole.vms[:1]), lambda vpcs: set(vpcs) == {A}))
    assert (alone["lvagent_vpc_flows", (A,)], alone["lvagent_vpc_uplink_bytes_total", ("in", A)]) == (9, 7000)


# over HTTP


def test_a_request_is_counted_by_its_route_and_by_nothing_that_was_sent(client: FlaskClient) -> None:
    client.put(f"/v1/vms/{ONE}", json=vm_spec())
    client.get(f"/v1/vms/{ONE}?x=secret")
    client.get("/v1/vms/i-0000000099")
    client.get("/nowhere/secret")
    client.open("/v1/vms", method="SECRET")
    answer = client.get("/metrics")
    assert (answer.status_code, answer.content_type) == (200, CONTENT_TYPE)
    found = {
        tuple(value for _, value in sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(answer.text)
        if family.name == "lvagent_http_requests"
        for one in family.samples
    }
    assert found == {
        ("PUT", "/v1/vms/{id}", "2xx"): 1,
        ("GET", "/v1/vms/{id}", "4xx"): 2,
        ("other", "other", "4xx"): 2,
    }
    assert "ecret" not in answer.text.lower()
    assert f'lvagent_vm_running{{vm="{ONE}"}} 1.0' in answer.text
    again = client.get("/metrics").text
    assert 'lvagent_http_requests_total{method="GET",route="/metrics",status="2xx"} 1.0' in again


def test_a_limited_token_gets_what_is_of_its_vpcs(tcp: TcpDoor) -> None:
    admin = tcp.of(Role.ADMIN)
    for spec in (vm_spec(1), elsewhere(2), both(3)):
        assert admin.post("/v1/vms", json=spec).status_code == 201
    whole, mine = admin.get("/metrics").text, tcp.of(Role.READ, A).get("/metrics").text
    assert all(one in whole for one in (MINE, THEIRS, BOTH, B, "lvagent_ready", "lvagent_http_requests_total"))
    assert f'lvagent_vm_running{{vm="{MINE}"}} 1.0' in mine
    assert not any(one in mine for one in (THEIRS, BOTH, B, "lvagent_ready", "lvagent_http", "process_"))
    assert tcp.client().get("/metrics").status_code == 401
