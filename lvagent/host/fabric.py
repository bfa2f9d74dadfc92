"""The underlay side: per VNI a bridge and a VXLAN device, and the outer ends of the subnets' veths.

It stands in a namespace of its own without addresses, with IPv6 off and a filter that lets nothing in to or out of its
own stack; or, by setting, in the namespace that the agent runs in, behind a guard that looks at our links only. The
VXLAN device's underlay socket is in the latter in both cases.

The underlay side is shared by all VPCs, so whoever changes it holds a flock, also the hook working alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import HostError, Vanished
from lvagent.host import bridge_netfilter, files, links, netns, nft_read, sysctl
from lvagent.host.links import Link
from lvagent.host.netlink import Message
from lvagent.host.netspace import Netspace, open_named, translated
from lvagent.host.nft import without
from lvagent.plan.resources import Bridge, Fabric, Veth, Vxlan
from lvagent.render.elements import GUARD_SETS, Element
from lvagent.render.nft import base, base_digest, change
from lvagent.spec import names

log = logging.getLogger(__name__)

DOOMED_GROUP = names.LINK_GROUP + 1
"""Links that are being removed; they go in one step."""

_PREFIXES = ("vo-", "lvx", "lvb")


class FabricSide:
    """The underlay side of this host.

    :param root: opens the namespace in which the agent runs.
    """

    def __init__(self, settings: Settings, root: Callable[[], Netspace]) -> None:
        self._name = settings.fabric.netns
        self._path = f"{settings.paths.netns}/{self._name}" if self._name else ""
        self._lock = Path(settings.paths.run) / "fabric.lock"
        self._root = root
        self._open: Netspace | None = None
        self._opening = threading.Lock()
        self._template = "fabric.nft.j2" if self._name else "guard.nft.j2"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the underlay side; not to be taken twice."""
        with translated(str(self._lock), "lock"):
            files.folder(self._lock.parent)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the namespace."""
        self._open = None

    def space(self) -> Netspace | None:
        """The namespace of the underlay side, if there is one."""
        if not self._name:
            return self._root()
        with self._opening:
            inode = netns.inode(self._path) if netns.exists(self._path) else None
            if self._open is not None and self._open.inode != inode:
                self.close()
            if self._open is None and inode is not None:
                with translated(self._name, "enter"):
                    self._open = open_named(self._path)
            return self._open

    def needed(self) -> Netspace:
        """The namespace of the underlay side.

        :raise HostError: it is not there.
        """
        space = self.space()
        if space is None:
            raise Vanished(self._name, "use", "there is no such namespace", hint="it is made with the first VNI")
        return space

    def observe(self) -> Fabric | None:
        """The underlay side, if it is there with its guard."""
        space = self.space()
        guarded = space is not None and nft_read.table_comment(space.netfilter) == base_digest(self._template)
        return Fabric(self._name) if guarded else None

    def links(self) -> dict[str, Link]:
        """Our links on the underlay side, by name."""
        space = self.space()
        return {} if space is None else {name: link for name, link in space.links().items() if self._is_ours(link)}

    def present(self) -> Fabric | None:
        """The underlay side if there is anything of it, sound or not."""
        return Fabric(self._name) if os.path.lexists(self._path) else self.observe()

    def ensure(self) -> None:
        """Make the namespace, its sysctls and its guard."""
        bridge_netfilter.load()
        with self.locked(), translated(self._name or "the guard", "make"):
            if self._name:
                netns.create(self._path)
                self.needed().inside(lambda: sysctl.write(sysctl.FABRIC))
            space = self.needed()
            if nft_read.table_comment(space.netfilter) != base_digest(self._template):
                ours = [name for name, link in space.links().items() if self._is_ours(link)]
                guarded = nft_read.elements(space.netfilter, GUARD_SETS) | self._guarded(ours)
                space.nft.run(base(self._template) + change((), guarded), "the guard of the underlay side")

    def _guarded(self, there: Iterable[str]) -> frozenset[Element]:
        """The elements of the guard for these links of ours; none where all links are guarded."""
        if self._name:
            return frozenset()
        return frozenset(Element("links", (name,)) for name in there)

    def ensure_segments(self, bridges: Sequence[Bridge], devices: Sequence[Vxlan]) -> None:
        """Make the bridges and VXLAN devices of VNIs, guarded before they are up."""
        if not bridges and not devices:
            return
        with self.locked(), translated(_segments(bridges, devices), "make"):
            space = self.needed()
            there = self._ours(space, [*map(_bridge, bridges), *map(_vxlan, devices), *map(_bridge, devices)])
            self._recreate(space, there, devices)
            self._guard(space, map(_vxlan, devices))
            made = [_bridge(one) for one in bridges if _bridge(one) not in there]
            space.send(links.create_bridge(name, names.link_mac(name), names.LINK_GROUP) for name in made)
            self._root().send(self._create(space, one) for one in devices if _vxlan(one) not in there)
            self._quiet([*map(_bridge, bridges), *map(_vxlan, devices)])
            self._settle(space, bridges, devices)

    def _recreate(self, space: Netspace, there: dict[str, Link], devices: Sequence[Vxlan]) -> None:
        """Take away the devices that are other than wanted in what cannot be changed."""
        for one in devices:
            found = there.get(_vxlan(one))
            if found is not None and found.vxlan != (one.vni, one.local, one.port):
                space.send([links.delete(found.name)])
                del there[found.name]

    def _create(self, space: Netspace, one: Vxlan) -> Message:
        name = _vxlan(one)
        return links.create_vxlan(
            name,
            names.link_mac(name),
            names.LINK_GROUP,
            vni=one.vni,
            mtu=one.mtu,
            local=one.local,
            port=one.port,
            netns=space.descriptor,
        )

    def _settle(self, space: Netspace, bridges: Sequence[Bridge], devices: Sequence[Vxlan]) -> None:
        there = space.find({*map(_bridge, bridges), *map(_vxlan, devices), *map(_bridge, devices)})
        batch = [links.change(_bridge(one), mtu=one.mtu, alias=f"lvagent:{one.vni}", up=True) for one in bridges]
        for one in devices:
            name, master = _vxlan(one), there[_bridge(one)].index
            batch.append(links.change(name, mtu=one.mtu, alias=f"lvagent:{one.vni}", master=master))
            batch.append(links.port(there[name], learning=False, flood=True))
            batch.append(links.change(name, up=True))
        space.send(batch)

    def clear(self, subnets: Sequence[str]) -> None:
        """Before new veths are made: guard the names of their outer ends, and take away what a dead VPC left."""
        with self.locked(), translated(", ".join(subnets), "make the veth of"):
            space = self.needed()
            outer = [names.veth_outer(subnet) for subnet in subnets]
            space.send(links.delete(name) for name in self._ours(space, outer))
            self._guard(space, outer)

    def attach(self, veths: Sequence[Veth]) -> None:
        """Put the outer ends of veths into the bridges of their VNIs."""
        with self.locked(), translated(", ".join(one.subnet for one in veths), "attach the veth of"):
            space = self.needed()
            self._quiet([names.veth_outer(one.subnet) for one in veths])
            there = self._ours(space, {*map(_bridge, veths), *(names.veth_outer(one.subnet) for one in veths)})
            batch = []
            for one in veths:
                name = names.veth_outer(one.subnet)
                if _bridge(one) not in there:
                    raise HostError(_bridge(one), "use", "there is no bridge for this VNI")
                alias, master = f"lvagent:{one.subnet}", there[_bridge(one)].index
                batch.append(links.change(name, mtu=one.mtu, alias=alias, master=master))
                batch.append(links.port(there[name], learning=True, flood=True))
                batch.append(links.change(name, up=True))
            space.send(batch)

    def _ours(self, space: Netspace, wanted: Iterable[str]) -> dict[str, Link]:
        """Those of these links that are there.

        :raise HostError: one of them is a stranger's: in a shared namespace a link without our group is.
        """
        there = space.find(wanted)
        for link in there.values():
            if not self._name and link.group not in (names.LINK_GROUP, DOOMED_GROUP):
                hint = f"rename it, or have tenants' links in a namespace of their own (fabric.netns); {link.kind} link"
                raise HostError(link.name, "use", "a link of that name is there and is not ours", hint=hint)
        return there

    def _guard(self, space: Netspace, devices: Iterable[str]) -> None:
        added = self._guarded(devices) - (frozenset() if self._name else nft_read.elements(space.netfilter, GUARD_SETS))
        if added:
            space.nft.run(change((), added), "the guard of the underlay side")

    def _quiet(self, devices: Sequence[str]) -> None:
        """No IPv6 on links in a shared namespace; in our own it is off from the birth of a link."""
        if not self._name:
            sysctl.ipv6_off(*devices)

    def neighbours(self, outer: Iterable[str]) -> tuple[dict[str, Link], dict[int, Link], dict[str, Link]]:
        """What hangs on outer ends of veths: these by name, their bridges by index, and VXLAN devices by name."""
        space = self.space()
        if space is None:
            return {}, {}, {}
        ends = space.find(outer)
        masters = space.find_indexes({end.master for end in ends.values() if end.master})
        return ends, masters, space.find({one.name.replace("lvb", "lvx", 1) for one in masters.values()})

    def remove_links(self, unwanted: Sequence[str]) -> None:
        """Make sure that these links are not there; all go in one step."""
        space = self.space()
        if space is None or not unwanted:
            return
        with self.locked(), translated(", ".join(unwanted), "remove"):
            there = self._ours(space, unwanted)
            self._refuse_used(space, there)
            self._delete(space, there)
            gone = self._guarded(unwanted)
            if gone:
                space.nft.run(change(gone & nft_read.elements(space.netfilter, GUARD_SETS), ()), "the guard")

    def _refuse_used(self, space: Netspace, unwanted: dict[str, Link]) -> None:
        for link in unwanted.values():
            if link.kind == "bridge":
                left = sorted(set(space.ports(link.index)) - set(unwanted))
                if left:
                    raise HostError(link.name, "remove", f"{', '.join(left)} is a port of it")

    def remove(self) -> None:
        """Take the underlay side away, unless a subnet of some VPC still hangs on it."""
        with self.locked(), translated(self._name or "the guard", "remove"):
            space = self.space()
            if space is None:
                netns.delete(self._path)
                return
            ours = {name for name, link in space.links().items() if self._is_ours(link)}
            if any(name.startswith("vo-") for name in ours):
                log.info("the underlay side stays: %s", ", ".join(sorted(ours)))
                return
            self._delete(space, ours)
            self._forget(space)

    def _delete(self, space: Netspace, unwanted: Iterable[str]) -> None:
        """Delete links: by a group where all links are ours, one by one where they are not."""
        doomed = list(unwanted)
        if not self._name:
            space.send(links.delete(name) for name in doomed)
        elif doomed:
            space.send([*(links.regroup(name, DOOMED_GROUP) for name in doomed), links.delete_group(DOOMED_GROUP)])

    def _is_ours(self, link: Link) -> bool:
        return link.name.startswith(_PREFIXES) and link.group in (names.LINK_GROUP, DOOMED_GROUP)

    def _forget(self, space: Netspace) -> None:
        if self._name:
            self.close()
            netns.delete(self._path)
        elif nft_read.table_comment(space.netfilter) is not None:
            space.nft.run(without("bridge lvagent"), "the guard", "remove")


def _bridge(one: Bridge | Vxlan | Veth) -> str:
    return names.overlay_bridge(one.vni)


def _vxlan(one: Vxlan) -> str:
    return names.vxlan(one.vni)


def _segments(bridges: Sequence[Bridge], devices: Sequence[Vxlan]) -> str:
    numbers = {one.vni for one in bridges} | {one.vni for one in devices}
    return ", ".join(f"VNI {number}" for number in sorted(numbers))
