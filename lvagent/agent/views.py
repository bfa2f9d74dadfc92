"""What callers are told of an entry."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

from lvagent.agent.index import Entry, Phase
from lvagent.agent.wishes import LIVE_FIELDS
from lvagent.plan import wanted
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.drift import differences
from lvagent.spec.status import (
    Drift,
    Place,
    PortView,
    ProcessView,
    State,
    SubnetView,
    VmStatus,
    VpcView,
    iso_time,
)
from lvagent.spec.vm import Network, VmConfig


def status(
    entry: Entry,
    policy: Policy,
    stale_since: float | None,
    process: ProcessView | None = None,
    failure: str | None = None,
) -> VmStatus:
    """One VM as callers see it.

    :param process: its qemu.
    :param failure: why it is not started again any more; None: that is not so.
    """
    found, reason = entry.shown
    details = (*_guest_drift(entry), *entry.edits)
    active = entry.domain is not None and entry.domain.active
    if failure is not None and entry.phase is Phase.LIVE and not active:
        found, reason = State.FAILED, failure
    return VmStatus(
        spec=entry.spec,
        state=found,
        reason=reason,
        wanted="running" if entry.power == "running" else "stopped",
        revision=entry.revision,
        changed_at=iso_time(entry.changed_at),
        process=process if active else None,
        ports=tuple(_port(entry.carried, nic, policy) for nic in entry.carried.networks),
        drift=tuple(dict.fromkeys(one.path for one in details)),
        drift_details=details,
        timings=entry.timings,
        error=entry.error,
        observed_at=iso_time(time.time() - (time.monotonic() - entry.observed_at)),
        stale=stale_since is not None,
    )


def _guest_drift(entry: Entry) -> tuple[Drift, ...]:
    if entry.applied is None:
        return ()
    return differences(entry.spec, entry.applied, Place.GUEST, without=LIVE_FIELDS)


def _port(vm: VmConfig, nic: Network, policy: Policy) -> PortView:
    return PortView(
        position=nic.position,
        tap=names.tap(vm.id, nic.position),
        mac=nic.mac,
        vpc=nic.netname,
        subnet=nic.subnetname,
        mtu=wanted.nic_mtu(nic, policy),
        addresses=tuple(str(address) for address in (nic.ipv4, nic.ipv6) if address),
        dns=f"{vm.id}.{policy.domain}" if nic.position == 0 else None,
    )


def vpcs(entries: Iterable[Entry], policy: Policy) -> tuple[VpcView, ...]:
    """Every VPC with its subnets and VMs, by name."""
    subnets: defaultdict[str, dict[str, list[tuple[str, Network]]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        for nic in entry.carried.networks:
            subnets[nic.netname][nic.subnetname].append((entry.spec.id, nic))
    return tuple(_vpc(name, subnets[name], policy) for name in sorted(subnets))


def _vpc(name: str, subnets: dict[str, list[tuple[str, Network]]], policy: Policy) -> VpcView:
    return VpcView(
        name=name,
        netns=name,
        domain=policy.domain,
        subnets=tuple(_subnet(subnet, subnets[subnet], policy) for subnet in sorted(subnets)),
        vms=tuple(sorted({vm for members in subnets.values() for vm, _ in members})),
    )


def _subnet(name: str, members: list[tuple[str, Network]], policy: Policy) -> SubnetView:
    first = members[0][1]
    v4 = next((wanted.gateway(nic.ipv4, nic.gateway_v4) for _, nic in members if nic.ipv4), None)
    v6 = next((wanted.gateway6(nic.ipv6, nic.gateway_v6) for _, nic in members if nic.ipv6), None)
    return SubnetView(
        name=name,
        vpc=first.netname,
        vxlanid=first.vxlanid,
        gateway_v4=None if v4 is None else str(v4),
        gateway_v6=None if v6 is None else str(v6),
        mtu=wanted.nic_mtu(first, policy),
        vms=tuple(sorted({vm for vm, _ in members})),
    )
