"""Floating addresses: led to a VM, moved to another in one step, let go; all or nothing.

An address that nobody has is asked about on the wire before it is taken: whoever answers keeps it.
"""

from __future__ import annotations

import threading

from lvagent.agent import routed
from lvagent.agent.index import Index, Phase
from lvagent.agent.networks import Networks
from lvagent.agent.undo import Undo
from lvagent.errors import Conflict, NotFound
from lvagent.failpoints import point
from lvagent.plan import inward
from lvagent.plan.wanted import Policy
from lvagent.spec.publications import Floating
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode


class FloatingAddresses:
    """Changes where floating addresses are led."""

    def __init__(self, index: Index, networks: Networks) -> None:
        self._index = index
        self._networks = networks
        self._lock = threading.Lock()

    def put(self, wish: Floating, spec: VmConfig) -> None:
        """Lead an address to a VM, from now on until it or the VM is deleted. The caller holds the VM's lock.

        :param spec: of the VM.
        :raise SpecError: the address is not of the link's network.
        :raise Conflict: somebody has it; the VPC has no way out.
        """
        with self._lock:
            former = self._networks.floating.get(wish.address)
            self._networks.look_around()
            self._check(wish, spec)
            if former is None or former.interface != wish.interface:
                self._probe(wish)
            self._change(wish.address, former, wish, spec)

    def drop(self, address: str) -> None:
        """Lead an address nowhere.

        :raise NotFound: it is led nowhere.
        """
        with self._lock:
            floating = self._networks.floating
            former = floating.get(address)
            if former is None and address not in floating.broken():
                raise NotFound("floating address", address, listed="/v1/floating")
            self._change(address, former, None)

    def _probe(self, wish: Floating) -> None:
        policy = self._networks.policy
        link = wish.interface or (policy.uplinks.ways.get(wish.version, "") if policy.uplinks else "")
        mac = self._networks.answerer(link, wish.address)
        if mac:
            hint = "another address; or switch off who has it"
            raise Conflict(f"{mac} answers for {wish.address} on {link}", path="address", other=mac, hint=hint)

    def _check(self, wish: Floating, spec: VmConfig) -> None:
        """By what the VM carries, and by what it shall be when it starts again."""
        entry = self._index.get(spec.id)
        for one in dict.fromkeys((spec, spec if entry is None else entry.spec)):
            check(wish, one, self._index, self._networks.policy)

    def _change(
        self, address: str, former: Floating | None, wish: Floating | None, spec: VmConfig | None = None
    ) -> None:
        floating = self._networks.floating
        with Undo() as undo:
            with self._index.settling:
                if wish is not None and spec is not None:
                    self._check(wish, spec)
                undo.add(self._back, address, wish, former)
                floating.set(address, wish)
            point("floating.wished")
            self._converge(wish, former)
            self._check_known(wish, former)
            point("floating.converged")
            floating.keep(address)
            point("floating.kept")
            undo.forget()

    def _back(self, address: str, wish: Floating | None, former: Floating | None) -> None:
        self._networks.floating.set(address, former)
        if former is not None and not self._stays(former.vm):
            self._networks.floating.discard(address, former)
        self._converge(former, wish)
        self._networks.floating.keep(address)

    def _converge(self, to: Floating | None, of: Floating | None) -> None:
        """Where it goes first: its route is replaced there, and the other VPC has but its table to change."""
        for vpc in dict.fromkeys(vpc for one in (to, of) if one is not None and (vpc := self._vpc(one.vm))):
            self._networks.converge(vpc)

    def _check_known(self, *ends: Floating | None) -> None:
        for vpc in {vpc for one in ends if one is not None and (vpc := self._vpc(one.vm))}:
            self._networks.check_known(vpc)

    def _stays(self, vm: str) -> bool:
        """Whether nobody deletes a VM, or has: what was led to it has been forgotten by then."""
        entry = self._index.get(vm)
        return entry is not None and entry.phase is not Phase.DELETING

    def _vpc(self, vm: str) -> str:
        entry = self._index.get(vm)
        nic = None if entry is None else inward.target(entry.carried)
        return "" if nic is None else nic.netname


def check(wish: Floating, spec: VmConfig, index: Index, policy: Policy) -> None:
    """Refuse a floating address that cannot be; see ``plan.inward.check_floating``."""
    nic = inward.target(spec)
    mode = policy.mode(nic.netname) if nic is not None else UplinkMode.NONE
    others = routed.routed(index, policy, nic.netname) if nic is not None else ()
    inward.check_floating(wish, spec, routed.specs(index), mode, policy.uplinks, others)
