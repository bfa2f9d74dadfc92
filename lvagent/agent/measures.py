"""What is measured of the host, its VPCs and its VMs, put together for who asks.

Nothing here asks libvirt, so a libvirtd that hangs holds nobody up: what is told of VMs is what is known of them, and
from when that is, is told too. Of a VM's qemu the kernel is asked; what of a VPC takes longer is looked at beside
(``agent.looks``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from ipaddress import ip_interface

from lvagent.agent import views
from lvagent.agent.index import Entry, Index
from lvagent.agent.looks import Looks
from lvagent.agent.networks import Networks
from lvagent.agent.tally import Lives, Tally
from lvagent.host import usage
from lvagent.plan import inward
from lvagent.plan.explain.facts import Facts
from lvagent.plan.sessions import MOST, sessions
from lvagent.plan.uplinks import Transit
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.metrics import (
    Amount,
    HostMetrics,
    Metrics,
    PortMetrics,
    SubnetMetrics,
    Traffic,
    VmMetrics,
    VpcMetrics,
)
from lvagent.spec.peerings import Peering, PeeringView
from lvagent.spec.status import SessionsView, SubnetView, VmStatus, VpcView
from lvagent.spec.vm import Network
from lvagent.spec.vpc import UplinkMode

PATIENCE = 0.05
"""Seconds that is waited for looks; what is not seen by then is told as it was seen last."""

ROOT = ""
"""Stands among VPCs for the root namespace."""

RESERVED = 3
"""Addresses of an IPv4 subnet that no VM has: its own, the broadcast address, the gateway."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at a VPC found, or at root. ``links``: what they carried. ``at``: Unix time. ``transits``: root's.

    ``flows``, ``most``: that are kept, and may be. ``sessions``: flows by the uplink, and their bytes, by VM;
    ``counted``: whether of all flows. ``leased``: the addresses that have a lease.
    """

    links: Mapping[str, Traffic]
    at: float = 0.0
    flows: int = 0
    most: int = 0
    sessions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    counted: bool = True
    leased: frozenset[str] = frozenset()
    transits: Mapping[str, Transit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the agent tells of itself. ``status``: of a VM, with this policy."""

    ready: bool
    held: bool
    strays: int
    news: int
    streams: tuple[int, ...]
    status: Callable[[Entry, Policy], VmStatus]


class Measures:
    """Measures for an agent. Every method may be called by many threads."""

    def __init__(self, index: Index, networks: Networks) -> None:
        self._index = index
        self._networks = networks
        self.tally = Tally()
        self.lives = Lives()
        self._swept: tuple[float, float] | None = None
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="measures")
        self._vpcs: Looks[str, Seen] = Looks(self._look, self._beside)
        self._peers: Looks[tuple[str, str], PeeringView] = Looks(self._peering, self._beside)

    def close(self) -> None:
        """Wait for the look that is under way."""
        self._vpcs.close()
        self._peers.close()
        self._beside.shutdown(wait=True, cancel_futures=True)

    # what others tell

    def swept(self, *, done: bool, seconds: float) -> None:
        """A sweep ended."""
        self.tally.sweeps.note(("done" if done else "failed",), seconds)
        if done:
            self._swept = time.time(), seconds
        self._vpcs.keep({ROOT, *self._index.vpcs()})

    def ended(self, vm: str, what: str, error: BaseException | None, seconds: float) -> None:
        """An operation on a VM ended; see ``Timeline.ended``."""
        self.tally.operations.note((what, _outcome(error)), seconds)
        if what == "restart" and error is None:
            self.lives.restarted(vm)

    # looks

    def _look(self, vpc: str) -> Seen:
        if vpc == ROOT:
            return Seen(self._networks.carried(ROOT), transits=self._networks.transits())
        self._networks.counters.look(vpc)
        flows, most = self._networks.room(vpc)
        found = self._sessions(vpc) if flows else None
        return Seen(
            links=self._networks.carried(vpc),
            at=time.time(),
            flows=flows,
            most=most,
            sessions={} if found is None else {one.vm: (one.sessions, one.bytes) for one in found.vms},
            counted=found is None or found.complete,
            leased=frozenset(self._networks.leased(vpc)),
        )

    def _sessions(self, vpc: str) -> SessionsView | None:
        """The flows that go by a VPC's uplink; None: it has none."""
        policy = self._networks.policy
        if not _leads_out(vpc, policy):
            return None
        entries = self._index.all()
        facts = Facts(
            vms={entry.spec.id: entry.carried for entry in entries},
            running=frozenset(),
            policy=policy,
            transits=self._known().get(ROOT, Seen({})).transits,
            peerings=self._index.peerings,
        )
        return sessions(vpc, self._networks.flows(vpc, MOST), facts)

    def _known(self) -> dict[str, Seen]:
        return {vpc: found.value for vpc, found in self._vpcs.known().items() if found.value is not None}

    def _peering(self, pair: tuple[str, str]) -> PeeringView:
        return self._networks.links.view(Peering(*pair))

    def _have_looked(self) -> None:
        vpcs = sorted(self._index.vpcs())
        new = not self._vpcs.known().keys() >= set(vpcs)  # with an end of an uplink in root, maybe
        looks = (
            self._vpcs.refresh((ROOT, *vpcs), anew=(ROOT,) if new else ()),
            self._peers.refresh([one.vpcs for one in self._index.peerings.all()]),
        )
        wait([one for one in looks if one is not None], PATIENCE)

    # what is told

    def metrics(self, standing: Standing) -> Metrics:
        """All that is measured, as it is known by now."""
        loaded = self._index.loaded
        if loaded:
            self._have_looked()
        seen = self._known()
        root = seen.get(ROOT, Seen({}))
        policy = self._networks.policy
        entries = self._index.all() if loaded else ()
        lives = self.lives.all()
        return Metrics(
            at=time.time(),
            host=self._host(standing, policy, root),
            vpcs=self._all_vpcs(entries, policy, seen, root),
            vms=tuple(
                self._vm(entry, standing.status(entry, policy), policy, seen, lives.get(entry.spec.id, (0, 0)))
                for entry in entries
            ),
            peerings=tuple(found.value for found in self._peers.known().values() if found.value is not None),
        )

    def _all_vpcs(
        self, entries: tuple[Entry, ...], policy: Policy, seen: Mapping[str, Seen], root: Seen
    ) -> tuple[VpcMetrics, ...]:
        if not self._index.loaded:
            return ()
        found = views.vpcs(entries, policy, root.transits, self._networks.trouble())
        return tuple(_vpc(one, seen.get(one.name), root) for one in found)

    def _host(self, standing: Standing, policy: Policy, root: Seen) -> HostMetrics:
        swept = self._swept
        pools = () if policy.uplinks is None else policy.uplinks.pools
        return HostMetrics(
            ready=standing.ready,
            stale_since=self._index.stale_since,
            swept_at=None if swept is None else swept[0],
            swept_seconds=None if swept is None else swept[1],
            held=standing.held,
            strays=standing.strays,
            news=standing.news,
            streams=standing.streams,
            slots=min((pool.num_addresses // 2 - 1 for pool in pools), default=0),
            slots_used=len(root.transits),
            floating=len(policy.floating),
            process=usage.own(),
            counted=self.tally.counted(self._networks.repaired),
        )

    def _vm(
        self, entry: Entry, status: VmStatus, policy: Policy, seen: Mapping[str, Seen], lives: tuple[int, int]
    ) -> VmMetrics:
        carried = entry.carried
        refused = self._networks.counters.view(carried)
        vm, vpcs = carried.id, tuple(sorted({*entry.spec.vpcs, *carried.vpcs}))
        out = [vpc for vpc in vpcs if vpc in seen and _leads_out(vpc, policy)]
        nic = inward.target(carried)
        there = () if nic is None else (nic.netname,)
        ports = sum(one.last - one.first + 1 for one in status.published)
        return VmMetrics(
            id=vm,
            vpcs=vpcs,
            state=status.state,
            wanted=status.wanted,
            memory_bytes=carried.memory_mb << 20,
            cpus=carried.cpus,
            drift=len(status.drift),
            troubled=status.error is not None,
            crashes=lives[0],
            restarts=lives[1],
            usage=None if status.process is None else usage.usage(status.process.pid),
            refused_in=Amount(*refused.refused_in),
            refused_out=Amount(*refused.refused_out),
            ports=tuple(_port(vm, one, seen.get(one.netname)) for one in carried.networks),
            sessions={vpc: seen[vpc].sessions.get(vm, (0, 0)) for vpc in out},
            published={vpc: ports for vpc in there if ports},
            floating={vpc: len(status.floating) for vpc in there if status.floating},
        )


def _leads_out(vpc: str, policy: Policy) -> bool:
    return policy.mode(vpc) is not UplinkMode.NONE


def _port(vm: str, nic: Network, seen: Seen | None) -> PortMetrics:
    own = [one.ip for one in (nic.ipv4, nic.ipv6) if one is not None]
    return PortMetrics(
        vpc=nic.netname,
        subnet=nic.subnetname,
        position=nic.position,
        addresses=Counter(one.version for one in own),
        leased=0 if seen is None else sum(str(one) in seen.leased for one in own),
        traffic=None if seen is None else seen.links.get(names.tap(vm, nic.position)),
    )


def _vpc(view: VpcView, seen: Seen | None, root: Seen) -> VpcMetrics:
    there = view.uplink.address_v4 is not None and not view.uplink.trouble
    return VpcMetrics(
        name=view.name,
        mode=view.uplink.mode,
        up=there if view.vms else None,
        troubles=len(view.uplink.trouble),
        subnets=tuple(map(_subnet, view.subnets)),
        traffic=root.links.get(names.uplink_outer(view.name)),
        flows=None if seen is None else seen.flows,
        most_flows=None if seen is None else seen.most or None,
        counted=seen is None or seen.counted,
        looked_at=None if seen is None else seen.at,
    )


def _subnet(view: SubnetView) -> SubnetMetrics:
    if view.gateway_v4 is None:
        return SubnetMetrics(view.name, None)
    return SubnetMetrics(view.name, max(0, ip_interface(view.gateway_v4).network.num_addresses - RESERVED))


def _outcome(error: BaseException | None) -> str:
    """How an operation ended: done; refused, for what was asked; failed, for what the host did."""
    if error is None:
        return "done"
    return "refused" if getattr(error, "status", 500) < 500 else "failed"
