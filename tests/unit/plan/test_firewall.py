"""Rules, groups and extra addresses as resources: who a name is, whose an address is, and what is kept of others."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.plan import firewall
from lvagent.plan.resources import Extras, Firewall, Group, Span
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import Direction, NetRule, VmConfig

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
SA, SB = "subnet-aaaaaaaaaa", "subnet-bbbbbbbbbb"
IN, OUT = Direction.INGRESS, Direction.EGRESS


def nic(host: int, *, vpc: str = A, subnet: str = SA, position: int = 0, **more: object) -> dict[str, object]:
    plain = {"vxlanid": 0, "netname": vpc, "subnetname": subnet, "position": position}
    return plain | {"ipv4": f"10.0.{position}.{host}/24", "gateway_v4": f"10.0.{position}.1"} | more


def vm(number: int, *nics: dict[str, object], rules: list[dict[str, object]] | None = None) -> VmConfig:
    document = {"id": f"i-{number:010}", "memory_mb": 64, "cpus": 1, "networks": list(nics) or [nic(number)]}
    return parse_vm({**document, "rules": rules or []})


def groups(found: frozenset[object]) -> dict[str, tuple[str, ...]]:
    return {one.name: tuple(map(str, one.nets)) for one in found if isinstance(one, Group)}


def test_a_firewall_has_the_rules_with_their_direction_each_once_and_in_order() -> None:
    spec = vm(5, rules=[{"proto": "udp", "port": 53}, {"proto": "tcp", "port": 80, "destination": "10.9.0.0/16"},
                        {"proto": "udp", "port": 53, "direction": "ingress"}])  # fmt: skip
    assert firewall.firewall(A, spec) == Firewall(
        A,
        "i-0000000005",
        ("t0000000005-0",),
        ("10.0.0.5",),
        (NetRule("tcp", 80, destination="10.9.0.0/16", direction=OUT), NetRule("udp", 53, direction=IN)),
    )


def test_a_vm_in_two_vpcs_has_a_firewall_in_each_with_what_is_there() -> None:
    spec = vm(5, nic(5), nic(6, vpc=B, subnet=SB, position=1))
    found = {vpc: firewall.firewall(vpc, spec) for vpc in (A, B)}
    assert (found[A].taps, found[A].addresses) == (("t0000000005-0",), ("10.0.0.5",))
    assert (found[B].taps, found[B].addresses) == (("t0000000005-1",), ("10.0.1.6",))


def test_groups_are_those_that_rules_name_and_hold_who_is_there() -> None:
    local = [f"{names.link_local(names.nic_mac(f'i-{number:010}', 0))}/128" for number in (5, 6)]
    asks = vm(5, rules=[{"proto": "any", "source": "i-0000000006"}, {"proto": "any", "destination": SA},
                        {"proto": "any", "source": "i-0000000099"}])  # fmt: skip
    wide = vm(6, nic(6, extra_addresses=["192.0.2.0/28", "fd00:7::/64"]))
    assert groups(firewall.filters(A, [asks, wide])) == {
        "i-0000000006": ("10.0.0.6/32", "192.0.2.0/28", "fd00:7::/64", local[1]),
        SA: ("10.0.0.5/32", "10.0.0.6/32", "192.0.2.0/28", "fd00:7::/64", *sorted(local)),
        "i-0000000099": (),
    }
    assert groups(firewall.filters(A, [wide])) == {}


def test_a_name_means_what_is_in_this_vpc() -> None:
    both = vm(6, nic(6), nic(7, vpc=B, subnet=SB, position=1))
    assert (
        "10.0.1.7/32"
        not in groups(firewall.filters(A, [vm(5, rules=[{"proto": "any", "source": both.id}]), both]))[both.id]
    )


def extras(*owners: tuple[str, ...]) -> tuple[Span, ...]:
    members = [vm(number, nic(number, extra_addresses=list(nets))) for number, nets in enumerate(owners, 5)]
    found = [one for one in firewall.filters(A, members) if isinstance(one, Extras)]
    return found[0].spans if found else ()


def test_extra_addresses_are_cut_where_their_owners_change() -> None:
    five, six = "i-0000000005", "i-0000000006"
    assert extras(("192.0.2.0/28",), ("192.0.2.4/30", "192.0.2.16/32")) == (
        Span("192.0.2.0", "192.0.2.3", (five,)),
        Span("192.0.2.4", "192.0.2.7", (five, six)),
        Span("192.0.2.8", "192.0.2.15", (five,)),
        Span("192.0.2.16", "192.0.2.16", (six,)),
    )
    assert extras(()) == ()
    assert extras(("fd00:7::/64",), ("fd00:7::/64",)) == (Span("fd00:7::", "fd00:7::ffff:ffff:ffff:ffff", (five, six)),)


NETS = st.lists(
    st.sampled_from(["192.0.2.0/24", "192.0.2.0/25", "192.0.2.64/26", "192.0.2.77/32", "198.51.100.0/31",
                     "203.0.113.255/32", "203.0.114.0/32", "fd00:7::/64", "fd00:7::8/125"]),
    max_size=5, unique=True,
)  # fmt: skip


@given(st.lists(NETS, min_size=1, max_size=4))
def test_spans_say_of_each_address_who_has_it(owners: list[list[str]]) -> None:
    spans = extras(*map(tuple, owners))
    edges = {ip_address(edge) for span in spans for edge in (span.first, span.last)}
    nets = {number: [ip_network(net) for net in mine] for number, mine in enumerate(owners, 5)}
    for address in {*edges, *(near for edge in edges for near in (edge + 1, edge - 1)), ip_address("192.0.2.77")}:
        have = tuple(f"i-{number:010}" for number, mine in nets.items() if any(address in net for net in mine))
        told = [span.vms for span in spans if _within(str(address), span)]
        assert told == ([have] if have else []), address


def _within(address: str, span: Span) -> bool:
    first, last, one = (ip_address(text) for text in (span.first, span.last, address))
    return one.version == first.version and int(first) <= int(one) <= int(last)


def test_who_does_not_know_all_takes_nothing_away() -> None:
    all_of_them = [
        vm(5, nic(5, extra_addresses=["192.0.2.0/28"]), rules=[{"proto": "any", "source": SA}]),
        vm(6, nic(6, extra_addresses=["192.0.2.8/29"]), rules=[{"proto": "any", "source": "i-0000000007"}]),
    ]
    late = vm(7, nic(7, extra_addresses=["192.0.2.0/30"]), rules=[{"proto": "any", "source": SA}])
    there = firewall.filters(A, all_of_them)
    alone = firewall.joined(firewall.filters(A, [late]), there, [late])
    whole = firewall.filters(A, [*all_of_them, late])
    kinds = (Group, Extras)
    assert {one for one in alone if isinstance(one, kinds)} == {one for one in whole if isinstance(one, kinds)}
    assert {one for one in alone if isinstance(one, Firewall)} == {firewall.firewall(A, late)}


@pytest.mark.parametrize("members", [[], [vm(5)]])
def test_joining_nothing_changes_nothing(members: list[VmConfig]) -> None:
    wish = firewall.filters(A, members)
    assert firewall.joined(wish, frozenset(), members) == wish
