"""What there is of VPCs and of the underlay side, and no member of them wants: to be told of, counted, and removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lvagent.agent.index import Index
from lvagent.agent.wires import Dhcps, Metadatas, Wires
from lvagent.errors import LvagentError
from lvagent.plan import diff, wanted
from lvagent.plan.resources import Bridge, Fabric, Plug, Resource, Router, Uplink, Veth, Vxlan
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.strays import LooseObject
from lvagent.spec.vm import VmConfig

NEXT = "no VM wants it; a sweep removes it"
HELD = "no VM wants it; it stays while {taps} is in the VPC"


class Leftovers:
    """Looks; removes nothing."""

    def __init__(
        self, index: Index, wires: Wires, dhcp: Dhcps, metadata: Metadatas, policy: Callable[[], Policy]
    ) -> None:
        self._index = index
        self._wires = wires
        self._dhcp = dhcp
        self._metadata = metadata
        self._policy = policy

    def loose(self) -> tuple[LooseObject, ...]:
        """All that bears our mark in the network and that nobody wants."""
        found: list[LooseObject] = []
        for vpc in sorted(self._index.vpcs() | self.vpcs()):
            try:
                found += self._loose_in(vpc)
            except LvagentError as error:
                found.append(LooseObject("namespace", vpc, f"it cannot be read: {error}"))
        return (*found, *(_loose(one, NEXT) for one in self.fabric()), *self._misplaced())

    def _misplaced(self) -> list[LooseObject]:
        """Links of ours in the root namespace, but for taps of VMs that run: these are plugged by the sweep."""
        running = {entry.spec.id for entry in self._index.all() if entry.domain is not None and entry.domain.active}
        why = "it is in the root namespace and no VM that runs has it; it is never removed by the agent: ip link del"
        links = [(one, names.tap_owner(one)) for one in sorted(self._wires.misplaced())]
        return [LooseObject("link", one, why) for one, owner in links if owner is None or owner[0] not in running]

    def vpcs(self) -> frozenset[str]:
        """The VPCs of which something is there."""
        return self._wires.vpcs() | self._dhcp.vpcs() | frozenset(self._metadata.vpcs())

    def _loose_in(self, vpc: str) -> list[LooseObject]:
        members = self._index.members(vpc)
        there = self._wires.observe(vpc) if vpc in self._wires.vpcs() else frozenset()
        lost = self.unknown(there, members)
        found = [LooseObject("tap", one, f"it is in {vpc}, and no VM known here has it") for one in lost]
        why = HELD.format(taps=", ".join(lost)) if lost else NEXT
        found += [_loose(one, why) for one in self.excess(vpc, there, members) if not isinstance(one, Plug)]
        if not members:
            found += [LooseObject("dnsmasq", vpc, why)] * (vpc in self._dhcp.vpcs())
            found += [LooseObject("metadata", vpc, why)] * (vpc in self._metadata.vpcs())
        return found

    def excess(self, vpc: str, there: frozenset[Resource], members: Sequence[VmConfig]) -> list[Resource]:
        """Those of a VPC's own resources that its members do not want."""
        wish = wanted.network(vpc, members, self._policy(), self._index.near(vpc))
        gone = diff.subtract(wish, there).remove
        return [one for one in gone if not isinstance(one, Fabric | Bridge | Vxlan | Router)]

    def unknown(self, there: frozenset[Resource], members: Sequence[VmConfig]) -> list[str]:
        """The taps in a VPC that no member has: of a running guest whose domain cannot be read, or is gone."""
        known = {names.tap(spec.id, nic.position) for spec in members for nic in spec.networks}
        return sorted({one.tap for one in there if isinstance(one, Plug)} - known)

    def fabric(self) -> list[Resource]:
        """What all VPCs share and no member of any needs, and no veth or uplink hangs on any more."""
        kept = wanted.crossed((entry.carried for entry in self._index.all()), self._policy())
        gone = [resource for resource in self._wires.fabric() if diff.identity(resource) not in kept]
        return self._uncrossed(gone) if gone else []

    def _uncrossed(self, resources: Sequence[Resource]) -> list[Resource]:
        """Those on which no veth and no uplink hangs any more; others go with the VPC that they are for."""
        there = [one for vpc in self._wires.vpcs() for one in self._wires.observe(vpc)]
        vnis = {one.vni for one in there if isinstance(one, Veth)}
        routed = any(isinstance(one, Uplink) for one in there)

        def used(one: Resource) -> bool:
            match one:
                case Bridge(vni=vni) | Vxlan(vni=vni):
                    return vni in vnis
                case Router():
                    return routed
                case _:
                    return bool(vnis)

        return [one for one in resources if not used(one)]


def _loose(one: Resource, why: str) -> LooseObject:
    return LooseObject(type(one).__name__.lower(), diff.describe(one), why)
