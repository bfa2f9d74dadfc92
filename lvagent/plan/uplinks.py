"""The way out of a VPC, as resources; and which addresses of the pools it gets.

    root                                            the VPC's namespace
    ux-<vpc>  host's address ==================== ui-<vpc>  the VPC's address, default route by the host's

The two addresses are a slot of the pool: slot n has the addresses 2n (root's) and 2n+1 (the VPC's), a /31 (RFC 3021) or
/127 (RFC 6164). Slot 0 is nobody's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from lvagent.errors import Conflict
from lvagent.plan.resources import Inward, Resource, Router, Subnet, Uplink
from lvagent.spec.addresses import Address, Net, within
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode


@dataclass(frozen=True, slots=True)
class Table:
    """A table of nft: its text, and the digest that stands in its comment."""

    digest: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Denied:
    """Where no guest goes by an uplink, and what says so: ``uplink.deny 10.0.0.0/8``."""

    net: Net
    said: str

    def covers(self, address: Address) -> bool:
        """Whether an address is there."""
        return self.net.version == address.version and address in self.net


@dataclass(frozen=True, slots=True)
class UplinkPolicy:
    """How uplinks are on this host.

    ``pools``: the nets that transit addresses are of, IPv4 and, if IPv6 goes out, IPv6. ``mtu`` in bytes.
    ``ipv6``: none, nat66, routed. ``routed``: nets of which prefixes may be routed. ``resolvers``: the host's.
    ``own``: addresses of the host. ``private``: domains whose names may have private addresses. ``tables``: a VPC's, by
    what is translated there. ``links``: the host's, with their addresses. ``ways``: the link of floating addresses that
    name none, by IP version. ``denied``: where no guest goes. ``routers``: by which the host itself routes.
    """

    pools: tuple[Net, ...]
    mtu: int
    ipv6: str
    routed: tuple[Net, ...]
    resolvers: tuple[str, ...]
    own: frozenset[Address]
    private: tuple[str, ...]
    router: Router
    tables: Mapping[frozenset[int], Table]
    links: Mapping[str, tuple[IPv4Interface | IPv6Interface, ...]] = field(default_factory=dict)
    ways: Mapping[int, str] = field(default_factory=dict)
    denied: tuple[Denied, ...] = ()
    routers: frozenset[Address] = frozenset()

    def translated(self, mode: UplinkMode) -> frozenset[int]:
        """The IP versions whose addresses are translated on the way out."""
        four = {4} if mode is UplinkMode.NAT else set()
        six = {6} if mode is UplinkMode.NAT and self.ipv6 == "nat66" else set()
        return frozenset(four | six)

    def as_is(self, mode: UplinkMode) -> frozenset[int]:
        """The IP versions whose addresses go out as they are."""
        if mode is UplinkMode.NONE:
            return frozenset()
        return frozenset({4, 6} - self.translated(mode) - ({6} if self.ipv6 == "none" else set()))


@dataclass(frozen=True, slots=True)
class Transit:
    """The addresses of an uplink: root's and the VPC's, of each family."""

    host_v4: IPv4Interface
    vpc_v4: IPv4Interface
    host_v6: IPv6Interface | None = None
    vpc_v6: IPv6Interface | None = None


def uplink(
    vpc: str, mode: UplinkMode, subnets: Iterable[Net], policy: UplinkPolicy, floating: Iterable[Net] = ()
) -> set[Resource]:
    """What a VPC with these prefixes needs to have this way out.

    :param floating: addresses that are led to VMs in it.
    """
    if mode is UplinkMode.NONE:
        return set()
    table = policy.tables[policy.translated(mode)]
    routes = tuple(sorted({*routable(mode, subnets, policy), *floating}, key=_order))
    return {policy.router, Uplink(vpc, policy.mtu, policy.ipv6 != "none", routes, table.digest, table.text)}


def prefixes(subnets: Iterable[Subnet]) -> list[Net]:
    """The prefixes of subnets."""
    return [gateway.network for one in subnets for gateway in (one.gateway_v4, one.gateway_v6) if gateway is not None]


def routable(mode: UplinkMode, subnets: Iterable[Net], policy: UplinkPolicy) -> set[Net]:
    """Those of a VPC's prefixes that are routed to it."""
    as_is = policy.as_is(mode)
    return {net for net in subnets if net.version in as_is and any(within(net, wide) for wide in policy.routed)}


def keeping(wish: Iterable[Resource], there: Iterable[Resource]) -> frozenset[Resource]:
    """The wish with the way out that is there and what comes in by it, in the place of what it has of these."""
    ways = {one for one in there if isinstance(one, Router | Uplink | Inward)}
    return frozenset({one for one in wish if not isinstance(one, Router | Uplink | Inward)} | ways)


def _order(net: Net) -> tuple[int, int, int]:
    return net.version, int(net.network_address), net.prefixlen


def check(
    vpc: str, mode: UplinkMode, subnets: Mapping[str, Net], others: Sequence[tuple[str, Net]], policy: UplinkPolicy
) -> None:
    """Refuse prefixes that cannot go out. One of IPv6 beside ``nat`` that may not be routed stays inside.

    :param subnets: of the VPC, by the path that an error names.
    :param others: other VPCs, each with a prefix that is routed to it.
    :raise Conflict: one overlaps a pool; one is to be routed and may not be, or is routed to another VPC.
    """
    if mode is UplinkMode.NONE:
        return
    as_is = policy.as_is(mode)
    for path, net in subnets.items():
        for pool in policy.pools:
            if pool.version == net.version and net.overlaps(pool):
                hint = "another prefix, or another uplink.pool_v4 or pool_v6 in the settings"
                raise Conflict(f"{net} of {vpc} overlaps {pool}, the pool of uplinks", path=path, other=vpc, hint=hint)
        if net.version not in as_is:
            continue
        if not any(within(net, wide) for wide in policy.routed):
            if mode is not UplinkMode.ROUTED:
                continue
            hint = f"uplink.routed in the settings allows {', '.join(map(str, policy.routed)) or 'none'}"
            raise Conflict(f"{net} of {vpc} may not be routed here", path=path, other=vpc, hint=hint)
        for other, taken in others:
            if taken.version == net.version and taken.overlaps(net):
                raise Conflict(f"{net} of {vpc} overlaps {taken}, which is routed to {other}", path=path, other=other)


def nets_of(spec: VmConfig, vpc: str) -> dict[str, Net]:
    """The prefixes that a VM says a VPC has, by their path in its spec."""
    found: dict[str, Net] = {}
    for index, nic in enumerate(spec.networks):
        if nic.netname == vpc:
            for name, address in (("ipv4", nic.ipv4), ("ipv6", nic.ipv6)):
                if address is not None:
                    found[f"networks[{index}].{name}"] = address.network
    return found


# transit addresses


def slots(pools: Iterable[Net]) -> int:
    """How many slots there are: those that every pool has, the first one left out."""
    return min(pool.num_addresses // 2 for pool in pools) - 1


def allocate(vpc: str, taken: Collection[int], pools: tuple[Net, ...]) -> int:
    """The slot of a new uplink: the one that belongs to the VPC's name, or the next that is free.

    :param taken: the slots that are in use.
    :raise Conflict: all are.
    """
    count = slots(pools)
    first = int.from_bytes(hashlib.blake2b(vpc.encode(), digest_size=8).digest(), "big") % count
    for step in range(count):
        slot = 1 + (first + step) % count
        if slot not in taken:
            return slot
    what = " and ".join(map(str, pools))
    hint = "take uplinks from VPCs that need none, or give a wider uplink.pool_v4 and pool_v6 in the settings"
    raise Conflict(
        f"no address is left for the uplink of {vpc}: all {count} of {what} are taken", path="uplink", hint=hint
    )


def transit(slot: int, pools: tuple[Net, ...]) -> Transit:
    """The addresses of a slot."""
    pairs = [_pair(slot, pool) for pool in pools]
    (host4, vpc4), *six = pairs
    assert isinstance(host4, IPv4Interface)
    assert isinstance(vpc4, IPv4Interface)
    if not six:
        return Transit(host4, vpc4)
    host6, vpc6 = six[0]
    assert isinstance(host6, IPv6Interface)
    assert isinstance(vpc6, IPv6Interface)
    return Transit(host4, vpc4, host6, vpc6)


def _pair(slot: int, pool: Net) -> tuple[IPv4Interface | IPv6Interface, IPv4Interface | IPv6Interface]:
    base = pool.network_address
    kind, prefix = (IPv4Interface, 31) if pool.version == 4 else (IPv6Interface, 127)
    return kind((base + 2 * slot, prefix)), kind((base + 2 * slot + 1, prefix))


def slot_of(address: IPv4Interface | IPv6Interface, pools: Iterable[Net]) -> int | None:
    """The slot that an address is of; None if it is of no pool."""
    for pool in pools:
        if pool.version == address.version and address.ip in pool:
            return (int(address.ip) - int(pool.network_address)) // 2
    return None


ALWAYS_DENIED: tuple[IPv4Network | IPv6Network, ...] = tuple(
    map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::/128", "::1/128", "fe80::/10", "fec0::/10"))
)
"""Where no guest goes by an uplink, whatever the settings say."""
