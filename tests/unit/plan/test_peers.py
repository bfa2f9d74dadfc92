"""The ends of peerings as resources: what each VPC is routed, and when none is."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from lvagent.plan import diff, peers, wanted
from lvagent.plan.resources import Group, Peer
from lvagent.spec.peerings import Peerings, peering
from lvagent.spec.vm import VmConfig
from tests.unit.agent.fakes import POLICY
from tests.unit.spec.test_peerings import A, B, C, vm

BOTH = Peerings([peering(A, B), peering(B, C)])


def ends(vms: Sequence[VmConfig], some: Peerings = BOTH) -> set[Peer]:
    """All ends that all VPCs want."""

    def members(vpc: str) -> list[VmConfig]:
        return [one for one in vms if vpc in one.vpcs]

    near = {vpc: peers.beside(vpc, some, members) for vpc in (A, B, C)}
    return {end for vpc in (A, B, C) for end in peers.peers(vpc, members(vpc), near[vpc])}


def test_each_end_leads_to_the_prefixes_of_the_other() -> None:
    found = {(one.vpc, one.other): one for one in ends([vm(1, A), vm(2, B), vm(4, B)])}
    assert set(found) == {(A, B), (B, A)}
    assert found[A, B].nets == (ip_network("10.0.2.0/24"), ip_network("10.0.4.0/24"))
    assert found[A, B].sources == (ip_address("10.0.1.1"),)
    assert found[B, A] == Peer(B, A, (ip_network("10.0.1.0/24"),), (ip_address("10.0.2.1"),))


def test_a_vpc_that_is_not_there_has_no_ends() -> None:
    assert ends([vm(1, A)]) == ends([vm(1, A), vm(3, C)]) == ends([vm(1, A), vm(2, B)], Peerings()) == set()


def test_what_the_two_have_not_in_common_is_not_routed() -> None:
    found = ends([vm(1, A), vm(2, B, "fd00:2::/64")])
    assert {(one.vpc, one.nets, one.sources) for one in found} == {(A, (), ()), (B, (), ())}


def test_prefixes_that_came_to_overlap_take_both_peerings_of_the_vpc_between_away() -> None:
    """A and C are the same net, so B must not choose between them."""
    vms = [vm(1, A, "7"), vm(2, B), vm(3, C, "7")]
    assert ends(vms) == set()
    assert {one.vpc for one in ends(vms, Peerings([peering(A, B)]))} == {A, B}
    members = {A: vms[:1], B: vms[1:2], C: vms[2:]}
    assert (
        peers.clash(peering(A, B), BOTH, lambda vpc: members[vpc]) == f"10.0.7.0/24 of {A} overlaps 10.0.7.0/24 of {C}"
    )


def test_a_rule_may_name_what_is_in_a_peered_vpc() -> None:
    one, other = vm(1, A), vm(2, B, extra=("10.0.2.77",))
    rule = {"proto": "tcp", "port": 80, "source": other.id}
    from lvagent.spec.dump import dump_vm
    from lvagent.spec.parse import parse_vm

    ruled = parse_vm({**dump_vm(one, secrets=True), "rules": [rule]})  # type: ignore[dict-item]
    for some, nets in ((BOTH, ["10.0.2.12/32", "10.0.2.77/32"]), (Peerings(), [])):
        near = peers.beside(A, some, lambda vpc: [other] if vpc == B else [ruled])
        groups = [one for one in wanted.network(A, [ruled], POLICY, near) if isinstance(one, Group)]
        assert [str(net) for group in groups for net in group.nets] == nets


def test_steps_are_told_apart() -> None:
    end = next(iter(ends([vm(1, A), vm(2, B)])))
    wish = wanted.network(end.vpc, [vm(1, end.vpc)], POLICY)
    mine, old, new = diff.apart(diff.subtract({*wish, end}, set()))
    assert (set(mine.ensure), old, new) == (set(wish), (), (end,))
    mine, old, new = diff.apart(diff.subtract(wish, {*wish, end}))
    assert (mine.remove, old, new) == ((), (end,), ())
    mine, old, new = diff.apart(diff.subtract(set(), {*wish, end}))
    assert end in mine.remove
    assert old == (end,)
    assert end.other in diff.describe(end)
