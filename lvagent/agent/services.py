"""What is served in a VPC: DHCP, DNS and metadata, as its members want them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lvagent.agent.wires import Dhcps, Metadatas, Wires
from lvagent.failpoints import point
from lvagent.plan import wanted
from lvagent.plan.resources import Dhcp
from lvagent.plan.wanted import Policy
from lvagent.spec import names
from lvagent.spec.vm import VmConfig


class Services:
    """The services of the VPCs of this host. The caller holds the VPC's lock of services.

    :param policy: tells what the wanted resources depend on.
    """

    def __init__(self, wires: Wires, dhcp: Dhcps, metadata: Metadatas, policy: Callable[[], Policy]) -> None:
        self._wires = wires
        self._dhcp = dhcp
        self._metadata = metadata
        self._policy = policy
        self.ready = metadata.ready
        self.forget = dhcp.forget
        self.leased = dhcp.leased
        self.asked = metadata.asked

    def bring(self, vpc: str, members: tuple[VmConfig, ...]) -> None:
        """Bring the VPC's dnsmasq and metadata to what these members want."""
        self._dhcp_of(vpc, members)
        self._metadata_of(vpc, members)

    def _dhcp_of(self, vpc: str, members: tuple[VmConfig, ...]) -> None:
        wish = wanted.dhcp(vpc, members, self._policy())
        if wish is None:
            if not self._wires.taps(vpc):
                self._dhcp.remove(vpc)
                point("dhcp.removed")
            return
        there = self._dhcp.observe(vpc)
        if there is not None:
            wish = self._keeping(wish, there, members)
        if there != wish:
            self._dhcp.ensure(wish)
            point("dhcp.served")

    def _keeping(self, wish: Dhcp, there: Dhcp, members: tuple[VmConfig, ...]) -> Dhcp:
        """The wish, and the reservations of running guests that nobody knows (their domain cannot be read)."""
        known = _taps(members)
        lost = [host for host in there.hosts if names.tap(host.vm, host.position) not in known]
        taps = self._wires.taps(wish.vpc) if lost else frozenset()
        kept = [host for host in lost if names.tap(host.vm, host.position) in taps]
        bridges = {host.subnet for host in kept} - {subnet.name for subnet in wish.subnets}
        subnets = [*wish.subnets, *(subnet for subnet in there.subnets if subnet.name in bridges)]
        return dataclasses.replace(
            wish,
            subnets=tuple(sorted(subnets, key=lambda subnet: subnet.name)),
            hosts=tuple(sorted([*wish.hosts, *kept], key=lambda host: (host.vm, host.position))),
        )

    def _metadata_of(self, vpc: str, members: tuple[VmConfig, ...]) -> None:
        wish = wanted.metadata(vpc, members, self._policy())
        if wish is None:
            if not self._policy().config(vpc).metadata or not self._wires.taps(vpc):
                self._metadata.remove(vpc)
                point("metadata.removed")
        elif self._metadata.observe(vpc) != self._metadata.digest(wish):
            self._metadata.ensure(wish)
            point("metadata.served")


def _taps(members: Sequence[VmConfig]) -> set[str]:
    return {names.tap(spec.id, nic.position) for spec in members for nic in spec.networks}
