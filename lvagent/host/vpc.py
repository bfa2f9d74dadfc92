"""One VPC's namespace: its base, its subnets' bridges, its ports; made, observed, taken away.

Every function brings something to what is wanted whatever was there before. The order is always the same: the filter
first, then links that are down, their sysctls, and at last what makes them carry frames.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface

from lvagent.config import FilterSettings
from lvagent.errors import HostError, Vanished
from lvagent.host import links, sysctl
from lvagent.host.filters import VpcFilter
from lvagent.host.links import Address, Link
from lvagent.host.netlink import Message
from lvagent.host.netspace import Netspace, translated
from lvagent.plan.resources import Filter, Plug, Ruleset, Subnet, Veth
from lvagent.render.elements import EXTRAS
from lvagent.render.firewall import extras_of, firewalls, group_of
from lvagent.render.nft import gateway_elements, port_filters
from lvagent.spec import names

METADATA: frozenset[Address] = frozenset({IPv4Interface(names.METADATA_V4), IPv6Interface(names.METADATA_V6)})
"""The addresses on ``lo`` of each VPC, where guests find the metadata service."""

BROKEN = 0
"""The MTU told of a link that is not as it should be; nobody wants it, so it is made anew."""


class VpcSide:
    """The namespace of one VPC, open.

    :param vpc: its name.
    :param limits: what one guest may take of what all share.
    """

    def __init__(self, vpc: str, space: Netspace, limits: FilterSettings) -> None:
        self.vpc = vpc
        self.space = space
        self.filter = VpcFilter(vpc, space, limits)

    def ensure_base(self) -> None:
        """The sysctls, and ``lo`` up with the metadata addresses."""
        with translated(self.vpc, "prepare"):
            self.space.inside(lambda: sysctl.write(sysctl.VPC))
            loopback = self.space.find(["lo"])["lo"]
            addresses = sorted(METADATA, key=str)
            self.space.send([links.change("lo", up=True), *(links.add_address(loopback, each) for each in addresses)])

    def count_flows(self) -> None:
        """Have conntrack count the bytes of flows, now that it is there; a kernel that cannot tells 0."""
        with contextlib.suppress(OSError):
            self.space.inside(lambda: sysctl.write(sysctl.COUNTING))

    def ensure_links(self, subnets: Sequence[Subnet], veths: Sequence[Veth], fabric: Netspace | None) -> None:
        """The bridges of subnets with their gateways, and the inner ends of veths.

        :param fabric: where the outer ends shall be; needed with veths.
        """
        with translated(f"{self.vpc} {', '.join(one.name for one in subnets)}".strip(), "wire"):
            there = self.space.links()
            batch = [_new_bridge(one) for one in subnets if _bridge(one.name) not in there]
            if fabric is not None:
                absent = [one for one in veths if names.veth_inner(one.subnet) not in there]
                batch += [_new_veth(one, fabric.descriptor) for one in absent]
            self.space.send(batch)
            bridges = [_bridge(one.name) for one in subnets]
            if bridges:
                self.space.inside(lambda: sysctl.ipv6_on(*bridges))
            self._settle(subnets, veths)

    def _settle(self, subnets: Sequence[Subnet], veths: Sequence[Veth]) -> None:
        there = self.space.links()
        addresses = self.space.addresses() if subnets else {}
        batch: list[Message] = []
        for one in subnets:
            batch += _bridge_up(there[_bridge(one.name)], one, addresses)
        for veth in veths:
            batch += _port_up(there, veth)
        self.space.send(batch)

    def plug(self, plug: Plug, mac: str, root: Netspace) -> None:
        """Put a tap into its place: out of ``root`` if it is still there.

        :param mac: the MAC of the guest's NIC; frames for it go to this port, and for no unknown one.
        :raise HostError: there is no such tap, no such bridge, or a link of that name is no tap.
        """
        with translated(plug.tap, "plug"):
            found = self.space.find([plug.tap, _bridge(plug.subnet)])
            bridge = found.get(_bridge(plug.subnet))
            if bridge is None:
                raise HostError(plug.tap, "plug", f"{plug.vpc} has no {plug.subnet}")
            if plug.tap not in found:
                self._fetch(plug, bridge, root)
                found = self.space.find([plug.tap])
            tap = found.get(plug.tap)
            if tap is None:
                raise Vanished(plug.tap, "plug", "its tap has just gone", hint="its qemu has ended")
            self.space.send(
                [
                    links.change(plug.tap, mtu=plug.mtu, master=bridge.index),
                    links.port(tap, learning=True, flood=False),
                    links.forward(tap, mac),
                    links.change(plug.tap, up=True),
                ]
            )

    def bound_mac(self, tap: str) -> str:
        """The MAC to which the filter binds a port.

        :raise HostError: to none: a port without a filter must not come up.
        """
        with translated(tap, "plug"):
            known = self.filter.remembered()
        vm = (names.tap_owner(tap) or ("", 0))[0]
        walls = firewalls(self.vpc, [(vm, known.get(vm, frozenset()))])
        bound = port_filters(self.vpc, {tap: known.get(tap, frozenset())})
        macs = [port.mac for port in bound if port.mac]
        if macs and any(tap in wall.taps for wall in walls):
            return macs[0]
        raise HostError(tap, "plug", "its port has no filter", hint="give its filter first")

    def _fetch(self, plug: Plug, bridge: Link, root: Netspace) -> None:
        tap = root.find([plug.tap]).get(plug.tap)
        if tap is None:
            raise Vanished(plug.tap, "plug", "there is no such tap", hint="libvirt makes it when the VM starts")
        if tap.kind != "tun":
            raise HostError(plug.tap, "plug", f"a {tap.kind or 'hardware'} link has the name of a tap of ours")
        root.send([links.move(plug.tap, netns=self.space.descriptor, mtu=plug.mtu, master=bridge.index)])

    def taps(self) -> dict[str, str]:
        """The taps in this namespace, each with the bridge that it is in ('' if in none)."""
        there = self.space.links()
        by_index = {link.index: link.name for link in there.values()}
        return {name: by_index.get(link.master, "") for name, link in there.items() if names.tap_owner(name)}

    def remove_links(self, unwanted: Sequence[str]) -> None:
        """Make sure that these links are not there."""
        with translated(f"{self.vpc} {', '.join(unwanted)}", "remove"):
            self.space.send(links.delete(name) for name in unwanted)

    def observe(self) -> Observed:
        """What is there, read now."""
        return Observed(self)


class Observed:
    """A look at a VPC's namespace: links, addresses and filter, read together.

    ``links``: by name. ``owned``: the pieces of the filter, by owner.
    """

    def __init__(self, side: VpcSide) -> None:
        self._vpc = side.vpc
        self.links = side.space.links()
        self._addresses = side.space.addresses()
        self.owned = side.filter.read()
        self._digest = side.filter.digest()
        vital = {name: sysctl.VPC[name] for name in sysctl.VITAL}
        self._vital = side.space.inside(lambda: sysctl.holds(vital))
        self._by_index = {link.index: link for link in self.links.values()}

    def ruleset(self) -> Ruleset | None:
        """The base of the filter. Its digest is empty where the namespace around it is not as it should be."""
        if self._digest is None:
            return None
        loopback = self.links["lo"]
        sound = self._vital and loopback.up and self._addresses.get(loopback.index, frozenset()) >= METADATA
        return Ruleset(self._vpc, self._digest if sound else "")

    def subnets(self) -> frozenset[Subnet]:
        """The bridges of subnets with their gateways."""
        return frozenset(
            self._subnet(f"subnet-{name.removeprefix('br-')}", link)
            for name, link in self.links.items()
            if name.startswith("br-")
        )

    def _subnet(self, name: str, link: Link) -> Subnet:
        addresses = self._addresses.get(link.index, frozenset())
        v4 = [each for each in addresses if isinstance(each, IPv4Interface)]
        v6 = [each for each in addresses if isinstance(each, IPv6Interface) and not each.is_link_local]
        told = Subnet(self._vpc, name, link.mtu, v4[0] if v4 else None, v6[0] if v6 else None)
        sound = (
            link.up
            and link.kind == "bridge"
            and link.mac == names.gateway_mac(name)
            and addresses == _gateways(told)
            and gateway_elements(told) == self.owned.get(name)
        )
        return told if sound else Subnet(self._vpc, name, BROKEN, told.gateway_v4, told.gateway_v6)

    def inner_ends(self) -> dict[str, Link]:
        """The inner ends of veths, by subnet."""
        ends = {name: link for name, link in self.links.items() if name.startswith("vi-")}
        return {f"subnet-{name.removeprefix('vi-')}": link for name, link in ends.items()}

    def attached(self, subnet: str) -> bool:
        """Whether the inner end of a subnet's veth is up in the subnet's bridge."""
        link = self.links[names.veth_inner(subnet)]
        master = self._by_index.get(link.master)
        return link.up and master is not None and master.name == _bridge(subnet)

    def filters(self) -> frozenset[Filter]:
        """The filters of ports, the firewalls of VMs, and what these stand on."""
        found: set[Filter] = {*port_filters(self._vpc, self.owned), *firewalls(self._vpc, self.owned.items())}
        for owner, owned in self.owned.items():
            if owner.startswith("@"):
                found.add(group_of(self._vpc, owner[1:], owned))
        if EXTRAS in self.owned:
            found.add(extras_of(self._vpc, self.owned[EXTRAS]))
        return frozenset(found)

    def plugs(self) -> frozenset[Plug]:
        """The taps in this namespace, where they are."""
        return frozenset(self._plug(name, link) for name, link in self.links.items() if names.tap_owner(name))

    def _plug(self, name: str, link: Link) -> Plug:
        master = self._by_index.get(link.master)
        subnet = f"subnet-{master.name.removeprefix('br-')}" if master else ""
        return Plug(self._vpc, subnet, name, link.mtu if link.up else BROKEN)


def _bridge(subnet: str) -> str:
    return names.subnet_bridge(subnet)


def _gateways(subnet: Subnet) -> frozenset[Address]:
    """The addresses of a subnet's bridge: its gateways, and the link-local one that RA and DHCPv6 are sent from."""
    local = IPv6Interface(f"{names.link_local(names.gateway_mac(subnet.name))}/64")
    return frozenset(filter(None, (subnet.gateway_v4, subnet.gateway_v6, local)))


def _new_bridge(subnet: Subnet) -> Message:
    return links.create_bridge(_bridge(subnet.name), names.gateway_mac(subnet.name), names.LINK_GROUP)


def _new_veth(veth: Veth, fabric: int) -> Message:
    name, peer = names.veth_inner(veth.subnet), names.veth_outer(veth.subnet)
    return links.create_veth(
        name,
        names.link_mac(name),
        names.LINK_GROUP,
        index=_index(veth.subnet),
        mtu=veth.mtu,
        peer=peer,
        peer_mac=names.link_mac(peer),
        netns=fabric,
    )


def _index(subnet: str) -> int:
    """The index of a veth's inner end: far from those that the kernel gives, hence from that of its outer end."""
    return 1 << 30 | int.from_bytes(hashlib.blake2b(subnet.encode(), digest_size=3).digest(), "big")


def _bridge_up(link: Link, subnet: Subnet, addresses: Mapping[int, frozenset[Address]]) -> list[Message]:
    if link.kind != "bridge":
        raise HostError(link.name, "use", f"a {link.kind} link has its name", hint="delete that link")
    there, wanted = addresses.get(link.index, frozenset()), _gateways(subnet)
    return [
        links.change(link.name, mtu=subnet.mtu),
        *(links.delete_address(link, each) for each in sorted(there - wanted, key=str)),
        *(links.add_address(link, each) for each in sorted(wanted - there, key=str)),
        links.change(link.name, up=True),
    ]


def _port_up(there: Mapping[str, Link], veth: Veth) -> list[Message]:
    link, bridge = there[names.veth_inner(veth.subnet)], there.get(_bridge(veth.subnet))
    if bridge is None:
        raise HostError(link.name, "attach", f"there is no bridge for {veth.subnet}")
    return [
        links.change(link.name, mtu=veth.mtu, master=bridge.index),
        links.port(link, learning=True, flood=True),
        links.change(link.name, up=True),
    ]
