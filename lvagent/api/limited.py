"""The agent as a caller sees it who is limited to some VPCs.

``Caller.sees`` decides; here it is asked, for each thing that goes out and for each that is named. What such a caller
may not see is not there for him: the same error, the same text. Where another's thing stands in his way (an address, a
VNI, a volume is taken), he learns that it is so, and not whose it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence

from lvagent.agent.news import Item, News
from lvagent.api.limited_host import LimitedHost
from lvagent.api.limited_peers import LimitedPeers
from lvagent.api.narrow import narrow_subnet, narrow_vpc
from lvagent.api.operations import Operation, OperationView
from lvagent.api.problems import Forbidden
from lvagent.api.protocol import Agent, Peers, Watch
from lvagent.errors import Conflict, HostError, LvagentError, NotFound, Vanished
from lvagent.spec import names
from lvagent.spec.access import Caller
from lvagent.spec.flow import WORLD, Explained, Flow, Live, Step
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.publications import Floating, Publication
from lvagent.spec.status import (
    Action,
    FirewallView,
    LookView,
    Plan,
    PutResult,
    Settling,
    SubnetView,
    TimelineEntry,
    VmStatus,
    VpcView,
    named,
)
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import VpcConfig

_NAMES = re.compile(
    r"(?<![0-9A-Za-z-])(?:i-[0-9]{10}|t[0-9]{10}-[0-9]{1,2}|(?:vpc|subnet)-[0-9a-z]{10})(?![0-9A-Za-z])"
)
"""Ids in a text: of VMs, taps, VPCs, subnets."""

PROGRAM = ")"
"""How a conflict names a program of the host: ``name (pid 1)``; ids do not end so."""

VEILED = "it contradicts something outside of the VPCs of this token"


def for_caller(agent: Agent, caller: Caller) -> Agent:
    """The agent as this caller sees it."""
    return Limited(agent, caller) if caller.limited else agent


def veil(agent: Agent, error: LvagentError) -> LvagentError:
    """An error as the caller may be told it, of the agent that ``for_caller`` gave."""
    return agent.veil(error) if isinstance(agent, Limited) else error


def scope_of(status: VmStatus) -> frozenset[str]:
    """The VPCs that a VM is in: by its spec, and with what its guest runs with."""
    return frozenset({*status.spec.vpcs, *(port.vpc for port in status.ports)})


def sees_operation(caller: Caller, operation: Operation) -> bool:
    """Whether a caller may know of an operation: what it is about, and what came of it, must be his."""
    match operation.view().result:
        case PutResult(status=status) | (VmStatus() as status):
            return caller.sees(operation.vpcs | scope_of(status))
        case None:
            return caller.sees(operation.vpcs)


def veiled(agent: Agent, view: OperationView) -> OperationView:
    """An operation as the caller may be told it."""
    return view if view.error is None else dataclasses.replace(view, error=veil(agent, view.error))


def shown_item(agent: Agent, item: Item) -> Item | None:
    """News as the caller may be told it, of the agent that ``for_caller`` gave; None: not at all."""
    return agent.shown_item(item) if isinstance(agent, Limited) else item


class Limited(LimitedHost):
    """See ``api.protocol.Agent``."""

    @property
    def news(self) -> News:
        """All news; ``shown_item`` says which are his."""
        return self._agent.news

    def shown_item(self, item: Item) -> Item | None:
        """News of a VM that was his when it happened, without what is not his; None: it was not."""
        if not self._caller.sees(item.vpcs):
            return None
        detail = {name: VEILED if self._foreign(str(value)) else value for name, value in item.detail.items()}
        return dataclasses.replace(item, detail=detail)

    # VMs

    def vm(self, vm: str) -> VmStatus:
        """One VM, if it is his."""
        status = self._agent.vm(vm)
        if not self._caller.sees(scope_of(status)):
            raise NotFound("vm", vm)
        return self._shown(status)

    def vms(self) -> Sequence[VmStatus]:
        """His VMs."""
        return tuple(self._shown(one) for one in self._agent.vms() if self._caller.sees(scope_of(one)))

    def _shown(self, status: VmStatus) -> VmStatus:
        if status.error and self._foreign(status.error):
            status = dataclasses.replace(status, error=VEILED)
        return dataclasses.replace(status, reason=VEILED) if self._foreign(status.reason) else status

    def put(
        self, spec: VmConfig, *, create_only: bool = False, confined: bool = False, watch: Watch | None = None
    ) -> PutResult:
        """Create or change a VM of his, in his VPCs alone, with volumes that nobody else ever had."""
        self._check(spec)
        return self._agent.put(spec, create_only=create_only, confined=True, watch=watch)

    def plan(self, spec: VmConfig, *, confined: bool = False) -> Plan:
        """What a put would do. Texts of a whole VPC are left out where they tell of what is not his: VMs, peerings."""
        self._check(spec)
        found = self._agent.plan(spec, confined=True)
        met = {
            vpc
            for one in self._agent.peers.all()
            if not self._caller.sees(one.peering.vpcs)
            for vpc in one.peering.vpcs
        }
        shared = met | {
            vpc for one in self._agent.vms() for vpc in scope_of(one) if not self._caller.sees(scope_of(one))
        }
        if shared.isdisjoint(spec.vpcs):
            return found
        return dataclasses.replace(
            found,
            nft=tuple(text for text in found.nft if text[0] not in shared),
            dnsmasq=tuple(text for text in found.dnsmasq if text[0] not in shared),
            steps=tuple(step for step in found.steps if not self._foreign(step)),
        )

    def _check(self, spec: VmConfig) -> None:
        check_networks(self._caller, spec)
        try:
            there = self._agent.vm(spec.id)
        except NotFound:
            return
        if not self._caller.sees(scope_of(there)):
            raise Conflict("the id is taken", path="id", hint="choose another id")

    def delete(self, vm: str, *, grace: float = 0, volumes: bool = False, watch: Watch | None = None) -> None:
        """Delete a VM of his."""
        self.vm(vm)
        self._agent.delete(vm, grace=grace, volumes=volumes, watch=watch)

    def power(self, vm: str, action: Action) -> VmStatus:
        """Act on a VM of his."""
        self.vm(vm)
        return self._shown(self._agent.power(vm, action))

    def look(self, vm: str) -> LookView:
        """Look at a VM of his."""
        self.vm(vm)
        found = self._agent.look(vm)
        return dataclasses.replace(found, status=self._shown(found.status))

    def settle(self, vm: str, how: Settling) -> VmStatus:
        """Settle a definition; what was made by hand on the host may have what is not his, so it is not his to do."""
        self._check_host()
        return self._agent.settle(vm, how)

    def rules(self, vm: str) -> FirewallView:
        """The rules of a VM of his."""
        self.vm(vm)
        return self._agent.rules(vm)

    def explain(self, flow: Flow, *, live: bool = False) -> Explained:
        """The way of a flow between VMs of his, and what of it is his to know."""
        for vm in (flow.origin, flow.target):
            if isinstance(vm, str) and vm != WORLD:
                self.vm(vm)
        if live and flow.origin == WORLD:
            self._check_host()
        found = self._agent.explain(flow, live=live)
        steps = tuple(map(self._shown_step, found.walk.steps))
        return Explained(dataclasses.replace(found.walk, steps=steps), found.live and self._shown_live(found.live))

    def _shown_step(self, step: Step) -> Step:
        """A step without what is not his."""
        if not self._foreign(f"{step.where} {step.text}"):
            return step
        return dataclasses.replace(step, where="", text=VEILED)

    def _shown_live(self, live: Live) -> Live:
        """What became of a packet, without the filters of the host."""
        text = VEILED if self._foreign(live.text) else live.text
        return dataclasses.replace(live, text=text, decider="", seen=())

    def domain_xml(self, vm: str) -> str:
        """The XML of a VM of his."""
        self.vm(vm)
        return self._agent.domain_xml(vm)

    def console_log(self, vm: str, tail: int) -> bytes:
        """The console of a VM of his."""
        self.vm(vm)
        return self._agent.console_log(vm, tail)

    def timeline(self, vm: str) -> Sequence[TimelineEntry]:
        """What happened to a VM while it was in his VPCs alone."""
        entries = tuple(self._entry(one) for one in self._agent.timeline(vm) if self._caller.sees(one.vpcs))
        if not entries:
            self.vm(vm)
        return entries

    def _entry(self, entry: TimelineEntry) -> TimelineEntry:
        """An entry without texts that name what is not his."""
        detail = {
            key: VEILED if isinstance(value, str) and self._foreign(value) else value
            for key, value in entry.detail.items()
        }
        return dataclasses.replace(entry, detail=detail)

    def qmp(self, vm: str, command: Qmp) -> object:
        """Ask the monitor of a VM of his."""
        self.vm(vm)
        return self._agent.qmp(vm, command)

    def hmp(self, vm: str, command: Hmp) -> str:
        """Ask the monitor of a VM of his."""
        self.vm(vm)
        return self._agent.hmp(vm, command)

    # networks

    def vpcs(self) -> Sequence[VpcView]:
        """His VPCs, with those of the VMs in them that are his."""
        mine = {one.spec.id for one in self.vms()}
        return tuple(narrow_vpc(one, mine, self._caller) for one in self._agent.vpcs() if self._caller.sees({one.name}))

    def vpc(self, name: str) -> VpcView:
        """One VPC of his."""
        if not self._caller.sees({name}):
            raise NotFound("vpc", name)
        mine = {one.spec.id for one in self.vms()}
        return narrow_vpc(self._agent.vpc(name), mine, self._caller)

    def put_vpc(self, vpc: str, config: VpcConfig) -> VpcView:
        """Want something of a VPC of his."""
        if not self._caller.sees({vpc}):
            hint = f"it is limited to {', '.join(sorted(self._caller.vpcs or ()))}"
            raise Forbidden("the token is not for this VPC", hint=hint)
        self._agent.put_vpc(vpc, config)
        return self.vpc(vpc)

    def delete_vpc(self, vpc: str) -> None:
        """Forget what was wanted of a VPC of his."""
        if not self._caller.sees({vpc}):
            raise NotFound("vpc", vpc)
        self._agent.delete_vpc(vpc)

    def ports(self, vm: str) -> Sequence[Publication]:
        """What is published of a VM of his."""
        self.vm(vm)
        return self._agent.ports(vm)

    def put_ports(
        self, vm: str, wish: tuple[Publication, ...], seen: Collection[str] | None = None
    ) -> Sequence[Publication]:
        """Publish ports of a VM of his. Which program of the host has a port he is not told."""
        self.vm(vm)
        return self._agent.put_ports(vm, wish, seen)

    def floating(self) -> Sequence[Floating]:
        """The floating addresses of VMs of his."""
        mine = {one.spec.id for one in self.vms()}
        return tuple(one for one in self._agent.floating() if one.vm in mine)

    def floating_address(self, address: str) -> Floating:
        """One of a VM of his."""
        for one in self.floating():
            if one.address == address:
                return one
        raise NotFound("floating address", address, listed="/v1/floating")

    def put_floating(self, wish: Floating) -> Floating:
        """The addresses of the host's network are the host's."""
        self._check_host()
        return self._agent.put_floating(wish)

    def delete_floating(self, address: str) -> None:
        """As ``put_floating``."""
        self._check_host()
        self._agent.delete_floating(address)

    def subnets(self) -> Sequence[SubnetView]:
        """The subnets of his VPCs."""
        mine = {one.spec.id for one in self.vms()}
        return tuple(narrow_subnet(one, mine) for one in self._agent.subnets() if self._caller.sees({one.vpc}))

    def subnet(self, name: str) -> SubnetView:
        """One subnet of his VPCs."""
        return named("subnet", self.subnets(), name)

    @property
    def peers(self) -> Peers:
        """The peerings of his VPCs."""
        return LimitedPeers(self._agent.peers, self._caller, lambda text: VEILED if self._foreign(text) else text)

    # errors

    def veil(self, error: LvagentError) -> LvagentError:
        """An error without what is not his: one whose text names it keeps its kind and place, and loses the text.

        Errors of other kinds tell of nothing but what he sent.
        """
        if not isinstance(error, Conflict | HostError):
            return error
        other = str(getattr(error, "other", ""))
        if not other.endswith(PROGRAM) and not any(map(self._foreign, (error.message, error.hint, other))):
            return error
        if isinstance(error, Conflict):
            hint = "choose another value there: what is in use elsewhere cannot be had"
            return Conflict(VEILED, path=error.path, hint=hint).in_phase(error.phase)
        if isinstance(error, Vanished):
            return Vanished("this", "do", VEILED).in_phase(error.phase)
        return HostError("this", "do", VEILED, hint="ask who runs the host").in_phase(error.phase)

    def _foreign(self, text: str) -> bool:
        """Whether a text names something that is there and is not his."""
        return any(self._is_foreign(name) for name in set(_NAMES.findall(text)))

    def _is_foreign(self, name: str) -> bool:
        if name.startswith("vpc-"):
            return not self._caller.sees({name})
        try:
            if name.startswith("subnet-"):
                return not self._caller.sees({self._agent.subnet(name).vpc})
            owner = names.tap_owner(name)
            return not self._caller.sees(scope_of(self._agent.vm(owner[0] if owner else name)))
        except NotFound:
            return False


def check_networks(caller: Caller, spec: VmConfig) -> None:
    """See that a spec stays in the VPCs of its caller. Decided by what he says and has alone, before anything is asked.

    :raise Forbidden: it does not.
    """
    for index, nic in enumerate(spec.networks):
        if not caller.sees({nic.netname}):
            hint = f"it is limited to {', '.join(sorted(caller.vpcs or ()))}"
            raise Forbidden("the token is not for this VPC", path=f"networks[{index}].netname", hint=hint)
    if not caller.sees(spec.vpcs):
        raise Forbidden("the token makes no VMs outside of VPCs", path="networks", hint="give it a network")
