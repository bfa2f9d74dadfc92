"""One VPC made as its members want it: observe, subtract, apply.

Create, change, delete, rollback, recovery and the sweep all come through here. What is wanted is computed at the last
moment, under the VPC's lock, from the members in the index; so whoever comes last leaves what all of them want.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lvagent.agent import routed
from lvagent.agent.configs import FloatWishes, PortWishes, VpcConfigs
from lvagent.agent.counters import Counters
from lvagent.agent.index import Index
from lvagent.agent.leftovers import Leftovers
from lvagent.agent.locks import VpcLocks
from lvagent.agent.peers import Links
from lvagent.agent.services import Services
from lvagent.agent.trace import Trace
from lvagent.agent.trouble import Troubles
from lvagent.agent.turns import each, first
from lvagent.agent.wires import Dhcps, Metadatas, Wires
from lvagent.errors import Conflict, HostError, LvagentError, Unavailable, Vanished
from lvagent.failpoints import point
from lvagent.host.probe import Seen
from lvagent.plan import diff, firewall, inward, uplinks, wanted
from lvagent.plan.explain.probe import Probe
from lvagent.plan.resources import Fabric, Filter, Firewall, Plug, PortFilter
from lvagent.plan.sessions import KeptFlow
from lvagent.plan.uplinks import Transit, UplinkPolicy
from lvagent.plan.wanted import Policy
from lvagent.spec.vm import Network as NetworkConfig
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What came of bringing a VPC to what is wanted.

    ``excess``: objects that nobody wants. ``made``: those that were. ``apart``: VPCs to which its link is not right.
    """

    excess: int
    apart: frozenset[str] = frozenset()
    made: int = 0


class Networks:
    """The VPCs of this host. Every method may be called by many threads."""

    def __init__(
        self,
        index: Index,
        wires: Wires,
        dhcp: Dhcps,
        metadata: Metadatas,
        policy: Policy,
        locks: Path,
        configs: VpcConfigs | None = None,
        uplinks: Callable[[], UplinkPolicy | None] | None = None,
        ports: PortWishes | None = None,
        floating: FloatWishes | None = None,
    ) -> None:
        self._index = index
        self._wires = wires
        self._policy = policy
        self._uplinks = uplinks
        self.configs = configs or VpcConfigs()
        self.ports = ports or PortWishes()
        self.floating = floating or FloatWishes()
        self._troubles = Troubles(index, wires, self.configs, self.ports, self.floating)
        self.locks = VpcLocks(locks)
        self.carried, self.room = wires.carried, wires.room
        self.repaired = 0  # objects that sweeps made
        self.links = Links(index, wires, self.locks)
        self.counters = Counters(wires.counted)
        self._services = Services(wires, dhcp, metadata, lambda: self.policy)
        self.leftovers = Leftovers(index, wires, dhcp, metadata, lambda: self.policy)

    @property
    def policy(self) -> Policy:
        """What the wanted resources depend on, as it is wanted now."""
        return dataclasses.replace(
            self._policy, vpcs=self.configs.all(), ports=self.ports.all(), floating=self.floating.all()
        )

    def policy_afresh(self) -> Policy:
        """The policy, with how uplinks are on this host in this moment: it may have another address than before."""
        return self.policy if self._uplinks is None else dataclasses.replace(self.policy, uplinks=self._uplinks())

    def policy_with(self, vpc: str, config: VpcConfig) -> Policy:
        """The policy if this were wanted of a VPC."""
        return dataclasses.replace(self.policy, vpcs={**self.configs.all(), vpc: config})

    def unpublish(self, vm: str) -> None:
        """Forget what leads to a VM from outside; whoever converges its VPC takes it away.

        :raise HostError: it could not be forgotten.
        """
        if self.ports.get(vm) is not None or vm in self.ports.broken():
            self.ports.set(vm, None)
            self.ports.keep(vm)
        for one in [one for one in self.floating.all().values() if one.vm == vm]:
            self.floating.discard(one.address, one)  # it may just have moved to another VM
            self.floating.keep(one.address)

    def answerer(self, link: str, address: str) -> str:
        """The MAC that answers for an address on a link of the host; '' if none does."""
        return self._wires.answerer(link, address)

    def transits(self) -> Mapping[str, Transit]:
        """The addresses of the uplinks that are there, by VPC."""
        return self._wires.transits()

    def probe(self, probe: Probe) -> Seen:
        """Send a packet, and see what becomes of it; see ``host.probe``."""
        return self._wires.probe(probe)

    def flows(self, vpc: str, most: int) -> list[KeptFlow]:
        """The flows that a VPC keeps, at most so many."""
        return self._wires.flows(vpc, most)

    def trouble(self) -> Mapping[str, tuple[str, ...]]:
        """What keeps uplinks from being whole, by VPC; of '': what concerns all."""
        return self._troubles.told(self.policy)

    def look_around(self) -> None:
        """Look how uplinks are on this host by now: its addresses, links and DNS servers."""
        if self._uplinks is not None:
            self._policy = dataclasses.replace(self._policy, uplinks=self._uplinks())

    def prepare(self) -> None:
        """Have ready what the first VPC would else have to wait for, and look how uplinks are on this host by now."""
        self.look_around()
        self._wires.prepare()
        self._services.ready()
        if self._outside():
            self._wires.look()

    def _outside(self) -> bool:
        """Whether some VPC with a member has a way out."""
        return any(self.policy.mode(vpc) is not UplinkMode.NONE for vpc in self._index.vpcs())

    def known(self) -> frozenset[str]:
        """Every VPC that is wanted, or of which something is there."""
        return self._index.vpcs() | self.leftovers.vpcs()

    def wire(self, vpc: str, *, within: float = 30) -> None:
        """Bring the VPC's namespace, links and filters to what its members want, and nothing away."""
        with self.locks.wires(vpc, within=within):
            apart = self._apply(vpc, remove=False).apart
        self._meet(vpc, apart)

    def meet(self, one: str, other: str) -> None:
        """Bring two VPCs, and the link between them, to what their peering is by now: there, or not there.

        :raise LvagentError: it could not be done.
        """
        for vpc in (one, other):
            if self._index.members(vpc):
                with self.locks.wires(vpc):
                    self._apply(vpc, remove=False)
        self.links.join(one, other, remove=True)

    def _meet(self, vpc: str, apart: frozenset[str]) -> None:
        """Bring what VPCs that are peered with this one have of it to what it is by now.

        :param apart: those to which the link is not as it should be, seen from here.
        """
        for other in sorted({*apart, *self._index.peerings.of(vpc)}):
            seen = other in apart
            try:
                if self._index.members(other) and other in self._wires.vpcs():
                    with self.locks.wires(other):
                        seen = vpc in self._apply(other, remove=False, stale=True).apart or seen
            except LvagentError as error:
                log.warning("%s: %s", other, error)
            if seen:
                self._join(vpc, other, remove=True)

    def _join(self, vpc: str, other: str, *, remove: bool) -> None:
        """That it cannot be done is no failure of what was done to this VPC; the sweep tries again."""
        try:
            self.links.join(vpc, other, remove=remove)
        except LvagentError as error:
            log.warning("the peering of %s and %s: %s", vpc, other, error)

    def serve(self, vpc: str) -> None:
        """Bring the VPC's dnsmasq and metadata to what its members want."""
        with self.locks.services(vpc):
            members = self._index.members(vpc)
            self._services.bring(vpc, members)

    def welcome(self, vm: str, vpc: str) -> None:
        """Serve a VM that starts anew: a lease under its former client id would keep its address from it."""
        with self.locks.services(vpc):
            self._services.forget(vpc, vm)
        self.serve(vpc)

    def converge(self, vpc: str) -> None:
        """Bring all of the VPC to what its members want, and take away what none of them wants.

        Services go before the wires they stand on, and come after them.
        """
        apart: frozenset[str] = frozenset()
        with self.locks.services(vpc):
            wired = bool(self._index.members(vpc))
            if wired:
                with self.locks.wires(vpc):
                    apart = self._apply(vpc, remove=True).apart
            members = self._index.members(vpc)
            if members and not wired:  # the first of a VPC has just come: what is served stands on wires
                self.wire(vpc)
            self._services.bring(vpc, members)
            if not members:
                with self.locks.wires(vpc):
                    apart = self._apply(vpc, remove=True).apart
        self._meet(vpc, apart)
        self.tidy_fabric()

    def bring(self, vpc: str) -> int:
        """Bring the VPC to what its members want, and nothing away.

        :return: how many objects ``converge`` would remove.
        """
        with self.locks.services(vpc):
            members = self._index.members(vpc)
            if not members:
                there = self._wires.observe(vpc)
                unknown = self.leftovers.unknown(there, members)
                return 0 if unknown else max(1, len(self.leftovers.excess(vpc, there, members)))
            with self.locks.wires(vpc):
                applied = self._apply(vpc, remove=False)
            self.repaired += applied.made
            members = self._index.members(vpc)
            if members:
                self._services.bring(vpc, members)
        for other in sorted(applied.apart):
            self._join(vpc, other, remove=False)
        return applied.excess

    def heal(self, vpc: str) -> None:
        """Bring the VPC's filter back to what is wanted, whatever somebody did to it."""
        with self.locks.wires(vpc):
            self._wires.mend(vpc)
        self.wire(vpc)

    def heal_router(self) -> None:
        """Bring back what root has for uplinks, whatever somebody did to it."""
        ways = self._policy.uplinks
        if ways is None or not self._outside():
            return
        with self.locks.fabric(alone=False):
            if self._wires.mend_router(ways.router):
                log.warning("the root namespace: somebody changed what uplinks need there; it is as it was")
        led = {*self.ports.all(), *(one.vm for one in self.floating.all().values())}
        inside = sorted({vpc for vm in led for vpc in self._index.vpcs_of(vm)})
        each(inside, self.wire)  # what leads into it is there too

    def heal_fabric(self) -> None:
        """Bring the underlay side to what is wanted: any VPC that crosses it has it put right."""

        def crosses(vpc: str) -> bool:
            return any(isinstance(one, Fabric) for one in wanted.network(vpc, self._index.members(vpc), self.policy))

        first(filter(crosses, sorted(self._index.vpcs())), self.wire)

    def _apply(self, vpc: str, *, remove: bool, stale: bool = False) -> Applied:
        """:param stale: whether links that are not wanted any more are told of, though nothing else is removed."""
        with self.locks.fabric(alone=False):
            return self._subtract(vpc, remove=remove, stale=stale or remove)

    def check_known(self, vpc: str) -> None:
        """Refuse what would not be done now: while a tap of nobody is in a VPC, what leads into it stays as it is.

        :raise Conflict: there is one.
        """
        there = self._wires.observe(vpc) if vpc in self._wires.vpcs() else frozenset()
        unknown = self.leftovers.unknown(there, self._index.members(vpc))
        if unknown:
            text = (
                f"what leads into {vpc} stays as it is while {', '.join(unknown)} is in it, which no VM known here has"
            )
            raise Conflict(text, other=vpc, hint="whose is it? lvagent strays ls, virsh list")

    def _subtract(self, vpc: str, *, remove: bool, stale: bool) -> Applied:
        """Bring wires to what is wanted, but for links to other VPCs: for these the locks of both are needed."""
        members = self._index.members(vpc)
        there = self._wires.observe(vpc)
        unknown = self.leftovers.unknown(there, members)
        wish = wanted.network(vpc, members, self.policy, self._index.near(vpc))
        wish = routed.apart(vpc, wish, self._index, self.policy)
        if vpc in self.configs.broken():  # whether it shall have a way out is not known
            wish = uplinks.keeping(wish, there)
        if unknown or not self._index.loaded:  # who else is in the VPC is not known
            wish = inward.keeping(firewall.joined(wish, there, members), there)
        whole = diff.subtract(wish, there)
        steps, old, new = diff.apart(whole)
        gone: list[Filter] = []
        if remove and steps.remove and unknown:
            log.warning("%s: nothing is removed, %s is in it and nobody's", vpc, ", ".join(unknown))
        elif remove and steps.remove:
            log.info("%s: remove %s", vpc, "; ".join(map(diff.describe, steps.remove)))
            gone = diff.in_one(steps)
            self._wires.remove([one for one in steps.remove if one not in gone])
            point("network.removed")
        if steps.ensure or gone:
            log.info("%s: make %s", vpc, "; ".join(map(diff.describe, steps.ensure)))
            self._wires.ensure(steps.ensure, gone)
            point("network.made")
        if not self._index.loaded:
            return Applied(0 if unknown else len(steps.remove), made=len(steps.ensure))
        apart = (*new, *(old if stale and not unknown else ()))
        return Applied(0 if unknown else len(whole.remove), frozenset(one.other for one in apart), len(steps.ensure))

    def tidy_fabric(self) -> None:
        """Take away what of the underlay side no member of any VPC crosses; while others wire, a sweep does it."""
        with contextlib.suppress(Unavailable, Vanished), self.locks.fabric(alone=True):
            gone = self.leftovers.fabric()
            if gone:
                self._wires.remove(sorted(gone, key=lambda resource: -resource.layer))

    def plug(
        self, spec: VmConfig, taps: frozenset[str], waits: Callable[[], bool], trace: Trace, *, within: float
    ) -> None:
        """Put the taps of a VM that is starting into their places; the VM is a member already.

        :param taps: the taps that libvirt made for it.
        :param waits: whether the caller still waits; nothing is touched for one who went.
        :param within: seconds to wait for the lock of a VPC.
        """
        for vpc in spec.vpcs:
            with self.locks.wires(vpc, within=within):
                if not waits():
                    return
                self._apply(vpc, remove=False)
                with trace.phase("plug"):
                    self._plug(spec, vpc, taps)

    def _plug(self, spec: VmConfig, vpc: str, taps: frozenset[str]) -> None:
        for nic in spec.networks:
            place = wanted.plug(spec, nic, self.policy)
            if nic.netname == vpc and place.tap in taps:
                self._wires.plug(self._filters(spec, nic), place)
                point("network.plugged")

    def replug(self, vpc: str) -> None:
        """Put taps of running VMs into their places in a VPC that are not in them (a hook that could not, a hand).

        Which VMs run is looked up under the lock: the filter of one that was deleted meanwhile would come back, and
        stand in the way of who has its addresses now.
        """
        if not self._running(vpc):
            return
        with self.locks.wires(vpc):
            there = self._wires.observe(vpc)
            for spec in self._running(vpc):
                for nic in spec.networks:
                    place = wanted.plug(spec, nic, self.policy)
                    if nic.netname == vpc and place not in there:
                        self._put_back(self._filters(spec, nic), place)

    def _running(self, vpc: str) -> list[VmConfig]:
        entries = [entry for entry in self._index.all() if entry.domain is not None and entry.domain.active]
        return [entry.carried for entry in entries if vpc in entry.carried.vpcs]

    def _put_back(self, bound: Sequence[PortFilter | Firewall], place: Plug) -> None:
        try:
            self._wires.plug(bound, place)
        except HostError as error:  # libvirt is about to make the tap, or its qemu has just ended
            log.warning("%s: %s", place.tap, error)

    def _filters(self, spec: VmConfig, nic: NetworkConfig) -> list[PortFilter | Firewall]:
        """What must stand before the tap of this NIC is up."""
        implied = self.policy.implied(spec, nic.netname)
        return [wanted.port_filter(spec, nic), firewall.firewall(nic.netname, spec, implied)]

    def leased(self, vpc: str) -> dict[str, float]:
        """When each address of a VPC was leased last (Unix time)."""
        return self._services.leased(vpc)

    def asked(self, vpc: str) -> dict[str, tuple[int, int]]:
        """How many metadata requests each VM in a VPC made, and when the last (Unix time)."""
        return self._services.asked(vpc)

    def preview(self, vpc: str, members: Sequence[VmConfig]) -> diff.Steps:
        """The steps that these members would need; touches nothing."""
        actual = self._wires.observe(vpc) if vpc in self._wires.vpcs() else frozenset()
        return diff.subtract(wanted.network(vpc, members, self.policy, self._index.near(vpc)), actual)

    def close(self) -> None:
        """Close what is open; the VPCs stay."""
        self._wires.close()
