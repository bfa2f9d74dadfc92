"""The ways out of VPCs: the veth from root to a VPC's namespace, with its addresses, routes and table.

    root: ux-<vpc>  198.19.0.2/31 ================= ui-<vpc>  198.19.0.3/31, default via 198.19.0.2  :the VPC

Closed first: the VPC's table stands before the link is up, and root's before there is one. Which slot of the pools an
uplink gets is settled under a lock that the hook working alone takes too; from then on the addresses in root say it, so
there is nothing to remember.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Interface
from pathlib import Path

from lvagent.config import Settings
from lvagent.config_uplink import Net, nets
from lvagent.errors import HostError
from lvagent.failpoints import point
from lvagent.host import files, links, nft_read, routes, sysctl
from lvagent.host.links import Address, Link
from lvagent.host.netlink import Message
from lvagent.host.netspace import Netspace, translated
from lvagent.host.nft import without
from lvagent.host.nft_read import INET
from lvagent.host.routes import Route
from lvagent.host.vpc import BROKEN, VpcSide
from lvagent.plan.resources import Uplink
from lvagent.plan.uplinks import Transit, allocate, slot_of, transit
from lvagent.render.uplinks import TABLE
from lvagent.spec import names
from lvagent.spec.addresses import within

DEFAULT_V4, DEFAULT_V6 = routes.DEFAULTS


class Uplinks:
    """The uplinks of this host.

    :param root: opens the namespace in which the agent runs.
    """

    def __init__(self, settings: Settings, root: Callable[[], Netspace]) -> None:
        self._root = root
        self._lock = Path(settings.paths.run) / "uplinks.lock"
        pools = nets((settings.uplink.pool_v4, settings.uplink.pool_v6))
        self.pools: tuple[Net, ...] = pools if settings.uplink.ipv6 != "none" else pools[:1]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with translated(str(self._lock), "lock"), files.flocked(self._lock):
            yield

    # what is there

    def slots(self) -> dict[str, int]:
        """The slots of the pools that are in use, by VPC, as their links in root have them."""
        with translated("the root namespace", "read"):
            space = self._root()
            outer = {one.index: vpc for one in space.links().values() if (vpc := _owner(one))}
            addresses = space.addresses() if outer else {}
        found = {vpc: self._slot(addresses.get(index, frozenset())) for index, vpc in outer.items()}
        return {vpc: slot for vpc, slot in found.items() if slot is not None}

    def _slot(self, addresses: Iterable[Address]) -> int | None:
        found = (slot_of(one, self.pools) for one in sorted(addresses, key=str))
        return next((slot for slot in found if slot), None)

    def transits(self) -> dict[str, Transit]:
        """The addresses of the uplinks that are there, by VPC."""
        return {vpc: transit(slot, self.pools) for vpc, slot in self.slots().items()}

    def vpcs(self) -> frozenset[str]:
        """The VPCs that have the end of an uplink in root."""
        with translated("the root namespace", "read"):
            return frozenset(vpc for one in self._root().links().values() if (vpc := _owner(one)))

    def observe(self, vpc: str, side: VpcSide | None) -> Uplink | None:
        """The uplink of a VPC, if there is anything of it; if it is not sound, with an MTU that nobody wants."""
        with translated(f"the uplink of {vpc}", "read"):
            outer = self._outer(vpc)
            inner = None if side is None else side.space.find([_inner(vpc)]).get(_inner(vpc))
            digest = None if side is None else nft_read.table_comment(side.space.netfilter, INET, TABLE)
            if outer is None and inner is None and digest is None:
                return None
            if side is None or outer is None or inner is None or digest is None:
                return Uplink(vpc, BROKEN, False, (), digest or "")
            return self._told(vpc, outer, inner, side, digest)

    def _told(self, vpc: str, outer: Link, inner: Link, side: VpcSide, digest: str) -> Uplink:
        root = self._root()
        here, there = (space.addresses().get(link.index, frozenset()) for space, link in self._ends(side, outer, inner))
        slot = self._slot(here)
        ours = [one for one in root.routes(outer.index) if one.protocol == routes.OURS]
        ipv6 = any(isinstance(one, IPv6Interface) for one in here)
        ends = None if slot is None else transit(slot, self.pools)
        sound = (
            ends is not None
            and _paired(inner, outer)
            and inner.up
            and outer.up
            and inner.mtu == outer.mtu
            and (here, there) == (_outer_addresses(vpc, ends), _inner_addresses(vpc, ends))
            and _defaults(ends, inner) <= side.space.routes(inner.index)
            and {one.gateway for one in ours} <= {str(one.ip) for one in (ends.vpc_v4, ends.vpc_v6) if one}
            and root.inside(lambda: sysctl.holds(_vital(outer.name, ipv6=ipv6)))
        )
        told = sorted((one.net for one in ours), key=lambda net: (net.version, int(net.network_address), net.prefixlen))
        return Uplink(vpc, outer.mtu if sound else BROKEN, ipv6, tuple(told), digest)

    def _ends(self, side: VpcSide, outer: Link, inner: Link) -> tuple[tuple[Netspace, Link], tuple[Netspace, Link]]:
        return (self._root(), outer), (side.space, inner)

    def _outer(self, vpc: str) -> Link | None:
        """The end in root, if it is ours."""
        link = self._root().find([_name(vpc)]).get(_name(vpc))
        return link if link is not None and _owner(link) else None

    # what is made

    def ensure(self, one: Uplink, side: VpcSide) -> None:
        """Make the uplink as it says, whatever is there of it.

        :raise Conflict: no slot of the pools is free.
        :raise HostError: a stranger's link or route is in the way; what was made before stays.
        """
        vpc = one.vpc
        with self._locked(), translated(f"the uplink of {vpc}", "make"):
            if nft_read.table_comment(side.space.netfilter, INET, TABLE) != one.digest:
                side.space.nft.run(one.text, f"the uplink of {vpc}", "translate for")
            point("uplink.closed")
            self._separate(vpc, side)
            slot = self._settle(vpc)
            self._check_routes(one)
            self._link(one, side)
            point("uplink.linked")
            self._address(one, side, transit(slot, self.pools))
            point("uplink.addressed")
            self._route(one, side, transit(slot, self.pools))

    def _separate(self, vpc: str, side: VpcSide) -> None:
        """Take away ends that do not belong together; a stranger's link of that name is in the way."""
        outer = self._root().find([_name(vpc)]).get(_name(vpc))
        if outer is not None and _owner(outer) is None:
            hint = f"rename it; it is a {outer.kind or 'hardware'} link"
            raise HostError(outer.name, "use", "a link of that name is there and is not ours", hint=hint)
        inner = side.space.find([_inner(vpc)]).get(_inner(vpc))
        if outer is None or inner is None or not _paired(inner, outer):
            if outer is not None:
                self._root().send([links.delete(outer.name)])
            if inner is not None:
                side.space.send([links.delete(inner.name)])

    def _settle(self, vpc: str) -> int:
        """The slot of a VPC: the one that it has, or one that is free."""
        there = self.slots()
        taken = {slot for other, slot in there.items() if other != vpc}
        if vpc in there and there[vpc] not in taken:
            return there[vpc]
        self._check_pools()
        return allocate(vpc, taken, self.pools)

    def _check_pools(self) -> None:
        """Refuse a pool that this host has a way to: its addresses are somebody's."""
        mine = {link.index for link in self._root().links().values() if _owner(link)}
        for route in self._foreign():
            for pool in self.pools:
                if pool.version == route.net.version and pool.overlaps(route.net) and route.link not in mine:
                    hint = f"give another net in the settings: uplink.pool_v{pool.version}"
                    raise HostError(f"the pool {pool}", "use", f"this host has a route to {route.net}", hint=hint)

    def _foreign(self) -> list[Route]:
        found = self._root().routes()
        plain = (
            one for one in found if one.kind == routes.RTN_UNICAST and one.net.prefixlen and one.protocol != routes.OURS
        )
        return sorted(plain, key=lambda one: str(one.net))

    def _check_routes(self, one: Uplink) -> None:
        """Refuse prefixes that this host already has a way to."""
        for route in self._foreign() if one.routes else ():
            for net in one.routes:
                if within(route.net, net) and not route.net.is_link_local:
                    hint = "another prefix, or nat; ip route shows it"
                    raise HostError(f"{net} to {one.vpc}", "route", f"this host has a route to {route.net}", hint=hint)

    def _link(self, one: Uplink, side: VpcSide) -> None:
        """The veth, down, its ends quiet."""
        outer, inner = _name(one.vpc), _inner(one.vpc)
        if side.space.find([inner]).get(inner) is None:
            side.space.send(
                [
                    links.create_veth(
                        inner,
                        names.link_mac(inner),
                        names.LINK_GROUP,
                        index=_index(one.vpc),
                        mtu=one.mtu,
                        peer=outer,
                        peer_mac=names.link_mac(outer),
                        netns=self._root().descriptor,
                    )
                ]
            )
        self._root().inside(lambda: sysctl.write(sysctl.uplink_outer(outer, ipv6=one.ipv6)))
        side.space.inside(lambda: sysctl.ipv6_on(inner) if one.ipv6 else sysctl.ipv6_off(inner))

    def _address(self, one: Uplink, side: VpcSide, ends: Transit) -> None:
        """Addresses, MTU, up; first the end in the VPC, where the strict reverse path is the kernel's."""
        wanted = (
            (side.space, _inner(one.vpc), _inner_addresses(one.vpc, ends)),
            (self._root(), _name(one.vpc), _outer_addresses(one.vpc, ends)),
        )
        for space, name, addresses in wanted:
            link = space.find([name])[name]
            there = space.addresses().get(link.index, frozenset())
            alias = f"lvagent:{one.vpc}"
            batch: list[Message] = [links.change(name, mtu=one.mtu, alias=alias)]
            batch += [links.delete_address(link, each) for each in sorted(there - addresses, key=str)]
            batch += [links.add_address(link, each) for each in sorted(addresses - there, key=str)]
            space.send([*batch, links.change(name, up=True)])

    def _route(self, one: Uplink, side: VpcSide, ends: Transit) -> None:
        """The way out of the VPC, and the prefixes that root routes to it."""
        inner = side.space.find([_inner(one.vpc)])[_inner(one.vpc)]
        side.space.send(routes.add(each) for each in sorted(_defaults(ends, inner), key=lambda route: str(route.net)))
        root = self._root()
        outer = root.find([_name(one.vpc)])[_name(one.vpc)]
        gateways = {4: ends.vpc_v4, 6: ends.vpc_v6}
        wanted = {
            Route(net, str(gateway.ip), outer.index)
            for net in one.routes
            if (gateway := gateways[net.version]) is not None
        }
        there = {each for each in root.routes(outer.index) if each.protocol == routes.OURS}
        root.send(routes.delete(each) for each in sorted(there - wanted, key=lambda route: str(route.net)))
        root.send(routes.add(each) for each in sorted(wanted - there, key=lambda route: str(route.net)))

    def remove(self, vpc: str, side: VpcSide | None) -> None:
        """Make sure that a VPC has no uplink: the link goes with its addresses and routes, then the table."""
        with self._locked(), translated(f"the uplink of {vpc}", "remove"):
            if self._outer(vpc) is not None:
                self._root().send([links.delete(_name(vpc))])
            point("uplink.removed")
            if side is None:
                return
            side.space.send([links.delete(_inner(vpc))])
            if nft_read.table_comment(side.space.netfilter, INET, TABLE) is not None:
                side.space.nft.run(without(f"inet {TABLE}"), f"the uplink of {vpc}", "remove")


def _owner(link: Link) -> str | None:
    """The VPC whose uplink's end in root a link is."""
    return names.uplink_owner(link.name) if link.group == names.LINK_GROUP else None


def _name(vpc: str) -> str:
    return names.uplink_outer(vpc)


def _inner(vpc: str) -> str:
    return names.uplink_inner(vpc)


def _index(vpc: str) -> int:
    """The index of an uplink's end in the VPC: far from those that the kernel gives, hence from its other end's."""
    return 1 << 29 | int.from_bytes(hashlib.blake2b(vpc.encode(), digest_size=3).digest(), "big")


def _paired(inner: Link, outer: Link) -> bool:
    return (inner.peer, outer.peer) == (outer.index, inner.index)


def _vital(device: str, *, ipv6: bool) -> dict[str, int]:
    wanted = sysctl.uplink_outer(device, ipv6=ipv6)
    return {name: wanted[name] for name in (form.format(device) for form in sysctl.UPLINK_VITAL)}


def _local(device: str) -> IPv6Interface:
    """The link-local address that neighbour discovery is done with."""
    return IPv6Interface(f"{names.link_local(names.link_mac(device))}/64")


def _outer_addresses(vpc: str, ends: Transit) -> frozenset[Address]:
    return frozenset((ends.host_v4, ends.host_v6, _local(_name(vpc))) if ends.host_v6 else (ends.host_v4,))


def _inner_addresses(vpc: str, ends: Transit) -> frozenset[Address]:
    return frozenset((ends.vpc_v4, ends.vpc_v6, _local(_inner(vpc))) if ends.vpc_v6 else (ends.vpc_v4,))


def _defaults(ends: Transit, inner: Link) -> set[Route]:
    found = {Route(DEFAULT_V4, str(ends.host_v4.ip), inner.index)}
    return found | ({Route(DEFAULT_V6, str(ends.host_v6.ip), inner.index)} if ends.host_v6 else set())
