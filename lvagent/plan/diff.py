"""Wanted minus actual.

Two resources are the same thing in another shape when their identities are equal: then it is a change, made by
ensuring the new shape, and nothing is removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lvagent.plan.resources import (
    Bridge,
    Dhcp,
    Extras,
    Fabric,
    Filter,
    Firewall,
    Group,
    Inward,
    Metadata,
    Netns,
    Peer,
    Plug,
    PortFilter,
    Proxy,
    Resource,
    Router,
    Ruleset,
    Subnet,
    Uplink,
    Veth,
    Vxlan,
)


@dataclass(frozen=True, slots=True)
class Steps:
    """What to apply: first ``remove`` (highest layer first), then ``ensure`` (lowest layer first)."""

    remove: tuple[Resource, ...]
    ensure: tuple[Resource, ...]

    def __bool__(self) -> bool:
        return bool(self.remove or self.ensure)


def identity(resource: Resource) -> tuple[str, ...]:
    """What makes it this thing and no other, whatever its shape."""
    kind = type(resource).__name__
    match resource:
        case Fabric(netns=name):
            return (kind, name)
        case Router():
            return (kind,)
        case Netns(vpc=vpc) | Ruleset(vpc=vpc) | Dhcp(vpc=vpc) | Metadata(vpc=vpc) | Extras(vpc=vpc):
            return (kind, vpc)
        case Uplink(vpc=vpc) | Inward(vpc=vpc):
            return (kind, vpc)
        case Firewall(vpc=vpc, vm=name) | Group(vpc=vpc, name=name):
            return (kind, vpc, name)
        case Proxy(vpc=vpc, address=address):
            return (kind, vpc, address)
        case Bridge(vni=vni) | Vxlan(vni=vni):
            return (kind, str(vni))
        case Subnet(vpc=vpc, name=name) | Veth(vpc=vpc, subnet=name):
            return (kind, vpc, name)
        case PortFilter(vpc=vpc, tap=tap) | Plug(vpc=vpc, tap=tap):
            return (kind, vpc, tap)
        case Peer(vpc=vpc, other=name):
            return (kind, vpc, name)


def subtract(wanted: Iterable[Resource], actual: Iterable[Resource]) -> Steps:
    """The steps from actual to wanted.

    A tap's place (Plug) is never removed: the tap is libvirt's and goes with qemu. The Fabric and the Router are shared
    by all VPCs and have a removal of their own.
    """
    wish, there = set(wanted), set(actual)
    kept = {identity(resource) for resource in wish}
    gone = [
        resource
        for resource in there
        if identity(resource) not in kept and not isinstance(resource, Plug | Fabric | Router)
    ]
    return Steps(
        remove=tuple(sorted(gone, key=lambda resource: (-resource.layer, identity(resource)))),
        ensure=tuple(sorted(wish - there, key=lambda resource: (resource.layer, identity(resource)))),
    )


def apart(steps: Steps) -> tuple[Steps, tuple[Peer, ...], tuple[Peer, ...]]:
    """Steps of a VPC alone, and the ends of links that are to be removed, and to be made, together with the other VPC.

    A namespace that goes takes its ends along.
    """
    goes = any(isinstance(one, Netns) for one in steps.remove)
    old = tuple(one for one in steps.remove if isinstance(one, Peer))
    new = tuple(one for one in steps.ensure if isinstance(one, Peer))
    mine = Steps(
        remove=tuple(one for one in steps.remove if goes or not isinstance(one, Peer)),
        ensure=tuple(one for one in steps.ensure if not isinstance(one, Peer)),
    )
    return mine, old, new


def describe(resource: Resource) -> str:
    """One resource as a short line for people."""
    match resource:
        case Fabric(netns=name):
            return f"underlay side in {'namespace ' + name if name else 'the root namespace'}"
        case Router(ipv6=ipv6):
            return f"forwarding in root, {'IPv4 and IPv6' if ipv6 else 'IPv4'}"
        case Uplink(vpc=vpc, routes=routes):
            return f"uplink of {vpc}{', routed: ' if routes else ''}{', '.join(map(str, routes))}"
        case Inward(vpc=vpc):
            return f"published ports and floating addresses of {vpc}"
        case Proxy(vpc=vpc, address=address, link=link):
            return f"floating address {address} of {vpc} on {link}"
        case Netns(vpc=vpc):
            return f"namespace {vpc}"
        case Ruleset(vpc=vpc):
            return f"filter of {vpc}"
        case Bridge(vni=vni, mtu=mtu):
            return f"bridge of VNI {vni}, MTU {mtu}"
        case Vxlan(vni=vni, local=local):
            return f"VXLAN {vni} from {local or 'any address'}"
        case Subnet(vpc=vpc, name=name, gateway_v4=v4, gateway_v6=v6):
            return f"subnet {name} in {vpc}, gateway {', '.join(str(g) for g in (v4, v6) if g)}"
        case Veth(vpc=vpc, subnet=name, vni=vni):
            return f"veth of {name} in {vpc} to VNI {vni}"
        case PortFilter(tap=tap, mac=mac):
            return f"filter of port {tap}, {mac}"
        case Firewall(vm=vm, rules=rules):
            return f"rules of {vm}, {len(rules)}"
        case Group(name=name, nets=nets):
            return f"nets of {name}, {len(nets)}"
        case Extras(vpc=vpc, spans=spans):
            return f"extra addresses of {vpc}, {len(spans)} ranges"
        case Peer(vpc=vpc, other=name, nets=nets):
            return f"end of the peering with {name} in {vpc}, to {', '.join(map(str, nets)) or 'nothing'}"
        case Dhcp(vpc=vpc, hosts=hosts):
            return f"dnsmasq of {vpc}, {len(hosts)} reservations"
        case Metadata(vpc=vpc, guests=guests):
            return f"metadata of {vpc}, {len(guests)} addresses"
        case Plug(tap=tap, vpc=vpc, subnet=name):
            return f"tap {tap} in {vpc} on {name}"


def in_one(steps: Steps) -> list[Filter]:
    """What goes of a filter that stays: in one step with what comes, for the one may refer to the other."""
    stays = not any(isinstance(one, Ruleset) for one in steps.remove)
    return [one for one in steps.remove if isinstance(one, Filter)] if stays else []
