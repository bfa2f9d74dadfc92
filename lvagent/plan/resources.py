"""The nouns a host can hold.

Each is a value that says completely how the thing should be; two hosts that hold equal sets are wired alike. ``wanted``
computes them from specs, the host observes them, ``diff`` subtracts. ``layer`` orders them: made lowest first, removed
highest first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import ClassVar

from lvagent.spec.vm import NetRule


@dataclass(frozen=True, slots=True)
class Fabric:
    """Where tenants' L2 stands on the underlay side, with its guard; ``netns`` empty: the root namespace."""

    layer: ClassVar[int] = 0
    netns: str


@dataclass(frozen=True, slots=True)
class Router:
    """What root has for all uplinks together: its table of ours, and forwarding switched on.

    ``digest``: of the table's text, empty where it is not as it should be; ``ipv6``: whether IPv6 is forwarded too.
    """

    layer: ClassVar[int] = 0
    digest: str
    ipv6: bool
    text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Netns:
    """A VPC's namespace: its sysctls, ``lo`` up with the metadata addresses on it."""

    layer: ClassVar[int] = 1
    vpc: str


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The base of a VPC's filter (tables, chains, empty sets), there before any link. ``digest``: of its text."""

    layer: ClassVar[int] = 2
    vpc: str
    digest: str


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge of a VNI on the underlay side (``lvb<vni>``)."""

    layer: ClassVar[int] = 3
    vni: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Vxlan:
    """The VXLAN device of a VNI (``lvx<vni>``), a port of its Bridge. ``local``: underlay address, ``port``: UDP."""

    layer: ClassVar[int] = 4
    vni: int
    mtu: int
    local: str
    port: int


@dataclass(frozen=True, slots=True)
class Subnet:
    """The inner bridge of a subnet in its VPC, with the gateway addresses. ``mtu`` in bytes."""

    layer: ClassVar[int] = 5
    vpc: str
    name: str
    mtu: int
    gateway_v4: IPv4Interface | None = None
    gateway_v6: IPv6Interface | None = None


@dataclass(frozen=True, slots=True)
class Veth:
    """The pair between a subnet's inner bridge and the Bridge of its VNI (only for a VNI above 0)."""

    layer: ClassVar[int] = 6
    vpc: str
    subnet: str
    vni: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Uplink:
    """A VPC's way out: the veth to root with an address of the pool at each end, and the VPC's table that translates.

    Which addresses it has is settled when it is made, by what is free then. ``routes``: the prefixes of the VPC that
    root routes to it, sorted. ``digest``: of the table's text.
    """

    layer: ClassVar[int] = 6
    vpc: str
    mtu: int
    ipv6: bool
    routes: tuple[IPv4Network | IPv6Network, ...]
    digest: str
    text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Inward:
    """What leads from outside into a VPC: its published ports and floating addresses, in root and in its namespace.

    ``digest``: of all of it, whatever addresses the uplink has. ``text``: the VPC's table. ``keys``: elements of root's
    sets, as pairs (set, fields of the key), without the address of the uplink, to which they lead.
    """

    layer: ClassVar[int] = 7
    vpc: str
    digest: str
    text: str = field(default="", compare=False, repr=False)
    keys: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Proxy:
    """Root answers for a floating address of a VPC on a link of the host, '' where it does not as it should."""

    layer: ClassVar[int] = 8
    vpc: str
    address: str
    link: str


@dataclass(frozen=True, slots=True)
class PortFilter:
    """What a VM's port may send: the elements of the VPC's filter sets that bind the tap to its addresses."""

    layer: ClassVar[int] = 7
    vpc: str
    subnet: str
    tap: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    gateway_v4: str | None
    gateway_v6: str | None
    extra_macs: tuple[str, ...] = ()
    extra_addresses: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Firewall:
    """Who may talk to a VM in a VPC and to whom it may: its rules, at its ports and for its addresses.

    ``taps`` and ``addresses`` (those of its NICs, without the extra ones) are sorted. ``rules``: each once, sorted,
    with its direction; what they name is a net or a ``Group``.
    """

    layer: ClassVar[int] = 7
    vpc: str
    vm: str
    taps: tuple[str, ...]
    addresses: tuple[str, ...]
    rules: tuple[NetRule, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The nets that a name in a rule stands for in a VPC now: those of a VM, or of the VMs in a subnet."""

    layer: ClassVar[int] = 7
    vpc: str
    name: str
    nets: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses from ``first`` to ``last`` that are extra addresses of just these VMs."""

    first: str
    last: str
    vms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Extras:
    """To which VMs the extra addresses in a VPC belong; several may share one, and then all must allow what comes."""

    layer: ClassVar[int] = 7
    vpc: str
    spans: tuple[Span, ...]


PEER_MTU = 65_535
"""Bytes: the link between two VPCs is never what a packet is too large for; that is told by the subnet behind it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A VPC's end of a peering: its end of the link to ``other``, the routes there, and whom the filter lets in by it.

    ``nets``: the prefixes of the other VPC. ``sources``: by which of its own addresses this VPC tells of errors there,
    one for each family in ``nets``.
    """

    layer: ClassVar[int] = 7
    vpc: str
    other: str
    nets: tuple[IPv4Network | IPv6Network, ...]
    sources: tuple[IPv4Address | IPv6Address, ...]
    mtu: int = PEER_MTU


@dataclass(frozen=True, slots=True)
class DhcpSubnet:
    """One subnet as dnsmasq serves it. ``default_route`` is decided per host, not here."""

    name: str
    mtu: int
    gateway_v4: IPv4Interface | None
    gateway_v6: IPv6Interface | None


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """One reservation. ``name``: host part of the DNS name; ``first``: this NIC gets the default route and the name."""

    vm: str
    position: int
    subnet: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    first: bool


@dataclass(frozen=True, slots=True)
class Dhcp:
    """The VPC's dnsmasq: DHCPv4, DHCPv6, RA and DNS for its subnets, with reservations only."""

    layer: ClassVar[int] = 8
    vpc: str
    domain: str
    subnets: tuple[DhcpSubnet, ...]
    hosts: tuple[DhcpHost, ...]
    forwarders: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    """Domains whose names may have private addresses, also when somebody outside says so."""


@dataclass(frozen=True, slots=True)
class GuestNic:
    """A NIC as metadata tells it to the guest."""

    position: int
    mac: str
    mtu: int
    subnet: str
    vpc: str
    ipv4: str | None
    gateway_v4: str | None
    ipv6: str | None
    gateway_v6: str | None


@dataclass(frozen=True, slots=True)
class Guest:
    """What the metadata service tells one VM. ``user_data`` is a secret and stays out of ``repr``."""

    vm: str
    hostname: str
    keys: tuple[str, ...]
    nics: tuple[GuestNic, ...]
    user_data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The VPC's share of the metadata service: who asks from which address is which guest."""

    layer: ClassVar[int] = 9
    vpc: str
    guests: tuple[tuple[str, Guest], ...]
    """Pairs (source address, guest), sorted by address."""


@dataclass(frozen=True, slots=True)
class Plug:
    """A tap in its place: in the VPC's namespace, a port of the subnet's bridge, with its MTU, up."""

    layer: ClassVar[int] = 10
    vpc: str
    subnet: str
    tap: str
    mtu: int


Filter = PortFilter | Firewall | Group | Extras
"""What the filter of a VPC holds besides its base; all of it can be changed in one transaction."""

Resource = (
    Fabric
    | Router
    | Netns
    | Ruleset
    | Bridge
    | Vxlan
    | Subnet
    | Veth
    | Uplink
    | Inward
    | Proxy
    | Filter
    | Peer
    | Dhcp
    | Metadata
    | Plug
)
