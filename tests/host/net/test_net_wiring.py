"""Wiring as others see it: made, made again, changed, taken away, repaired."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, ip_network
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.host import netns, sysctl
from lvagent.host.network import Network
from lvagent.plan.resources import Bridge, Fabric, Netns, PortFilter, Resource, Ruleset, Subnet, Veth, Vxlan
from lvagent.spec import names
from tests.host.net.conftest import (
    LOCAL,
    MTU,
    SUBNET,
    VPC,
    Guest,
    base,
    open_port,
    plug,
    port,
    segment,
    settings_for,
    wall,
)

pytestmark = pytest.mark.host


def seen(path: str) -> dict[str, dict[str, object]]:
    """The links of a namespace, told by pyroute2."""

    def look() -> dict[str, dict[str, object]]:
        with IPRoute() as route:
            by_index = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
            found = {}
            for link in route.get_links():
                info = link.get_attr("IFLA_LINKINFO")
                found[link.get_attr("IFLA_IFNAME")] = {
                    "kind": info.get_attr("IFLA_INFO_KIND") if info else "",
                    "mac": link.get_attr("IFLA_ADDRESS"),
                    "mtu": link.get_attr("IFLA_MTU"),
                    "master": by_index.get(link.get_attr("IFLA_MASTER"), ""),
                    "up": link["state"] == "up",
                    "group": link.get_attr("IFLA_GROUP"),
                    "addresses": {
                        f"{one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}"
                        for one in route.get_addr(index=link["index"])
                        if not (one.get_attr("IFA_FLAGS") or 0) & 0x40
                    },
                }
            return found

    return netns.inside(path, look)


def link(kind: str, mac: str, master: str, *addresses: str, mtu: int = MTU) -> dict[str, object]:
    return {
        "kind": kind,
        "mac": mac,
        "mtu": mtu,
        "master": master,
        "up": True,
        "group": names.LINK_GROUP,
        "addresses": set(addresses),
    }


def reverse(resources: Sequence[Resource]) -> list[Resource]:
    return list(reversed(resources))


def test_a_subnet_is_wired_through_to_the_underlay(network: Network, settings: Settings) -> None:
    network.ensure([*base(), *segment()])
    inside = seen(f"{settings.paths.netns}/{VPC}")
    local = names.link_local(names.gateway_mac(SUBNET))
    bridge, inner, outer = (make(SUBNET) for make in (names.subnet_bridge, names.veth_inner, names.veth_outer))
    assert inside.pop("lo")["addresses"] == {"127.0.0.1/8", "::1/128", "169.254.169.254/32", "fd00:ec2::254/128"}
    assert inside == {
        bridge: link(
            "bridge", names.gateway_mac(SUBNET), "", "10.0.0.1/24", "fd00:0::1/64".replace(":0:", ":"), f"{local}/64"
        ),
        inner: link("veth", names.link_mac(inner), bridge),
    }
    fabric = seen(f"{settings.paths.netns}/lvfabric")
    assert not fabric.pop("lo")["up"]
    assert fabric == {
        "lvb100": link("bridge", names.link_mac("lvb100"), ""),
        "lvx100": link("vxlan", names.link_mac("lvx100"), "lvb100"),
        outer: link("veth", names.link_mac(outer), "lvb100"),
    }
    assert set(seen("")) == {"lo"}


def test_what_was_ensured_is_observed_by_this_and_by_another(network: Network, settings: Settings) -> None:
    extra = dataclasses.replace(
        port(7),
        extra_macs=("02:00:00:00:00:99", "02:00:00:00:00:11"),
        extra_addresses=tuple(
            map(ip_network, ("10.9.1.0/24", "10.9.0.0/16", "fd00:b::/48", "1.2.3.4/32", "fd00:c::1/128"))
        ),
    )
    only4 = PortFilter(VPC, SUBNET, "t0000000008-3", "06:00:00:00:00:08", "10.0.0.8", None, "10.0.0.1", None)
    wanted = [
        *base(),
        *segment(),
        *segment(subnet="subnet-bbbbbbbbbb", vni=0, third=1, mtu=1500),
        port(5),
        extra,
        only4,
    ]
    network.ensure(wanted)
    assert network.observe(VPC) == frozenset(wanted)
    fresh = Network(settings)
    assert fresh.observe(VPC) == frozenset(wanted)
    fresh.close()


def test_ensuring_again_changes_nothing(network: Network, settings: Settings) -> None:
    wanted = [*base(), *segment(), port(5)]
    network.ensure(wanted)
    before = seen(f"{settings.paths.netns}/{VPC}"), netns.inode(f"{settings.paths.netns}/{VPC}")
    network.ensure(wanted)
    assert (seen(f"{settings.paths.netns}/{VPC}"), netns.inode(f"{settings.paths.netns}/{VPC}")) == before
    assert network.observe(VPC) == frozenset(wanted)


def test_each_sysctl_is_as_told(network: Network, settings: Settings) -> None:
    network.ensure([*base(), *segment()])
    bridge, inner = names.subnet_bridge(SUBNET), names.veth_inner(SUBNET)

    def read(*paths: str) -> list[str]:
        return [Path(f"/proc/sys/net/{path}").read_text().strip() for path in paths]

    vpc, fabric = f"{settings.paths.netns}/{VPC}", f"{settings.paths.netns}/lvfabric"
    assert netns.inside(vpc, lambda: sysctl.holds(sysctl.VPC))
    assert netns.inside(fabric, lambda: sysctl.holds(sysctl.FABRIC))
    assert netns.inside(vpc, lambda: read(*(f"ipv6/conf/{one}/disable_ipv6" for one in (bridge, inner, "lo")))) == [
        "0",
        "1",
        "0",
    ]
    assert netns.inside(vpc, lambda: read(f"ipv6/conf/{bridge}/forwarding", f"ipv4/conf/{bridge}/send_redirects")) == [
        "1",
        "0",
    ]
    off = [f"ipv6/conf/{one}/disable_ipv6" for one in ("lvb100", "lvx100", names.veth_outer(SUBNET))]
    assert netns.inside(fabric, lambda: read(*off)) == ["1", "1", "1"]


def test_removing_all_leaves_nothing(network: Network, settings: Settings) -> None:
    wanted = [*base(), *segment(), port(5)]
    network.ensure(wanted)
    network.remove(reverse(wanted))
    assert network.observe(VPC) == frozenset()
    assert os.listdir(settings.paths.netns) == []
    assert settings.paths.netns + "/" not in Path("/proc/self/mountinfo").read_text()
    assert set(seen("")) == {"lo"}
    network.remove(reverse(wanted))


def test_removing_a_subnet_leaves_the_other(network: Network, settings: Settings) -> None:
    kept = [*base(), *segment(), port(5)]
    other = [*segment(subnet="subnet-bbbbbbbbbb", vni=200, third=1), port(6, subnet="subnet-bbbbbbbbbb", third=1)]
    network.ensure([*kept, *other])
    network.remove(reverse(other))
    assert network.observe(VPC) == frozenset(kept)
    assert set(seen(f"{settings.paths.netns}/lvfabric")) == {"lo", "lvb100", "lvx100", names.veth_outer(SUBNET)}


def test_the_underlay_side_stays_while_a_vpc_hangs_on_it(network: Network) -> None:
    network.ensure([*base(), *segment()])
    network.remove([Fabric("lvfabric")])
    assert network.observe(VPC) == frozenset([*base(), *segment()])


def test_a_change_of_mtu_gateway_and_vni_is_applied_to_what_is_there(network: Network) -> None:
    network.ensure([*base(), *segment()])
    bridge = f"{names.subnet_bridge(SUBNET)}"
    changed = [
        Bridge(300, 1400),
        Vxlan(300, 1400, LOCAL, 4789),
        Subnet(VPC, SUBNET, 1400, IPv4Interface("10.7.0.254/16"), None),
        Veth(VPC, SUBNET, 300, 1400),
    ]
    network.ensure(changed)
    assert network.observe(VPC) == frozenset([*base(), *changed])
    assert bridge == "br-aaaaaaaaaa"


def test_a_vxlan_device_with_another_port_or_address_is_made_anew(network: Network) -> None:
    network.ensure([*base(), *segment()])
    network.ensure([Vxlan(100, MTU, "", 4790)])
    assert Vxlan(100, MTU, "", 4790) in network.observe(VPC)


def test_the_mtu_goes_all_the_way(network: Network, settings: Settings, guest: Callable[[str], Guest]) -> None:
    guest(port(5).tap)
    network.ensure([*base(), *segment(mtu=1322), port(5)])
    network.plug(open_port(port(5)), plug(port(5), 1322))
    for path in (f"{settings.paths.netns}/{VPC}", f"{settings.paths.netns}/lvfabric"):
        found = seen(path)
        found.pop("lo")
        assert {name: one["mtu"] for name, one in found.items()} == dict.fromkeys(found, 1322)


def test_a_changed_port_loses_its_old_elements(network: Network) -> None:
    network.ensure([*base(), *segment(), port(5)])
    other = dataclasses.replace(port(5), ipv4="10.0.0.77", ipv6=None, extra_addresses=(ip_network("10.5.0.0/16"),))
    network.ensure([other])
    assert network.observe(VPC) == frozenset([*base(), *segment(), other])
    network.remove([other])
    assert network.observe(VPC) == frozenset([*base(), *segment()])


def test_another_ones_changes_do_not_mislead(network: Network, settings: Settings) -> None:
    network.ensure([*base(), *segment(), port(5)])
    alone = Network(settings)
    alone.ensure([dataclasses.replace(port(5), ipv4="10.0.0.50"), port(6)])
    alone.remove([port(6)])
    alone.close()
    network.ensure([port(6)])
    network.ensure([dataclasses.replace(port(5), ipv4="10.0.0.51")])
    network.observe(VPC)
    network.ensure([port(5)])
    assert network.observe(VPC) == frozenset([*base(), *segment(), port(5), port(6)])


def nft(path: str, *words: str) -> None:
    netns.inside(path, lambda: subprocess.run(["nft", *words], check=True))


def test_damage_is_seen_and_repaired(network: Network, settings: Settings) -> None:
    wanted = frozenset([*base(), *segment(), port(5), port(6)])
    network.ensure([*base(), *segment(), port(5), port(6)])
    vpc, fabric = f"{settings.paths.netns}/{VPC}", f"{settings.paths.netns}/lvfabric"
    damages: list[tuple[Callable[[], object], set[type]]] = [
        (lambda: nft(vpc, "flush", "ruleset"), {Ruleset, PortFilter, Subnet}),
        (lambda: nft(fabric, "flush", "ruleset"), {Fabric}),
        (lambda: nft(vpc, "flush", "set", "bridge", "lvagent", "own4"), {PortFilter}),
        (lambda: nft(vpc, "flush", "set", "bridge", "lvagent", "gateway_macs"), {Subnet}),
        (lambda: netns.inside(vpc, lambda: sysctl.write({"bridge/bridge-nf-call-iptables": 0})), {Ruleset}),
        (lambda: ip(vpc, "link", "set", names.subnet_bridge(SUBNET), "down"), {Subnet}),
        (lambda: ip(vpc, "addr", "add", "10.99.0.1/24", "dev", names.subnet_bridge(SUBNET)), {Subnet}),
        (lambda: ip(vpc, "link", "del", names.veth_inner(SUBNET)), {Veth, Bridge, Vxlan}),
        (lambda: ip(vpc, "link", "set", names.veth_inner(SUBNET), "nomaster"), {Veth}),
        (lambda: ip(fabric, "link", "set", names.veth_outer(SUBNET), "nomaster"), {Veth, Bridge, Vxlan}),
        (lambda: ip(fabric, "link", "del", "lvb100"), {Veth, Bridge, Vxlan}),
        (lambda: ip(fabric, "link", "set", "lvx100", "down"), {Vxlan}),
        (lambda: ip(vpc, "link", "set", "lo", "down"), {Ruleset}),
    ]
    for number, (damage, kinds) in enumerate(damages):
        damage()
        missing = wanted - network.observe(VPC)
        assert {type(one) for one in missing} == kinds, number
        network.ensure(sorted(missing, key=lambda one: one.layer))
        assert network.observe(VPC) == wanted, number


def ip(path: str, *words: str) -> None:
    netns.inside(path, lambda: subprocess.run(["ip", *words], check=True))


def test_what_a_crash_left_half_made_is_completed(network: Network, settings: Settings) -> None:
    Path(settings.paths.netns).mkdir()
    Path(f"{settings.paths.netns}/{VPC}").touch()
    assert network.vpcs() == {VPC}
    assert network.observe(VPC) == {Netns(VPC), Ruleset(VPC, "")}
    wanted = [*base(), *segment()]
    network.ensure(wanted[:4])
    network.close()
    again = Network(settings)
    again.ensure(wanted)
    assert again.observe(VPC) == frozenset(wanted)
    again.close()


def test_a_half_made_name_is_removed(network: Network, settings: Settings) -> None:
    Path(settings.paths.netns).mkdir()
    Path(f"{settings.paths.netns}/{VPC}").touch()
    network.remove([Ruleset(VPC, ""), Netns(VPC)])
    assert network.vpcs() == frozenset()


def test_a_namespace_removed_by_hand_is_not_mistaken_for_its_successor(network: Network, settings: Settings) -> None:
    network.ensure([*base(), *segment(), port(5)])
    path = f"{settings.paths.netns}/{VPC}"
    holder = os.open(path, os.O_RDONLY)
    before = netns.inode(path)
    netns.delete(path)
    assert network.observe(VPC) == {Fabric("lvfabric")}
    network.ensure([*base(), *segment(), port(5)])
    assert network.observe(VPC) == frozenset([*base(), *segment(), port(5)])
    assert netns.inode(path) not in (before, None)
    os.close(holder)


def test_a_namespace_with_a_tap_in_it_stays(network: Network, guest: Callable[[str], Guest]) -> None:
    wanted = [*base(), *segment(), *open_port(port(5))]
    network.ensure(wanted)
    other = [*segment(subnet="subnet-bbbbbbbbbb", vni=200, third=1)]
    network.ensure(other)
    tap = guest(port(5).tap)
    network.plug(open_port(port(5)), plug(port(5)))
    assert network.taps(VPC) == {port(5).tap}
    with pytest.raises(HostError, match="t0000000005-0 is in it") as caught:
        network.remove([*reverse(segment()), *reverse(other), Ruleset(VPC, ""), Netns(VPC), Fabric("lvfabric")])
    assert caught.value.hint.startswith("stop the VM")
    assert network.observe(VPC) == frozenset([*wanted, plug(port(5))])
    tap.close()
    gone(lambda: network.taps(VPC) == frozenset())
    network.remove(reverse(wanted))
    assert network.observe(VPC) == frozenset()


def gone(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_plugging_moves_the_tap_and_binds_it(
    network: Network, settings: Settings, guest: Callable[[str], Guest]
) -> None:
    network.ensure([*base(), *segment()])
    guest(port(5).tap)
    network.plug(open_port(port(5)), plug(port(5)))
    network.plug(open_port(port(5)), plug(port(5)))
    assert network.observe(VPC) == frozenset([*base(), *segment(), *open_port(port(5)), plug(port(5))])
    assert set(seen("")) == {"lo"}
    path = f"{settings.paths.netns}/{VPC}"
    tap = seen(path)[port(5).tap]
    assert (tap["master"], tap["mtu"], tap["up"], tap["addresses"]) == (names.subnet_bridge(SUBNET), MTU, True, set())
    shown = netns.inside(
        path, lambda: subprocess.run(["bridge", "-d", "fdb"], check=True, capture_output=True, text=True).stdout
    )
    rows = [row for row in shown.splitlines() if row.startswith(port(5).mac)]
    assert any("master br-aaaaaaaaaa" in row and "sticky" in row and "static" in row for row in rows), shown


def test_a_tap_without_filter_does_not_come_up(network: Network, guest: Callable[[str], Guest]) -> None:
    network.ensure([*base(), *segment()])
    guest(port(5).tap)
    with pytest.raises(HostError, match="has no filter"):
        network.ensure([plug(port(5))])
    with pytest.raises(HostError, match="has no filter"):
        network.ensure([port(5), plug(port(5))])
    network.ensure([wall(port(5)), plug(port(5))])
    assert plug(port(5)) in network.observe(VPC)


def test_plugging_says_what_is_missing(network: Network) -> None:
    with pytest.raises(HostError, match="there is no such namespace"):
        network.plug(open_port(port(5)), plug(port(5)))
    network.ensure(base())
    with pytest.raises(HostError, match="has no subnet-aaaaaaaaaa"):
        network.plug(open_port(port(5)), plug(port(5)))
    network.ensure(segment())
    with pytest.raises(HostError, match="there is no such tap"):
        network.plug(open_port(port(5)), plug(port(5)))
    ip("", "link", "add", port(5).tap, "type", "veth", "peer", "name", "stranger")
    with pytest.raises(HostError, match="has the name of a tap of ours"):
        network.plug(open_port(port(5)), plug(port(5)))
    assert {"stranger", port(5).tap} <= set(seen(""))


def test_the_kernels_own_words_reach_the_error(network: Network) -> None:
    network.ensure([*base(), *segment()])
    ip("", "link", "add", "stranger", "type", "vxlan", "id", "777", "dstport", "4789", "local", LOCAL)
    with pytest.raises(HostError, match="VXLAN device with the specified VNI already exists"):
        network.ensure([Bridge(777, MTU), Vxlan(777, MTU, LOCAL, 4789)])


@pytest.fixture
def shared(place: Path) -> Settings:
    """Settings with the underlay side in root."""
    return settings_for(place, fabric="")


def test_in_root_only_our_links_are_touched(shared: Settings) -> None:
    network = Network(shared)
    ip("", "link", "add", "lvb100", "type", "bridge")
    with pytest.raises(HostError, match="is not ours") as caught:
        network.ensure([*base(fabric=""), *segment()])
    assert "fabric.netns" in caught.value.hint
    with pytest.raises(HostError, match="is not ours"):
        network.remove([Bridge(100, MTU)])
    assert seen("")["lvb100"]["up"] is False
    ip("", "link", "del", "lvb100")
    wanted = [*base(fabric=""), *segment()]
    network.ensure(wanted)
    assert network.observe(VPC) == frozenset(wanted)
    found = seen("")
    assert {name for name, one in found.items() if one["group"] == names.LINK_GROUP} == {
        "lvb100",
        "lvx100",
        names.veth_outer(SUBNET),
    }
    assert [found[name]["addresses"] for name in ("lvb100", "lvx100")] == [set(), set()]
    network.remove(reverse(wanted))
    assert network.observe(VPC) == frozenset()
    assert set(seen("")) == {"lo"}
    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    assert listed.stdout == ""
    network.close()


def test_names_that_are_no_vpc_are_refused(network: Network) -> None:
    for name in ("../../etc", "vpc-AAAAAAAAAA", "lvfabric", ""):
        with pytest.raises(HostError, match="not the name of a VPC"):
            network.ensure([Netns(name)])
