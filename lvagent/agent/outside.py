"""What an agent does about the ways out of VPCs and into them: wishes of their own, beside the specs of VMs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import ip_address

from lvagent.agent.floating import FloatingAddresses
from lvagent.agent.index import Entry, Phase
from lvagent.agent.locks import VmLocks
from lvagent.agent.parts import Parts
from lvagent.agent.publications import Publications
from lvagent.agent.told import Told
from lvagent.agent.trace import Trace
from lvagent.agent.vpcs import VpcWishes
from lvagent.errors import Conflict, NotFound, Superseded
from lvagent.spec.publications import Floating, Publication, digest
from lvagent.spec.status import VpcView
from lvagent.spec.vpc import VpcConfig


class Outside(Told):
    """The part of an agent that has to do with the world outside of VPCs."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._locks = VmLocks()
        self._wishes = VpcWishes(parts.index, parts.networks, self._ready)
        self._floating = FloatingAddresses(parts.index, parts.networks)
        self._published = Publications(parts.index, parts.networks, parts.listeners, parts.holder)

    def put_vpc(self, vpc: str, config: VpcConfig) -> VpcView:
        """Want this of a VPC; see ``agent.vpcs``."""
        self._wishes.put(vpc, config)
        return self.vpc(vpc)

    def delete_vpc(self, vpc: str) -> None:
        """Forget what was wanted of a VPC; see ``agent.vpcs``."""
        self._wishes.drop(vpc)

    def ports(self, vm: str) -> Sequence[Publication]:
        """What is published of a VM."""
        self._ready()
        self._entry(vm)
        return self._networks.ports.get(vm) or ()

    def put_ports(
        self, vm: str, wish: tuple[Publication, ...], seen: Collection[str] | None = None
    ) -> Sequence[Publication]:
        """Publish this of a VM and nothing else; see ``agent.publications``.

        :param seen: only if the digest of what is published is one of these.
        :raise Superseded: it is not.
        """
        self._ready()
        with self._locks.hold(vm):
            entry = self._live(vm)
            if seen is not None and digest(self.ports(vm)) not in seen:
                hint = f"GET /v1/vms/{vm}/ports has the present digest in its ETag; look what was changed"
                raise Superseded(f"If-Match: other ports of {vm} are published by now", hint=hint)
            with self._timeline.operation(vm, "ports", Trace()):
                self._published.put(entry.carried, wish)
            return self.ports(vm)

    def _live(self, vm: str) -> Entry:
        entry = self._entry(vm)
        if entry.phase is not Phase.LIVE:
            raise Conflict(f"{vm} is being made or deleted", other=vm)
        return entry

    def floating(self) -> Sequence[Floating]:
        """All floating addresses, in order."""
        self._ready()
        found = self._networks.floating.all().values()
        return tuple(sorted(found, key=lambda one: (one.version, int(ip_address(one.address)))))

    def floating_address(self, address: str) -> Floating:
        """Where a floating address is led.

        :raise NotFound: nowhere.
        """
        self._ready()
        found = self._networks.floating.get(address)
        if found is None:
            raise NotFound("floating address", address, listed="/v1/floating")
        return found

    def put_floating(self, wish: Floating) -> Floating:
        """Lead an address to a VM, wherever it was led before; see ``agent.floating``."""
        self._ready()
        with self._locks.hold(wish.vm):
            entry = self._live(wish.vm)
            with self._timeline.operation(wish.vm, "floating", Trace()):
                self._floating.put(wish, entry.carried)
            return self.floating_address(wish.address)

    def delete_floating(self, address: str) -> None:
        """Lead an address nowhere; see ``agent.floating``."""
        self._ready()
        self._floating.drop(address)
