"""Differences between two specs, with their values."""

from __future__ import annotations

from hypothesis import given
from spec_examples import documents

from lvagent.spec.drift import differences
from lvagent.spec.parse import changes, parse_vm
from lvagent.spec.status import Drift, Place
from tests.e2e.specs import nic, vm

A, B = nic(), nic(subnet="subnet-bbbbbbbbbb", net=1, vni=2, position=1)
DISK = {"path": "/v/1.qcow2", "position": 0, "size_gb": 1}


def between(wanted: dict[str, object], actual: dict[str, object]) -> dict[str, tuple[object, object]]:
    found = differences(parse_vm(wanted), parse_vm(actual), Place.GUEST)
    return {one.path: (one.wanted, one.actual) for one in found}


def test_fields_have_both_values() -> None:
    assert between(vm(1, A, cpus=2), vm(1, A)) == {"cpus": (2, 1)}
    assert between(vm(1, {**A, "ipv4": "10.0.0.9/24"}), vm(1, A)) == {
        "networks[0].ipv4": ("10.0.0.9/24", "10.0.0.5/24")
    }


def test_parts_are_told_by_their_position() -> None:
    came = between(vm(1, A, B), vm(1, A))
    assert [(path, one["position"] if one else one, other) for path, (one, other) in came.items()] == [
        ("networks[1]", 1, None)
    ]
    went = between(vm(1, A), vm(1, A, B))
    assert went["networks[1]"][0] is None
    assert went["networks[1]"][1]["subnetname"] == "subnet-bbbbbbbbbb"
    moved = between(vm(1, {**B, "mtu": 1400}, A), vm(1, A, B))
    assert moved == {"networks[1].mtu": (1400, None)}
    assert between(vm(1, A, volumes=[DISK]), vm(1, A))["volumes[0]"][0]["path"] == "/v/1.qcow2"


def test_no_user_data_is_told() -> None:
    found = differences(parse_vm(vm(1, user_data="hunter2")), parse_vm(vm(1)), Place.GUEST)
    assert found == (Drift("user_data", None, None, Place.GUEST),)


def test_fields_are_left_out() -> None:
    found = differences(parse_vm(vm(1, cpus=2, keys=[])), parse_vm(vm(1)), Place.GUEST, without=("cpus",))
    assert found == ()


@given(documents(), documents())
def test_every_change_is_told_once_and_its_values_differ(one: dict[str, object], other: dict[str, object]) -> None:
    new, old = parse_vm(one), parse_vm(other)
    found = differences(new, old, Place.GUEST)
    assert tuple(drift.path for drift in found) == changes(old, new)
    assert all(drift.wanted != drift.actual for drift in found if drift.path != "user_data")
