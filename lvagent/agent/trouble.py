"""What keeps uplinks from being whole, put together from all that knows some of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lvagent.agent import routed
from lvagent.agent.configs import FloatWishes, PortWishes, VpcConfigs
from lvagent.agent.index import Index
from lvagent.agent.wires import Wires
from lvagent.plan import inward
from lvagent.plan.wanted import Policy
from lvagent.spec.vpc import UplinkMode


class Troubles:
    """Of the VPCs of this host.

    :param configs: what is wanted of VPCs; ``ports`` and ``floating``: what leads into them.
    """

    def __init__(
        self, index: Index, wires: Wires, configs: VpcConfigs, ports: PortWishes, floating: FloatWishes
    ) -> None:
        self._index = index
        self._wires = wires
        self._configs = configs
        self._ports = ports
        self._floating = floating

    def told(self, policy: Policy) -> Mapping[str, tuple[str, ...]]:
        """All of it, by VPC; of '': what concerns all."""
        found: dict[str, dict[str, None]] = {}
        for vpc, why in self._found(policy):
            found.setdefault(vpc, {})[why] = None  # once each
        return {**{vpc: tuple(texts) for vpc, texts in found.items()}, "": self._wires.trouble()}

    def _found(self, policy: Policy) -> Iterator[tuple[str, str]]:
        yield from self._configs.broken().items()
        yield from routed.trouble(self._index, policy)
        for vm, why in self._of_vms(policy):
            for vpc in self._index.vpcs_of(vm):
                yield vpc, why
        for vpc in self._index.vpcs():
            if policy.mode(vpc) is UplinkMode.ROUTED:
                for why in self._wires.unreached():
                    yield vpc, why

    def _of_vms(self, policy: Policy) -> Iterator[tuple[str, str]]:
        for vm, why in self._ports.broken().items():
            yield vm, f"nothing of {vm} is published: {why}"
        floating = self._floating.all().values()
        yield from inward.loose(floating, policy.uplinks)
        for one in floating:
            for why in self._wires.unreached():
                yield one.vm, why
