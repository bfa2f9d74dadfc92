"""What an agent does about the ways out of VPCs and into them: wishes of their own, beside the specs of VMs."""

from __future__ import annotations

from collections.abc import Sequence

from lvagent.agent.index import Phase
from lvagent.agent.locks import VmLocks
from lvagent.agent.parts import Parts
from lvagent.agent.publications import Publications
from lvagent.agent.told import Told
from lvagent.agent.trace import Trace
from lvagent.agent.vpcs import VpcWishes
from lvagent.errors import Conflict
from lvagent.spec.publications import Publication
from lvagent.spec.status import VpcView
from lvagent.spec.vpc import VpcConfig


class Outside(Told):
    """The part of an agent that has to do with the world outside of VPCs."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._locks = VmLocks()
        self._wishes = VpcWishes(parts.index, parts.networks, self._ready)
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

    def put_ports(self, vm: str, wish: tuple[Publication, ...]) -> Sequence[Publication]:
        """Publish this of a VM and nothing else; see ``agent.publications``."""
        self._ready()
        with self._locks.hold(vm):
            entry = self._entry(vm)
            if entry.phase is not Phase.LIVE:
                raise Conflict(f"{vm} is being made or deleted", other=vm)
            with self._timeline.operation(vm, "ports", Trace()):
                self._published.put(entry.carried, wish)
            return self.ports(vm)
