"""From specs to resources: what a host must hold so that these VMs have their networks.

A pure function of the VMs in a VPC and of the settings. There is no counting of references: a subnet is wanted while
some VM in the list has a NIC in it, and a VPC while it has a wanted subnet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_network

from lvagent.config import FilterSettings
from lvagent.errors import SpecError
from lvagent.plan import firewall, inward, uplinks
from lvagent.plan.diff import identity
from lvagent.plan.inward import Float, Opening
from lvagent.plan.peers import Beside, peers
from lvagent.plan.resources import (
    Bridge,
    Dhcp,
    DhcpHost,
    DhcpSubnet,
    Fabric,
    Guest,
    GuestNic,
    Inward,
    Metadata,
    Netns,
    Plug,
    PortFilter,
    Resource,
    Router,
    Ruleset,
    Subnet,
    Veth,
    Vxlan,
)
from lvagent.plan.uplinks import UplinkPolicy
from lvagent.spec import names
from lvagent.spec.addresses import Net
from lvagent.spec.publications import Floating, Publication
from lvagent.spec.vm import NetRule, Network, VmConfig
from lvagent.spec.vpc import DEFAULT, UplinkMode, VpcConfig

VXLAN_OVERHEAD_V4 = 50
"""Bytes that VXLAN takes from the underlay's MTU: IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14 (RFC 7348)."""
VXLAN_OVERHEAD_V6 = 70


Led = Callable[[str, Sequence[Opening], Sequence[Float], Sequence[Net]], Inward]
"""Makes texts of what leads into a VPC (``render.inward.inward``)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say that resources depend on.

    ``fabric``: namespace of the underlay side ('' is root). ``underlay_mtu`` in bytes. ``local``: address of the VTEP,
    '' if there is none. ``ruleset``: digest of the base of a VPC's filter; ``limits``: what it lets one guest take.
    ``uplink``, ``metadata``: of a VPC that says nothing of it. ``uplinks``: how uplinks are here; None: there are none.
    ``vpcs``: what is wanted of each VPC; ``ports``: what is published of each VM; ``floating``: the floating
    addresses; ``led``: how these lead there.
    """

    fabric: str
    underlay_mtu: int
    local: str
    port: int
    domain: str
    forwarders: tuple[str, ...]
    ruleset: str
    limits: FilterSettings = field(default_factory=FilterSettings)
    uplink: UplinkMode = UplinkMode.NONE
    metadata: bool = True
    uplinks: UplinkPolicy | None = None
    vpcs: Mapping[str, VpcConfig] = field(default_factory=dict)
    ports: inward.Ports = field(default_factory=dict)
    led: Led | None = None
    floating: Mapping[str, Floating] = field(default_factory=dict)

    def config(self, vpc: str) -> VpcConfig:
        """What is wanted of a VPC, whoever said it; of its members only ``mtu`` may be None."""
        resolvers = self.uplinks.resolvers if self.uplinks else ()
        defaults = VpcConfig(self.uplink, self.forwarders or resolvers, self.domain, None, self.metadata)
        return self.vpcs.get(vpc, DEFAULT).over(defaults)

    def mode(self, vpc: str) -> UplinkMode:
        """The way out that a VPC shall have."""
        return UplinkMode.NONE if self.uplinks is None else self.config(vpc).uplink or UplinkMode.NONE

    def implied(self, vm: VmConfig, vpc: str) -> tuple[NetRule, ...]:
        """The rules that what is published of a VM implies in a VPC."""
        if self.uplinks is None or self.mode(vpc) is UplinkMode.NONE:
            return ()
        return inward.rules(vm, vpc, self.ports, self.uplinks)

    def published(self, vm: VmConfig) -> tuple[Publication, ...]:
        """What is published of a VM, if its VPC has a way out."""
        nic = inward.target(vm)
        return self.ports.get(vm.id, ()) if nic and self.mode(nic.netname) is not UplinkMode.NONE else ()

    def dns(self, vpc: str) -> str:
        """The DNS domain of a VPC."""
        return self.config(vpc).domain or self.domain


def segment_mtu(vni: int, policy: Policy) -> int:
    """The largest IP packet (bytes) that a segment carries; VNI 0 stays on this host and loses nothing."""
    if vni == 0:
        return policy.underlay_mtu
    wide = bool(policy.local) and ip_address(policy.local).version == 6
    return policy.underlay_mtu - (VXLAN_OVERHEAD_V6 if wide else VXLAN_OVERHEAD_V4)


def nic_mtu(nic: Network, policy: Policy) -> int:
    """The MTU of a NIC, bytes: what its user asked for, else what its segment carries and its VPC wants at most."""
    most = segment_mtu(nic.vxlanid, policy)
    return nic.mtu or min(most, policy.config(nic.netname).mtu or most)


def check_mtu(vm: VmConfig, policy: Policy) -> None:
    """Refuse a NIC that asks for more than its segment carries.

    :raise SpecError: at ``networks[i].mtu``.
    """
    for index, nic in enumerate(vm.networks):
        most = segment_mtu(nic.vxlanid, policy)
        if nic.mtu is not None and nic.mtu > most:
            raise SpecError(
                f"networks[{index}].mtu",
                f"{nic.mtu} is more than the segment carries",
                f"at most {most}: the underlay's MTU is {policy.underlay_mtu}",
            )


def network(vpc: str, members: Iterable[VmConfig], policy: Policy, near: Sequence[Beside] = ()) -> frozenset[Resource]:
    """The network of a VPC: namespace, filter, subnets, their way to the underlay, each port's filter, its peerings.

    Empty when no member has a NIC in it.

    :param near: the VPCs to which it leads by a peering.
    """
    members = list(members)
    nics = [(vm, nic) for vm in members for nic in vm.networks if nic.netname == vpc]
    if not nics:
        return frozenset()
    found: set[Resource] = {Netns(vpc), Ruleset(vpc, policy.ruleset)}
    for name in {nic.subnetname for _, nic in nics}:
        found |= _segment(vpc, [nic for _, nic in nics if nic.subnetname == name], policy)
    if policy.uplinks is not None:
        prefixes = uplinks.prefixes(one for one in found if isinstance(one, Subnet))
        floats = inward.floats(vpc, members, policy.floating, policy.uplinks)
        nets = [ip_network(one.address) for one in floats]
        found |= uplinks.uplink(vpc, policy.mode(vpc), prefixes, policy.uplinks, nets)
    there, beside = [vm for vm, _ in nics], [(one.vpc, one.members) for one in near]
    implied = {vm.id: policy.implied(vm, vpc) for vm in there}
    found |= _inward(vpc, {vm.id: vm for vm in there}.values(), policy)
    found |= {port_filter(vm, nic) for vm, nic in nics}
    return frozenset(found | firewall.filters(vpc, there, beside, implied) | peers(vpc, there, near))


def _inward(vpc: str, members: Iterable[VmConfig], policy: Policy) -> set[Resource]:
    if policy.uplinks is None or policy.led is None or policy.mode(vpc) is UplinkMode.NONE:
        return set()
    there = list(members)
    found = inward.openings(vpc, there, policy.ports, policy.uplinks)
    floats = inward.floats(vpc, there, policy.floating, policy.uplinks)
    if not found and not floats:
        return set()
    return {policy.led(vpc, found, floats, policy.uplinks.pools), *inward.proxies(vpc, floats, policy.uplinks)}


def crossed(members: Iterable[VmConfig], policy: Policy) -> frozenset[tuple[str, ...]]:
    """The identities of what all VPCs share and these members need: of the underlay side, and the Router."""
    there = list(members)
    vnis = {nic.vxlanid for vm in there for nic in vm.networks if nic.vxlanid}
    segments = {identity(one) for vni in vnis for one in (Bridge(vni, 0), Vxlan(vni, 0, "", 0))}
    ways = {policy.mode(vpc) for vm in there for vpc in vm.vpcs} - {UplinkMode.NONE}
    shared = {identity(Router("", False))} if ways else set()
    return frozenset(segments | shared | ({identity(Fabric(policy.fabric))} if vnis else set()))


def _segment(vpc: str, nics: list[Network], policy: Policy) -> set[Resource]:
    """A subnet, as all its NICs together say: one may have IPv4 only and another both."""
    first = nics[0]
    mtu = nic_mtu(first, policy)
    v4, v6 = gateways(nics)
    subnet = Subnet(vpc, first.subnetname, mtu, v4, v6)
    if first.vxlanid == 0:
        return {subnet}
    return {
        subnet,
        Fabric(policy.fabric),
        Bridge(first.vxlanid, mtu),
        Vxlan(first.vxlanid, mtu, policy.local, policy.port),
        Veth(vpc, first.subnetname, first.vxlanid, mtu),
    }


def gateways(nics: Iterable[Network]) -> tuple[IPv4Interface | None, IPv6Interface | None]:
    """The gateways of a subnet, each as the first NIC that has one says; conflicts were refused before."""
    found = [(gateway(nic.ipv4, nic.gateway_v4), gateway6(nic.ipv6, nic.gateway_v6)) for nic in nics]
    return next((v4 for v4, _ in found if v4), None), next((v6 for _, v6 in found if v6), None)


def gateway(address: IPv4Interface | None, router: IPv4Address | None) -> IPv4Interface | None:
    """The gateway's address with the prefix of the subnet."""
    return IPv4Interface((router, address.network.prefixlen)) if address and router else None


def gateway6(address: IPv6Interface | None, router: IPv6Address | None) -> IPv6Interface | None:
    """The gateway's IPv6 address with the prefix of the subnet."""
    return IPv6Interface((router, address.network.prefixlen)) if address and router else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _address(value: IPv4Interface | IPv6Interface | None) -> str | None:
    return None if value is None else str(value.ip)


def port_filter(vm: VmConfig, nic: Network) -> PortFilter:
    """What the port of this NIC may send."""
    return PortFilter(
        vpc=nic.netname,
        subnet=nic.subnetname,
        tap=names.tap(vm.id, nic.position),
        mac=nic.mac,
        ipv4=_address(nic.ipv4),
        ipv6=_address(nic.ipv6),
        gateway_v4=_text(nic.gateway_v4),
        gateway_v6=_text(nic.gateway_v6),
        extra_macs=nic.extra_macs,
        extra_addresses=nic.extra_addresses,
    )


def plug(vm: VmConfig, nic: Network, policy: Policy) -> Plug:
    """Where the tap of this NIC belongs while the VM runs."""
    return Plug(nic.netname, nic.subnetname, names.tap(vm.id, nic.position), nic_mtu(nic, policy))


def dhcp(vpc: str, members: Iterable[VmConfig], policy: Policy) -> Dhcp | None:
    """What the VPC's dnsmasq serves; None when no member has a NIC in it."""
    nics = [(vm, nic) for vm in members for nic in vm.networks if nic.netname == vpc]
    if not nics:
        return None
    config, outside = policy.config(vpc), policy.mode(vpc) is not UplinkMode.NONE
    by_name = {nic.subnetname: [other for _, other in nics if other.subnetname == nic.subnetname] for _, nic in nics}
    hosts = {
        DhcpHost(
            vm=vm.id,
            position=nic.position,
            subnet=nic.subnetname,
            mac=nic.mac,
            ipv4=_address(nic.ipv4),
            ipv6=_address(nic.ipv6),
            first=nic.position == 0,
        )
        for vm, nic in nics
    }
    return Dhcp(
        vpc=vpc,
        domain=policy.dns(vpc),
        subnets=tuple(_dhcp_subnet(by_name[name], policy) for name in sorted(by_name)),
        hosts=tuple(sorted(hosts, key=lambda host: (host.vm, host.position))),
        forwarders=(config.forwarders or ()) if outside else (),
        private=policy.uplinks.private if outside and policy.uplinks else (),
    )


def _dhcp_subnet(nics: list[Network], policy: Policy) -> DhcpSubnet:
    return DhcpSubnet(nics[0].subnetname, nic_mtu(nics[0], policy), *gateways(nics))


def guest(vm: VmConfig, policy: Policy) -> Guest:
    """What the metadata service tells this VM."""
    return Guest(
        vm=vm.id,
        hostname=vm.id,
        keys=vm.keys,
        nics=tuple(_guest_nic(nic, policy) for nic in vm.networks),
        user_data=vm.user_data,
    )


def _guest_nic(nic: Network, policy: Policy) -> GuestNic:
    return GuestNic(
        position=nic.position,
        mac=nic.mac,
        mtu=nic_mtu(nic, policy),
        subnet=nic.subnetname,
        vpc=nic.netname,
        ipv4=_text(nic.ipv4),
        gateway_v4=_text(nic.gateway_v4),
        ipv6=_text(nic.ipv6),
        gateway_v6=_text(nic.gateway_v6),
    )


def metadata(vpc: str, members: Iterable[VmConfig], policy: Policy) -> Metadata | None:
    """Who asks from which address of this VPC is which guest; None when no member has a NIC in it, or by its wish."""
    if not policy.config(vpc).metadata:
        return None
    pairs = [
        (str(address.ip), guest(vm, policy))
        for vm in members
        for nic in vm.networks
        if nic.netname == vpc
        for address in (nic.ipv4, nic.ipv6)
        if address is not None
    ]
    return Metadata(vpc, tuple(sorted(pairs, key=lambda pair: pair[0]))) if pairs else None
