"""An agent in memory: the whole Protocol, with VMs that are only values."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Collection, Sequence

from lvagent.agent.news import News
from lvagent.agent.tally import Tally
from lvagent.api.protocol import Agent, Watch
from lvagent.errors import Conflict, MonitorError, NotFound, Superseded, Unavailable
from lvagent.plan.explain.facts import Facts
from lvagent.plan.explain.walk import explain
from lvagent.plan.firewall import directed
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.flow import WORLD, Explained, Flow, Live
from lvagent.spec.metrics import HostMetrics, Metrics, VmMetrics, VpcMetrics
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.peerings import Peering, Peerings, PeeringState, PeeringView, peering
from lvagent.spec.publications import Floating, Publication, digest, implied
from lvagent.spec.status import (
    Action,
    Drift,
    FirewallView,
    ImageView,
    LookView,
    Outcome,
    PhaseTime,
    Place,
    Plan,
    PortView,
    ProcessView,
    PutResult,
    Readiness,
    RuleView,
    Settling,
    State,
    SubnetView,
    TimelineEntry,
    UplinkView,
    VmStatus,
    VpcView,
)
from lvagent.spec.strays import LooseObject, Sort, StraysView, StrayView, SweepView
from lvagent.spec.vm import Network, VmConfig
from lvagent.spec.vpc import DEFAULT, UplinkMode, VpcConfig

TIMES = (PhaseTime("check", 0.1), PhaseTime("define", 4.0), PhaseTime("wire", 8.5), PhaseTime("start", 500.25))
NOW = "2026-11-23T21:45:00.000Z"
PROCESS = ProcessView(4242, "running", NOW)

STRAY = StrayView(
    pid=4711, identity="123456", sort=Sort.NOBODY, why="libvirt does not know it", state="running",
    program="/usr/bin/qemu-system-x86_64", age=61.5, uid=0, parent=1, parent_name="init", arguments=("qemu", "-S"),
    sockets=("/run/mon.sock",), disks=("/v/a.qcow2",), taps=(), sweeps=2,
)  # fmt: skip


class FakePeers:
    """Peerings that are only values; those of ``taken`` VPCs overlap with everything."""

    def __init__(self) -> None:
        self.there: dict[Peering, PeeringView] = {}
        self.taken: set[str] = set()

    def put(self, one: str, other: str) -> tuple[bool, PeeringView]:
        wish = peering(one, other)
        if self.taken & set(wish.vpcs):
            raise Conflict("10.0.0.0/24 overlaps 10.0.0.0/24", other=one, hint="choose disjoint ones")
        new = wish not in self.there
        self.there[wish] = PeeringView(wish, PeeringState.WAITING, f"there is no VM in {wish.a}", ("10.0.0.0/24",), ())
        return new, self.there[wish]

    def delete(self, one: str, other: str) -> None:
        del self.there[self.one(one, other).peering]

    def one(self, one: str, other: str) -> PeeringView:
        wish = peering(one, other)
        if wish not in self.there:
            raise NotFound("peering", str(wish))
        return self.there[wish]

    def all(self) -> Sequence[PeeringView]:
        return tuple(self.there[wish] for wish in sorted(self.there))


def _port(vm: str, nic: Network) -> PortView:
    return PortView(
        position=nic.position,
        tap=names.tap(vm, nic.position),
        mac=nic.mac,
        vpc=nic.netname,
        subnet=nic.subnetname,
        mtu=1450,
        addresses=tuple(str(address) for address in (nic.ipv4, nic.ipv6) if address),
        dns=f"{vm}.vpc.internal" if nic.position == 0 else None,
    )


def _status(spec: VmConfig, revision: int) -> VmStatus:
    return VmStatus(
        spec=spec,
        state=State.RUNNING,
        reason="booted",
        wanted="running",
        revision=revision,
        changed_at=NOW,
        process=PROCESS,
        ports=tuple(_port(spec.id, nic) for nic in spec.networks),
        drift=(),
        timings=TIMES,
        error=None,
        observed_at=NOW,
        stale=False,
    )


class FakeAgent:
    """Serves calls from many threads.

    ``gate``: while it is not set, what changes something waits. ``failure``: raised by the next change instead.
    ``news`` are closed: a stream of them ends after what it begins with; ``follow`` makes such as go on.
    ``arrives``: what a probe does.
    ``calls`` has what changed something, in its order; ``ready`` is what readiness says.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._vms: dict[str, VmStatus] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.calls: list[tuple[str, str]] = []
        self.ready = True
        self.floats: dict[str, Floating] = {}
        self.configs: dict[str, VpcConfig] = {}
        self.console = b"login: "
        self.files: set[str] = set()
        self.told: dict[str, tuple[TimelineEntry, ...]] = {}
        self.held = ""
        self.peers = FakePeers()
        self.tally = Tally()
        self.arrives = True
        self.stray_processes = {STRAY.pid: STRAY}
        self.news = News(self._scope)
        self.news.close()

    def follow(self) -> News:
        """News that streams go on with."""
        self.news = News(self._scope)
        return self.news

    def _scope(self, vm: str) -> tuple[str, ...]:
        found = self._vms.get(vm)
        return () if found is None else found.spec.vpcs

    def _enter(self, what: str, vm: str) -> None:
        with self._lock:
            self.calls.append((what, vm))
        assert self.gate.wait(60), "the test left the gate shut"
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def _watched(self, watch: Watch | None) -> None:
        for phase in TIMES:
            if watch is not None:
                watch(phase)

    def put(
        self, spec: VmConfig, *, create_only: bool = False, confined: bool = False, watch: Watch | None = None
    ) -> PutResult:
        self._enter("put", spec.id)
        with self._lock:
            old = self._vms.get(spec.id)
            if confined:
                self._confine(spec, old)
            self._check_addresses(spec)
            if old is not None and old.spec == spec:
                return PutResult(Outcome.UNCHANGED, old)
            if old is not None and create_only:
                raise Conflict(f"{spec.id} exists with another spec", path="id", other=spec.id, hint="PUT changes it")
            self._watched(watch)
            status = _status(spec, 1 if old is None else old.revision + 1)
            drift = ("memory_mb",) if old is not None and old.spec.memory_mb != spec.memory_mb else ()
            details = tuple(Drift(path, spec.memory_mb, old and old.spec.memory_mb, Place.GUEST) for path in drift)
            self._vms[spec.id] = dataclasses.replace(status, drift=drift, drift_details=details)
            self.files |= {volume.path for volume in spec.volumes}
            outcome = Outcome.CREATED if old is None else Outcome.CHANGED
            return PutResult(outcome, self._vms[spec.id], drift)

    def _confine(self, spec: VmConfig, old: VmStatus | None) -> None:
        own = set() if old is None else {volume.path for volume in old.spec.volumes}
        for volume in spec.volumes:
            if volume.path in self.files and volume.path not in own:
                raise Conflict(f"{volume.path} is there already", path="volumes[0].path")

    def _check_addresses(self, spec: VmConfig) -> None:
        for other in self._vms.values():
            for index, nic in enumerate(spec.networks):
                taken = [(one.netname, one.ipv4) for one in other.spec.networks]
                if other.spec.id != spec.id and nic.ipv4 and (nic.netname, nic.ipv4) in taken:
                    path = f"networks[{index}].ipv4"
                    raise Conflict(f"{nic.ipv4} is used by {other.spec.id}", path=path, other=other.spec.id)

    def delete(self, vm: str, *, grace: float = 0, volumes: bool = False, watch: Watch | None = None) -> None:
        self._enter(f"delete grace={grace:g} volumes={volumes}", vm)
        with self._lock:
            self.vm(vm)
            self._watched(watch)
            del self._vms[vm]

    def power(self, vm: str, action: Action) -> VmStatus:
        self._enter(action.value, vm)
        states = {Action.STOP: State.STOPPED, Action.PAUSE: State.PAUSED}
        with self._lock:
            old = self.vm(vm)
            state = states.get(action, State.RUNNING)
            if action is Action.RESUME and old.state is not State.PAUSED:
                raise Conflict(f"{vm} is {old.state}: it cannot resume", other=vm, hint="it must be paused")
            process = None if state is State.STOPPED else PROCESS
            self._vms[vm] = dataclasses.replace(old, state=state, process=process)
            return self._vms[vm]

    def settle(self, vm: str, how: Settling) -> VmStatus:
        self._enter(how.value, vm)
        with self._lock:
            self._vms[vm] = dataclasses.replace(self.vm(vm), drift=(), drift_details=())
            return self._vms[vm]

    def vm(self, vm: str) -> VmStatus:
        with self._lock:
            if vm not in self._vms:
                raise NotFound("vm", vm)
            return self._vms[vm]

    def vms(self) -> Sequence[VmStatus]:
        with self._lock:
            return tuple(self._vms[vm] for vm in sorted(self._vms))

    def look(self, vm: str) -> LookView:
        status = self.vm(vm)
        if status.process is None:
            return LookView(status, (status.state, status.reason), None, None)
        return LookView(status, (status.state, status.reason), ("running", True), None)

    def rules(self, vm: str) -> FirewallView:
        spec = self.vm(vm).spec
        seen = tuple(RuleView(directed(rule, spec), 3, 180, "2026-01-01T00:00:00.000+00:00") for rule in spec.rules)
        more = tuple(RuleView(rule, 0, 0, None, implied=True) for rule in implied(self.vm(vm).published, {4, 6}))
        return FirewallView(vm, (*seen, *more), (7, 420), (0, 0))

    def explain(self, flow: Flow, *, live: bool = False) -> Explained:
        if live:
            self._enter("explain", flow.origin)
        vms = {status.spec.id: status.spec for status in self.vms()}
        for vm in (flow.origin, flow.target):
            if isinstance(vm, str) and vm != WORLD:
                self.vm(vm)
        policy = Policy("", 1500, "", 4789, "vpc.internal", (), "r")
        walk = explain(flow, Facts(vms, frozenset(vms), policy, peerings=Peerings(self.peers.there)))
        seen = ("root: ip filter FORWARD",)
        found = Live(True, self.arrives, self.arrives == walk.allowed, f"{flow.target} has it", "root: x drop", seen)
        return Explained(walk, found if live else None)

    def domain_xml(self, vm: str) -> str:
        return f"<domain><name>{self.vm(vm).spec.id}</name></domain>"

    def console_log(self, vm: str, tail: int) -> bytes:
        self.vm(vm)
        return self.console[-tail:]

    def _running(self, vm: str) -> VmStatus:
        status = self.vm(vm)
        if status.state is State.STOPPED:
            raise Conflict(f"{vm} does not run: it has no monitor", other=vm, hint="start it")
        return status

    def qmp(self, vm: str, command: Qmp) -> object:
        status = self._running(vm)
        if command.execute == "query-status":
            return {"status": status.state.value, "running": status.state is State.RUNNING}
        if command.execute == "human-monitor-command":
            return self.hmp(vm, Hmp(str((command.arguments or {}).get("command-line"))))
        raise MonitorError("CommandNotFound", f"The command {command.execute} has not been found")

    def hmp(self, vm: str, command: Hmp) -> str:
        status = self._running(vm)
        return f"VM status: {status.state}\r\n" if command.command == "info status" else "unknown command\r\n"

    def vpcs(self) -> Sequence[VpcView]:
        subnets = self.subnets()
        return tuple(
            VpcView(
                name=vpc,
                netns=vpc,
                domain="vpc.internal",
                subnets=tuple(subnet for subnet in subnets if subnet.vpc == vpc),
                vms=tuple(status.spec.id for status in self.vms() if vpc in status.spec.vpcs),
                settings=self.configs.get(vpc, DEFAULT),
                uplink=self._uplink(vpc),
                peers=Peerings(self.peers.there).of(vpc),
            )
            for vpc in sorted({*(subnet.vpc for subnet in subnets), *self.configs})
        )

    def _uplink(self, vpc: str) -> UplinkView:
        mode = self.configs.get(vpc, DEFAULT).uplink or UplinkMode.NONE
        if mode is UplinkMode.NONE:
            return UplinkView("none")
        trouble = ("table ip filter, chain FORWARD: policy drop (Docker)",)
        return UplinkView(mode.value, 1500, "198.19.0.3", "198.19.0.2", trouble=trouble)

    def put_vpc(self, vpc: str, config: VpcConfig) -> VpcView:
        self._enter("put_vpc", vpc)
        self.configs[vpc] = config
        return self.vpc(vpc)

    def delete_vpc(self, vpc: str) -> None:
        self.vpc(vpc)
        self._enter("delete_vpc", vpc)
        self.configs.pop(vpc, None)

    def vpc(self, name: str) -> VpcView:
        for view in self.vpcs():
            if view.name == name:
                return view
        raise NotFound("vpc", name)

    def ports(self, vm: str) -> Sequence[Publication]:
        return self.vm(vm).published

    def put_ports(
        self, vm: str, wish: tuple[Publication, ...], seen: Collection[str] | None = None
    ) -> Sequence[Publication]:
        if seen is not None and digest(self.ports(vm)) not in seen:
            raise Superseded(f"If-Match: other ports of {vm} are published by now")
        self._enter("put_ports", vm)
        for one in wish:
            for other in self.vms():
                if other.spec.id != vm and any(one.meets(taken) for taken in other.published):
                    raise Conflict(f"{one} leads to {other.spec.id}", path="[0].host_port", other=other.spec.id)
            if one.first == 22:
                raise Conflict("tcp port 22 of the host is sshd (pid 7)'s", path="[0].host_port", other="sshd (pid 7)")
        self._vms[vm] = dataclasses.replace(self._vms[vm], published=wish)
        return wish

    def floating(self) -> Sequence[Floating]:
        return tuple(self.floats[address] for address in sorted(self.floats))

    def floating_address(self, address: str) -> Floating:
        if address not in self.floats:
            raise NotFound("floating address", address, listed="/v1/floating")
        return self.floats[address]

    def put_floating(self, wish: Floating) -> Floating:
        self.vm(wish.vm)
        self._enter("put_floating", wish.vm)
        if wish.address == "192.0.2.66":
            raise Conflict(
                "02:00:00:00:00:01 answers for 192.0.2.66 on eth0", path="address", other="02:00:00:00:00:01"
            )
        self.floats[wish.address] = wish
        mine = tuple(one.address for one in self.floating() if one.vm == wish.vm)
        self._vms[wish.vm] = dataclasses.replace(self._vms[wish.vm], floating=mine)
        return wish

    def delete_floating(self, address: str) -> None:
        self.floating_address(address)
        self._enter("delete_floating", address)
        del self.floats[address]

    def subnets(self) -> Sequence[SubnetView]:
        found: dict[str, SubnetView] = {}
        for status in self.vms():
            for nic in status.spec.networks:
                before = found[nic.subnetname].vms if nic.subnetname in found else ()
                found[nic.subnetname] = SubnetView(
                    name=nic.subnetname,
                    vpc=nic.netname,
                    vxlanid=nic.vxlanid,
                    gateway_v4=None if nic.gateway_v4 is None else f"{nic.gateway_v4}/24",
                    gateway_v6=None if nic.gateway_v6 is None else f"{nic.gateway_v6}/64",
                    mtu=1450,
                    vms=(*before, status.spec.id),
                )
        return tuple(found[name] for name in sorted(found))

    def subnet(self, name: str) -> SubnetView:
        for view in self.subnets():
            if view.name == name:
                return view
        raise NotFound("subnet", name)

    def plan(self, spec: VmConfig, *, confined: bool = False) -> Plan:
        if confined:
            self._confine(spec, self._vms.get(spec.id))
        texts = tuple((vpc, f"# of {vpc}\n") for vpc in spec.vpcs)
        outcome = Outcome.CREATED if spec.id not in self._vms else Outcome.UNCHANGED
        return Plan(outcome, f"<domain><name>{spec.id}</name></domain>", texts, texts, ("make netns", "start"))

    def images(self) -> Sequence[ImageView]:
        return (ImageView("debian", 2 << 30, 400 << 20), ImageView("tiny", 64 << 20, 21 << 20))

    def timeline(self, vm: str) -> Sequence[TimelineEntry]:
        found = self.told.get(vm, ())
        if not found:
            self.vm(vm)
        return found

    def metrics(self) -> Metrics:
        host = HostMetrics(
            ready=self.ready, stale_since=None, swept_at=None, swept_seconds=None, held=bool(self.held),
            strays=len(self.stray_processes), news=self.news.told, streams=self.news.waiting, slots=10, slots_used=0,
            floating=len(self.floats), process=None, counted=self.tally.counted(0),
        )  # fmt: skip
        vms = (
            VmMetrics(one.spec.id, one.spec.vpcs, one.state, one.wanted, one.spec.memory_mb << 20, one.spec.cpus)
            for one in self.vms()
        )
        vpcs = (VpcMetrics(one.name, one.uplink.mode, up=True, flows=7) for one in self.vpcs())
        return Metrics(0.0, host, tuple(vpcs), tuple(vms), tuple(self.peers.all()))

    def strays(self) -> StraysView:
        loose = (LooseObject("volume", "/v/old.qcow2", "no VM has it"),)
        return StraysView("report", 3, tuple(self.stray_processes.values()), loose)

    def kill_stray(self, pid: int, identity: str) -> StrayView:
        self._enter("kill", str(pid))
        if pid not in self.stray_processes:
            raise NotFound("stray", str(pid))
        if self.stray_processes[pid].identity != identity:
            raise Conflict(f"{pid} is another process by now", path="identity")
        return self.stray_processes.pop(pid)

    def sweep_now(self, *, force: bool) -> SweepView:
        self._enter(f"sweep force={force}", "")
        if not self.ready:
            raise Unavailable("a sweep", hint="libvirt cannot be read")
        return SweepView("" if force else self.held)

    def readiness(self) -> Readiness:
        checks = (("libvirt", "ok" if self.ready else "cannot be read"), ("first sweep", "ok"))
        return Readiness(self.ready, checks)

    def waits_for(self, count: int, seconds: float = 30) -> None:
        """Wait until so many changes have reached the agent."""
        deadline = time.monotonic() + seconds
        while len(self.calls) < count:
            assert time.monotonic() < deadline, self.calls
            time.sleep(0.005)


AGENT: type[Agent] = FakeAgent
