"""What a caller is told: states, views and plans. Values without behaviour; ``api`` turns them into JSON."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from lvagent.errors import NotFound
from lvagent.spec.publications import Publication
from lvagent.spec.vm import NetRule, VmConfig
from lvagent.spec.vpc import DEFAULT, VpcConfig


def iso_time(stamp: float) -> str:
    """A Unix time as RFC 3339, in UTC, with milliseconds."""
    return datetime.datetime.fromtimestamp(stamp, datetime.UTC).isoformat(timespec="milliseconds")


class State(StrEnum):
    """The state of a VM as callers see it."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CRASHED = "crashed"
    FAILED = "failed"
    DELETING = "deleting"


class Action(StrEnum):
    """What may be asked of a VM's power."""

    START = "start"
    SHUTDOWN = "shutdown"
    STOP = "stop"
    REBOOT = "reboot"
    RESET = "reset"
    PAUSE = "pause"
    RESUME = "resume"


class Settling(StrEnum):
    """What is to become of a definition that somebody changed by hand: it is the wish from now on, or goes back."""

    ACCEPT = "accept"
    RESTORE = "restore"


class Outcome(StrEnum):
    """What a put did."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """A phase of the last put or start, and how long it took (milliseconds)."""

    phase: str
    ms: float


@dataclass(frozen=True, slots=True)
class PortView:
    """A NIC as it stands. ``addresses`` with prefix, ``mtu`` in bytes, ``dns``: its name inside the VPC, if any."""

    position: int
    tap: str
    mac: str
    vpc: str
    subnet: str
    mtu: int
    addresses: tuple[str, ...]
    dns: str | None


class Place(StrEnum):
    """Where something differs from the wish: in the running guest, or in libvirt's definition, changed by hand."""

    GUEST = "guest"
    DEFINITION = "definition"


@dataclass(frozen=True, slots=True)
class Drift:
    """A field in which what is there differs from the wish; values as in JSON, without secrets."""

    path: str
    wanted: object
    actual: object
    place: Place


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A process as the kernel has it. ``state``: running, stopped (SIGSTOP), traced, zombie or dead.

    ``started_at``: RFC 3339; with the pid, it names this process and no other.
    """

    pid: int
    state: str
    started_at: str


@dataclass(frozen=True, slots=True)
class VmStatus:
    """A VM: what is wanted and what is there.

    ``wanted``: running or stopped. ``changed_at``: RFC 3339 time since which the agent knows this state and reason.
    ``drift``: paths of the spec whose wish differs from what the running guest has (they take effect at the next
    start), or its definition, which somebody changed by hand (accept or restore it); ``drift_details`` has their
    values. ``observed_at``: RFC 3339. ``stale``: libvirt could not be asked since then. ``published``: ports of the
    host that lead to it; ``floating``: addresses that do.
    """

    spec: VmConfig
    state: State
    reason: str
    wanted: str
    revision: int
    changed_at: str
    process: ProcessView | None
    ports: tuple[PortView, ...]
    drift: tuple[str, ...]
    timings: tuple[PhaseTime, ...]
    error: str | None
    observed_at: str
    stale: bool
    drift_details: tuple[Drift, ...] = ()
    published: tuple[Publication, ...] = ()
    floating: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LookView:
    """A VM looked at afresh. ``domain``: libvirt's state and its reason; None: libvirt has no such domain.

    ``qemu``: what its monitor said to ``query-status``; None: nothing was asked, or nothing came. ``qemu_error``: why
    nothing came; None: it did, or the VM does not run.
    """

    status: VmStatus
    domain: tuple[str, str] | None
    qemu: tuple[str, bool] | None
    qemu_error: str | None


@dataclass(frozen=True, slots=True)
class PutResult:
    """The answer to a put. ``restart_needed``: paths of the spec that take effect at the VM's next start."""

    outcome: Outcome
    status: VmStatus
    restart_needed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SubnetView:
    """A subnet: what its VMs say of it. Gateways with prefix."""

    name: str
    vpc: str
    vxlanid: int
    gateway_v4: str | None
    gateway_v6: str | None
    mtu: int
    vms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UplinkView:
    """The way out of a VPC as it is wanted, and the addresses that it has now (None: it is not there, or has none).

    ``mode``: none, nat or routed. ``mtu`` in bytes. ``address_*``: the VPC's end; ``gateway_*``: root's.
    ``routes``: the prefixes that are routed to it. ``forwarders``: the DNS servers that are asked. ``trouble``: what
    keeps it from being whole.
    """

    mode: str
    mtu: int | None = None
    address_v4: str | None = None
    gateway_v4: str | None = None
    address_v6: str | None = None
    gateway_v6: str | None = None
    routes: tuple[str, ...] = ()
    forwarders: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VmSessions:
    """How many flows of a VM go by the uplink now, and the bytes of these, both ways."""

    vm: str
    sessions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SessionsView:
    """The flows that go by an uplink now, by VM. ``complete``: whether all that the VPC keeps were looked at."""

    sessions: int
    bytes: int
    complete: bool
    vms: tuple[VmSessions, ...]


@dataclass(frozen=True, slots=True)
class VpcView:
    """A VPC with its subnets. ``netns``: the name of its namespace. ``settings``: its wish, as it was put.

    ``metadata``: whether it is served. ``sessions``: None: it has no uplink, or they were not asked for. ``peers``: the
    VPCs with which it is peered.
    """

    name: str
    netns: str
    domain: str
    subnets: tuple[SubnetView, ...]
    vms: tuple[str, ...]
    settings: VpcConfig = DEFAULT
    uplink: UplinkView = UplinkView("none")
    metadata: bool = True
    sessions: SessionsView | None = None
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule with its direction, the packets and bytes of the flows it allowed, both ways, and when it was last hit.

    ``last_hit``: RFC 3339, exact to the interval between two looks; None: not since the agent began to look.
    ``implied``: it is not of the spec, but follows from a published port.
    """

    rule: NetRule
    packets: int
    bytes: int
    last_hit: str | None
    implied: bool = False


@dataclass(frozen=True, slots=True)
class FirewallView:
    """The rules of a VM in the order of its spec, then those that are implied; and what no rule allowed, as pairs
    (packets, bytes)."""

    vm: str
    rules: tuple[RuleView, ...]
    refused_in: tuple[int, int]
    refused_out: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened to a VM. ``at``: RFC 3339; ``vpcs``: those that the VM was in then; ``detail``: strings,
    numbers, and objects of these."""

    at: str
    kind: str
    vpcs: tuple[str, ...]
    detail: Mapping[str, object]


CONSOLE = "console"
"""The kind of an entry that has what a guest wrote to its console: not for everybody who may see the others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a put would do, as texts. ``steps``: one line each, in their order. Nothing was touched."""

    outcome: Outcome
    xml: str
    nft: tuple[tuple[str, str], ...]
    dnsmasq: tuple[tuple[str, str], ...]
    steps: tuple[str, ...]
    restart_needed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image in the image folder. Sizes in bytes."""

    name: str
    virtual_size: int
    file_size: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the agent can serve; ``checks``: pairs (what, "ok" or why not)."""

    ready: bool
    checks: tuple[tuple[str, str], ...]


class Named(Protocol):
    """What is known by its name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def named(noun: str, views: Iterable[N], name: str) -> N:
    """The one of this name.

    :raise NotFound: there is none.
    """
    found = next((view for view in views if view.name == name), None)
    if found is None:
        raise NotFound(noun, name)
    return found
