"""Our netlink messages, read by pyroute2."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_network

from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from lvagent.host import links, peer_routes
from lvagent.host.links import Link
from lvagent.host.netlink import Message, pack
from lvagent.host.peer_routes import Route

LINK = Link(7, "br-a", "bridge", "02:00:00:00:00:01", 1500, 0, 0, 27766, True, True, False, "", {})


def plain(value: object) -> object:
    """pyroute2's nested objects as plain ones."""
    if isinstance(value, dict) and "attrs" in value:
        return {name: plain(inner) for name, inner in value["attrs"]}
    if isinstance(value, dict) and set(value) == {"header"}:
        return f"kind {value['header']['type']}, {value['header']['length']} bytes"
    return value


def read(message: Message) -> dict[str, object]:
    """The attributes of a message as pyroute2 decodes them."""
    [parsed] = MarshalRtnl().parse(pack(message, 1))
    assert parsed["header"]["sequence_number"] == 1
    return {name: plain(value) for name, value in parsed["attrs"]}


def header(message: Message, *fields: str) -> tuple[object, ...]:
    [parsed] = MarshalRtnl().parse(pack(message, 1))
    return (parsed["event"], *(parsed[field] for field in fields))


def test_bridge() -> None:
    """pyroute2 does not know IFLA_BR_MULTI_BOOLOPT (46)."""
    data = {
        "IFLA_BR_AGEING_TIME": 30000,
        "IFLA_BR_STP_STATE": 0,
        "IFLA_BR_MCAST_SNOOPING": 0,
        "UNKNOWN": "kind 46, 12 bytes",
    }
    assert read(links.create_bridge("br-a", "02:00:00:00:00:01", 27766)) == {
        "IFLA_IFNAME": "br-a",
        "IFLA_ADDRESS": "02:00:00:00:00:01",
        "IFLA_GROUP": 27766,
        "IFLA_LINKINFO": {"IFLA_INFO_KIND": "bridge", "IFLA_INFO_DATA": data},
    }


def vxlan(local: str) -> dict[str, object]:
    message = links.create_vxlan("lvx5", "0a:00:00:00:00:05", 1, vni=5, mtu=1430, local=local, port=4789, netns=9)
    info = read(message)["IFLA_LINKINFO"]
    assert isinstance(info, dict)
    data = info["IFLA_INFO_DATA"]
    assert isinstance(data, dict)
    return data


def test_vxlan_over_ipv4_ipv6_and_without_an_address() -> None:
    common = {"IFLA_VXLAN_ID": 5, "IFLA_VXLAN_LEARNING": 0, "IFLA_VXLAN_TTL": 64, "IFLA_VXLAN_PORT": 4789}
    assert vxlan("192.0.2.1") == {**common, "IFLA_VXLAN_LOCAL": "192.0.2.1"}
    assert vxlan("2001:db8::1") == {**common, "IFLA_VXLAN_LOCAL6": "2001:db8::1"}
    assert vxlan("") == common


def test_veth_with_its_peer_elsewhere() -> None:
    message = links.create_veth(
        "vi-a", "0a:00:00:00:00:01", 3, index=99, mtu=1400, peer="vo-a", peer_mac="0a:00:00:00:00:02", netns=9
    )
    other = {
        "IFLA_IFNAME": "vo-a",
        "IFLA_ADDRESS": "0a:00:00:00:00:02",
        "IFLA_GROUP": 3,
        "IFLA_MTU": 1400,
        "IFLA_NET_NS_FD": 9,
    }
    assert header(message, "index") == ("RTM_NEWLINK", 99)
    assert read(message) == {
        "IFLA_IFNAME": "vi-a",
        "IFLA_ADDRESS": "0a:00:00:00:00:01",
        "IFLA_GROUP": 3,
        "IFLA_MTU": 1400,
        "IFLA_LINKINFO": {"IFLA_INFO_KIND": "veth", "IFLA_INFO_DATA": {"VETH_INFO_PEER": other}},
    }


def test_change_says_only_what_is_given() -> None:
    message = links.change("vi-a", up=True, mtu=1400, master=4, alias="lvagent:x", group=8)
    assert read(message) == {
        "IFLA_IFNAME": "vi-a",
        "IFLA_MTU": 1400,
        "IFLA_GROUP": 8,
        "IFLA_IFALIAS": "lvagent:x",
        "IFLA_MASTER": 4,
    }
    assert header(message, "flags", "change") == ("RTM_SETLINK", 1, 1)
    assert header(links.change("vi-a", up=False), "flags", "change") == ("RTM_SETLINK", 0, 1)
    assert header(links.change("vi-a", mute=True, up=True), "flags", "change") == ("RTM_SETLINK", 0x81, 0x81)
    assert header(links.change("vi-a", mute=False), "flags", "change") == ("RTM_SETLINK", 0, 0x80)
    assert read(links.change("vi-a")) == {"IFLA_IFNAME": "vi-a"}
    assert header(links.change("vi-a"), "flags", "change") == ("RTM_SETLINK", 0, 0)


def test_port_flags() -> None:
    info = read(links.port(LINK, learning=False, flood=True))["IFLA_LINKINFO"]
    assert info == {
        "IFLA_INFO_SLAVE_KIND": "bridge",
        "IFLA_INFO_SLAVE_DATA": {
            "IFLA_BRPORT_GUARD": 1,
            "IFLA_BRPORT_PROTECT": 1,
            "IFLA_BRPORT_LEARNING": 0,
            "IFLA_BRPORT_UNICAST_FLOOD": 1,
        },
    }


def test_addresses_carry_their_prefix_and_no_duplicate_detection() -> None:
    four = links.add_address(LINK, IPv4Interface("10.0.0.1/24"))
    assert header(four, "family", "prefixlen", "index") == ("RTM_NEWADDR", 2, 24, 7)
    assert read(four) == {"IFA_LOCAL": "10.0.0.1", "IFA_ADDRESS": "10.0.0.1", "IFA_FLAGS": 2}
    six = links.delete_address(LINK, IPv6Interface("fd00::1/64"))
    assert header(six, "family", "prefixlen", "index") == ("RTM_DELADDR", 10, 64, 7)


def test_forwarding_entry_is_static_and_sticky() -> None:
    entry = links.forward(LINK, "06:00:00:00:00:01")
    assert header(entry, "family", "ifindex", "state", "flags") == ("RTM_NEWNEIGH", 7, 7, 0x40, 0x44)
    assert read(entry) == {"NDA_LLADDR": "06:00:00:00:00:01"}


HOP = IPv6Address("fe80::8")


def test_a_route_to_a_peer_has_an_ipv6_next_hop_in_both_families() -> None:
    four = peer_routes.add_route(LINK, Route(ip_network("10.0.20.0/24"), HOP, ip_address("10.0.0.1")))
    assert header(four, "family", "dst_len", "table", "scope") == ("RTM_NEWROUTE", 2, 24, 254, 0)
    via = {"family": 10, "addr": "fe80::8"}
    assert read(four) == {"RTA_DST": "10.0.20.0", "RTA_OIF": 7, "RTA_VIA": via, "RTA_PREFSRC": "10.0.0.1"}
    six = peer_routes.add_route(LINK, Route(ip_network("fd00:20::/64"), HOP, ip_address("fd00::1")))
    assert header(six, "family", "dst_len", "table", "scope") == ("RTM_NEWROUTE", 10, 64, 254, 0)
    assert read(six) == {"RTA_DST": "fd00:20::", "RTA_OIF": 7, "RTA_GATEWAY": "fe80::8", "RTA_PREFSRC": "fd00::1"}


def test_a_route_is_deleted_whoever_made_it() -> None:
    gone = peer_routes.delete_route(LINK, Route(ip_network("10.0.20.0/24"), HOP, None))
    assert header(gone, "proto", "scope") == ("RTM_DELROUTE", 0, 255)
    assert read(gone) == {"RTA_DST": "10.0.20.0", "RTA_OIF": 7}


def test_the_neighbour_of_a_peer_is_permanent() -> None:
    entry = peer_routes.add_neighbour(LINK, HOP, "0a:00:00:00:00:01")
    assert header(entry, "family", "ifindex", "state") == ("RTM_NEWNEIGH", 10, 7, 0x80)
    assert read(entry) == {"NDA_DST": "fe80::8", "NDA_LLADDR": "0a:00:00:00:00:01"}
