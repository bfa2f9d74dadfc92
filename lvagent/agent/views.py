"""What callers are told of an entry."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from types import MappingProxyType

from lvagent.agent.index import Entry, Phase
from lvagent.agent.wishes import LIVE_FIELDS
from lvagent.plan import uplinks, wanted
from lvagent.plan.uplinks import Transit
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.drift import differences
from lvagent.spec.peerings import Peerings
from lvagent.spec.status import (
    Drift,
    Place,
    PortView,
    ProcessView,
    State,
    SubnetView,
    UplinkView,
    VmStatus,
    VpcView,
    iso_time,
)
from lvagent.spec.vm import Network, VmConfig
from lvagent.spec.vpc import DEFAULT, UplinkMode

_NONE = Peerings()


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
        published=policy.published(entry.carried),
        floating=tuple(sorted(one.address for one in policy.floating.values() if one.vm == entry.spec.id)),
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
        dns=f"{vm.id}.{policy.dns(nic.netname)}" if nic.position == 0 else None,
    )


def vpcs(
    entries: Iterable[Entry],
    policy: Policy,
    transits: Mapping[str, Transit] = MappingProxyType({}),
    trouble: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    peerings: Peerings = _NONE,
) -> tuple[VpcView, ...]:
    """Every VPC with its subnets and VMs, by name; also one that has a wish and no VM.

    :param transits: the addresses of uplinks that are there.
    :param trouble: what keeps uplinks from being whole; of '': all.
    """
    subnets: defaultdict[str, dict[str, list[tuple[str, Network]]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        for nic in entry.carried.networks:
            subnets[nic.netname][nic.subnetname].append((entry.spec.id, nic))
    found = []
    for name in sorted({*subnets, *policy.vpcs}):
        view = _vpc(name, subnets[name], policy)
        gateways = [gateway for one in view.subnets for gateway in (one.gateway_v4, one.gateway_v6) if gateway]
        common = trouble.get("", ()) if view.vms and policy.mode(name) is not UplinkMode.NONE else ()
        uplink = _uplink(name, gateways, policy, transits.get(name), (*trouble.get(name, ()), *common))
        found.append(dataclasses.replace(view, uplink=uplink, peers=peerings.of(name)))
    return tuple(found)


def _uplink(
    vpc: str, gateways: Iterable[str], policy: Policy, transit: Transit | None, trouble: tuple[str, ...]
) -> UplinkView:
    mode, ways = policy.mode(vpc), policy.uplinks
    if mode is UplinkMode.NONE or ways is None:
        return UplinkView(mode.value, trouble=trouble)
    routes = uplinks.routable(mode, [ip_interface(one).network for one in gateways], ways)
    return UplinkView(
        mode=mode.value,
        mtu=ways.mtu,
        address_v4=None if transit is None else _ip(transit.vpc_v4),
        gateway_v4=None if transit is None else _ip(transit.host_v4),
        address_v6=None if transit is None else _ip(transit.vpc_v6),
        gateway_v6=None if transit is None else _ip(transit.host_v6),
        routes=tuple(sorted(map(str, routes))),
        forwarders=policy.config(vpc).forwarders or (),
        trouble=trouble,
    )


def _ip(address: IPv4Interface | IPv6Interface | None) -> str | None:
    return None if address is None else str(address.ip)


def _vpc(name: str, subnets: dict[str, list[tuple[str, Network]]], policy: Policy) -> VpcView:
    return VpcView(
        name=name,
        netns=name,
        domain=policy.dns(name),
        subnets=tuple(_subnet(subnet, subnets[subnet], policy) for subnet in sorted(subnets)),
        vms=tuple(sorted({vm for members in subnets.values() for vm, _ in members})),
        settings=policy.vpcs.get(name, DEFAULT),
        metadata=policy.config(name).metadata is not False,
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
