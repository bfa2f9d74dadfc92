"""Which VPCs are peered, and whose prefixes must be disjoint then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.errors import Conflict, SpecError
from lvagent.spec.conflicts import Claims, check_peering
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import Peering, Peerings, peering
from lvagent.spec.vm import VmConfig

A, B, C, D = (f"vpc-{letter * 10}" for letter in "abcd")
VPCS = st.sampled_from((A, B, C, D))


def vm(number: int, vpc: str, net: str = "", *, extra: tuple[str, ...] = (), more: object = None) -> VmConfig:
    """A VM in a VPC, with an address in 10.0.<net>.0/24 or in a net that is written out."""
    prefix = net if "/" in net else f"10.0.{net or number}.0/24"
    first, length = prefix.split("/")
    host = first.rsplit(".", 1)[0] if "." in first else first.removesuffix(":")
    six = ":" in first
    nic = {
        "vxlanid": 0,
        "netname": vpc,
        "subnetname": f"subnet-{vpc[4:13]}{number}",
        "position": 0,
        ("ipv6" if six else "ipv4"): f"{host}:{number + 10}/{length}" if six else f"{host}.{number + 10}/{length}",
        ("gateway_v6" if six else "gateway_v4"): f"{host}:1" if six else f"{host}.1",
        "extra_addresses": list(extra),
    }
    nics = [nic, *([] if more is None else [{**nic, "position": 1, **more}])]  # type: ignore[dict-item]
    return parse_vm({"id": f"i-{number:010}", "memory_mb": 64, "cpus": 1, "networks": nics})


def test_the_order_means_nothing() -> None:
    assert peering(B, A) == peering(A, B) == Peering(A, B)
    assert str(peering(B, A)) == f"{A}/{B}"


@pytest.mark.parametrize(("one", "other"), [(A, A), ("vpc-x", A), (A, "lvfabric"), (A, f"{B}\n")])
def test_what_is_no_pair_of_vpcs_is_none(one: str, other: str) -> None:
    with pytest.raises(SpecError):
        peering(one, other)


@given(st.sets(st.tuples(VPCS, VPCS)))
def test_who_is_near_is_near_from_both_sides(pairs: set[tuple[str, str]]) -> None:
    some = Peerings(peering(*pair) for pair in pairs if pair[0] != pair[1])
    for vpc in (A, B, C, D):
        assert {other for other in (A, B, C, D) if vpc in some.of(other)} == set(some.of(vpc))
        rivals = {rival.vpc for rival in some.rivals(vpc)}
        beside = {third for other in some.of(vpc) for third in some.of(other)}
        assert rivals == (set(some.of(vpc)) | beside) - {vpc}
        assert all(vpc in {back.vpc for back in some.rivals(rival)} for rival in rivals)


def test_one_more_and_one_less_leave_the_first_as_it_was() -> None:
    some = Peerings([peering(A, B)])
    assert some.plus(peering(C, B)).all() == (Peering(A, B), Peering(B, C))
    assert some.minus(peering(B, A)).all() == ()
    assert peering(A, B) in some


OVERLAPS = {
    "equal": ("10.0.1.0/24", "10.0.1.0/24"),
    "one within the other": ("10.0.0.0/22", "10.0.1.0/24"),
    "IPv6": ("fd00:1::/64", "fd00:1::/64"),
}


@pytest.mark.parametrize("pair", OVERLAPS.values(), ids=OVERLAPS)
def test_vpcs_with_prefixes_that_overlap_are_not_peered(pair: tuple[str, str]) -> None:
    books = [Claims([vm(1, A, pair[0])]), Claims([vm(2, B, pair[1])])]
    with pytest.raises(Conflict, match=r"10\.0\.|fd00") as raised:
        check_peering(peering(B, A), Peerings(), books)
    assert raised.value.other in (A, B)
    assert all(net in raised.value.message for net in pair)
    check_peering(peering(C, A), Peerings(), books)


def test_a_third_vpc_between_two_keeps_them_apart() -> None:
    book = Claims([vm(1, A, "7"), vm(2, B), vm(3, C, "7")])
    check_peering(peering(B, C), Peerings(), [book])
    with pytest.raises(Conflict) as raised:
        check_peering(peering(A, B), Peerings([peering(B, C)]), [book])
    assert f"{B}/{C} are peered" in raised.value.message
    check_peering(peering(A, B), Peerings([peering(C, D)]), [book])


def test_an_extra_address_may_not_be_in_the_other_vpc() -> None:
    book = Claims([vm(1, A, extra=("10.0.2.128/25",)), vm(2, B), vm(3, C, extra=("10.0.2.0/25",))])
    with pytest.raises(Conflict, match="the extra address"):
        check_peering(peering(A, B), Peerings(), [book])
    check_peering(peering(A, C), Peerings(), [book])


def test_a_vm_that_would_bring_what_overlaps_is_refused_with_its_path_and_the_peering() -> None:
    book = Claims([vm(1, A), vm(2, B), vm(3, C)])
    some = Peerings([peering(A, B), peering(B, C)])
    book.check_apart(vm(4, A, "4"), some)
    for net in ("2", "3"):  # of B, and of C beside it
        with pytest.raises(Conflict) as raised:
            book.check_apart(vm(4, A, net), some)
        assert raised.value.path == "networks[0].ipv4"
        assert raised.value.other == (f"{A}/{B}" if net == "2" else f"{B}/{C}")
        assert f"DELETE /v1/peerings/{raised.value.other}" in raised.value.hint
    book.check_apart(vm(4, D, "2"), some)


def test_a_vm_may_change_what_it_alone_has() -> None:
    book = Claims([vm(1, A), vm(2, B, "9")])
    book.check_apart(vm(2, A, "9"), Peerings([peering(A, B)]))


def test_a_vm_with_a_foot_in_either_is_compared_with_itself() -> None:
    both = {"netname": B, "subnetname": "subnet-bbbbbbbbbb"}
    with pytest.raises(Conflict, match="overlaps"):
        Claims().check_apart(vm(1, A, more=both), Peerings([peering(A, B)]))
    Claims().check_apart(vm(1, A, more=both), Peerings([peering(A, C)]))
