"""The link between two VPCs that are peered: a veth between their namespaces, and the routes over it.

    vpc-aaaaaaaaaa                                       vpc-bbbbbbbbbb
    br-...  10.1.0.0/24 -> px-bbbbbbbbbb ========== px-aaaaaaaaaa <- 10.0.0.0/24  br-...

The link has no addresses, asks nobody who he is (no ARP, no neighbour discovery) and is closed by the filter of each
namespace but for the prefixes of the other VPC. The caller holds the locks of both.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address

from lvagent.failpoints import point
from lvagent.host import links, peer_routes, sysctl
from lvagent.host.links import Link
from lvagent.host.netspace import Netspace, translated
from lvagent.host.peer_routes import Route
from lvagent.host.vpc import BROKEN, VpcSide
from lvagent.plan.resources import PEER_MTU, Peer
from lvagent.render.elements import Element, Piece
from lvagent.render.nft import peer_elements
from lvagent.spec import names

CARRIER_SECONDS = 2.0
"""How long is waited until the kernel sends by both ends; it is told at once, and does it when it comes to it."""

Find = Callable[[str], VpcSide | None]
"""Opens the namespace of a VPC, if there is one."""


def ensure(one: Peer, other: Peer, mine: VpcSide, theirs: VpcSide) -> None:
    """Make the link of a peering as its two ends say, whatever is there. The filter opens last.

    :raise HostError: it could not be made; what was made of it stays closed.
    """
    ends = ((one, mine), (other, theirs))
    with translated(f"the peering of {one.vpc} and {other.vpc}", "make"):
        _pair(mine, theirs)
        point("peer.paired")
        for peer, side in ends:
            _settle(peer, side.space)
        _await(ends)
        point("peer.routed")
        for peer, side in ends:
            side.filter.put([peer])


def remove(peer: Peer, side: VpcSide) -> None:
    """Make sure that an end is not there; the other end goes with it. The filter closes first."""
    with translated(f"the peering of {peer.vpc} and {peer.other}", "remove"):
        side.filter.drop([peer.other])
        point("peer.closed")
        side.space.send([links.delete(names.peer_link(peer.other))])


def _pair(mine: VpcSide, theirs: VpcSide) -> None:
    """Both ends, belonging together; what else bears their names goes."""
    name, peer = names.peer_link(theirs.vpc), names.peer_link(mine.vpc)
    here, there = mine.space.find([name]).get(name), theirs.space.find([peer]).get(peer)
    if not _sound(here, there, mine.vpc, theirs.vpc):
        mine.space.send([links.delete(name)])
        theirs.space.send([links.delete(peer)])
        new = links.create_veth(
            name,
            names.peer_mac(mine.vpc, theirs.vpc),
            names.LINK_GROUP,
            index=_index(mine.vpc, theirs.vpc),
            mtu=PEER_MTU,
            peer=peer,
            peer_mac=names.peer_mac(theirs.vpc, mine.vpc),
            netns=theirs.space.descriptor,
        )
        mine.space.send([new])


def _sound(here: Link | None, there: Link | None, vpc: str, other: str) -> bool:
    """Whether these are the two ends of one veth, with the MACs that they were made with."""
    if here is None or there is None or (here.kind, there.kind) != ("veth", "veth"):
        return False
    macs = (names.peer_mac(vpc, other), names.peer_mac(other, vpc))
    return (here.peer, there.peer) == (there.index, here.index) and (here.mac, there.mac) == macs


def _index(vpc: str, other: str) -> int:
    """The index of the end that is made first: never that which the kernel gives the other end (``create_veth``)."""
    digest = hashlib.blake2b(f"{vpc}/{other}".encode(), digest_size=3).digest()
    return 1 << 29 | int.from_bytes(digest, "big")


def _settle(peer: Peer, space: Netspace) -> None:
    """One end up, with its neighbour and its routes and no others."""
    name = names.peer_link(peer.other)
    space.inside(lambda: sysctl.ipv6_on(name))
    space.send([links.change(name, mtu=PEER_MTU, mute=True, up=True)])
    link = space.find([name])[name]
    mac = names.peer_mac(peer.other, peer.vpc)
    there, wanted = _routes(space, link), _wanted(peer)
    space.send(
        [
            *(peer_routes.delete_route(link, one) for one in there - wanted),
            peer_routes.add_neighbour(link, _hop(peer), mac),
            *(peer_routes.add_route(link, one) for one in sorted(wanted, key=str)),
        ]
    )


def _await(ends: Iterable[tuple[Peer, VpcSide]]) -> None:
    """Wait until the kernel sends by both ends: before, it drops all without a word (net/core/link_watch.c)."""
    stop = time.monotonic() + CARRIER_SECONDS
    for peer, side in ends:
        name = names.peer_link(peer.other)
        while not side.space.find([name])[name].running and time.monotonic() < stop:
            time.sleep(0.002)


def _hop(peer: Peer) -> IPv6Address:
    """The next hop: the link-local address that belongs to the MAC of the other end. Nobody has it."""
    return IPv6Address(names.link_local(names.peer_mac(peer.other, peer.vpc)))


def _wanted(peer: Peer) -> frozenset[Route]:
    sources = {source.version: source for source in peer.sources}
    return frozenset(Route(net, _hop(peer), sources[net.version]) for net in peer.nets)


def _routes(space: Netspace, link: Link) -> frozenset[Route]:
    found: set[Route | None] = set()
    for family in peer_routes.FAMILIES:
        found |= {
            peer_routes.parse_route(body, link) for body in space.route.dump(peer_routes.get_routes(family, link))
        }
    return frozenset(route for route in found if route is not None)


def observe(side: VpcSide, there: Mapping[str, Link], owned: Mapping[str, frozenset[Piece]], find: Find) -> set[Peer]:
    """The ends of peerings in a namespace; what is not as it should be is told with an MTU that nobody wants.

    :param there: the links in it.
    :param owned: the pieces of its filter, by owner.
    """
    linked = {other for name in there if (other := names.peer_of(name))}
    opened = {owner for owner in owned if names.VPC_NAME.match(owner)}
    return {_end(side, other, there.get(names.peer_link(other)), owned, find) for other in linked | opened}


def _end(side: VpcSide, other: str, link: Link | None, owned: Mapping[str, frozenset[Piece]], find: Find) -> Peer:
    elements = owned.get(other, frozenset())
    nets = {element.key[1] for element in elements if isinstance(element, Element)}
    ways = frozenset[Route]() if link is None else _routes(side.space, link)
    sources = {way.source for way in ways if way.source is not None}
    told = Peer(
        side.vpc,
        other,
        tuple(way.net for way in sorted(ways, key=_order) if str(way.net) in nets),
        tuple(sorted(sources, key=lambda source: source.version)),
    )
    sound = (
        link is not None
        and link.up
        and link.mute
        and link.mtu == PEER_MTU
        and elements == peer_elements(told)
        and ways == _wanted_or_none(told)
        and _met(side, link, told, find)
    )
    return told if sound else Peer(side.vpc, other, told.nets, told.sources, BROKEN)


def _order(way: Route) -> tuple[int, int, int]:
    return way.net.version, int(way.net.network_address), way.net.prefixlen


def _wanted_or_none(peer: Peer) -> frozenset[Route] | None:
    if {net.version for net in peer.nets} - {source.version for source in peer.sources}:
        return None
    return _wanted(peer)


def _met(side: VpcSide, link: Link, peer: Peer, find: Find) -> bool:
    """Whether the other end is where it belongs, and known."""
    theirs = find(peer.other)
    if theirs is None:
        return False
    name = names.peer_link(side.vpc)
    end = theirs.space.find([name]).get(name)
    told = side.space.route.query([peer_routes.get_neighbour(link, _hop(peer))])[0]
    known = told is not None and peer_routes.parse_neighbour(told) == names.peer_mac(peer.other, side.vpc)
    return known and _sound(link, end, side.vpc, peer.other)
