"""A host in memory: small, complete, and able to fail at any step.

``Breaker`` counts the calls that change something and raises at the one it is told to; ``FakeHost.state()`` is all that
exists, as one value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from lxml import etree

from lvagent.agent.configs import FloatWishes, Kept, PortWishes, VpcConfigs
from lvagent.agent.core import Agent, Parts
from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.news import News
from lvagent.agent.tidings import Reporter
from lvagent.agent.timeline import Timeline
from lvagent.config import Settings
from lvagent.errors import Conflict, HostError, NotFound, SpecError
from lvagent.host.libvirt import DomainRecord, DomainState, slot_of
from lvagent.host.listeners import Listener
from lvagent.host.nft_read import Counted
from lvagent.host.probe import Seen
from lvagent.host.volumes import Judged
from lvagent.plan import diff
from lvagent.plan.explain.probe import Probe
from lvagent.plan.resources import (
    Bridge,
    Dhcp,
    Fabric,
    Filter,
    Firewall,
    Metadata,
    Netns,
    Plug,
    PortFilter,
    Resource,
    Router,
    Uplink,
    Vxlan,
)
from lvagent.plan.sessions import KeptFlow
from lvagent.plan.uplinks import Transit, transit
from lvagent.plan.wanted import Policy
from lvagent.render.domain import DomainOptions
from lvagent.render.element import find_element
from lvagent.spec.claims import Below
from lvagent.spec.metrics import Traffic
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.status import ImageView, State
from lvagent.spec.strays import Process, Running
from lvagent.spec.vm import Volume


@dataclass
class Breaker:
    """Raises at the call number ``at`` (from 1), for ever after if ``lasting``; -1: never. ``refuse``: at each."""

    at: int = -1
    refuse: str = ""
    lasting: bool = False
    calls: int = 0
    names: list[str] = field(default_factory=list)

    def arm(self, at: int, *, lasting: bool = False) -> None:
        """Fail at this step from now on; -1: at none."""
        self.at, self.lasting, self.calls, self.names = at, lasting, 0, []

    def step(self, name: str) -> None:
        self.calls += 1
        self.names.append(name)
        if name == self.refuse or self.calls == self.at or (self.lasting and -1 < self.at <= self.calls):
            raise HostError(name, "do", "told to fail")


OFF = DomainState(State.STOPPED, "", active=False)
ON = DomainState(State.RUNNING, "booted", active=True)


@dataclass
class _Domain:
    config: str
    live: str | None = None
    state: DomainState = OFF
    persistent: bool = True


class FakeDomains:
    """libvirt's part. ``hook`` is called while a domain starts, as libvirt calls the real one; ``ended`` when its qemu
    has ended.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.found: dict[str, _Domain] = {}
        self.kept: dict[str, dict[int, bytes]] = {}
        self.pids: dict[str, int] = {}
        self.strangers: list[Running] = []
        self.hook: Callable[[str, str], None] = lambda _vm, _xml: None
        self.ended: Callable[[str], None] = lambda _vm: None

    def _get(self, vm: str) -> _Domain:
        if vm not in self.found:
            raise NotFound("vm", vm)
        return self.found[vm]

    def records(self) -> tuple[DomainRecord, ...]:
        return tuple(record for vm in sorted(self.found) if (record := self.record(vm)))

    def record(self, vm: str) -> DomainRecord | None:
        one = self.found.get(vm)
        return None if one is None else DomainRecord(vm, one.state, one.config, one.live, one.persistent)

    def running(self) -> tuple[Running, ...]:
        active = [vm for vm, one in sorted(self.found.items()) if one.state.active]
        ours = tuple(Running(vm, f"uuid-{vm}", self.pids.get(vm), ours=False) for vm in active)
        return (*ours, *self.strangers)

    def emulators(self) -> frozenset[str]:
        return frozenset({"/usr/bin/qemu-system-x86_64"})

    def state(self, vm: str) -> DomainState:
        return self._get(vm).state

    def xml(self, vm: str) -> str:
        one = self._get(vm)
        return one.live or one.config

    def define(self, vm: str, xml: str) -> None:
        self._breaker.step("define")
        if vm in self.found:
            self.found[vm].config = xml
        else:
            self.found[vm] = _Domain(xml)

    def undefine(self, vm: str) -> None:
        self._breaker.step("undefine")
        if vm in self.found and self.found[vm].state.active:
            self.found[vm].persistent = False
        else:
            self.found.pop(vm, None)

    def set_element(self, vm: str, element: str, *, config: bool, live: bool) -> None:
        self._breaker.step("set_element")
        one = self._get(vm)
        if config and one.persistent:
            one.config = _swap(one.config, element)
        if live and one.live is not None:
            one.live = _swap(one.live, element)

    def start(self, vm: str) -> None:
        self._breaker.step("start")
        one = self._get(vm)
        if not one.state.active:
            self.hook(vm, one.config)
            one.live, one.state = one.config, ON

    def destroy(self, vm: str) -> None:
        self._breaker.step("destroy")
        if vm in self.found:
            self.found[vm].live, self.found[vm].state = None, OFF
            self.ended(vm)
            if not self.found[vm].persistent:
                del self.found[vm]

    def end(self, vm: str, state: State, reason: str) -> None:
        """Its qemu ended, and nobody of us did it."""
        self.found[vm].live, self.found[vm].state = None, DomainState(state, reason, active=False)
        self.ended(vm)

    def shutdown(self, vm: str) -> None:
        self.destroy(vm)

    def reboot(self, vm: str) -> None:
        self._breaker.step("reboot")

    def reset(self, vm: str) -> None:
        self._breaker.step("reset")

    def suspend(self, vm: str) -> None:
        self._breaker.step("suspend")
        self._get(vm).state = DomainState(State.PAUSED, "paused by user", active=True)

    def resume(self, vm: str) -> None:
        self._breaker.step("resume")
        self._get(vm).state = ON

    def set_secret(self, vm: str, value: bytes, revision: int) -> None:
        self._breaker.step("set_secret")
        self.kept.setdefault(vm, {})[revision] = value

    def secret(self, vm: str, revision: int) -> bytes | None:
        kept = self.kept.get(vm)
        return kept[slot_of(kept, revision)] if kept else None

    def drop_secret(self, vm: str, but: int | None = None) -> None:
        self._breaker.step("drop_secret")
        kept = self.kept.pop(vm, {})
        if but is not None and kept:
            slot = slot_of(kept, but)
            self.kept[vm] = {slot: kept[slot]}

    def secrets(self) -> dict[str, tuple[int, ...]]:
        return {vm: tuple(sorted(kept)) for vm, kept in self.kept.items()}

    def close(self) -> None:
        self.found = dict(self.found)


def _swap(xml: str, element: str) -> str:
    old = find_element(xml)
    assert old is not None
    head, tail = xml.split("<metadata>")[0], xml.split("</metadata>")[1]
    return f"{head}<metadata>{element}</metadata>{tail}"


def _canonical(xml: str) -> bytes:
    """The same XML in one form, as libvirt would write it."""
    if not xml:
        return b""
    tree = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    return etree.tostring(tree, method="c14n")


class FakeMonitors:
    """The monitors of the domains that run."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.closed = False

    def qmp(self, vm: str, command: Qmp) -> object:
        self.asked.append((vm, command.execute))
        return {"status": "running"}

    def hmp(self, vm: str, command: Hmp) -> str:
        self.asked.append((vm, command.command))
        return "VM status: running\r\n"

    def close(self) -> None:
        self.closed = True


class FakeVolumes:
    """The volume folders: a set of paths, some of which stand on others; a hostile one is refused."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.paths: set[str] = set()
        self.backing: dict[str, str] = {}
        self.hostile: set[str] = set()

    def there(self, path: str, at: str) -> bool:
        return path in self.paths

    def check(self, volumes: Sequence[Volume]) -> Judged:
        below = []
        for number, volume in enumerate(volumes):
            at = f"volumes[{number}].path"
            if volume.path in self.hostile:
                raise SpecError(at, "the file is encrypted")
            if volume.path in self.backing:
                below.append(Below(self.backing[volume.path], at))
        return Judged(tuple(volume.path for volume in volumes if volume.path not in self.paths), tuple(below))

    def make(self, vm: str, volume: Volume) -> None:
        self._breaker.step("make volume")
        self.paths.add(volume.path)

    def remove(self, vm: str, paths: Sequence[str]) -> None:
        self._breaker.step("remove volumes")
        self.paths -= set(paths)

    def images(self) -> tuple[ImageView, ...]:
        return ()

    def files(self) -> tuple[str, ...]:
        return tuple(sorted(self.paths))


class FakeProcesses:
    """The qemu processes: values; those that were ended are noted with how."""

    def __init__(self) -> None:
        self.there: dict[int, Process] = {}
        self.ended: list[tuple[int, str]] = []

    def qemus(self, emulators: Iterable[str]) -> tuple[Process, ...]:
        return tuple(self.there[pid] for pid in sorted(self.there))

    def alive(self, pid: int) -> bool:
        return pid in self.there and not self.there[pid].zombie

    def end(self, process: Process, *, softly: bool, go_on: Callable[[], bool]) -> str:
        if self.there.get(process.pid) != process:
            raise Conflict(f"{process.pid} is another process by now, or none")
        self.ended.append((process.pid, "softly" if softly else "hard"))
        del self.there[process.pid]
        return "ended by SIGTERM"


class FakeWires:
    """Namespaces, links, filters: a set of resources."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.there: set[Resource] = set()
        self.prepared = False
        self.mended: list[str] = []
        self.in_root: set[str] = set()
        self.counters: dict[str, list[Counted]] = {}
        self.when_counted: Callable[[str], None] = lambda _vpc: None
        """What happens when a sweep has done all else with a VPC."""
        self.troubles: tuple[str, ...] = ()
        self.traffic: dict[str, dict[str, Traffic]] = {}
        self.when_carried: Callable[[str], None] = lambda _vpc: None
        self.unreachable: tuple[str, ...] = ()
        self.kept_flows: dict[str, list[KeptFlow]] = {}
        self.probes: list[Probe] = []
        self.seen = Seen(True, "it gets there", "", ("a chain",))
        self.looks = 0
        self.answering: dict[str, str] = {}

    def observe(self, vpc: str) -> frozenset[Resource]:
        return frozenset(one for one in self.there if getattr(one, "vpc", vpc) == vpc and self._of(one, vpc))

    def _of(self, one: Resource, vpc: str) -> bool:
        if hasattr(one, "vpc") or isinstance(one, Fabric | Router):
            return True
        vnis = {getattr(other, "vni", None) for other in self.there if getattr(other, "vpc", None) == vpc}
        return getattr(one, "vni", None) in vnis

    def vpcs(self) -> frozenset[str]:
        return frozenset(one.vpc for one in self.there if isinstance(one, Netns))

    def prepare(self) -> None:
        self.prepared = True

    def fabric(self) -> frozenset[Resource]:
        return frozenset(one for one in self.there if isinstance(one, Fabric | Router | Bridge | Vxlan))

    def taps(self, vpc: str) -> frozenset[str]:
        return frozenset(one.tap for one in self.there if isinstance(one, Plug) and one.vpc == vpc)

    def ensure(self, resources: Sequence[Resource], without: Sequence[Filter] = ()) -> None:
        for gone in without:
            self._breaker.step(f"drop {type(gone).__name__}")
            self.there.discard(gone)
        for one in resources:
            self._breaker.step(f"ensure {type(one).__name__}")
            self.there = {other for other in self.there if diff.identity(other) != diff.identity(one)} | {one}

    def remove(self, resources: Sequence[Resource]) -> None:
        for one in resources:
            self._breaker.step(f"remove {type(one).__name__}")
            self.there.discard(one)

    def plug(self, filters: Sequence[PortFilter | Firewall], plug: Plug) -> None:
        self._breaker.step("plug")
        for one in (*filters, plug):
            self.there = {other for other in self.there if diff.identity(other) != diff.identity(one)} | {one}

    def misplaced(self) -> frozenset[str]:
        return frozenset(self.in_root)

    def mend(self, vpc: str) -> None:
        self.mended.append(vpc)

    def trouble(self) -> tuple[str, ...]:
        return self.troubles

    def unreached(self) -> tuple[str, ...]:
        return self.unreachable

    def look(self) -> None:
        self.looks += 1

    def mend_router(self, router: Router) -> bool:
        self.looks += 1
        if router in self.there:
            return False
        self.ensure([router])
        return True

    def answerer(self, link: str, address: str) -> str:
        return self.answering.get(address, "")

    def transits(self) -> dict[str, Transit]:
        ways = (one.vpc for one in self.there if isinstance(one, Uplink))
        return {vpc: transit(slot, POOLS) for slot, vpc in enumerate(sorted(ways), 1)}

    def flows(self, vpc: str, most: int) -> list[KeptFlow]:
        return self.kept_flows.get(vpc, [])[:most]

    def probe(self, probe: Probe) -> Seen:
        self.probes.append(probe)
        return self.seen

    def room(self, vpc: str) -> tuple[int, int]:
        return len(self.kept_flows.get(vpc, [])), 1 << 18

    def carried(self, vpc: str) -> dict[str, Traffic]:
        self.when_carried(vpc)
        return dict(self.traffic.get(vpc, {}))

    def counted(self, vpc: str) -> list[Counted]:
        self.when_counted(vpc)
        return self.counters.get(vpc, [])

    def unplug(self, vm: str) -> None:
        """What the kernel does when qemu ends."""
        self.there = {one for one in self.there if not (isinstance(one, Plug) and one.tap.startswith(f"t{vm[2:]}"))}

    def close(self) -> None:
        self.there = set(self.there)


class FakeDhcp:
    """The dnsmasqs."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.served: dict[str, Dhcp] = {}
        self.forgotten: list[tuple[str, str]] = []
        self.leases: dict[str, float] = {}

    def observe(self, vpc: str) -> Dhcp | None:
        return self.served.get(vpc)

    def ensure(self, wanted: Dhcp) -> None:
        self._breaker.step("ensure Dhcp")
        self.served[wanted.vpc] = wanted

    def leased(self, vpc: str) -> dict[str, float]:
        return dict(self.leases) if vpc in self.served else {}

    def forget(self, vpc: str, vm: str) -> None:
        self.forgotten.append((vpc, vm))

    def remove(self, vpc: str) -> None:
        self._breaker.step("remove Dhcp")
        self.served.pop(vpc, None)

    def vpcs(self) -> frozenset[str]:
        return frozenset(self.served)


class FakeMetadata:
    """The metadata service."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.served: dict[str, Metadata] = {}
        self.started = False
        self.requests: dict[str, tuple[int, int]] = {}

    def asked(self, vpc: str) -> dict[str, tuple[int, int]]:
        return dict(self.requests) if vpc in self.served else {}

    def ready(self) -> None:
        self.started = True

    def digest(self, wanted: Metadata) -> str:
        return repr(wanted)

    def observe(self, vpc: str) -> str | None:
        return repr(self.served[vpc]) if vpc in self.served else None

    def ensure(self, wanted: Metadata) -> None:
        self._breaker.step("ensure Metadata")
        self.served[wanted.vpc] = wanted

    def remove(self, vpc: str) -> None:
        self._breaker.step("remove Metadata")
        self.served.pop(vpc, None)

    def vpcs(self) -> dict[str, int]:
        return dict.fromkeys(self.served, 1)


class FakePages:
    """Timelines in memory, as JSON has them."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    def append(self, vm: str, line: Mapping[str, object]) -> None:
        self.lines.setdefault(vm, []).append(json.dumps(line))

    def read(self, vm: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines.get(vm, [])]

    def tidy(self, there: Iterable[str]) -> None:
        self.lines = dict(self.lines)


class FakeKept:
    """Wishes in files."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.documents: dict[str, Mapping[str, object]] = {}

    def keys(self) -> frozenset[str]:
        return frozenset(self.documents)

    def write(self, key: str, document: Mapping[str, object]) -> None:
        self._breaker.step("write wish")
        self.documents[key] = document

    def remove(self, key: str) -> None:
        self._breaker.step("remove wish")
        self.documents.pop(key, None)


POOLS = (ip_network("198.19.0.0/16"), ip_network("fd6c:76a1:93d0:1::/112"))
POLICY = Policy(
    fabric="lvfabric", underlay_mtu=1500, local="192.0.2.10", port=4789, domain="vpc.internal", forwarders=(),
    ruleset="r1",
)  # fmt: skip


class FakeHost:
    """All the parts, and agents on them; a new agent is what a restart brings.

    ``now``: what the clock says, in seconds. ``going_down``: whether the host is about to stop.
    """

    def __init__(self, locks: Path) -> None:
        self.breaker = Breaker()
        self.domains = FakeDomains(self.breaker)
        self.monitors = FakeMonitors()
        self.volumes = FakeVolumes(self.breaker)
        self.wires = FakeWires(self.breaker)
        self.dhcp = FakeDhcp(self.breaker)
        self.metadata = FakeMetadata(self.breaker)
        self.processes = FakeProcesses()
        self.peerings = FakeKept(self.breaker)
        self.domains.ended = self.wires.unplug
        self.pages = FakePages()
        self.console = b""
        self.policy = POLICY
        self.wishes: Kept | None = None
        self.ports: Kept | None = None
        self.floats: Kept | None = None
        self.listeners: tuple[Listener, ...] = ()
        self._locks = locks
        self.now = 1000.0
        self.going_down = False

    def agent(self, *, boot_id: str = "boot-1", sweep: bool = True, settings: Settings | None = None) -> Agent:
        news = News(lambda vm: index.vpcs_of(vm))
        index = Index(Reporter(news))
        configs = VpcConfigs(self.wishes)
        networks = Networks(
            index,
            self.wires,
            self.dhcp,
            self.metadata,
            self.policy,
            self._locks,
            configs,
            ports=PortWishes(self.ports),
            floating=FloatWishes(self.floats),
        )
        options = DomainOptions(accel="qemu", emulator="/usr/bin/qemu-system-x86_64")
        timeline = Timeline(self.pages, lambda _vm, count: self.console[-count:])
        made = Agent(
            Parts(
                index,
                self.domains,
                self.monitors,
                self.volumes,
                networks,
                options,
                boot_id,
                news,
                timeline,
                self.processes,
                settings or Settings(),
                going_down=lambda: self.going_down,
                clock=lambda: self.now,
                peerings=self.peerings,
                listeners=lambda: self.listeners,
                holder=lambda inode: f"program (pid {inode})",
            )
        )
        self.domains.hook = lambda vm, xml: made.plugger.start(vm, xml, lambda: True)
        if sweep:
            assert made.sweep()
        return made

    def state(self) -> dict[str, object]:
        """All that exists, but for taps (they go with qemu)."""
        return {
            "domains": {
                vm: (_canonical(one.config), _canonical(one.live or ""), one.state)
                for vm, one in sorted(self.domains.found.items())
            },
            "secrets": {vm: dict(kept) for vm, kept in self.domains.kept.items()},
            "volumes": set(self.volumes.paths),
            "wires": {one for one in self.wires.there if not isinstance(one, Plug)},
            "dhcp": dict(self.dhcp.served),
            "metadata": dict(self.metadata.served),
            "peerings": set(self.peerings.documents),
        }
