"""Metric families of VPCs and subnets; see ``api.exposition``. All sums are of the VMs that are in the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import Metric

from lvagent.api.families import counter, gauge
from lvagent.spec.metrics import Metrics, Traffic, VmMetrics, VpcMetrics

LOOKED = "Read in the background: lvagent_vpc_looked_timestamp_seconds tells when."


def families(metrics: Metrics) -> Iterator[Metric]:
    """The families."""
    vpcs, vms = metrics.vpcs, metrics.vms
    states = Counter((vpc, one.state.value, one.wanted) for one in vms for vpc in one.vpcs)
    text = "VMs in a VPC, by what they are and what they shall be."
    yield gauge("lvagent_vpc_vms", text, ("vpc", "state", "wanted"), sorted(states.items()))
    yield from _uplinks(vpcs)
    yield from _inside(metrics)
    yield from _subnets(vpcs, vms)
    text = "Unix time of the last look at links, counters, flows and leases: every 5 s at most, less often if slow."
    yield gauge("lvagent_vpc_looked_timestamp_seconds", text, ("vpc",), (((one.name,), one.looked_at) for one in vpcs))


def _uplinks(vpcs: Sequence[VpcMetrics]) -> Iterator[Metric]:
    text = "The way out of a VPC: none, nat, routed; always 1."
    yield gauge("lvagent_vpc_uplink_info", text, ("vpc", "mode"), (((one.name, one.mode), 1) for one in vpcs))
    ways = [one for one in vpcs if one.mode != "none"]
    text = "Whether the uplink of a VPC that has VMs is there, and nothing is in its way."
    yield gauge("lvagent_vpc_uplink_up", text, ("vpc",), (((one.name,), one.up) for one in ways))
    text = "What is in the way of the uplink of a VPC: GET /v1/vpcs/{name} has the texts."
    yield gauge("lvagent_vpc_uplink_troubles", text, ("vpc",), (((one.name,), one.troubles) for one in ways))
    carried = [(one.name, one.traffic) for one in ways if one.traffic is not None]
    for what, name in (("Bytes", "bytes"), ("Packets", "packets")):
        text = f"{what} by the uplink of a VPC: out of it, into it. Begins anew with the uplink. {LOOKED}"
        rows = [row for vpc, traffic in carried for row in _ways(vpc, traffic, name)]
        yield counter(f"lvagent_vpc_uplink_{name}_total", text, ("vpc", "direction"), rows)


def _ways(vpc: str, traffic: Traffic, name: str) -> Iterator[tuple[Sequence[str], float]]:
    yield (vpc, "out"), getattr(traffic.received, name)  # by root's end
    yield (vpc, "in"), getattr(traffic.sent, name)


def _inside(metrics: Metrics) -> Iterator[Metric]:
    vpcs, vms = metrics.vpcs, metrics.vms
    text = f"Flows that the namespace of a VPC keeps. {LOOKED}"
    yield gauge("lvagent_vpc_flows", text, ("vpc",), (((one.name,), one.flows) for one in vpcs))
    text = "Flows that it may keep."
    yield gauge("lvagent_vpc_flows_limit", text, ("vpc",), (((one.name,), one.most_flows) for one in vpcs))
    text = "Whether all flows of a VPC were looked at for lvagent_vm_uplink_sessions: only the first 10000 are."
    ways = [one for one in vpcs if one.mode != "none" and one.looked_at is not None]
    yield gauge("lvagent_vpc_sessions_complete", text, ("vpc",), (((one.name,), one.counted) for one in ways))
    published, floating = Counter[str](), Counter[str]()
    leases = Counter({one.name: 0 for one in vpcs if one.looked_at is not None})
    for vm in vms:
        published.update(vm.published)
        floating.update(vm.floating)
        leases.update({port.vpc: port.leased for port in vm.ports if port.vpc in leases})
    text = "Ports of the host that lead to VMs in a VPC."
    yield gauge("lvagent_vpc_published_ports", text, ("vpc",), (((one.name,), published[one.name]) for one in vpcs))
    text = "Floating addresses that lead to VMs in a VPC."
    yield gauge("lvagent_vpc_floating_addresses", text, ("vpc",), (((one.name,), floating[one.name]) for one in vpcs))
    text = f"Addresses of VMs that the VPC's DHCP server has leased. {LOOKED}"
    yield gauge("lvagent_vpc_dhcp_leases", text, ("vpc",), (((vpc,), leases[vpc]) for vpc in sorted(leases)))
    text = "Peerings of a VPC by state: up, waiting (for a VM in both), conflict, down. Read in the background."
    rows = (((one.name, state.value), count) for one in vpcs for state, count in metrics.peered(one.name).items())
    yield gauge("lvagent_vpc_peerings", text, ("vpc", "state"), rows)


def _subnets(vpcs: Sequence[VpcMetrics], vms: Sequence[VmMetrics]) -> Iterator[Metric]:
    used: Counter[tuple[str, str, str]] = Counter()
    for port in (port for vm in vms for port in vm.ports):
        for version, count in port.addresses.items():
            used[port.vpc, port.subnet, f"ipv{version}"] += count
    labels = ("vpc", "subnet", "family")
    text = "Addresses of a subnet that VMs on this host have, without extra ones."
    yield gauge("lvagent_subnet_addresses_used", text, labels, sorted(used.items()))
    rows = (((one.name, subnet.name, "ipv4"), subnet.room) for one in vpcs for subnet in one.subnets)
    yield gauge("lvagent_subnet_addresses_limit", "IPv4 addresses that VMs may have in a subnet.", labels, rows)
