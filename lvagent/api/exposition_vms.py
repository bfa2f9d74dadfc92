"""Metric families of VMs and their ports; see ``api.exposition``. What is of a VM is seen from it: ``in`` is to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Metric

from lvagent.api.families import counter, gauge
from lvagent.spec.metrics import PortMetrics, VmMetrics
from lvagent.spec.status import State

PORT = ("vm", "vpc", "position", "direction")


def families(vms: Sequence[VmMetrics]) -> Iterator[Metric]:
    """The families."""
    text = "The VPCs that a VM is in; always 1."
    yield gauge("lvagent_vm_info", text, ("vm", "vpc"), (((one.id, vpc), 1) for one in vms for vpc in one.vpcs))
    yield _of(vms, "lvagent_vm_running", "Whether a VM runs.", lambda one: one.state is State.RUNNING)
    yield _of(vms, "lvagent_vm_wanted_running", "Whether it shall run.", lambda one: one.wanted == "running")
    text = "Fields of its spec in which its guest, or libvirt's definition, differs from the wish."
    yield _of(vms, "lvagent_vm_drift_fields", text, lambda one: one.drift)
    yield _of(vms, "lvagent_vm_error", "Whether the agent has an error to tell of it.", lambda one: one.troubled)
    yield _of(vms, "lvagent_vm_memory_bytes", "The memory that it shall have.", lambda one: one.memory_bytes)
    yield _of(vms, "lvagent_vm_cpus", "The virtual CPUs that it shall have.", lambda one: one.cpus)
    used = [(one.id, one.usage) for one in vms if one.usage is not None]
    text = "Resident memory of its qemu, as the kernel has it now."
    rows = [((vm,), float(usage.resident_bytes)) for vm, usage in used]
    yield gauge("lvagent_vm_resident_memory_bytes", text, ("vm",), rows)
    text = "CPU time of its qemu, user and system. Begins anew with each start."
    yield counter("lvagent_vm_cpu_seconds_total", text, ("vm",), (((vm,), usage.cpu_seconds) for vm, usage in used))
    text = "Times that it crashed, since the agent started."
    yield counter("lvagent_vm_crashes_total", text, ("vm",), (((one.id,), one.crashes) for one in vms))
    text = "Times that the agent started it again by itself, since the agent started."
    yield counter("lvagent_vm_restarts_total", text, ("vm",), (((one.id,), one.restarts) for one in vms))
    yield from _refused(vms)
    yield from _sessions(vms)
    yield from _ports([(one.id, port) for one in vms for port in one.ports])


def _of(vms: Sequence[VmMetrics], name: str, text: str, number: Callable[[VmMetrics], float | None]) -> Metric:
    return gauge(name, text, ("vm",), (((one.id,), number(one)) for one in vms))


def _refused(vms: Sequence[VmMetrics]) -> Iterator[Metric]:
    for what, name in (("Packets", "packets"), ("Bytes", "bytes")):
        rows = [
            ((one.id, way), getattr(amount, name))
            for one in vms
            for way, amount in (("in", one.refused_in), ("out", one.refused_out))
        ]
        text = f"{what} of a VM that no rule of it allowed. Read in the background, and at each sweep."
        yield counter(f"lvagent_vm_refused_{name}_total", text, ("vm", "direction"), rows)


def _sessions(vms: Sequence[VmMetrics]) -> Iterator[Metric]:
    there = [(one.id, vpc, found) for one in vms for vpc, found in one.sessions.items()]
    text = "Flows of a VM by the uplink of a VPC now. Read in the background."
    yield gauge("lvagent_vm_uplink_sessions", text, ("vm", "vpc"), (((vm, vpc), found[0]) for vm, vpc, found in there))
    text = "Bytes of these flows, both ways; gone with each flow: lvagent_vpc_uplink_bytes_total only grows."
    rows = (((vm, vpc), found[1]) for vm, vpc, found in there)
    yield gauge("lvagent_vm_uplink_session_bytes", text, ("vm", "vpc"), rows)


def _ports(ports: Sequence[tuple[str, PortMetrics]]) -> Iterator[Metric]:
    for what, name in (("Bytes", "bytes"), ("Packets", "packets")):
        rows = [
            ((vm, port.vpc, str(port.position), way), getattr(amount, name))
            for vm, port in ports
            if port.traffic is not None
            for way, amount in (("in", port.traffic.sent), ("out", port.traffic.received))  # of the tap
        ]
        text = (
            f"{what} that a NIC of a VM got (in) and sent (out). Begins anew with each start. Read in the background."
        )
        yield counter(f"lvagent_port_{name}_total", text, PORT, rows)
    rows = [
        ((vm, port.vpc, str(port.position), way), dropped)
        for vm, port in ports
        if port.traffic is not None
        for way, dropped in (("in", port.traffic.sent_dropped), ("out", port.traffic.received_dropped))
    ]
    text = "Packets that its link dropped: a guest that does not take them, mostly. Refused ones are not among them."
    yield counter("lvagent_port_dropped_packets_total", text, PORT, rows)
