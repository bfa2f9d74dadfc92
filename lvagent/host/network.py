"""The network of one host: what there is of a VPC, made and taken away.

    underlay side (a namespace of its own)                 the VPC's namespace
    lvx<vni> - lvb<vni> - vo-<subnet> ================= vi-<subnet> - br-<subnet> - tap

The caller holds a lock per VPC; calls for different VPCs may come from several threads at once. The underlay side is
shared and has a lock of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.failpoints import point
from lvagent.host import bridge_netfilter, conntrack, kernel_filter, netns, peers, traffic
from lvagent.host.fabric import FabricSide
from lvagent.host.inward import InwardSide
from lvagent.host.links import Link
from lvagent.host.netspace import Netspace, translated
from lvagent.host.nft_read import Counted
from lvagent.host.probe import Prober, Seen
from lvagent.host.proxies import ProxySide
from lvagent.host.removal import InVpc, Removal, by_vpc, filters_of, of
from lvagent.host.router import RouterSide
from lvagent.host.uplinks import Uplinks
from lvagent.host.vpc import BROKEN, Observed, VpcSide
from lvagent.host.vpcs import VpcSides
from lvagent.plan.explain.probe import Probe
from lvagent.plan.resources import (
    Bridge,
    Fabric,
    Filter,
    Firewall,
    Inward,
    Netns,
    Peer,
    Plug,
    PortFilter,
    Proxy,
    Resource,
    Router,
    Ruleset,
    Subnet,
    Uplink,
    Veth,
    Vxlan,
)
from lvagent.plan.sessions import KeptFlow
from lvagent.plan.uplinks import Transit
from lvagent.render.nft import owner_of
from lvagent.spec import names
from lvagent.spec.metrics import Traffic


class Network:
    """Namespaces, links, filters and the place of taps.

    :param settings: ``fabric`` and ``paths`` are looked at. Nothing is touched yet.
    """

    def __init__(self, settings: Settings) -> None:
        self._guard = threading.Lock()
        self._root: Netspace | None = None
        self._limits = settings.filter
        self._rules: int | None = None
        self._shared = not settings.fabric.netns
        self._vpcs = VpcSides(settings.paths.netns, settings.filter)
        self._fabric = FabricSide(settings, self._here)
        self._uplinks = Uplinks(settings, self._here)
        self._prober = Prober(lambda netns: self._vpcs.needed(netns).space if netns else self._here())
        self._router = RouterSide(settings, self._here)
        self._inward = InwardSide(self._here, self._uplinks, self._router)
        self._proxies = ProxySide(Path(settings.paths.state), self._here, self._router.locked)

    def prepare(self) -> None:
        """Make the folder ready in which namespaces are named; the first time, try whether the kernel can filter.

        :raise HostError: it cannot.
        """
        with translated(self._vpcs.folder, "prepare"):
            netns.prepare(self._vpcs.folder)
        self._vpcs.tidy()
        if self._rules is None:
            bridge_netfilter.load()
            self._rules = kernel_filter.check(self._limits)

    def _here(self) -> Netspace:
        """The namespace in which the agent runs, and libvirt makes taps."""
        with self._guard:
            if self._root is None:
                self._root = Netspace("")
            return self._root

    def vpcs(self) -> frozenset[str]:
        """The VPCs that have a namespace, or an uplink; also one that a crash left half made."""
        return self._vpcs.names() | self._uplinks.vpcs()

    def fabric(self) -> frozenset[Resource]:
        """The underlay side and every segment on it, whether a VPC has a part in it or not; and the Router."""
        with translated("the underlay side", "read"):
            there = self._fabric.links()
            fabric = self._fabric.present()
            router = self._router.observe()
        found: set[Resource] = {one for one in (fabric, router) if one is not None}
        for link in there.values():
            if link.kind == "bridge":
                found |= _segment(link, there.get(names.vxlan(_vni(link))))
            elif link.kind == "vxlan":
                number, local, port = link.vxlan
                found.add(Vxlan(number, link.mtu if link.up else BROKEN, local, port))
        return frozenset(found)

    def misplaced(self) -> frozenset[str]:
        """Links of ours in the namespace that the agent runs in, where none stays: taps, and what a crash left."""
        with translated("the root namespace", "read"):
            there = self._here().links().values()
        known = [link for link in there if link.group == names.LINK_GROUP or names.tap_owner(link.name)]
        ours = {link.name for link in known if names.uplink_owner(link.name) is None}
        return frozenset(ours - self._fabric.links().keys() if ours and self._shared else ours)

    def taps(self, vpc: str) -> frozenset[str]:
        """The taps of ours in a VPC's namespace; none if there is no such namespace."""
        side = self._vpcs.find(vpc)
        with translated(vpc, "read"):
            return frozenset(side.taps()) if side is not None else frozenset()

    def observe(self, vpc: str) -> frozenset[Resource]:
        """What there is of a VPC, and the underlay side and the Router if there are.

        What is there and not as it should be is told with a value that nobody wants (an MTU of 0, an empty digest or
        MAC), so that it is made anew or removed.

        :raise HostError: it could not be read.
        """
        with translated(vpc, "read"):
            side = self._vpcs.find(vpc)
            shared = (self._fabric.observe(), self._router.observe())
            ways = (self._uplinks.observe(vpc, side), self._inward.observe(vpc, side))
            found: set[Resource] = {one for one in (*shared, *ways) if one is not None}
            found |= self._proxies.observe(vpc)
            if side is None:
                return frozenset(found | self._half_made(vpc))
            seen = side.observe()
            ruleset = seen.ruleset()
            found |= {Netns(vpc)} | (set() if ruleset is None else {ruleset})
            found |= seen.subnets() | seen.filters() | seen.plugs() | self._outside(vpc, seen)
            return frozenset(found | peers.observe(side, seen.links, seen.owned, self._vpcs.find))

    def _half_made(self, vpc: str) -> set[Resource]:
        """A name without a namespace, left by a crash: it is told, so that it can be removed."""
        return {Netns(vpc), Ruleset(vpc, "")} if os.path.lexists(self._vpcs.path(vpc)) else set()

    def _outside(self, vpc: str, seen: Observed) -> set[Resource]:
        """The veths of a VPC, and the segments on which they hang."""
        inner = seen.inner_ends()
        ends, masters, devices = self._fabric.neighbours(map(names.veth_outer, inner))
        found: set[Resource] = set()
        for subnet, end in inner.items():
            outer = ends.get(names.veth_outer(subnet))
            master = masters.get(outer.master) if outer else None
            sound = master is not None and _alike(end, outer) and seen.attached(subnet)
            found.add(Veth(vpc, subnet, _vni(master), end.mtu if sound else BROKEN))
        for master in masters.values():
            found |= _segment(master, devices.get(names.vxlan(_vni(master))))
        return found

    def ensure(self, resources: Sequence[Resource], without: Sequence[Filter] = ()) -> None:
        """Make these resources as they say, whatever is there: filters before links, links before taps.

        :param without: parts of filters that go, in the same transaction in which others come.
        :raise HostError: the first that could not be made; what was made before it stays.
        """
        if of(Fabric, resources):
            self._fabric.ensure()
        for router in of(Router, resources):
            self._router.ensure(router)
        mine = by_vpc(resources)
        gone = by_vpc(without)
        for vpc in mine.keys() | gone.keys():
            self._ensure_base(vpc, mine.get(vpc, []), filters_of(gone.get(vpc, [])))
        point("wires.based")
        self._fabric.ensure_segments(of(Bridge, resources), of(Vxlan, resources))
        point("wires.segments")
        for vpc, parts in mine.items():
            self._ensure_links(self._vpcs.needed(vpc), of(Subnet, parts), of(Veth, parts))
        point("wires.linked")
        for uplink in of(Uplink, resources):
            self._uplinks.ensure(uplink, self._vpcs.needed(uplink.vpc))
        self._ensure_peers({(one.vpc, one.other): one for one in of(Peer, resources)})
        for led in of(Inward, resources):
            self._inward.ensure(led, self._vpcs.needed(led.vpc))
        for proxy in of(Proxy, resources):
            self._proxies.ensure(proxy)
        for plug in of(Plug, resources):
            side = self._vpcs.needed(plug.vpc)
            side.plug(plug, side.bound_mac(plug.tap), self._here())

    def _ensure_base(self, vpc: str, parts: Sequence[InVpc], gone: Sequence[Filter]) -> None:
        """Namespace and filter. A Ruleset that comes alone also puts right the namespace around it."""
        base = bool(of(Ruleset, parts))
        if base or of(Netns, parts):
            bridge_netfilter.load()
            side = self._vpcs.create(vpc)
        else:
            side = self._vpcs.needed(vpc)
        wanted = [*of(Subnet, parts), *filters_of(parts)]
        without = [owner_of(one) for one in gone]
        with translated(vpc, "filter"):
            if base:
                side.filter.ensure_base(wanted, without)
                side.count_flows()
            elif wanted or without:
                side.filter.put(wanted, without)

    def _ensure_links(self, side: VpcSide, subnets: Sequence[Subnet], veths: Sequence[Veth]) -> None:
        if not subnets and not veths:
            return
        if veths:
            self._separate(side, [one.subnet for one in veths])
        side.ensure_links(subnets, veths, self._fabric.needed() if veths else None)
        if veths:
            self._fabric.attach(veths)

    def _ensure_peers(self, ends: Mapping[tuple[str, str], Peer]) -> None:
        """Make links between VPCs, each by its two ends."""
        for (vpc, other), one in sorted(ends.items()):
            opposite = ends.get((other, vpc))
            if opposite is None:
                raise HostError(f"the peering of {vpc} and {other}", "make", "its other end is not wanted")
            if vpc < other:
                peers.ensure(one, opposite, self._vpcs.needed(vpc), self._vpcs.needed(other))

    def _separate(self, side: VpcSide, subnets: Sequence[str]) -> None:
        """Take away ends of veths that do not belong together, so that whole ones can be made."""
        with translated(", ".join(subnets), "look at the veth of"):
            self._fabric.needed()
            inner = side.space.find(map(names.veth_inner, subnets))
            outer, _, _ = self._fabric.neighbours(map(names.veth_outer, subnets))
        apart = [
            subnet
            for subnet in subnets
            if not _paired(inner.get(names.veth_inner(subnet)), outer.get(names.veth_outer(subnet)))
        ]
        side.remove_links([name for name in map(names.veth_inner, apart) if name in inner])
        self._fabric.clear(apart)

    def plug(self, filters: Sequence[PortFilter | Firewall], plug: Plug) -> None:
        """Bind a port and put its tap into its place: the filter first, then the tap, then up.

        :param filters: the port's, and its VM's.
        :raise HostError: there is no such tap, or its place is not there.
        """
        side = self._vpcs.needed(plug.vpc)
        with translated(plug.tap, "filter"):
            side.filter.put(filters)
        side.plug(plug, side.bound_mac(plug.tap), self._here())

    def answerer(self, link: str, address: str) -> str:
        """The MAC that answers for an address on a link of the host; '' if none does."""
        return self._proxies.answerer(link, address)

    def transits(self) -> dict[str, Transit]:
        """The addresses of the uplinks that are there, by VPC."""
        return self._uplinks.transits()

    def trouble(self) -> tuple[str, ...]:
        """What of others on this host is in the way of uplinks, as it was when last looked at."""
        return self._router.trouble

    def unreached(self) -> tuple[str, ...]:
        """What of others is in the way to floating addresses and routed prefixes alone, by the last look."""
        return self._router.unreached

    def mend_router(self, router: Router) -> bool:
        """Bring back what root has for uplinks if somebody changed it; whether that was so."""
        return self._router.mend(router)

    def look(self) -> None:
        """Look whether something of others on this host is in the way of uplinks. Never raises."""
        self._router.look()

    def probe(self, probe: Probe) -> Seen:
        """Send a packet, and see what becomes of it; see ``host.probe``."""
        return self._prober.send(probe)

    def flows(self, vpc: str, most: int) -> list[KeptFlow]:
        """The flows that a VPC's namespace keeps, at most so many; none if there is no such namespace."""
        side = self._vpcs.find(vpc)
        with translated(vpc, "list the flows of"):
            return side.space.inside(lambda: conntrack.kept(most)) if side is not None else []

    def room(self, vpc: str) -> tuple[int, int]:
        """How many flows a VPC's namespace keeps, and how many it may; 0: that is not known."""
        side = self._vpcs.find(vpc)
        with translated(vpc, "count the flows of"):
            return conntrack.room(side.space.netfilter) if side is not None else (0, 0)

    def carried(self, vpc: str) -> dict[str, Traffic]:
        """What each link in a VPC's namespace has carried; ``vpc`` empty: in root."""
        side = self._vpcs.find(vpc) if vpc else None
        with translated(vpc or "the root namespace", "count what links carried in"):
            space = (side.space if side is not None else None) if vpc else self._here()
            return traffic.carried(space.route) if space is not None else {}

    def counted(self, vpc: str) -> list[Counted]:
        """What the rules of the VMs in a VPC have counted; nothing if there is no such namespace."""
        side = self._vpcs.find(vpc)
        with translated(vpc, "count in"):
            return side.filter.counted() if side is not None else []

    def mend(self, vpc: str) -> None:
        """Bring back rules of a VPC's base that somebody took out of its tables; ``ensure`` brings back all else.

        Not looked for at other times: it is as much work as all else that is observed.
        """
        side = self._vpcs.find(vpc)
        if side is not None and self._rules is not None:
            with translated(vpc, "mend the filter of"):
                side.filter.mend(self._rules)

    def remove(self, resources: Sequence[Resource]) -> None:
        """Make sure that these resources are not there. Goes on after an error.

        A namespace, a filter, a subnet or its veth with a tap in it stays: a running VM would lose its network. The
        underlay side stays as long as a subnet of some VPC hangs on it.

        :raise HostError: all that could not be removed.
        """
        Removal(self._vpcs, self._fabric, self._uplinks, self._inward, self._proxies, self._router, resources).run()

    def close(self) -> None:
        """Let go of all namespaces; they stay as they are."""
        self._vpcs.close()
        self._fabric.close()
        with self._guard:
            self._root = None


def _paired(inner: Link | None, outer: Link | None) -> bool:
    """Whether two links are the two ends of one veth."""
    if inner is None or outer is None:
        return False
    return (inner.peer, outer.peer) == (outer.index, inner.index)


def _alike(inner: Link, outer: Link | None) -> bool:
    return outer is not None and _paired(inner, outer) and outer.up and inner.mtu == outer.mtu


def _vni(bridge: Link | None) -> int:
    """The VNI of a bridge on the underlay side (0: it is none of ours)."""
    number = bridge.name.removeprefix("lvb") if bridge else ""
    return int(number) if number.isascii() and number.isdecimal() else 0


def _segment(bridge: Link, device: Link | None) -> set[Resource]:
    """A bridge of a VNI and its VXLAN device, as they are."""
    vni = _vni(bridge)
    found: set[Resource] = {Bridge(vni, bridge.mtu if bridge.up else BROKEN)}
    if device is not None:
        number, local, port = device.vxlan
        sound = device.up and device.master == bridge.index and number == vni
        found.add(Vxlan(vni, device.mtu if sound else BROKEN, local, port))
    return found
