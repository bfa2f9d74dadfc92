"""Links, addresses and bridge ports as netlink messages, and what the kernel tells about them.

Functions here build messages or decode bodies; nothing is sent. Numbers are those of linux/if_link.h, if_bridge.h,
if_addr.h and neighbour.h.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from lvagent.host.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Message,
    attribute,
    c_string,
    mac_bytes,
    mac_text,
    nest,
    table,
    text,
    u8,
    u32,
)

Address = IPv4Interface | IPv6Interface

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
IFF_UP, IFF_RUNNING, IFF_NOARP = 0x01, 0x40, 0x80

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH = 28

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 27, 28, 29
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA = 1, 2, 4, 5

BR_AGEING_TIME, BR_STP_STATE, BR_MCAST_SNOOPING, BR_MULTI_BOOLOPT = 4, 5, 23, 46
BOOLOPT_NO_LL_LEARN = 1
BRPORT_GUARD, BRPORT_PROTECT, BRPORT_LEARNING, BRPORT_UNICAST_FLOOD = 5, 6, 8, 9
VXLAN_ID, VXLAN_LOCAL, VXLAN_TTL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6 = 1, 4, 5, 7, 15, 17
VETH_INFO_PEER = 1

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
IFA_F_TENTATIVE = 0x40

NDA_DST, NDA_LLADDR = 1, 2
NUD_NOARP = 0x40
NTF_MASTER = 0x04
NTF_STICKY = 0x40

AGEING = 300
"""Seconds after which a bridge forgets a MAC (the kernel's default, said aloud)."""

_SKIP_STATS = 8
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_NDMSG = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it.

    ``peer``: index of the other end of a veth, in its namespace. ``mute``: it speaks no ARP and no ND. ``running``: the
    kernel sends by it; a while after both of its ends are up. ``info``: the attributes of its kind (IFLA_INFO_DATA).
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int
    peer: int
    group: int
    up: bool
    running: bool
    mute: bool
    alias: str
    info: dict[int, bytes]

    @property
    def vxlan(self) -> tuple[int, str, int]:
        """VNI, local address ('' if it has none) and UDP port of a VXLAN device."""
        local = self.info.get(VXLAN_LOCAL) or self.info.get(VXLAN_LOCAL6) or b""
        address = str(ip_address(local)) if any(local) else ""
        return _number(self.info, VXLAN_ID), address, int.from_bytes(self.info.get(VXLAN_PORT, b""), "big")


def _header(family: int = AF_UNSPEC, index: int = 0, *, up: bool | None = None, mute: bool | None = None) -> bytes:
    said = ((IFF_UP, up), (IFF_NOARP, mute))
    flags, change = sum(bit for bit, on in said if on), sum(bit for bit, on in said if on is not None)
    return _IFINFO.pack(family, 0, index, flags, change)


def _create(name: str, body: bytes) -> Message:
    return Message(RTM_NEWLINK, CREATE | EXCLUSIVE, body, f"create {name}")


def create_bridge(name: str, mac: str, group: int) -> Message:
    """A bridge without STP and multicast snooping; its MTU is to be set afterwards, else its ports move it.

    Frames of link-local protocols (STP, LLDP) pass by the filter, so the bridge learns no MAC from them.
    """
    data = nest(
        INFO_DATA,
        u32(BR_AGEING_TIME, AGEING * 100),  # the kernel counts in 1/100 s
        u32(BR_STP_STATE, 0),
        u8(BR_MCAST_SNOOPING, 0),
        attribute(BR_MULTI_BOOLOPT, struct.pack("=II", BOOLOPT_NO_LL_LEARN, BOOLOPT_NO_LL_LEARN)),
    )
    info = nest(IFLA_LINKINFO, text(INFO_KIND, "bridge"), data)
    return _create(name, _header() + _identity(name, mac, group) + info)


def create_vxlan(name: str, mac: str, group: int, *, vni: int, mtu: int, local: str, port: int, netns: int) -> Message:
    """A VXLAN device that learns nothing, born in another namespace than its underlay socket.

    :param local: the underlay address; '' leaves the choice to the kernel's routes.
    :param port: UDP port.
    :param netns: descriptor of the namespace in which it shall be; its socket stays where the message is sent.
    """
    parts = [u32(VXLAN_ID, vni), u8(VXLAN_LEARNING, 0), u8(VXLAN_TTL, 64)]
    parts.append(attribute(VXLAN_PORT, struct.pack("!H", port)))
    if local:
        address = ip_address(local)
        parts.append(attribute(VXLAN_LOCAL if address.version == 4 else VXLAN_LOCAL6, address.packed))
    info = nest(IFLA_LINKINFO, text(INFO_KIND, "vxlan"), nest(INFO_DATA, *parts))
    place = u32(IFLA_MTU, mtu) + u32(IFLA_NET_NS_FD, netns)
    return _create(name, _header() + _identity(name, mac, group) + place + info)


def create_veth(
    name: str, mac: str, group: int, *, index: int, mtu: int, peer: str, peer_mac: str, netns: int
) -> Message:
    """A veth pair, the peer in the namespace of the descriptor ``netns``.

    :param index: of the end here. Two ends with equal indexes (each in its namespace) look to the kernel like a link
        of its own, and it tells their bridges of the carrier only up to a second later (net/core/link_watch.c).
    """
    other = _header() + _identity(peer, peer_mac, group) + u32(IFLA_MTU, mtu) + u32(IFLA_NET_NS_FD, netns)
    data = nest(INFO_DATA, nest(VETH_INFO_PEER, other))
    info = nest(IFLA_LINKINFO, text(INFO_KIND, "veth"), data)
    return _create(name, _header(index=index) + _identity(name, mac, group) + u32(IFLA_MTU, mtu) + info)


def _identity(name: str, mac: str, group: int) -> bytes:
    return text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac_bytes(mac)) + u32(IFLA_GROUP, group)


def change(
    name: str,
    *,
    up: bool | None = None,
    mute: bool | None = None,
    mtu: int | None = None,
    master: int | None = None,
    alias: str | None = None,
    group: int | None = None,
) -> Message:
    """Change what is given of a link that exists: in the kernel's order MTU, group, alias, master, then up.

    :param mute: whether it shall speak no ARP and no neighbour discovery.
    :param mtu: bytes.
    :param master: index of the bridge; 0 takes it out of its bridge.
    """
    body = _header(up=up, mute=mute) + text(IFLA_IFNAME, name)
    body += u32(IFLA_MTU, mtu) if mtu is not None else b""
    body += u32(IFLA_GROUP, group) if group is not None else b""
    body += text(IFLA_IFALIAS, alias) if alias is not None else b""
    body += u32(IFLA_MASTER, master) if master is not None else b""
    return Message(RTM_SETLINK, 0, body, f"set {name}")


def regroup(name: str, group: int) -> Message:
    """Put a link, if it is there, into another group."""
    body = _header() + text(IFLA_IFNAME, name) + u32(IFLA_GROUP, group)
    return Message(RTM_SETLINK, 0, body, f"set {name}", frozenset({errno.ENODEV}))


def address(name: str, mac: str) -> Message:
    """Give a link another MAC."""
    body = _header() + text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac_bytes(mac))
    return Message(RTM_SETLINK, 0, body, f"set the MAC of {name}")


def move(name: str, *, netns: int, mtu: int, master: int) -> Message:
    """Move a link to another namespace and there into a bridge, in one step.

    :param netns: descriptor of the namespace.
    :param mtu: bytes.
    :param master: index of the bridge in that namespace.
    """
    body = _header() + text(IFLA_IFNAME, name) + u32(IFLA_NET_NS_FD, netns)
    return Message(RTM_SETLINK, 0, body + u32(IFLA_MTU, mtu) + u32(IFLA_MASTER, master), f"move {name}")


def port(link: Link, *, learning: bool, flood: bool) -> Message:
    """How a bridge treats this port of it; no port of ours takes part in STP.

    :param learning: whether source MACs seen here enter the FDB.
    :param flood: whether unicast frames to unknown MACs go out here.
    """
    data = nest(
        INFO_SLAVE_DATA,
        u8(BRPORT_GUARD, 1),
        u8(BRPORT_PROTECT, 1),
        u8(BRPORT_LEARNING, int(learning)),
        u8(BRPORT_UNICAST_FLOOD, int(flood)),
    )
    body = _header(index=link.index) + nest(IFLA_LINKINFO, text(INFO_SLAVE_KIND, "bridge"), data)
    return Message(RTM_NEWLINK, 0, body, f"set port {link.name}")


def forward(link: Link, mac: str) -> Message:
    """An FDB entry that binds a MAC to a port of a bridge; no frame that comes in elsewhere moves it."""
    head = _NDMSG.pack(AF_BRIDGE, link.index, NUD_NOARP, NTF_MASTER | NTF_STICKY, 0)
    body = head + attribute(NDA_LLADDR, mac_bytes(mac))
    return Message(RTM_NEWNEIGH, CREATE | REPLACE, body, f"bind {mac} to {link.name}")


def delete(name: str) -> Message:
    """Make sure that there is no such link."""
    absent = frozenset({errno.ENODEV})
    return Message(RTM_DELLINK, 0, _header() + text(IFLA_IFNAME, name), f"delete {name}", absent)


def delete_group(group: int) -> Message:
    """Delete all links of a group at once: the kernel waits for its readers once, and not once per link."""
    absent = frozenset({errno.ENODEV})
    return Message(RTM_DELLINK, 0, _header() + u32(IFLA_GROUP, group), f"delete group {group}", absent)


def get(name: str) -> Message:
    """Ask for one link by its name."""
    body = _header() + text(IFLA_IFNAME, name) + u32(IFLA_EXT_MASK, _SKIP_STATS)
    return Message(RTM_GETLINK, 0, body, f"find {name}", frozenset({errno.ENODEV}))


def get_index(index: int) -> Message:
    """Ask for one link by its index."""
    body = _header(index=index) + u32(IFLA_EXT_MASK, _SKIP_STATS)
    return Message(RTM_GETLINK, 0, body, f"find link {index}", frozenset({errno.ENODEV}))


def get_all() -> Message:
    """Ask for all links."""
    return Message(RTM_GETLINK, 0, _header() + u32(IFLA_EXT_MASK, _SKIP_STATS), "list links")


def get_ports(bridge: int) -> Message:
    """Ask for the ports of a bridge, by its index."""
    body = _header() + u32(IFLA_MASTER, bridge) + u32(IFLA_EXT_MASK, _SKIP_STATS)
    return Message(RTM_GETLINK, 0, body, f"list ports of link {bridge}")


def parse(body: bytes) -> Link:
    """A link out of the body of an RTM_NEWLINK."""
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    found = table(body[_IFINFO.size :])
    info = table(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=c_string(found[IFLA_IFNAME]),
        kind=c_string(info.get(INFO_KIND, b"")),
        mac=mac_text(found.get(IFLA_ADDRESS, b"")),
        mtu=_number(found, IFLA_MTU),
        master=_number(found, IFLA_MASTER),
        peer=_number(found, IFLA_LINK),
        group=_number(found, IFLA_GROUP),
        up=bool(flags & IFF_UP),
        running=bool(flags & IFF_RUNNING),
        mute=bool(flags & IFF_NOARP),
        alias=c_string(found.get(IFLA_IFALIAS, b"")),
        info=table(info.get(INFO_DATA, b"")),
    )


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "little")


def _address(kind: int, flags: int, index: int, address: Address, label: str, tolerate: frozenset[int]) -> Message:
    family = AF_INET if address.version == 4 else AF_INET6
    head = _IFADDR.pack(family, address.network.prefixlen, IFA_F_NODAD, 0, index)
    packed = address.ip.packed
    body = head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed) + u32(IFA_FLAGS, IFA_F_NODAD)
    return Message(kind, flags, body, label, tolerate)


def add_address(link: Link, address: Address) -> Message:
    """An address on a link, usable at once: duplicate address detection is left out."""
    there = frozenset({errno.EEXIST})
    return _address(RTM_NEWADDR, CREATE | REPLACE, link.index, address, f"add {address} to {link.name}", there)


def delete_address(link: Link, address: Address) -> Message:
    """Take an address off a link."""
    absent = frozenset({errno.EADDRNOTAVAIL})
    return _address(RTM_DELADDR, 0, link.index, address, f"delete {address} from {link.name}", absent)


def get_addresses() -> Message:
    """Ask for all addresses."""
    return Message(RTM_GETADDR, 0, _IFADDR.pack(AF_UNSPEC, 0, 0, 0, 0), "list addresses")


def parse_address(body: bytes) -> tuple[int, Address] | None:
    """The index of the link and the address out of an RTM_NEWADDR; None for one that is tentative or of no use here."""
    family, prefix, flags, _, index = _IFADDR.unpack_from(body)
    found = table(body[_IFADDR.size :])
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if raw is None or family not in (AF_INET, AF_INET6):
        return None
    if (_number(found, IFA_FLAGS) or flags) & IFA_F_TENTATIVE:
        return None
    return index, (IPv4Interface((raw, prefix)) if family == AF_INET else IPv6Interface((raw, prefix)))
