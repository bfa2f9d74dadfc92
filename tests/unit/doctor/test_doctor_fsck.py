"""What the specs call for against what there is: each disagreement has its words and its repair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

import pytest

from lvagent.doctor.examine import SETTLE_SECONDS, twice
from lvagent.doctor.findings import Finding, Kind, Level, Repair
from lvagent.doctor.fsck import SWEEP, Domain, Site, VpcFacts, judge
from lvagent.host import imds
from lvagent.plan import wanted
from lvagent.plan.resources import Bridge, Netns, Peer, Plug, PortFilter, Subnet
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import Peerings, peering

A, B, VM = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "i-0000000001"
TAP = names.tap(VM, 0)
POLICY = Policy("lvfabric", 1500, "192.0.2.1", 4789, "vpc.internal", (), "digest")
SPEC = parse_vm(
    {
        "id": VM,
        "memory_mb": 64,
        "cpus": 1,
        "networks": [
            {
                "vxlanid": 100,
                "netname": A,
                "subnetname": "subnet-aaaaaaaaaa",
                "position": 0,
                "ipv4": "10.0.0.5/24",
                "gateway_v4": "10.0.0.1",
            }
        ],
    },
    user_data_max=1024,
)
NIC = SPEC.networks[0]


def well() -> Site:
    network = wanted.network(A, [SPEC], POLICY)
    dhcp, metadata = wanted.dhcp(A, [SPEC], POLICY), wanted.metadata(A, [SPEC], POLICY)
    assert metadata is not None
    facts = VpcFacts(
        there=network | {wanted.plug(SPEC, NIC, POLICY)},
        dhcp=dhcp,
        dhcp_alive=True,
        leases=frozenset({"10.0.0.5"}),
        metadata=imds.digest(metadata),
        fdb=frozenset({(TAP, NIC.mac)}),
    )
    fabric = frozenset(one for one in network if isinstance(one, Bridge))
    links = frozenset({("lvfabric", "lvb100"), ("lvfabric", "lvx100"), ("lvfabric", "vo-aaaaaaaaaa")})
    return Site(POLICY, [Domain(VM, SPEC, running=True)], {A: facts}, fabric, {}, links, frozenset())


def wrong(site: Site) -> list[Finding]:
    return [one for one in judge(site) if one.level is not Level.PASS]


def vpc(**change: object) -> Site:
    site = well()
    return dataclasses.replace(site, vpcs={A: dataclasses.replace(site.vpcs[A], **change)})  # type: ignore[arg-type]


def domain(**change: object) -> Site:
    site = well()
    return dataclasses.replace(site, domains=[dataclasses.replace(site.domains[0], **change)])  # type: ignore[arg-type]


def site(**change: object) -> Site:
    return dataclasses.replace(well(), **change)  # type: ignore[arg-type]


def without(kind: type) -> frozenset[object]:
    return frozenset(one for one in well().vpcs[A].there if not isinstance(one, kind))


def other_vpc(facts: VpcFacts) -> Site:
    return site(vpcs={**well().vpcs, B: facts})


def test_what_agrees() -> None:
    assert wrong(well()) == []
    assert {one.subject for one in judge(well())} == {"domains", A, "links"}


DOWN = Plug(A, "subnet-aaaaaaaaaa", TAP, 0)
LEASES, PORT = Repair(Kind.LEASES, A), Repair(Kind.PORT, TAP, VM)
SERVED = dataclasses.replace(wanted.dhcp(A, [SPEC], POLICY), hosts=())  # type: ignore[type-var]

CASES: dict[str, tuple[Callable[[], Site], str, str, Repair | None]] = {
    "unreadable": (lambda: domain(spec=None, trouble="cannot be read"), VM, "cannot be read", None),
    "half made": (lambda: domain(stage="is being made"), VM, "is being made", SWEEP),
    "no disk": (lambda: domain(volumes="its volume is not there: /v/x"), VM, "/v/x", None),
    "no user data": (lambda: domain(lost_secret=True), VM, "no such secret", SWEEP),
    "secret of nobody": (lambda: site(secrets=frozenset({"i-0000000009"})), "secrets", "i-0000000009", SWEEP),
    "filter gone": (lambda: vpc(there=without(PortFilter)), A, f"missing: filter of port {TAP}", SWEEP),
    "subnet gone": (lambda: vpc(there=without(Subnet)), A, "missing: subnet", SWEEP),
    "tap gone": (lambda: vpc(there=without(Plug)), A, f"the port {TAP} of {VM}, which runs, is not there", SWEEP),
    "tap down": (lambda: vpc(there=without(Plug) | {DOWN}), A, "is there, but not as it should be", SWEEP),
    "tap of nobody": (lambda: domain(running=False), A, f"the tap {TAP} is in it", None),
    "FDB": (lambda: vpc(fdb=frozenset()), A, "(FDB)", PORT),
    "dnsmasq dead": (lambda: vpc(dhcp_alive=False), A, "does not run", SWEEP),
    "dnsmasq edited": (lambda: vpc(dhcp=None), A, "not what this version writes", SWEEP),
    "dnsmasq forgot": (lambda: vpc(dhcp=SERVED), A, f"{VM}-0", SWEEP),
    "leases gone": (lambda: vpc(leases=None), A, "lease file", LEASES),
    "lease of nobody": (lambda: vpc(leases=frozenset({"10.0.0.9"})), A, "10.0.0.9", LEASES),
    "metadata away": (lambda: vpc(metadata=None), A, "no metadata", SWEEP),
    "metadata old": (lambda: vpc(metadata="0"), A, "other than the specs say", SWEEP),
    "sysctl": (
        lambda: vpc(sysctls={"ipv4/ip_forward": ("0", 1)}),
        A,
        "net/ipv4/ip_forward is 0, not 1",
        Repair(Kind.SYSCTL, "ipv4/ip_forward", A, 1),
    ),
    "no such sysctl": (lambda: vpc(sysctls={"bridge/x": ("", 1)}), A, "net/bridge/x is not there", None),
    "cannot be read": (lambda: vpc(trouble="it cannot be read"), A, "cannot be read", None),
    "VPC of nobody": (lambda: other_vpc(VpcFacts(frozenset({Netns(B)}))), B, f"nobody wants it: namespace {B}", SWEEP),
    "dnsmasq of nobody": (lambda: other_vpc(VpcFacts(dhcp_alive=True)), B, "no VM is in it", SWEEP),
    "metadata of nobody": (lambda: other_vpc(VpcFacts(metadata="0")), B, "no VM is in it", SWEEP),
    "segment of nobody": (lambda: site(fabric=frozenset({Bridge(999, 0)})), "underlay side", "VNI 999", SWEEP),
    "fabric's sysctl": (
        lambda: site(fabric_sysctls={"ipv4/ip_forward": ("1", 0)}),
        "lvfabric",
        "is 1, not 0",
        Repair(Kind.SYSCTL, "ipv4/ip_forward", "lvfabric", 0),
    ),
    "link in root": (
        lambda: site(links=frozenset({("", "lvx100")})),
        "links",
        "lvx100 in the root namespace",
        Repair(Kind.LINK, "lvx100"),
    ),
    "link in the fabric": (
        lambda: site(links=frozenset({("lvfabric", "lvx999")})),
        "links",
        "lvx999 in the namespace lvfabric",
        Repair(Kind.LINK, "lvx999", "lvfabric"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_disagreement_one_finding(name: str) -> None:
    make, subject, text, repair = CASES[name]
    found = [one for one in wrong(make()) if text in one.text]
    assert [(one.subject, one.repair) for one in found] == [(subject, repair)], wrong(make())
    if name not in ("unreadable", "tap of nobody"):
        assert len(wrong(make())) == 1


OTHER = dataclasses.replace(
    SPEC, id="i-0000000002", networks=(dataclasses.replace(NIC, netname=A, mac="02:00:00:00:00:02"),)
)


def test_a_vm_that_is_being_made_or_deleted_has_its_part_or_not() -> None:
    half = Domain(OTHER.id, OTHER, stage="is being made")
    before = dataclasses.replace(well(), domains=[*well().domains, half])
    assert [one.text for one in wrong(before)] == ["is being made"]
    both = [SPEC, OTHER]
    metadata = wanted.metadata(A, both, POLICY)
    assert metadata is not None
    done = dataclasses.replace(
        well().vpcs[A],
        there=wanted.network(A, both, POLICY) | {wanted.plug(SPEC, NIC, POLICY)},
        dhcp=wanted.dhcp(A, both, POLICY),
        metadata=imds.digest(metadata),
    )
    assert [one.text for one in wrong(dataclasses.replace(before, vpcs={A: done}))] == ["is being made"]
    alone = Site(POLICY, [half], {A: VpcFacts()})
    assert [one.text for one in wrong(alone)] == ["is being made"]


def test_nothing_is_nobodys_while_a_domain_cannot_be_read() -> None:
    broken = domain(spec=None, trouble="cannot be read")
    links = dataclasses.replace(broken, links=frozenset({("", "lvx9")}))
    assert [one.text for one in wrong(links) if "nobody" in one.text] == []


def test_links_of_other_names_are_never_told() -> None:
    assert wrong(site(links=frozenset({("", "eth0"), ("", "t0000000009-0"), ("", "br-aaaaaaaaaa")}))) == []


def test_what_was_only_under_way_is_not_told() -> None:
    sites = [vpc(metadata=None, fdb=frozenset()), vpc(metadata=None)]
    slept: list[float] = []
    found = [one for one in twice(lambda: sites.pop(0), slept.append)[1] if one.level is not Level.PASS]
    assert ([one.text for one in found], slept) == (
        ["no metadata is served in it: guests get no keys"],
        [SETTLE_SECONDS],
    )
    sites = [vpc(metadata=None), vpc(fdb=frozenset())]
    assert [one for one in twice(lambda: sites.pop(0), slept.append)[1] if one.level is not Level.PASS] == []


def peered() -> Site:
    """A and B, peered, as they should be."""
    vm, nic = "i-0000000002", dataclasses.replace(NIC, netname=B, subnetname="subnet-bbbbbbbbbb", vxlanid=0)
    nic = dataclasses.replace(nic, ipv4=IPv4Interface("10.0.1.5/24"), gateway_v4=IPv4Address("10.0.1.1"))
    other = dataclasses.replace(SPEC, id=vm, networks=(nic,))
    first = well()
    bare = dataclasses.replace(
        first, domains=[*first.domains, Domain(vm, other)], peerings=Peerings([peering(A, B)]), vpcs={}
    )
    dhcp, metadata = wanted.dhcp(B, [other], POLICY), wanted.metadata(B, [other], POLICY)
    assert metadata is not None
    there = {vpc: bare.network(vpc, bare.specs) for vpc in (A, B)}
    facts = VpcFacts(there=there[B], dhcp=dhcp, dhcp_alive=True, leases=frozenset(), metadata=imds.digest(metadata))
    mine = dataclasses.replace(first.vpcs[A], there=first.vpcs[A].there | there[A])
    return dataclasses.replace(bare, vpcs={A: mine, B: facts})


def test_the_ends_of_a_peering_are_looked_at() -> None:
    site = peered()
    assert wrong(site) == []
    end = next(one for one in site.vpcs[A].there if isinstance(one, Peer))
    for there, word in (
        (site.vpcs[A].there - {end}, "missing"),
        (site.vpcs[A].there - {end} | {dataclasses.replace(end, mtu=0)}, "not as it should be"),
    ):
        changed = {**site.vpcs, A: dataclasses.replace(site.vpcs[A], there=there)}
        [found] = wrong(dataclasses.replace(site, vpcs=changed))
        assert (found.text.startswith(word), f"peering with {B}" in found.text, found.repair) == (True, True, SWEEP)
    assert {one.text.split(":")[0] for one in wrong(dataclasses.replace(site, peerings=Peerings()))} == {
        "nobody wants it"
    }
