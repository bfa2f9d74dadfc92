"""From views and states to JSON: every member always there, null where there is nothing to say."""

from __future__ import annotations

import dataclasses

from lvagent.api.operations import OperationView
from lvagent.api.problems import Json, problem
from lvagent.spec.dump import dump_rule, dump_vm
from lvagent.spec.publications import dump_publications
from lvagent.spec.status import (
    FirewallView,
    ImageView,
    LookView,
    PhaseTime,
    Plan,
    PortView,
    PutResult,
    Readiness,
    SessionsView,
    SubnetView,
    TimelineEntry,
    VmStatus,
    VpcView,
)
from lvagent.spec.strays import StraysView, StrayView
from lvagent.spec.vpc import dump_vpc


def items(values: list[Json]) -> Json:
    """A list as an answer. ``next`` is where the list goes on; lists are whole, so it is null."""
    return {"items": values, "next": None}


def vm(status: VmStatus) -> Json:
    """A VM: its spec, and beside it how it stands. Of its user data it is only said whether there is some."""
    return {
        **dump_vm(status.spec, secrets=False),
        "has_user_data": status.spec.user_data is not None,
        "state": status.state.value,
        "reason": status.reason,
        "wanted": status.wanted,
        "revision": status.revision,
        "pid": None if status.process is None else status.process.pid,
        "process": None if status.process is None else dataclasses.asdict(status.process),
        "changed_at": status.changed_at,
        "ports": [_port(port) for port in status.ports],
        "published": dump_publications(status.published),
        "floating": list(status.floating),
        "drift": list(status.drift),
        "drift_details": [dataclasses.asdict(one) for one in status.drift_details],
        "timings": phases(status.timings),
        "error": status.error,
        "observed_at": status.observed_at,
        "stale": status.stale,
    }


def look(view: LookView) -> Json:
    """A VM looked at afresh: what is wanted, and what the agent, libvirt, qemu and the kernel say of it."""
    status, domain, qemu = view.status, view.domain, view.qemu
    return {
        "vm": status.spec.id,
        "state": status.state.value,
        "reason": status.reason,
        "wanted": status.wanted,
        "changed_at": status.changed_at,
        "domain": None if domain is None else {"state": domain[0], "reason": domain[1]},
        "qemu": None if qemu is None else {"status": qemu[0], "running": qemu[1]},
        "qemu_error": view.qemu_error,
        "process": None if status.process is None else dataclasses.asdict(status.process),
        "error": status.error,
        "stale": status.stale,
    }


def put(result: PutResult) -> Json:
    """What a put did, with the VM."""
    return {
        **vm(result.status),
        "outcome": result.outcome.value,
        "restart_needed": list(result.restart_needed),
    }


def _port(port: PortView) -> Json:
    return {**dataclasses.asdict(port), "addresses": list(port.addresses)}


def phases(times: tuple[PhaseTime, ...]) -> list[Json]:
    """Phases in the order in which they ended."""
    return [{"phase": time.phase, "ms": time.ms} for time in times]


def firewall(view: FirewallView) -> Json:
    """The rules of a VM with their counters, and what none of them allowed."""
    return {
        "vm": view.vm,
        "rules": [
            {
                **dump_rule(one.rule),
                **{name: getattr(one, name) for name in ("packets", "bytes", "last_hit", "implied")},
            }
            for one in view.rules
        ],
        "refused": {
            "ingress": {"packets": view.refused_in[0], "bytes": view.refused_in[1]},
            "egress": {"packets": view.refused_out[0], "bytes": view.refused_out[1]},
        },
    }


def subnet(view: SubnetView) -> Json:
    """A subnet."""
    return {**dataclasses.asdict(view), "vms": list(view.vms)}


def vpc(view: VpcView) -> Json:
    """A VPC with its subnets."""
    return {
        "name": view.name,
        "netns": view.netns,
        "domain": view.domain,
        "subnets": [subnet(one) for one in view.subnets],
        "vms": list(view.vms),
        "settings": dump_vpc(view.settings),
        "uplink": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(view.uplink).items()
        },
        "metadata": "on" if view.metadata else "off",
        "sessions": None if view.sessions is None else _sessions(view.sessions),
        "peers": list(view.peers),
    }


def _sessions(view: SessionsView) -> Json:
    return {**dataclasses.asdict(view), "vms": [dataclasses.asdict(one) for one in view.vms]}


def entry(found: TimelineEntry) -> Json:
    """An entry of a timeline."""
    return {"at": found.at, "kind": found.kind, "vpcs": list(found.vpcs), "detail": dict(found.detail)}


def plan(found: Plan) -> Json:
    """A plan."""
    return {
        "outcome": found.outcome.value,
        "restart_needed": list(found.restart_needed),
        "steps": list(found.steps),
        "xml": found.xml,
        "nft": [{"vpc": name, "text": text} for name, text in found.nft],
        "dnsmasq": [{"vpc": name, "text": text} for name, text in found.dnsmasq],
    }


def image(view: ImageView) -> Json:
    """An image."""
    return dataclasses.asdict(view)


def stray(view: StrayView) -> Json:
    """A qemu process that nobody wants."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(view).items()
    }


def strays(view: StraysView) -> Json:
    """All strays: processes and objects."""
    return {
        "policy": view.policy,
        "grace": view.grace,
        "processes": [stray(one) for one in view.processes],
        "objects": [dataclasses.asdict(one) for one in view.objects],
    }


def readiness(found: Readiness) -> Json:
    """Whether the agent is ready, and what was looked at."""
    return {"ready": found.ready, "checks": dict(found.checks)}


def operation(view: OperationView) -> Json:
    """An operation; its result is what the request itself would have been answered with."""
    return {
        "id": view.id,
        "kind": view.kind,
        "vm": view.vm,
        "status": view.status.value,
        "phases": phases(view.phases),
        "result": _result(view),
        "problem": None if view.error is None else problem(view.error, f"/v1/operations/{view.id}"),
        "started_at": view.started_at,
        "ended_at": view.ended_at,
    }


def _result(view: OperationView) -> Json | None:
    match view.result:
        case PutResult():
            return put(view.result)
        case VmStatus():
            return vm(view.result)
        case None:
            return None
