"""What leads from outside into VPCs, in the kernel: elements of root's sets, and a table in each VPC's namespace.

Root's table has the sets for all VPCs; an element says in its comment of which VPC it is. What comes is opened from the
inside out, the VPC first, and closed from the outside in, each place in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from lvagent.failpoints import point
from lvagent.host import conntrack, nft_read
from lvagent.host.netspace import Netspace, translated
from lvagent.host.nft import without
from lvagent.host.nft_read import INET
from lvagent.host.router import MOST_FLOWS, RouterSide, placed
from lvagent.host.uplinks import Uplinks
from lvagent.host.vpc import VpcSide
from lvagent.plan.resources import Inward
from lvagent.plan.sessions import Tuple
from lvagent.plan.uplinks import Transit
from lvagent.render.inward import ROOT_SETS, TABLE, Placed, digest_of, root_text


class InwardSide:
    """What leads into the VPCs of this host.

    :param root: opens the namespace in which the agent runs.
    """

    def __init__(self, root: Callable[[], Netspace], uplinks: Uplinks, router: RouterSide) -> None:
        self._root = root
        self._uplinks = uplinks
        self._router = router

    def observe(self, vpc: str, side: VpcSide | None) -> Inward | None:
        """What leads into a VPC, if there is anything of it; with an empty digest if it is not whole."""
        with translated(f"what leads into {vpc}", "read"):
            table = None if side is None else nft_read.table_comment(side.space.netfilter, INET, TABLE)
            there = self._placed(vpc)
            if table is None and not there:
                return None
            ends = self._uplinks.transits().get(vpc)
        whole = table and ends is not None and all(address == _end(ends, name) for name, _, address in there)
        return Inward(vpc, digest_of(table or "", [(name, key) for name, key, _ in there]) if whole else "")

    def _placed(self, vpc: str) -> set[Placed]:
        """The elements of a VPC in root, with the addresses to which they lead."""
        found = nft_read.elements(self._root().netfilter, ROOT_SETS, INET)
        return {placed(one) for one in found if one.comment == vpc}

    def ensure(self, one: Inward, side: VpcSide) -> None:
        """Have what it says lead into its VPC, and nothing else; its uplink is there.

        :raise HostError: nft refused; what leads there is what was, or less.
        """
        vpc = one.vpc
        with self._router.locked(), translated(f"what leads into {vpc}", "make"):
            ends = self._uplinks.transits().get(vpc)
            there = self._placed(vpc)
            wanted = {(name, key, end) for name, key in one.keys if ends and (end := _end(ends, name))}
            self._close(vpc, there - wanted)
            if nft_read.table_comment(side.space.netfilter, INET, TABLE) != one.digest[: len(one.digest) // 2]:
                side.space.nft.run(one.text, f"what leads into {vpc}", "lead")
            point("inward.led")
            self._run(vpc, set(), wanted - there)
            point("inward.opened")
            self._forget([key for name, key, _ in wanted - there if name.startswith("published")])

    def _forget(self, keys: list[tuple[str, ...]]) -> None:
        """Forget what asked for a port before it led anywhere: it would go on to ask this host itself."""
        if not keys:
            return
        root = self._root()
        own = {one.ip for found in root.addresses().values() for one in found}

        def asked(flow: Tuple) -> bool:
            return flow.destination in own and any(_asks(flow, key) for key in keys)

        root.inside(lambda: conntrack.forget_unled(root.netfilter, asked, MOST_FLOWS))

    def _close(self, vpc: str, gone: set[Placed]) -> None:
        self._run(vpc, gone, set())
        if gone:
            point("inward.closed")

    def _run(self, vpc: str, removed: set[Placed], added: set[Placed]) -> None:
        if removed or added:
            self._root().nft.run(root_text(vpc, removed, added), f"what leads into {vpc}", "lead")

    def remove(self, vpc: str, side: VpcSide | None) -> None:
        """Make sure that nothing leads into a VPC."""
        with self._router.locked(), translated(f"what leads into {vpc}", "remove"):
            self._close(vpc, self._placed(vpc))
            if side is not None and nft_read.table_comment(side.space.netfilter, INET, TABLE) is not None:
                side.space.nft.run(without(f"inet {TABLE}"), f"what leads into {vpc}", "remove")


def _asks(flow: Tuple, key: tuple[str, ...]) -> bool:
    """Whether a flow asks for what is published by a key of root's maps."""
    number, at, ports = key
    first, last = (int(ip_address(end)) for end in at.split("-"))
    low, high = (int(end) for end in ports.split("-"))
    same = flow.number == int(number) and flow.destination.version == ip_address(at.split("-")[0]).version
    return same and first <= int(flow.destination) <= last and low <= flow.dport <= high


def _end(ends: Transit, name: str) -> str:
    """The VPC's address to which an element of a set leads; '' if the uplink has none of that IP version."""
    found = ends.vpc_v4 if name.endswith("4") else ends.vpc_v6
    return "" if found is None else str(found.ip)
