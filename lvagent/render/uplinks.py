"""The tables that make uplinks: root's, and that in a VPC's namespace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from lvagent.plan.resources import Router
from lvagent.plan.uplinks import ALWAYS_DENIED, Table
from lvagent.render import render
from lvagent.spec.addresses import Address, Net

TABLE = "uplink"
"""The table in a VPC's namespace, of the family inet."""

PORTS = "32768-60999"
"""The ports from which TCP, UDP and their like go out: those that Linux gives to who asks for none, so that none is
one at which a service is expected (ip-sysctl.rst, ``ip_local_port_range``). A guest that asks from one keeps it."""


def router(pools: Iterable[Net], denied: Iterable[Net], resolvers: Iterable[Address], *, ipv6: bool) -> Router:
    """What root has for all uplinks.

    :param pools: of both families, whether IPv6 goes out or not.
    :param denied: where no guest goes, beside link-local addresses and the pools.
    :param resolvers: this host's DNS servers.
    :param ipv6: whether IPv6 is forwarded.
    """
    ours, asked = list(pools), list(resolvers)
    closed = {*ours, *denied, *ALWAYS_DENIED}
    families = [
        (
            version,
            _nets(net for net in ours if net.version == version),
            _nets(net for net in closed if net.version == version),
            ", ".join(str(one) for one in sorted(asked, key=int) if one.version == version),
        )
        for version in (4, 6)
    ]
    found = _digested("router.nft.j2", families=families, ports=PORTS)
    return Router(found.digest, ipv6, found.text)


def table(pools: Iterable[Net], denied: Iterable[Net], translated: Iterable[int], own: Iterable[Address] = ()) -> Table:
    """What a VPC has for its uplink.

    :param translated: the IP versions whose addresses are translated.
    :param own: addresses of this host; of those where guests never go none counts.
    """
    ours = list(pools)
    closed = {*ours, *denied, *ALWAYS_DENIED}
    never = [*ours, *ALWAYS_DENIED]
    open_to = sorted((one for one in own if not _within(one, never)), key=int)
    families = [
        (
            version,
            _nets(net for net in closed if net.version == version),
            ", ".join(str(one) for one in open_to if one.version == version),
        )
        for version in (4, 6)
    ]
    return _digested("uplink.nft.j2", families=families, translated=sorted(translated), ports=PORTS)


def _within(address: Address, nets: Iterable[Net]) -> bool:
    return any(address in net for net in nets if net.version == address.version)


def _digested(template: str, **values: object) -> Table:
    blank = render(template, digest="", **values)
    digest = hashlib.blake2b(blank.encode(), digest_size=8).hexdigest()
    return Table(digest, render(template, digest=digest, **values))


def _nets(found: Iterable[Net]) -> str:
    nets = list(found)
    four = collapse_addresses(net for net in nets if isinstance(net, IPv4Network))
    six = collapse_addresses(net for net in nets if isinstance(net, IPv6Network))
    return ", ".join(map(str, [*four, *six]))
