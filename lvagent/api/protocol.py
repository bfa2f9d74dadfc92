"""What the API needs of the agent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from lvagent.agent.news import News
from lvagent.agent.tally import Tally
from lvagent.spec.flow import Explained, Flow
from lvagent.spec.metrics import Metrics
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.peerings import PeeringView
from lvagent.spec.publications import Floating, Publication
from lvagent.spec.status import (
    Action,
    FirewallView,
    ImageView,
    LookView,
    PhaseTime,
    Plan,
    PutResult,
    Readiness,
    Settling,
    SubnetView,
    TimelineEntry,
    VmStatus,
    VpcView,
)
from lvagent.spec.strays import StraysView, StrayView, SweepView
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import VpcConfig

Watch = Callable[[PhaseTime], None]


class Peers(Protocol):
    """The peerings of VPCs (``agent.peering.Peers``); the two may be named in any order."""

    def put(self, one: str, other: str) -> tuple[bool, PeeringView]:
        """Peer two VPCs; whether that is new, and how it stands."""

    def delete(self, one: str, other: str) -> None:
        """Peer them no more."""

    def one(self, one: str, other: str) -> PeeringView:
        """One peering."""

    def all(self) -> Sequence[PeeringView]:
        """All peerings."""


class Agent(Protocol):
    """The agent as HTTP sees it: any method may raise an ``LvagentError``; many threads call at once."""

    @property
    def news(self) -> News:
        """What happens to VMs."""

    @property
    def tally(self) -> Tally:
        """Where is counted what is asked of it."""

    @property
    def peers(self) -> Peers:
        """The peerings of VPCs."""

    def put(
        self, spec: VmConfig, *, create_only: bool = False, confined: bool = False, watch: Watch | None = None
    ) -> PutResult:
        """Create the VM, or change it to this spec; all or nothing.

        :param create_only: a VM of this id with another spec is a Conflict.
        :param confined: so is a volume that is there already, unless the VM has it.
        :param watch: called once for each phase when it has ended.
        """

    def delete(self, vm: str, *, grace: float = 0, volumes: bool = False, watch: Watch | None = None) -> None:
        """Stop it (softly for ``grace`` seconds, then hard), remove it and what no other VM needs.

        :param volumes: also delete the volumes that the agent made for it.
        """

    def power(self, vm: str, action: Action) -> VmStatus:
        """Start, shutdown, stop, reboot, reset, pause or resume."""

    def settle(self, vm: str, how: Settling) -> VmStatus:
        """Make libvirt's definition, which somebody changed by hand, the wish; or define the wish again."""

    def vm(self, vm: str) -> VmStatus:
        """One VM."""

    def vms(self) -> Sequence[VmStatus]:
        """All VMs, by id."""

    def look(self, vm: str) -> LookView:
        """One VM, looked at afresh in libvirt, in /proc, and by its qemu's monitor."""

    def rules(self, vm: str) -> FirewallView:
        """The rules of a VM, with what they have counted."""

    def domain_xml(self, vm: str) -> str:
        """The domain XML as libvirt has it (live if it runs), without secrets."""

    def console_log(self, vm: str, tail: int) -> bytes:
        """The last ``tail`` bytes of what the guest wrote to its serial console."""

    def timeline(self, vm: str) -> Sequence[TimelineEntry]:
        """What happened to a VM, there or gone, oldest first."""

    def qmp(self, vm: str, command: Qmp) -> object:
        """What qemu returned to a QMP command."""

    def hmp(self, vm: str, command: Hmp) -> str:
        """What qemu answered to an HMP command."""

    def vpcs(self) -> Sequence[VpcView]:
        """All VPCs, by name."""

    def vpc(self, name: str) -> VpcView:
        """One VPC."""

    def put_vpc(self, vpc: str, config: VpcConfig) -> VpcView:
        """Want this of a VPC, whether VMs are in it or not; all or nothing."""

    def delete_vpc(self, vpc: str) -> None:
        """Forget what was wanted of a VPC: it is as the settings have it."""

    def ports(self, vm: str) -> Sequence[Publication]:
        """The ports of the host that lead to a VM."""

    def put_ports(
        self, vm: str, wish: tuple[Publication, ...], seen: Collection[str] | None = None
    ) -> Sequence[Publication]:
        """Have these ports of the host lead to a VM, and no others; all or nothing."""

    def floating(self) -> Sequence[Floating]:
        """The addresses of the host's network that are led to VMs."""

    def floating_address(self, address: str) -> Floating:
        """One of them."""

    def put_floating(self, wish: Floating) -> Floating:
        """Lead an address to a VM, wherever it was led before; all or nothing."""

    def delete_floating(self, address: str) -> None:
        """Lead an address nowhere."""

    def subnets(self) -> Sequence[SubnetView]:
        """All subnets, by name."""

    def subnet(self, name: str) -> SubnetView:
        """One subnet."""

    def explain(self, flow: Flow, *, live: bool = False) -> Explained:
        """Whether a flow is allowed, and what decides.

        :param live: also send its first packet, and see what becomes of it.
        """

    def plan(self, spec: VmConfig, *, confined: bool = False) -> Plan:
        """What ``put`` would do; touches nothing."""

    def images(self) -> Sequence[ImageView]:
        """The images a volume can be made from, by name."""

    def strays(self) -> StraysView:
        """qemu processes and objects of ours that nobody wants."""

    def kill_stray(self, pid: int, identity: str) -> StrayView:
        """End a stray, if it is still that process and still a stray; the stray as it was."""

    def sweep_now(self, *, force: bool) -> SweepView:
        """Sweep at once; with ``force`` also more is removed than a sweep may."""

    def metrics(self) -> Metrics:
        """All that is measured, as it is known by now; never waits for libvirt."""

    def readiness(self) -> Readiness:
        """Whether the agent can serve now."""
