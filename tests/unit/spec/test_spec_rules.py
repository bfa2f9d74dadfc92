"""Which way a rule looks, and what differs between two specs."""

from __future__ import annotations

import pytest
from hypothesis import given
from spec_examples import KEY, documents, nic, other_subnet, rule, vm, volume

from lvagent.spec.parse import changes, direction_of, parse_vm
from lvagent.spec.vm import Direction

DUAL = nic(ipv6="fd00:a::5/64", gateway_v6="fd00:a::1", extra_addresses=["192.0.2.0/28"])
IN, OUT = Direction.INGRESS, Direction.EGRESS


@pytest.mark.parametrize(
    ("fields", "direction"),
    [
        ({}, IN),
        ({"source": "0.0.0.0/0"}, IN),
        ({"source": "10.0.0.0/24"}, IN),
        ({"source": "10.0.0.6"}, IN),
        ({"source": "i-0000000002"}, IN),
        ({"source": "subnet-aaaaaaaaaa"}, IN),
        ({"source": "10.0.0.5"}, OUT),
        ({"source": "10.0.0.5/32"}, OUT),
        ({"source": "fd00:a::5"}, OUT),
        ({"source": "192.0.2.8/29"}, OUT),
        ({"source": "i-0000000001"}, OUT),
        ({"source": "i-0000000001", "destination": "i-0000000001"}, OUT),
        ({"destination": "10.0.0.5"}, IN),
        ({"destination": "10.0.0.0/24"}, IN),
        ({"destination": "0.0.0.0/0"}, IN),
        ({"destination": "::/0"}, IN),
        ({"destination": "192.0.2.3"}, IN),
        ({"destination": "i-0000000001"}, IN),
        ({"destination": "subnet-aaaaaaaaaa"}, IN),
        ({"destination": "subnet-bbbbbbbbbb"}, OUT),
        ({"destination": "i-0000000002"}, OUT),
        ({"destination": "10.0.0.6"}, OUT),
        ({"destination": "192.168.0.0/16"}, OUT),
        ({"destination": "fd00:b::/64"}, OUT),
        ({"source": "10.0.0.6", "destination": "10.0.0.5"}, IN),
        ({"source": "10.0.0.5", "destination": "10.0.0.6", "direction": "ingress"}, IN),
        ({"direction": "egress"}, OUT),
    ],
)
def test_direction(fields, direction):
    parsed = parse_vm(vm(networks=[DUAL], rules=[rule(**fields)]))
    assert direction_of(parsed.rules[0], parsed) is direction


def test_a_net_of_a_family_that_the_vm_lacks_does_not_cover_it():
    parsed = parse_vm(vm(rules=[rule(destination="::/0")]))
    assert direction_of(parsed.rules[0], parsed) is OUT


NICS = [nic(), other_subnet(position=1)]


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({}, {}, ()),
        ({}, {"memory_mb": 256, "cpus": 2}, ("memory_mb", "cpus")),
        ({}, {"id": "i-0000000002", "networks": [nic(mac="06:8c:09:e8:34:62")]}, ("id",)),
        ({}, {"user_data": "x", "datasource": "ec2"}, ("user_data", "datasource")),
        ({}, {"keys": [KEY], "rules": [rule()]}, ("rules", "keys")),
        ({"restart": "never"}, {"restart": "always"}, ("restart",)),
        ({}, {"restart": "on-failure"}, ()),
        ({"networks": NICS}, {"networks": [nic(), other_subnet(position=1, ipv4="10.0.1.6/24", mtu=1400)]},
         ("networks[1].ipv4", "networks[1].mtu")),
        ({}, {"networks": [nic(ipv4="10.0.0.5/25")]}, ("networks[0].ipv4",)),
        ({}, {"networks": NICS}, ("networks[1]",)),
        ({"networks": NICS}, {}, ("networks[1]",)),
        ({"networks": NICS}, {"networks": [nic(), other_subnet(position=2)]}, ("networks[1]",)),
        ({"networks": [nic(), other_subnet(position=7)]}, {"networks": [nic(mtu=1400), other_subnet(position=7)]},
         ("networks[0].mtu",)),
        ({}, {"volumes": [volume()]}, ("volumes[0]",)),
        ({"volumes": [volume()]}, {"volumes": [volume(path="/v/b.qcow2", size_gb=3)]},
         ("volumes[0].path", "volumes[0].size_gb")),
    ],
)  # fmt: skip
def test_changes(old, new, paths):
    assert changes(parse_vm(vm(**old)), parse_vm(vm(**new))) == paths


@given(documents(), documents())
def test_changes_are_none_exactly_between_equals(one, two):
    first, second = parse_vm(one), parse_vm(two)
    assert changes(first, first) == ()
    assert bool(changes(first, second)) == (first != second)
    assert {path.split(".")[0] for path in changes(first, second) if "[" not in path} == {
        path.split(".")[0] for path in changes(second, first) if "[" not in path
    }
