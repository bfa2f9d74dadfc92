"""The settings of the ways out of VPCs, and what of them cannot be meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from lvagent.errors import SpecError

Net = IPv4Network | IPv6Network
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """The ways out of VPCs, where they have one.

    ``pool_v4``, ``pool_v6``: nets of which each VPC with an uplink gets two addresses, one for each end; nobody else's
    on this host. ``ipv6``: none, nat66 (behind an address of the host) or routed (its own prefixes, as they are), of a
    VPC whose uplink is ``nat``. ``mtu``: of the uplink, bytes. ``deny``: nets that no guest reaches; link-local
    ones, the pools and the host itself never are. ``underlay``: whether guests reach the underlay network: deny, allow.
    ``routed``: the nets of which a VPC may have prefixes that are routed to it as they are; empty: none.
    ``private_names``: DNS domains whose names may have private addresses.
    ``interface``: the link whose network floating addresses are of; '': that of the default route.
    ``foreign``: what is done about a chain of somebody else that drops what we forward: report, accept.
    ``others``: what becomes of packets that other links of the host would forward to each other, where forwarding was
    off before there were uplinks: drop, forward.
    """

    pool_v4: str = "198.19.0.0/16"
    pool_v6: str = "fd6c:76a1:93d0:1::/112"
    ipv6: str = "nat66"
    mtu: int = 1500
    deny: tuple[str, ...] = ()
    underlay: str = "deny"
    routed: tuple[str, ...] = ()
    private_names: tuple[str, ...] = ()
    interface: str = ""
    foreign: str = "report"
    others: str = "drop"


def nets(texts: tuple[str, ...]) -> tuple[Net, ...]:
    """Texts as nets.

    :raise ValueError: one is none.
    """
    return tuple(ip_network(text) for text in texts)


def is_nets(value: tuple[str, ...]) -> str:
    """Nothing if these are nets, else what would be right."""
    try:
        nets(value)
    except ValueError:
        return "nets such as 10.0.0.0/8 or fd00::/8, without bits after the prefix"
    return ""


def is_domains(value: tuple[str, ...]) -> str:
    """Nothing if these are DNS names, else what would be right."""
    return "" if all(map(_DOMAIN.fullmatch, value)) else "DNS names in lower case, such as corp.example"


def check_uplink(settings: UplinkSettings) -> None:
    """See that the pools are such as addresses can be taken of.

    :raise SpecError: one is not.
    """
    for name, version, longest in (("pool_v4", 4, 29), ("pool_v6", 6, 125)):
        at, text = f"uplink.{name}", getattr(settings, name)
        try:
            pool = ip_network(text)
        except ValueError as error:
            raise SpecError(at, f"{text!r} is no net: {error}", "such as 198.19.0.0/16") from None
        if pool.version != version or pool.prefixlen > longest:
            raise SpecError(at, f"{text} cannot be", f"an IPv{version} net, /{longest} or wider")
        for net in _overlapping(pool, settings.routed):
            raise SpecError("uplink.routed", f"{net} overlaps {at}, {text}", "another net, or another pool")


def _overlapping(pool: Net, texts: tuple[str, ...]) -> Iterator[Net]:
    return (net for net in nets(texts) if net.version == pool.version and net.overlaps(pool))
