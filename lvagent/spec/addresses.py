"""Addresses as a caller writes them, and which of them a NIC can have.

An address may carry its prefix, or its gateway may. What comes out is complete: the address with the prefix, and the
gateway, both usable in that subnet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Generic, TypeVar

from lvagent.errors import SpecError
from lvagent.spec import limits, names
from lvagent.spec.json import quoted

Address = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network
T = TypeVar("T", IPv4Interface, IPv6Interface)

_PREFIX = re.compile(r"(?:0|[1-9][0-9]{0,2})\Z")
_NOT_FOR_HOSTS = (
    (ip_network("0.0.0.0/8"), 'is "this network" (RFC 1122)'),
    (ip_network("127.0.0.0/8"), "is a loopback address"),
    (ip_network("169.254.0.0/16"), "is link-local; metadata lives there"),
    (ip_network("224.0.0.0/4"), "is a multicast address"),
    (ip_network("240.0.0.0/4"), "is reserved (RFC 1112)"),
    (ip_network("::/128"), "is the unspecified address"),
    (ip_network("::1/128"), "is the loopback address"),
    (ip_network("::ffff:0:0/96"), "is an IPv4 address in IPv6 spelling"),
    (ip_network("::/8"), "is reserved (RFC 4291)"),
    (ip_network("fe80::/10"), "is link-local"),
    (ip_network("ff00::/8"), "is a multicast address"),
)
_METADATA: tuple[Address, ...] = (ip_address(names.METADATA_V4), ip_address(names.METADATA_V6))


@dataclass(frozen=True, slots=True)
class Family(Generic[T]):
    """IPv4 or IPv6: its types, the field names of a NIC, and the prefix lengths a subnet may have."""

    version: int
    interface: Callable[[str], T]
    own: str
    router: str
    shortest: int
    longest: int
    example: str


V4: Family[IPv4Interface] = Family(
    4, IPv4Interface, "ipv4", "gateway_v4", limits.MIN_PREFIX_V4, limits.MAX_PREFIX_V4, "10.0.0.5/24"
)
V6: Family[IPv6Interface] = Family(
    6, IPv6Interface, "ipv6", "gateway_v6", limits.MIN_PREFIX_V6, limits.MAX_PREFIX_V6, "fd00:a::5/64"
)


def resolve(family: Family[T], own: str | None, router: str | None, path: str) -> tuple[T, T] | None:
    """A NIC's address and its gateway, both with the subnet's prefix; None if the NIC has none of this family.

    :param own: address as the caller wrote it; None or empty: none.
    :param router: gateway as the caller wrote it; None or empty: none.
    :param path: JSON path of the NIC.
    :raise SpecError: one without the other, no prefix or two, an address that is no host's in that subnet.
    """
    at_own, at_router = f"{path}.{family.own}", f"{path}.{family.router}"
    if not own and not router:
        return None
    if not own:
        raise SpecError(at_router, "a gateway without an address", f"give {family.own}, or leave the gateway out")
    if not router:
        raise SpecError(at_router, f"is missing: {family.own} has no gateway", f"give it, or leave {family.own} out")
    address, own_prefix = _interface(family, own, at_own)
    gateway, router_prefix = _interface(family, router, at_router)
    prefix = _one_prefix(family, own_prefix, router_prefix, at_own, at_router)
    whole, subnet = family.interface(f"{address.ip}/{prefix}"), family.interface(f"{gateway.ip}/{prefix}")
    _check_member(subnet, at_router)
    if address.ip not in subnet.network:
        why = f"{address.ip} is not in {subnet.network}, the subnet of its gateway"
        raise SpecError(at_own, why, "change the address, the gateway or the prefix")
    if address.ip == gateway.ip:
        raise SpecError(at_own, f"{address.ip} is the gateway's address", "choose another of the subnet")
    _check_member(whole, at_own)
    return whole, subnet


def _interface(family: Family[T], text: str, path: str) -> tuple[T, int | None]:
    plain, slash, digits = text.partition("/")
    hint = f"such as {family.example}"
    address = parse_address(plain, path, hint)
    if address.version != family.version:
        raise SpecError(path, f"{address} is an IPv{address.version} address", hint)
    _check_unicast(address, path)
    if slash and not _PREFIX.match(digits):
        raise SpecError(path, f"{quoted(text)} has no prefix length after the /", hint)
    prefix = int(digits) if slash else None
    if prefix is not None and not family.shortest <= prefix <= family.longest:
        raise SpecError(path, f"a subnet cannot be a /{prefix}", f"/{family.shortest} to /{family.longest}")
    return family.interface(str(address)), prefix


def parse_address(text: str, path: str, hint: str) -> Address:
    """One address without prefix and zone.

    :raise SpecError: it is none.
    """
    if "%" in text:
        raise SpecError(path, f"{quoted(text)} has a zone", "leave out what follows the %")
    try:
        return ip_address(text)
    except ValueError:
        raise SpecError(path, f"{quoted(text)} is no IP address", hint) from None


def _one_prefix(family: Family[T], own: int | None, router: int | None, at_own: str, at_router: str) -> int:
    if own is not None and router is not None and own != router:
        raise SpecError(at_router, f"the prefix is /{router} here and /{own} in {family.own}", "one of them is enough")
    prefix = own if own is not None else router
    if prefix is None:
        raise SpecError(at_own, "neither the address nor its gateway has a prefix length", f"such as {family.example}")
    return prefix


def _check_unicast(host: Address, path: str) -> None:
    for net, why in _NOT_FOR_HOSTS:
        if host.version == net.version and host in net:
            raise SpecError(path, f"{host} {why}", "choose a unicast address")


def _check_member(address: IPv4Interface | IPv6Interface, path: str) -> None:
    """Refuse what is no address of one host in this subnet, and a subnet that metadata's address is in."""
    host, subnet = address.ip, address.network
    if host == subnet.network_address:
        what = "the network's address" if host.version == 4 else "the subnet-router anycast address (RFC 4291)"
        raise SpecError(path, f"{host} is {what} of {subnet}", "choose another of the subnet")
    if host.version == 4 and host == subnet.broadcast_address:
        raise SpecError(path, f"{host} is the broadcast address of {subnet}", "choose another of the subnet")
    _check_metadata(subnet, path, "choose another subnet")


def _check_metadata(net: Net, path: str, hint: str) -> None:
    for metadata in _METADATA:
        if metadata.version == net.version and metadata in net:
            raise SpecError(path, f"{net} covers {metadata}, where metadata lives", hint)


def parse_net(text: str, path: str) -> Net:
    """A CIDR; an address without prefix is the net of that one address.

    :raise SpecError: it is none, or it has bits set after its prefix.
    """
    plain, slash, digits = text.partition("/")
    address = parse_address(plain, path, "such as 10.0.0.0/24 or fd00:a::/64")
    if address.version == 6 and address in ip_network("::ffff:0:0/96"):
        raise SpecError(path, f"{address} is an IPv4 address in IPv6 spelling", "write it as IPv4")
    if not slash:
        return ip_network(address)
    if not _PREFIX.match(digits) or int(digits) > address.max_prefixlen:
        raise SpecError(path, f"{quoted(text)} has no prefix length after the /", f"/0 to /{address.max_prefixlen}")
    net = ip_network(f"{address}/{digits}", strict=False)
    if net.network_address != address:
        raise SpecError(
            path, f"{quoted(text)} has bits set after its prefix", f"{net} is the net, {address} the address"
        )
    return net


def within(net: Net, other: Net) -> bool:
    """Whether every address of ``net`` is in ``other``; never so for two families."""
    return net.version == other.version and net.prefixlen >= other.prefixlen and net.network_address in other


def check_unicast(net: Net, path: str) -> None:
    """Refuse a net in which some addresses are no host's.

    :raise SpecError: it meets multicast, loopback, link-local or reserved addresses, or those of metadata.
    """
    for other, why in _NOT_FOR_HOSTS:
        if net.version == other.version and net.overlaps(other):
            raise SpecError(path, f"{net} is not of unicast addresses alone: {other} {why}", "a smaller net")
    _check_metadata(net, path, "a smaller net")
