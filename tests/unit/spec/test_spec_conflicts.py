"""Contradictions between VMs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_examples import documents, nic, other_subnet, vm, volume

from lvagent.errors import Conflict
from lvagent.spec.conflicts import Claims, check
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig

A = nic(ipv6="fd00:a::5/64", gateway_v6="fd00:a::1", mac="0a:00:00:00:00:01", extra_macs=["00:00:5e:00:01:01"])
FIRST = {"networks": [A | {"extra_addresses": ["10.0.0.100", "192.0.2.0/28"]}], "volumes": [volume()]}
FAR = {"subnetname": "subnet-bbbbbbbbbb", "netname": "vpc-bbbbbbbbbb", "vxlanid": 200}


def near(**fields: object) -> dict[str, object]:
    """A second NIC in the first one's subnet."""
    return nic(ipv4="10.0.0.6/24") | fields


def clash(new: VmConfig, *others: VmConfig) -> tuple[str, str, str] | None:
    try:
        check(new, others)
    except Conflict as error:
        return error.path, error.message, error.other
    return None


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ([near(netname="vpc-bbbbbbbbbb")], "networks[0].netname",
         "subnet-aaaaaaaaaa is in vpc-aaaaaaaaaa, not in vpc-bbbbbbbbbb"),
        ([near(vxlanid=101)], "networks[0].vxlanid", "subnet-aaaaaaaaaa has VNI 100, not 101"),
        ([near(vxlanid=0)], "networks[0].vxlanid", "subnet-aaaaaaaaaa has VNI 100, not 0"),
        ([near(gateway_v4="10.0.0.2")], "networks[0].gateway_v4",
         "subnet-aaaaaaaaaa has the gateway 10.0.0.1/24, not 10.0.0.2/24"),
        ([near(ipv4="10.0.0.6/25")], "networks[0].gateway_v4",
         "subnet-aaaaaaaaaa has the gateway 10.0.0.1/24, not 10.0.0.1/25"),
        ([near(ipv6="fd00:a::6/64", gateway_v6="fd00:a::2")], "networks[0].gateway_v6",
         "subnet-aaaaaaaaaa has the gateway fd00:a::1/64, not fd00:a::2/64"),
        ([near(mtu=1400)], "networks[0].mtu", "the MTU of subnet-aaaaaaaaaa is unset, not 1400"),
        ([nic(**FAR | {"vxlanid": 100})], "networks[0].vxlanid",
         "VNI 100 is that of subnet-aaaaaaaaaa, not of subnet-bbbbbbbbbb"),
        ([other_subnet(vxlanid=100)], "networks[0].vxlanid",
         "VNI 100 is that of subnet-aaaaaaaaaa, not of subnet-bbbbbbbbbb"),
        ([near(ipv4="10.0.0.5/24")], "networks[0].ipv4", "the address 10.0.0.5 is taken"),
        ([near(ipv6="fd00:a::5/64", gateway_v6="fd00:a::1")], "networks[0].ipv6", "the address fd00:a::5 is taken"),
        ([near(ipv4="10.0.0.100/24")], "networks[0].ipv4",
         "the address 10.0.0.100 is among the extra addresses 10.0.0.100/32"),
        ([near(extra_addresses=["10.0.0.4/31"])], "networks[0].extra_addresses[0]",
         "the extra address 10.0.0.4/31 covers the address 10.0.0.5"),
        ([other_subnet(ipv4="10.0.0.200/25", gateway_v4="10.0.0.129")], "networks[0].ipv4",
         "10.0.0.128/25 of subnet-bbbbbbbbbb overlaps 10.0.0.0/24 of subnet-aaaaaaaaaa"),
        ([other_subnet(ipv4="10.0.1.5/16", gateway_v4="10.0.1.1")], "networks[0].ipv4",
         "10.0.0.0/16 of subnet-bbbbbbbbbb overlaps 10.0.0.0/24 of subnet-aaaaaaaaaa"),
        ([other_subnet(ipv4="192.0.2.5/24", gateway_v4="192.0.2.1")], "networks[0].ipv4",
         "192.0.2.0/24 of subnet-bbbbbbbbbb overlaps the extra address 192.0.2.0/28"),
        ([other_subnet(extra_addresses=["10.0.0.64/26"])], "networks[0].extra_addresses[0]",
         "the extra address 10.0.0.64/26 overlaps 10.0.0.0/24 of subnet-aaaaaaaaaa"),
        ([other_subnet(), near(position=1, ipv4="10.0.0.5/24")], "networks[1].ipv4", "the address 10.0.0.5 is taken"),
        ([nic(**FAR, mac="0a:00:00:00:00:01")], "networks[0].mac", "the MAC 0a:00:00:00:00:01 is taken"),
        ([near(mac="00:00:5e:00:01:01")], "networks[0].mac", "the MAC 00:00:5e:00:01:01 is taken"),
        ([near(extra_macs=["0a:00:00:00:00:01"])], "networks[0].extra_macs[0]", "the MAC 0a:00:00:00:00:01 is taken"),
    ],
)  # fmt: skip
def test_nics_of_two_vms(fields, path, message):
    first, second = parse_vm(vm(1, **FIRST)), parse_vm(vm(2, networks=fields))
    assert clash(second, first) == (path, f"{message}: see i-0000000001", "i-0000000001")
    back = clash(first, second)
    assert back is not None
    assert back[2] == "i-0000000002"


@pytest.mark.parametrize(
    "fields",
    [
        [near()],
        [nic(ipv4=None, gateway_v4=None, ipv6="fd00:a::6/64", gateway_v6="fd00:a::1")],
        [nic(**FAR)],
        [nic(**FAR, extra_addresses=["10.0.0.100"], extra_macs=["0a:00:00:00:00:01"])],
        [other_subnet()],
        [other_subnet(position=0), near(position=1)],
        [near(extra_addresses=["10.0.0.100"], extra_macs=["00:00:5e:00:01:01"])],
        [other_subnet(extra_addresses=["192.0.2.0/24"])],
    ],
)
def test_nics_that_go_together(fields):
    first, second = parse_vm(vm(1, **FIRST)), parse_vm(vm(2, networks=fields))
    assert clash(second, first) is None
    assert clash(first, second) is None


def test_vni_0_is_not_one_segment():
    first = parse_vm(vm(1, networks=[nic(vxlanid=0)]))
    assert clash(parse_vm(vm(2, networks=[nic(**FAR | {"vxlanid": 0})])), first) is None


@pytest.mark.parametrize(
    ("one", "two", "together"), [(False, False, 0), (True, False, 0), (False, True, 0), (True, True, 1)]
)
def test_a_volume_of_two_vms(one, two, together):
    first = parse_vm(vm(1, volumes=[volume(readonly=one)]))
    second = parse_vm(vm(2, networks=[near()], volumes=[volume(readonly=two)]))
    expected = ("volumes[0].path", "the volume /v/one.qcow2 is in use: see i-0000000001", "i-0000000001")
    assert clash(second, first) == (None if together else expected)


def test_the_hint_says_what_to_do():
    with pytest.raises(Conflict) as caught:
        check(parse_vm(vm(2, networks=[near(mtu=1400)])), [parse_vm(vm(1, **FIRST))])
    assert caught.value.hint == "say the same mtu in each NIC of a subnet, or in none"


def test_a_vm_never_conflicts_with_its_older_self():
    old = parse_vm(vm(1, **FIRST))
    new = parse_vm(vm(1, networks=[A | {"gateway_v4": "10.0.0.2", "vxlanid": 7, "mtu": 1400}], volumes=[volume()]))
    claims = Claims([old])
    claims.check(old)
    claims.check(new)
    claims.add(new)
    claims.check(old)


def test_its_older_self_hides_no_other():
    claims = Claims([parse_vm(vm(1)), parse_vm(vm(2, networks=[near()]))])
    with pytest.raises(Conflict) as caught:
        claims.check(parse_vm(vm(1, networks=[nic(gateway_v4="10.0.0.2")])))
    assert caught.value.other == "i-0000000002"


def test_a_subnet_is_held_until_its_last_vm_goes():
    claims = Claims([parse_vm(vm(1)), parse_vm(vm(2, networks=[near()]))])
    other = parse_vm(vm(3, networks=[nic(ipv4="10.0.0.7/24", gateway_v4="10.0.0.3")]))
    for number in (1, 2):
        with pytest.raises(Conflict):
            claims.check(other)
        claims.drop(f"i-{number:010}")
    claims.check(other)


def test_dropping_who_is_not_there_is_nothing():
    claims = Claims([parse_vm(vm(1))])
    claims.drop("i-0000000009")
    with pytest.raises(Conflict):
        claims.check(parse_vm(vm(2)))


def test_what_contradicts_already_is_believed_and_forgotten():
    one, two, three = (parse_vm(vm(number, **FIRST)) for number in (1, 2, 3))
    claims = Claims([one, two])
    claims.drop(one.id)
    with pytest.raises(Conflict) as caught:
        claims.check(three)
    assert caught.value.other == two.id
    claims.drop(two.id)
    claims.check(three)


def _renumbered(document: dict[str, object], number: int) -> VmConfig:
    return parse_vm(document | {"id": f"i-{number:010}"})


@given(documents(), documents())
def test_conflict_is_symmetric(one, two):
    first, second = _renumbered(one, 1), _renumbered(two, 2)
    assert (clash(first, second) is None) == (clash(second, first) is None)


@given(st.lists(documents(), min_size=1, max_size=4), documents(), st.data())
def test_an_index_that_grew_and_shrank_says_what_a_fresh_one_says(others, new, data):
    vms = [_renumbered(document, number) for number, document in enumerate(others)]
    candidate = _renumbered(new, 99)
    claims = Claims(vms)
    gone = data.draw(st.sets(st.sampled_from([entry.id for entry in vms])))
    for name in gone:
        claims.drop(name)
    left = [entry for entry in vms if entry.id not in gone]
    found = None
    try:
        claims.check(candidate)
    except Conflict as error:
        found = (error.path, error.message, error.other)
    assert found == clash(candidate, *left)
    for entry in left:
        claims.drop(entry.id)
    assert vars(claims._book)["_ranges"] == {}
    assert vars(claims._book._statements)["_values"] == {}


def _many(count: int) -> list[VmConfig]:
    return [
        parse_vm(vm(n, networks=[nic(ipv4=f"10.0.{n // 200}.{n % 200 + 2}/16", gateway_v4="10.0.0.1")]))
        for n in range(count)
    ]


def _cost(claims: Claims, new: VmConfig) -> float:
    """CPU seconds of one check: the least of many."""
    best = 1.0
    for _ in range(200):
        begin = time.process_time()
        claims.check(new)
        best = min(best, time.process_time() - begin)
    return best


def test_a_check_beside_1000_vms_of_one_subnet_costs_as_beside_10():
    vms = _many(1001)
    few, many = _cost(Claims(vms[:10]), vms[-1]), _cost(Claims(vms[:-1]), vms[-1])
    assert many < 5 * few
    assert many < 0.002
