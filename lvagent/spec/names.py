"""Ids, and what is computed from them: device names, MACs, namespaces, paths.

A name is computed, never looked up, so that any process (the agent, the hook working alone, a sweep after a crash)
finds the same object. Device names have at most 15 characters (IFNAMSIZ), and none begins like those that udev,
networkd or libvirt act on (``vnet ve- vb- vt-``).
"""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv6Address

VM_ID = re.compile(r"i-[0-9]{10}\Z")
VPC_NAME = re.compile(r"vpc-[0-9a-z]{10}\Z")
SUBNET_NAME = re.compile(r"subnet-[0-9a-z]{10}\Z")
ADDRESS = re.compile(r"[0-9a-f.:]{2,45}\Z")
"""An IP address in canonical spelling, roughly."""
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")

LINK_GROUP = 0x6C76
"""The link group ("lv") that every link of ours in a namespace we share is made with."""

ELEMENT_NAMESPACE = "urn:lvagent:vm:1"
"""The XML namespace of the element that marks a domain as ours."""

MAX_VNI = 2_000_000

METADATA_V4 = "169.254.169.254"
METADATA_V6 = "fd00:ec2::254"


def _mac(first: int, *parts: object) -> str:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=5).digest()
    return ":".join(f"{octet:02x}" for octet in (first, *digest))


def nic_mac(vm: str, position: int) -> str:
    """The MAC of a VM's NIC: locally administered, the same on every host and at every start."""
    return _mac(0x06, "nic", vm, position)


def gateway_mac(subnet: str) -> str:
    """The MAC of a subnet's gateway: the same on every host, so that a VM that moves keeps its neighbour entry."""
    return _mac(0x02, "gateway", subnet)


def link_mac(device: str) -> str:
    """The MAC of any other link of ours. Links are made with one, else udev gives them another later."""
    return _mac(0x0A, "link", device)


def link_local(mac: str) -> str:
    """The IPv6 link-local address that belongs to a MAC (EUI-64, RFC 4291 appendix A).

    :raise ValueError: it is no MAC.
    """
    if not MAC.match(mac):
        raise ValueError(f"{mac!r} is not a MAC")
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + octets[:3] + b"\xff\xfe" + octets[3:]))


def tap(vm: str, position: int) -> str:
    """The tap of a VM's NIC: ``t0000000001-0``."""
    return f"t{vm.removeprefix('i-')}-{position}"


def tap_owner(device: str) -> tuple[str, int] | None:
    """The VM id and position that a tap's name stands for, or None if it is no name of ours."""
    match = re.fullmatch(r"t([0-9]{10})-([0-9]{1,2})", device)
    return (f"i-{match[1]}", int(match[2])) if match else None


def peer_link(other: str) -> str:
    """The end, in a VPC's namespace, of the link to a VPC that it is peered with: ``px-`` and the other's name.

    The pair is made directly between the two namespaces, so an end needs to differ only from others in its own.
    """
    return f"px-{other.removeprefix('vpc-')}"


def peer_of(device: str) -> str | None:
    """The VPC to which such an end leads, or None if it is no name of ours."""
    other = f"vpc-{device.removeprefix('px-')}"
    return other if device.startswith("px-") and VPC_NAME.match(other) else None


def peer_mac(vpc: str, other: str) -> str:
    """The MAC of a VPC's end of such a link."""
    return _mac(0x0A, "peer", vpc, other)


def _short(subnet: str) -> str:
    return subnet.removeprefix("subnet-")


def subnet_bridge(subnet: str) -> str:
    """The inner bridge of a subnet, in the VPC's namespace; it bears the gateway addresses."""
    return f"br-{_short(subnet)}"


def veth_inner(subnet: str) -> str:
    """The end of the subnet's veth in the VPC's namespace."""
    return f"vi-{_short(subnet)}"


def veth_outer(subnet: str) -> str:
    """The end of the subnet's veth on the underlay side."""
    return f"vo-{_short(subnet)}"


def vxlan(vni: int) -> str:
    """The VXLAN device of a VNI, on the underlay side."""
    return f"lvx{vni}"


def overlay_bridge(vni: int) -> str:
    """The bridge of a VNI on the underlay side."""
    return f"lvb{vni}"


def uplink_outer(vpc: str) -> str:
    """The end of a VPC's uplink in the root namespace."""
    return f"ux-{vpc.removeprefix('vpc-')}"


def uplink_inner(vpc: str) -> str:
    """The end of a VPC's uplink in the VPC's namespace."""
    return f"ui-{vpc.removeprefix('vpc-')}"


def uplink_owner(device: str) -> str | None:
    """The VPC that the outer end of an uplink stands for, or None if it is no such name."""
    match = re.fullmatch(r"ux-([0-9a-z]{10})", device)
    return f"vpc-{match[1]}" if match else None
