"""The ways out of VPCs: the veth from root to a VPC's namespace, with its addresses, routes and table.

root: ux-<vpc>  198.19.0.2/31 ================= ui-<vpc>  198.19.0.3/31, default via 198.19.0.2  :the VPC
"""

from __future__ import annotations

from collections.abc import Callable

from lvagent.config import Settings
from lvagent.config_uplink import Net, nets
from lvagent.host.links import Address
from lvagent.host.netspace import Netspace, translated
from lvagent.plan.uplinks import Transit, slot_of, transit
from lvagent.spec import names


class Uplinks:
    """The uplinks of this host.

    :param root: opens the namespace in which the agent runs.
    """

    def __init__(self, settings: Settings, root: Callable[[], Netspace]) -> None:
        self._root = root
        pools = nets((settings.uplink.pool_v4, settings.uplink.pool_v6))
        self.pools: tuple[Net, ...] = pools if settings.uplink.ipv6 != "none" else pools[:1]

    def slots(self) -> dict[str, int]:
        """The slots of the pools that are in use, by VPC, as their links in root have them."""
        with translated("the root namespace", "read"):
            space = self._root()
            outer = {one.index: vpc for one in space.links().values() if (vpc := self._owner(one.name, one.group))}
            addresses = space.addresses() if outer else {}
        found = {vpc: self._slot(addresses.get(index, frozenset())) for index, vpc in outer.items()}
        return {vpc: slot for vpc, slot in found.items() if slot is not None}

    def _owner(self, link: str, group: int) -> str | None:
        return names.uplink_owner(link) if group == names.LINK_GROUP else None

    def _slot(self, addresses: frozenset[Address]) -> int | None:
        return next(
            (slot for one in sorted(addresses, key=str) if (slot := slot_of(one, self.pools)) is not None), None
        )

    def transits(self) -> dict[str, Transit]:
        """The addresses of the uplinks that are there, by VPC."""
        return {vpc: transit(slot, self.pools) for vpc, slot in self.slots().items()}
