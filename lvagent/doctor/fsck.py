"""What the specs call for against what there is: libvirt, links, filters, leases, FDB, files, secrets. PURE.

What is compared is what the agent itself compares when it sweeps; here each disagreement is said in words. Only what is
ours by its mark, its name in a namespace of ours, or a spec, is ever named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lvagent.doctor.findings import Finding, Kind, Repair, failed, passed, unknown, warned
from lvagent.host import imds
from lvagent.plan import diff, peers, wanted
from lvagent.plan.resources import Bridge, Dhcp, Fabric, Plug, Resource, Uplink, Veth, Vxlan
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.peerings import Peerings
from lvagent.spec.vm import VmConfig

SWEEP = Repair(Kind.SWEEP)
OURS = ("lvx", "lvb", "vo-", "vi-", "ux-", "ui-")
"""Beginnings of names of links that only we make; with our link group they are ours."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain that bears our element.

    ``spec``: what its network must carry now. ``stage``: what it is in the middle of, if anything. ``trouble``: why it
    cannot be read. ``volumes``: what is wrong with its volumes. ``lost_secret``: its user data is not there.
    """

    vm: str
    spec: VmConfig | None
    running: bool = False
    stage: str = ""
    trouble: str = ""
    volumes: str = ""
    lost_secret: bool = False


@dataclass(frozen=True, slots=True)
class VpcFacts:
    """What there is of a VPC. ``trouble``: why it cannot be read. ``fdb``: pairs (port, MAC) that stand fast.

    ``dhcp_alive``: a dnsmasq runs; ``leases``: the addresses in its lease file, None: it has none.
    ``sysctls``: those that are not as wanted, each with what it is and what it should be.
    """

    there: frozenset[Resource] = frozenset()
    dhcp: Dhcp | None = None
    dhcp_alive: bool = False
    leases: frozenset[str] | None = None
    metadata: str | None = None
    fdb: frozenset[tuple[str, str]] = frozenset()
    sysctls: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """All that was read. ``links``: links of ours by group or namespace, as pairs (namespace, '' for root; name)."""

    policy: Policy
    domains: Sequence[Domain]
    vpcs: Mapping[str, VpcFacts]
    fabric: frozenset[Resource] = frozenset()
    fabric_sysctls: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    links: frozenset[tuple[str, str]] = frozenset()
    secrets: frozenset[str] = frozenset()
    peerings: Peerings = field(default_factory=Peerings)

    @property
    def specs(self) -> list[VmConfig]:
        """What all networks must carry."""
        return [one.spec for one in self.domains if one.spec is not None]

    @property
    def readable(self) -> bool:
        """Whether every domain of ours could be read; if not, nothing is nobody's."""
        return not any(one.trouble for one in self.domains)

    def wanted(self) -> frozenset[Resource]:
        """All that the networks of all VPCs call for."""
        vpcs = {vpc for spec in self.specs for vpc in spec.vpcs}
        return frozenset(one for vpc in vpcs for one in self.network(vpc, self.specs))

    def network(self, vpc: str, members: Sequence[VmConfig]) -> frozenset[Resource]:
        """What the network of a VPC is, with these members of all VPCs."""
        inside = {name: [spec for spec in members if name in spec.vpcs] for spec in members for name in spec.vpcs}
        near = peers.beside(vpc, self.peerings, lambda name: inside.get(name, []))
        return wanted.network(vpc, inside.get(vpc, []), self.policy, near)


def judge(site: Site) -> list[Finding]:
    """All disagreements; a line for each part that has none."""
    found = [*_domains(site), *_secrets(site)]
    for vpc in sorted(site.vpcs):
        bad = list(_vpc(site, vpc, site.vpcs[vpc]))
        found += bad or [passed(vpc, "namespace, links, filter, dnsmasq and metadata are what its VMs call for")]
    return [*found, *_fabric(site), *_links(site)]


# libvirt, its secrets, and volumes


def _domains(site: Site) -> Iterator[Finding]:
    bad = [finding for one in site.domains for finding in _domain(one)]
    yield from bad
    if not bad:
        yield passed("domains", f"{len(site.domains)} of lvagent, all readable, with their volumes")


def _domain(one: Domain) -> Iterator[Finding]:
    if one.trouble:
        yield failed(one.vm, one.trouble, f"virsh edit {one.vm}, or PUT its spec again")
    if one.stage:
        yield warned(one.vm, one.stage, "the next sweep goes on with it", SWEEP)
    if one.volumes and not one.stage:
        yield failed(one.vm, one.volumes, "it cannot start: put the file back, or delete the VM")
    if one.lost_secret:
        remedy = "lvagent doctor --fix, while an agent runs that knows it; else PUT its spec again, with user_data"
        yield failed(one.vm, "its user data is gone: libvirt has no such secret", remedy, SWEEP)


def _secrets(site: Site) -> Iterator[Finding]:
    for vm in sorted(site.secrets - {one.vm for one in site.domains}):
        text = f"libvirt keeps the user data of {vm}, which has no domain"
        yield failed("secrets", text, f"virsh secret-list shows lvagent:{vm}", SWEEP)


# a VPC


def _vpc(site: Site, vpc: str, there: VpcFacts) -> Iterator[Finding]:
    if there.trouble:
        yield unknown(vpc, there.trouble)
        return
    wish = _Wish(site, vpc)
    yield from _resources(site, wish, there)
    yield from _ports(site, vpc, there)
    for name, (value, right) in there.sysctls.items():
        yield _sysctl(vpc, name, value, right)
    yield from _dhcp(wish, there)
    yield from _metadata(wish, there)


class _Wish:
    """What a VPC's VMs call for: by those that are settled (``must``), and by all (``may``).

    A VM that is being made or deleted has its part or not yet, or no more; both is fine.
    """

    def __init__(self, site: Site, vpc: str) -> None:
        self.vpc = vpc
        self.policy = site.policy
        inside = [one for one in site.domains if one.spec is not None and vpc in one.spec.vpcs]
        self.lost = any(one.lost_secret for one in inside)  # then nobody here knows what should be served
        self.may = [one.spec for one in inside if one.spec is not None]
        self.must = [one.spec for one in inside if one.spec is not None and not one.stage]

    @property
    def either(self) -> tuple[Sequence[VmConfig], Sequence[VmConfig]]:
        """Both sets of members."""
        return self.must, self.may


def _sysctl(space: str, name: str, value: str, right: int) -> Finding:
    text = f"net/{name} is {value or 'not there'}, not {right}"
    return failed(space, text, "", Repair(Kind.SYSCTL, name, space, right) if value else None)


def _resources(site: Site, wish: _Wish, there: VpcFacts) -> Iterator[Finding]:
    settled = [one.spec for one in site.domains if one.spec is not None and not one.stage]
    must, may = (site.network(wish.vpc, specs) for specs in (settled, site.specs))
    fine = {diff.identity(one) for one in may & there.there}
    known = {diff.identity(one) for one in there.there}
    for one in diff.subtract(must, there.there).ensure:
        if diff.identity(one) not in fine:
            how = "not as it should be" if diff.identity(one) in known else "missing"
            yield failed(wish.vpc, f"{how}: {diff.describe(one)}", "", SWEEP)
    for one in diff.subtract(may, there.there).remove if site.readable else ():
        yield failed(wish.vpc, f"nobody wants it: {diff.describe(one)}", "", SWEEP)


def _ports(site: Site, vpc: str, there: VpcFacts) -> Iterator[Finding]:
    plugs = {one.tap: one for one in there.there if isinstance(one, Plug)}
    running = [one.spec for one in site.domains if one.running and one.spec is not None]
    mine = {names.tap(spec.id, nic.position): (spec, nic) for spec in running for nic in spec.networks}
    for tap, (spec, nic) in mine.items():
        if nic.netname != vpc:
            continue
        if plugs.get(tap) != wanted.plug(spec, nic, site.policy):
            how = "is there, but not as it should be" if tap in plugs else "is not there"
            text = f"the port {tap} of {spec.id}, which runs, {how}"
            yield failed(vpc, text, f"lvagent doctor --fix; if it stays: restart {spec.id}", SWEEP)
        elif (tap, nic.mac) not in there.fdb:
            text = f"the bridge does not know that {nic.mac} is at the port {tap} of {spec.id} (FDB)"
            yield failed(vpc, text, "", Repair(Kind.PORT, tap, spec.id))
    for tap in sorted(plugs.keys() - mine.keys()):
        text = f"the tap {tap} is in it, and no running VM's spec tells of it"
        yield failed(vpc, text, "whose is it? virsh list, ps; the VPC stays until it is gone")


def _dhcp(wish: _Wish, there: VpcFacts) -> Iterator[Finding]:
    vpc = wish.vpc
    must, may = (wanted.dhcp(vpc, members, wish.policy) for members in wish.either)
    if may is None:
        if there.dhcp_alive or there.dhcp is not None:
            yield failed(vpc, "a dnsmasq runs for it, and no VM is in it", "", SWEEP)
    elif must is None:
        return
    elif not there.dhcp_alive:
        yield failed(vpc, "its dnsmasq does not run: no DHCP, DNS, router advertisements", "", SWEEP)
    elif there.dhcp not in (must, may):
        yield failed(vpc, f"its dnsmasq serves other than the specs say: {_difference(must, there.dhcp)}", "", SWEEP)
    elif there.leases is None:
        yield failed(vpc, "the lease file of its dnsmasq is gone", "", Repair(Kind.LEASES, vpc))
    else:
        reserved = {address for host in may.hosts for address in (host.ipv4, host.ipv6)}
        for address in sorted(there.leases - reserved):
            yield warned(vpc, f"a lease of {address} is kept, which is no VM's", "", Repair(Kind.LEASES, vpc))


def _difference(wish: Dhcp, there: Dhcp | None) -> str:
    if there is None:
        return "its files are not what this version writes"
    hosts = sorted(f"{one.vm}-{one.position}" for one in {*wish.hosts} ^ {*there.hosts})
    return ", ".join(dict.fromkeys(hosts)) or "its subnets or settings"


def _metadata(wish: _Wish, there: VpcFacts) -> Iterator[Finding]:
    vpc = wish.vpc
    must, may = (wanted.metadata(vpc, members, wish.policy) for members in wish.either)
    if may is None:
        if there.metadata is not None:
            yield failed(vpc, "metadata is served in it, and no VM is in it", "", SWEEP)
    elif must is None:
        return
    elif there.metadata is None:
        yield failed(vpc, "no metadata is served in it: guests get no keys", "", SWEEP)
    elif not wish.lost and there.metadata not in (imds.digest(must), imds.digest(may)):
        yield failed(vpc, "its metadata is other than the specs say", "", SWEEP)


# the underlay side, and links outside of VPCs


def _fabric(site: Site) -> Iterator[Finding]:
    space = site.policy.fabric or "root"
    kept = {diff.identity(one) for one in site.wanted()}
    for one in sorted(site.fabric, key=diff.identity):
        if diff.identity(one) not in kept and site.readable:
            yield failed("underlay side", f"nobody wants it: {diff.describe(one)}", "", SWEEP)
    for name, (value, right) in site.fabric_sysctls.items():
        yield _sysctl(space, name, value, right)


def _links(site: Site) -> Iterator[Finding]:
    """Links with our group that no spec calls for, and that no sweep knows as a resource."""
    kept = {link_name(one) for one in (*site.wanted(), *site.fabric) if not isinstance(one, Fabric)}
    fabric = site.policy.fabric
    ways = {names.uplink_outer(one.vpc) for one in site.wanted() if isinstance(one, Uplink)}
    bad = [
        (space, name)
        for space, name in sorted(site.links)
        if name.startswith(OURS) and (space != fabric or name not in kept) and (space or name not in ways)
    ]
    for space, name in bad if site.readable else ():
        place = f"the namespace {space}" if space else "the root namespace"
        yield failed(
            "links", f"{name} in {place} bears our mark, and nobody wants it", "", Repair(Kind.LINK, name, space)
        )
    if not bad:
        yield passed("links", "none of ours is left over outside of VPCs")


def link_name(one: Resource) -> str:
    """The name of a resource's link on the underlay side, '' if it has none there."""
    match one:
        case Bridge(vni=vni):
            return names.overlay_bridge(vni)
        case Vxlan(vni=vni):
            return names.vxlan(vni)
        case Veth(subnet=subnet):
            return names.veth_outer(subnet)
        case _:
            return ""
