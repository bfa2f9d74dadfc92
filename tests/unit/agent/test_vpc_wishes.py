"""The wishes of VPCs: kept in files, changed as a whole, told as they stand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lvagent.agent.configs import VpcConfigs
from lvagent.errors import HostError, NotFound, SpecError
from lvagent.host.wishes import WishFiles
from lvagent.plan.resources import Router, Uplink
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.vpc import DEFAULT, UplinkMode, VpcConfig, dump_vpc
from tests.unit.agent.fakes import FakeHost
from tests.unit.api.specs import full
from tests.unit.plan.test_uplinks import WAYS

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
NAT = VpcConfig(uplink=UplinkMode.NAT)


@pytest.fixture
def files(tmp_path: Path) -> WishFiles:
    return WishFiles(tmp_path / "vpcs", names.VPC_NAME)


def test_a_wish_is_a_file_of_roots_alone(files: WishFiles, tmp_path: Path) -> None:
    assert (files.keys(), files.read(A)) == (frozenset(), None)
    files.remove(A)
    files.write(A, dump_vpc(NAT))
    path = tmp_path / "vpcs" / f"{A}.json"
    assert json.loads(path.read_text()) == dump_vpc(NAT) == files.read(A)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    files.write(A, dump_vpc(DEFAULT))
    assert files.read(A) == dump_vpc(DEFAULT)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    files.remove(A)
    assert files.keys() == frozenset()


def test_wishes_of_other_kinds_lie_beside_it(files: WishFiles, tmp_path: Path) -> None:
    ports = WishFiles(tmp_path / "vpcs", names.VM_ID, "ports")
    peers = WishFiles(tmp_path / "vpcs", names.VPC_NAME, "peers")
    files.write(A, {})
    ports.write("i-0000000001", {"ports": []})
    peers.write(A, {"peer": B})
    (tmp_path / "vpcs" / f".{A}.json.half").write_text("{")  # what a crash left
    assert (files.keys(), ports.keys(), peers.keys()) == ({A}, {"i-0000000001"}, {A})
    assert peers.read(A) == {"peer": B}


@pytest.mark.parametrize("key", ["../x", "vpc-aaaaaaaaaa/../../x", "vpc-AAAAAAAAAA", "", "vpc-aaaaaaaaaa\n"])
def test_a_name_that_is_none_leads_nowhere(files: WishFiles, key: str) -> None:
    for act in (files.read, files.remove, lambda key: files.write(key, {})):
        with pytest.raises(HostError):
            act(key)


def test_a_link_is_no_wish_and_a_broken_file_is_told(files: WishFiles, tmp_path: Path) -> None:
    files.write(A, dump_vpc(NAT))
    (tmp_path / "vpcs" / f"{B}.json").symlink_to(tmp_path / "vpcs" / f"{A}.json")
    with pytest.raises(HostError):
        files.read(B)
    (tmp_path / "vpcs" / f"{A}.json").write_text('{"uplink": "nat", "uplink": "none"}')
    with pytest.raises(SpecError, match="twice"):
        files.read(A)
    configs = VpcConfigs(files)
    assert configs.all() == {}
    assert configs.broken().keys() == {A, B}
    configs.set(A, NAT)
    configs.keep(A)
    assert (configs.broken().keys(), files.read(A)) == ({B}, dump_vpc(NAT))


# in an agent


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path / "locks")
    found.policy = dataclasses.replace(found.policy, uplinks=WAYS)
    found.wishes = WishFiles(tmp_path / "vpcs", names.VPC_NAME)
    return found


def spec(number: int = 1) -> dict[str, object]:
    return full() | {"id": f"i-{number:010}"}


def test_a_wish_is_there_before_and_after_its_vms(fake: FakeHost) -> None:
    agent = fake.agent()
    view = agent.put_vpc(A, NAT)
    assert (view.settings, view.vms, view.uplink.mode, view.uplink.address_v4) == (NAT, (), "nat", None)
    assert not fake.wires.there
    agent.put(parse_vm(spec()))
    assert {type(one) for one in fake.wires.there if isinstance(one, Router | Uplink)} == {Router, Uplink}
    assert fake.dhcp.served[A].forwarders == ("192.0.2.53",)
    shown = agent.vpc(A).uplink
    assert (shown.address_v4, shown.gateway_v4, shown.forwarders) == ("198.19.0.3", "198.19.0.2", ("192.0.2.53",))
    agent.delete("i-0000000001")
    assert not fake.wires.there
    assert fake.agent().vpc(A).settings == NAT
    agent.delete_vpc(A)
    with pytest.raises(NotFound):
        agent.vpc(A)
    with pytest.raises(NotFound):
        agent.delete_vpc(A)
    assert fake.wishes is not None
    assert fake.wishes.keys() == frozenset()


def test_a_change_that_fails_leaves_the_former_wish(fake: FakeHost) -> None:
    agent = fake.agent()
    agent.put(parse_vm(spec()))
    agent.put_vpc(A, VpcConfig(domain="one.internal"))
    before = fake.state()
    wish = VpcConfig(uplink=UplinkMode.NAT, domain="two.internal", metadata=False)
    steps = 0
    while True:
        steps += 1
        fake.breaker.arm(steps)
        try:
            agent.put_vpc(A, wish)
        except HostError:
            fake.breaker.arm(-1)
            assert fake.state() == before, steps
            assert agent.vpc(A).settings == VpcConfig(domain="one.internal")
            continue
        break
    fake.breaker.arm(-1)
    assert steps > 3
    assert fake.agent().vpc(A).settings == wish
    assert A not in fake.metadata.served


def test_what_is_in_the_way_on_the_host_is_shown_where_it_matters(fake: FakeHost) -> None:
    agent = fake.agent()
    agent.put(parse_vm(spec()))
    agent.put_vpc(A, NAT)
    agent.put_vpc(B, NAT)
    fake.wires.troubles = ("table ip filter, chain FORWARD: policy drop (Docker)",)
    assert agent.vpc(A).uplink.trouble == fake.wires.troubles
    assert agent.vpc(B).uplink.trouble == ()  # nobody is in it


def test_a_flush_in_root_has_the_router_made_anew_and_nothing_else(fake: FakeHost) -> None:
    agent = fake.agent()
    agent.put(parse_vm(spec()))
    agent.put_vpc(A, NAT)
    before = set(fake.wires.there)
    fake.wires.there = {one for one in before if not isinstance(one, Router)}
    agent.heal("")
    assert fake.wires.there == before
    looked = fake.wires.looks
    agent.heal("")
    assert fake.wires.looks == looked + 1


def test_a_wish_that_cannot_be_read_takes_no_uplink_away(fake: FakeHost, tmp_path: Path) -> None:
    agent = fake.agent()
    agent.put(parse_vm(spec()))
    agent.put_vpc(A, NAT)
    (tmp_path / "vpcs" / f"{A}.json").write_text("{")
    before = set(fake.wires.there)
    again = fake.agent()
    assert again.sweep()
    assert set(fake.wires.there) == before
    assert len(again.vpc(A).uplink.trouble) == 1
