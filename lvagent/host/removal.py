"""Taking the network of VPCs away: ports, ways in and out, what crosses to the underlay side, subnets, namespaces.

A namespace that goes takes the taps in it along, and running VMs are left with dead NICs. So whatever a tap stands on
stays, and the caller is told; all else goes, whatever else could not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from lvagent.errors import HostError, Vanished
from lvagent.failpoints import point
from lvagent.host import peers
from lvagent.host.fabric import FabricSide
from lvagent.host.inward import InwardSide
from lvagent.host.netspace import translated
from lvagent.host.proxies import ProxySide
from lvagent.host.router import RouterSide
from lvagent.host.uplinks import Uplinks
from lvagent.host.vpcs import VpcSides
from lvagent.plan.resources import (
    Bridge,
    Extras,
    Fabric,
    Filter,
    Firewall,
    Group,
    Inward,
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
from lvagent.render.nft import owner_of
from lvagent.spec import names

R = TypeVar("R")
InVpc = Netns | Ruleset | Subnet | Veth | PortFilter | Firewall | Group | Extras | Peer | Plug | Uplink | Inward | Proxy


def of(kind: type[R], resources: Iterable[object]) -> list[R]:
    """Those resources that are of a kind."""
    return [one for one in resources if isinstance(one, kind)]


def filters_of(resources: Iterable[object]) -> list[Filter]:
    """Those resources that are parts of a filter."""
    return [one for one in resources if isinstance(one, Filter)]


def by_vpc(resources: Iterable[Resource]) -> dict[str, list[InVpc]]:
    """The resources that belong to a VPC, by its name."""
    found: dict[str, list[InVpc]] = {}
    for one in resources:
        if isinstance(one, InVpc):
            found.setdefault(one.vpc, []).append(one)
    return found


class Removal:
    """One removal of these resources, carried out by ``run``."""

    def __init__(
        self,
        vpcs: VpcSides,
        fabric: FabricSide,
        uplinks: Uplinks,
        inward: InwardSide,
        proxies: ProxySide,
        router: RouterSide,
        resources: Sequence[Resource],
    ) -> None:
        self._vpcs = vpcs
        self._fabric = fabric
        self._uplinks = uplinks
        self._inward = inward
        self._proxies = proxies
        self._router = router
        self._failures: list[HostError] = []
        self._resources = list(resources)

    def run(self) -> None:
        """Remove what may go.

        :raise HostError: all that could not be removed.
        """
        for vpc, mine in by_vpc(self._resources).items():
            self._attempt(lambda vpc=vpc, mine=mine: self._ports(vpc, mine))  # type: ignore[misc]
        self._attempt(lambda: point("unwire.ports"))
        if of(Proxy, self._resources):
            self._attempt(lambda: self._proxies.remove(of(Proxy, self._resources)))
        for led in of(Inward, self._resources):
            self._attempt(lambda vpc=led.vpc: self._inward.remove(vpc, self._vpcs.find(vpc)))  # type: ignore[misc]
        for one in of(Uplink, self._resources):
            self._attempt(lambda vpc=one.vpc: self._uplinks.remove(vpc, self._vpcs.find(vpc)))  # type: ignore[misc]
        for vpc, mine in by_vpc(self._resources).items():
            self._attempt(lambda vpc=vpc, mine=mine: self._refuse(vpc, mine))  # type: ignore[misc]
        self._attempt(lambda: self._fabric.remove_links(_crossing(self._resources)))
        self._attempt(lambda: point("unwire.crossing"))
        for vpc, mine in by_vpc(self._resources).items():
            self._attempt(lambda vpc=vpc, mine=mine: self._unwire(vpc, mine))  # type: ignore[misc]
        if of(Fabric, self._resources):
            self._attempt(self._fabric.remove)
        if of(Router, self._resources):
            self._attempt(self._forget_router)
        if self._failures:
            raise _all(self._failures)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except HostError as error:
            self._failures.append(error)

    def _forget_router(self) -> None:
        """What root has for uplinks goes with the last of them."""
        if not self._uplinks.vpcs():
            self._proxies.clear()
            self._router.remove()

    def _ports(self, vpc: str, mine: Sequence[InVpc]) -> None:
        side = self._vpcs.find(vpc)
        if side is None:
            return
        plugs = [one.tap for one in of(Plug, mine)]
        side.remove_links(plugs)
        if not of(Netns, mine):
            with translated(vpc, "close ports of"):
                side.filter.drop(owner_of(one) for one in filters_of(mine))
            for one in of(Peer, mine):
                peers.remove(one, side)

    def _refuse(self, vpc: str, mine: Sequence[InVpc]) -> None:
        """Take what a tap stands on out of the list."""
        side = self._vpcs.find(vpc)
        with translated(vpc, "read"):
            taps = {} if side is None else side.taps()
        held = [one for one in mine if _stands_on(one, set(taps.values()), bool(taps))]
        if not held:
            return
        vnis = {one.vni for one in of(Veth, held)}
        self._resources = [
            one
            for one in self._resources
            if one not in held and not (isinstance(one, Bridge | Vxlan) and one.vni in vnis)
        ]
        hint = "stop the VM that has it; what its tap stands on would take its NIC along"
        raise HostError(vpc, "remove", f"{', '.join(sorted(taps))} is in it", hint=hint)

    def _unwire(self, vpc: str, mine: Sequence[InVpc]) -> None:
        if of(Netns, mine):
            self._vpcs.remove(vpc)
            return
        side = self._vpcs.find(vpc)
        if side is None:
            return
        subnets = [one.name for one in of(Subnet, mine)]
        inner = [names.veth_inner(one.subnet) for one in of(Veth, mine)]
        side.remove_links([*inner, *map(names.subnet_bridge, subnets)])
        with translated(vpc, "remove the filter of"):
            if of(Ruleset, mine):
                side.filter.remove()
            elif subnets:
                side.filter.drop(subnets)


def _stands_on(one: InVpc, bridges: set[str], taps: bool) -> bool:
    match one:
        case Netns() | Ruleset():
            return taps
        case Subnet(name=name) | Veth(subnet=name):
            return names.subnet_bridge(name) in bridges
        case _:
            return False


def _crossing(resources: Sequence[Resource]) -> list[str]:
    """The links on the underlay side that belong to these resources."""
    outer = [names.veth_outer(one.subnet) for one in of(Veth, resources)]
    devices = [names.vxlan(one.vni) for one in of(Vxlan, resources)]
    return outer + devices + [names.overlay_bridge(one.vni) for one in of(Bridge, resources)]


def _all(failures: Sequence[HostError]) -> HostError:
    if len(failures) == 1:
        return failures[0]
    what = ", ".join(dict.fromkeys(one.resource for one in failures))
    hints = "; ".join(dict.fromkeys(one.hint for one in failures if one.hint))
    kind = Vanished if all(isinstance(one, Vanished) for one in failures) else HostError
    return kind(what, "remove", "; ".join(map(str, failures)), hint=hints)
