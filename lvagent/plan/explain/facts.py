"""What a walk looks things up in: the VMs, which of them run, what is wanted of VPCs, how these lead to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from lvagent.plan import inward, wanted
from lvagent.plan.inward import Float, Opening
from lvagent.plan.peers import Beside, beside, clash, peers
from lvagent.plan.uplinks import Transit
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.addresses import Address, Net
from lvagent.spec.peerings import Peerings, peering
from lvagent.spec.vm import Network, VmConfig
from lvagent.spec.vpc import UplinkMode

METADATA: frozenset[Address] = frozenset(map(ip_address, (names.METADATA_V4, names.METADATA_V6)))


@dataclass(frozen=True, slots=True)
class Segment:
    """A subnet of a VPC: its gateways, and its VNI (0: it is on this host alone)."""

    name: str
    vni: int
    gateways: tuple[Address, ...]
    nets: tuple[Net, ...]

    def covers(self, address: Address) -> bool:
        """Whether an address is of this subnet."""
        return any(net.version == address.version and address in net for net in self.nets)


@dataclass(frozen=True, slots=True)
class Holder:
    """A NIC that has an address; ``extra``: as an extra address."""

    vm: VmConfig
    nic: Network
    extra: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """``vms``: the spec that the network carries of each VM. ``running``: those whose guest runs.

    ``transits``: the addresses of the uplinks that are there. ``peerings``: which VPCs shall route to each other.
    ``contested``: VPCs, each with a prefix that another one has as well, so that it is routed to neither.
    """

    vms: Mapping[str, VmConfig]
    running: frozenset[str]
    policy: Policy
    transits: Mapping[str, Transit] = field(default_factory=dict)
    peerings: Peerings = field(default_factory=Peerings)
    contested: frozenset[tuple[str, Net]] = frozenset()
    _members: dict[str, list[VmConfig]] = field(init=False, repr=False, compare=False, default_factory=dict)

    _near: dict[str, tuple[Beside, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _segments: dict[str, tuple[Segment, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _local: dict[str, frozenset[Address]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for vm in sorted(self.vms):
            for vpc in self.vms[vm].vpcs:
                self._members.setdefault(vpc, []).append(self.vms[vm])

    def members(self, vpc: str) -> tuple[VmConfig, ...]:
        """The VMs in a VPC, by id."""
        return tuple(self._members.get(vpc, ()))

    def vpcs(self) -> tuple[str, ...]:
        """The VPCs that some VM is in."""
        return tuple(sorted(self._members))

    def segments(self, vpc: str) -> tuple[Segment, ...]:
        """The subnets of a VPC, by name."""
        if vpc in self._segments:
            return self._segments[vpc]
        nics: dict[str, list[Network]] = {}
        for spec in self.members(vpc):
            for nic in spec.networks:
                if nic.netname == vpc:
                    nics.setdefault(nic.subnetname, []).append(nic)
        self._segments[vpc] = tuple(_segment(name, nics[name]) for name in sorted(nics))
        return self._segments[vpc]

    def segment_of(self, vpc: str, address: Address) -> Segment | None:
        """The subnet of a VPC that an address is of."""
        return next((one for one in self.segments(vpc) if one.covers(address)), None)

    def holders(self, vpc: str, address: Address) -> tuple[Holder, ...]:
        """The NICs that have an address: the one whose own it is, else all that have it as an extra one."""
        nics = [(spec, nic) for spec in self.members(vpc) for nic in spec.networks if nic.netname == vpc]
        own = [Holder(spec, nic, False) for spec, nic in nics if address in own_addresses(nic)]
        return tuple(own or (Holder(spec, nic, True) for spec, nic in nics if is_extra(nic, address)))

    def is_local(self, vpc: str, address: Address) -> bool:
        """Whether the VPC's namespace itself has an address: as a gateway, for metadata, as its end of the uplink."""
        if vpc not in self._local:
            ends = self.transits.get(vpc)
            own = {one.ip for one in (ends.vpc_v4, ends.vpc_v6) if one} if ends else set()
            gateways = {gateway for one in self.segments(vpc) for gateway in one.gateways}
            self._local[vpc] = frozenset(gateways | METADATA | own)
        return address in self._local[vpc] or address.is_loopback

    # other VPCs

    def near(self, vpc: str) -> tuple[Beside, ...]:
        """The VPCs to which a VPC leads by a peering, with their members."""
        if vpc not in self._near:
            self._near[vpc] = beside(vpc, self.peerings, self.members)
        return self._near[vpc]

    def beyond(self, vpc: str) -> tuple[tuple[Net, str], ...]:
        """The prefixes to which a VPC leads by its peerings, each with the VPC that has it."""
        ends = peers(vpc, self.members(vpc), self.near(vpc))
        return tuple((net, one.other) for one in ends for net in one.nets)

    def peer_of(self, vpc: str, address: Address) -> str | None:
        """The VPC to which a VPC leads by a peering for an address; None: to none."""
        found = (other for net, other in self.beyond(vpc) if net.version == address.version and address in net)
        return next(found, None)

    def unpeered(self, vpc: str, address: Address) -> str:
        """Why a peering that is wanted does not lead to an address; '': there is none that would."""
        for other in self.peerings.of(vpc):
            why = clash(peering(vpc, other), self.peerings, self.members)
            if why and self.segment_of(other, address) is not None:
                return f"the peering with {other} is not made: {why}"
        return ""

    # what leads into VPCs

    def floats(self, vpc: str) -> tuple[Float, ...]:
        """The floating addresses that are led into a VPC."""
        ways = self.policy.uplinks
        if ways is None or self.policy.mode(vpc) is UplinkMode.NONE:
            return ()
        return inward.floats(vpc, self.members(vpc), self.policy.floating, ways)

    def openings(self, vpc: str) -> tuple[Opening, ...]:
        """What is published of a VPC."""
        ways = self.policy.uplinks
        if ways is None or self.policy.mode(vpc) is UplinkMode.NONE:
            return ()
        return inward.openings(vpc, self.members(vpc), self.policy.ports, ways)


def _segment(name: str, nics: list[Network]) -> Segment:
    found = [one for one in wanted.gateways(nics) if one is not None]
    return Segment(name, nics[0].vxlanid, tuple(one.ip for one in found), tuple(one.network for one in found))


def own_addresses(nic: Network) -> tuple[Address, ...]:
    """The addresses of a NIC, without the extra ones."""
    return tuple(one.ip for one in (nic.ipv4, nic.ipv6) if one is not None)


def is_extra(nic: Network, address: Address) -> bool:
    """Whether an address is among the extra ones of a NIC."""
    return any(net.version == address.version and address in net for net in nic.extra_addresses)


def address_of(nic: Network, version: int) -> Address | None:
    """The address of a NIC of an IP version."""
    return next((one for one in own_addresses(nic) if one.version == version), None)


def on_link(nic: Network, address: Address) -> bool:
    """Whether an address is in the subnet of a NIC."""
    nets = [one.network for one in (nic.ipv4, nic.ipv6) if one is not None]
    return any(net.version == address.version and address in net for net in nets)
