"""What is measured, as values: of the host, of each VPC, of each VM. ``api.exposition`` writes it for Prometheus.

Everything that is of a VM or a VPC hangs on it, and nothing is summed up here: who may see some of them only gets
``narrow``, and every sum is made of what is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from lvagent.spec.peerings import PeeringState, PeeringView
from lvagent.spec.status import State

Key = tuple[str, ...]
"""What a count is about: values of labels, of which there are few."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Packets and their bytes."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a link has carried, seen from the kernel: ``received`` by it, ``sent`` by it.

    ``received_dropped``, ``sent_dropped``: packets that it did not carry.
    """

    received: Amount
    sent: Amount
    received_dropped: int = 0
    sent_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes: ``cpu_seconds`` of user and system time since it began, ``resident_bytes`` of memory."""

    cpu_seconds: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, many times. ``total``: of all, in seconds.

    ``counts``: how many took up to each of ``bounds`` (seconds) and more than the one before; the last: even longer.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class PortMetrics:
    """A NIC. ``addresses``: how many of an IP version it has. ``leased``: how many of them its DHCP server has leased.

    ``traffic``: of its tap, so what the guest sent is ``received``; None: it is not known.
    """

    vpc: str
    subnet: str
    position: int
    addresses: Mapping[int, int]
    leased: int = 0
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True)
class VmMetrics:
    """A VM. ``wanted``: running or stopped. ``drift``: fields in which what is there differs from the wish.

    ``crashes``, ``restarts``: since the agent started. ``usage``: of its qemu; None: there is none.
    ``refused_in``, ``refused_out``: what no rule allowed. ``sessions``: its flows by the uplink of a VPC, and the bytes
    of these. ``published``: ports of the host that lead to it, by VPC; ``floating``: addresses that do.
    """

    id: str
    vpcs: tuple[str, ...]
    state: State
    wanted: str
    memory_bytes: int
    cpus: int
    drift: int = 0
    troubled: bool = False
    crashes: int = 0
    restarts: int = 0
    usage: Usage | None = None
    refused_in: Amount = Amount(0, 0)
    refused_out: Amount = Amount(0, 0)
    ports: tuple[PortMetrics, ...] = ()
    sessions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    floating: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubnetMetrics:
    """A subnet. ``room``: how many IPv4 addresses VMs may have in it; None: it has no IPv4."""

    name: str
    room: int | None


@dataclass(frozen=True, slots=True)
class VpcMetrics:
    """A VPC. ``mode``: none, nat or routed. ``up``: whether its uplink is there, and nothing is in its way; None: no VM
    needs it.

    ``traffic``: of the end of its uplink in root, so what comes from the VPC is ``received``. ``flows``: that its
    namespace keeps, ``most_flows`` at most. ``counted``: whether all of them were looked at for sessions.
    ``looked_at``: Unix time of the last look at its links, counters and flows; None: there was none yet.
    """

    name: str
    mode: str
    up: bool | None
    troubles: int = 0
    subnets: tuple[SubnetMetrics, ...] = ()
    traffic: Traffic | None = None
    flows: int | None = None
    most_flows: int | None = None
    counted: bool = True
    looked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """What an agent counts while it runs, by keys of few values.

    ``sweeps``: by outcome. ``operations``: by what was done and outcome. ``requests``: by route and method;
    ``answers``: by route, method and class of the status. ``happened``: entries of timelines, by kind. ``healed``: what
    somebody took away and was brought back at once, by where. ``repaired``: objects that sweeps made.
    """

    sweeps: Mapping[Key, Spread] = field(default_factory=dict)
    operations: Mapping[Key, Spread] = field(default_factory=dict)
    requests: Mapping[Key, Spread] = field(default_factory=dict)
    answers: Mapping[Key, int] = field(default_factory=dict)
    happened: Mapping[Key, int] = field(default_factory=dict)
    healed: Mapping[Key, int] = field(default_factory=dict)
    repaired: int = 0


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """The agent's own process. ``started_at``: Unix time. ``most_files``: how many descriptors it may have open."""

    usage: Usage
    virtual_bytes: int
    started_at: float
    files: int
    most_files: int
    threads: int


@dataclass(frozen=True, slots=True)
class HostMetrics:
    """The agent and what is of the whole host.

    ``stale_since``: Unix time since which libvirt cannot be read; None: it can. ``swept_at``: of the end of the last
    sweep that was done. ``held``: whether that removed nothing, because it would have been too much. ``streams``: for
    each that follows events, how many wait for it. ``slots``: transit addresses, as pairs of a VPC's and root's.
    """

    ready: bool
    stale_since: float | None
    swept_at: float | None
    swept_seconds: float | None
    held: bool
    strays: int
    news: int
    streams: tuple[int, ...]
    slots: int
    slots_used: int
    floating: int
    process: ProcessMetrics | None
    counted: Counted = field(default_factory=Counted)


@dataclass(frozen=True, slots=True)
class Metrics:
    """All that is measured. ``host`` None: it is not for who asks. ``at``: Unix time."""

    at: float
    host: HostMetrics | None
    vpcs: tuple[VpcMetrics, ...] = ()
    vms: tuple[VmMetrics, ...] = ()
    peerings: tuple[PeeringView, ...] = ()

    def peered(self, vpc: str) -> dict[PeeringState, int]:
        """How many peerings of a VPC stand how."""
        states = [one.state for one in self.peerings if vpc in one.peering.vpcs]
        return {state: states.count(state) for state in PeeringState if state in states}


def narrow(metrics: Metrics, sees: Callable[[Iterable[str]], bool]) -> Metrics:
    """What of it is for somebody who sees some VPCs only: nothing of the host, and no VM that is in another one too.

    What a VPC has as a whole (flows, the bytes of its uplink) is not told where a VM is in it that he does not see.

    :param sees: whether he sees a thing that is in these VPCs.
    """
    vms = tuple(one for one in metrics.vms if sees(one.vpcs))
    shared = {vpc for one in metrics.vms if not sees(one.vpcs) for vpc in one.vpcs}
    return Metrics(
        at=metrics.at,
        host=None,
        vpcs=tuple(_narrow_vpc(one, shared) for one in metrics.vpcs if sees({one.name})),
        vms=vms,
        peerings=tuple(one for one in metrics.peerings if sees(one.peering.vpcs)),
    )


def _narrow_vpc(vpc: VpcMetrics, shared: set[str]) -> VpcMetrics:
    if vpc.name not in shared:
        return vpc
    return dataclasses.replace(vpc, traffic=None, flows=None, most_flows=None)
