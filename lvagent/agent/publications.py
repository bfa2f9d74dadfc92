"""What is published of VMs: put, and taken back; all or nothing.

The wish is settled in memory, the VPC brought to it, and then it is written down. Whoever fails on the way leaves all
as it was; a crash before the writing leaves the old wish, which the next sweep brings back, one after it the new.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from lvagent.agent import floating, routed
from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.undo import Undo
from lvagent.errors import Conflict, SpecError
from lvagent.failpoints import point
from lvagent.host.listeners import Listener
from lvagent.plan import inward
from lvagent.plan.wanted import Policy
from lvagent.spec.publications import Publication
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode


class Publications:
    """Changes what is published of VMs. The caller holds the VM's lock.

    :param listeners: the sockets of this host that take what comes.
    :param holder: who has one of these numbers open.
    """

    def __init__(
        self,
        index: Index,
        networks: Networks,
        listeners: Callable[[], Sequence[Listener]],
        holder: Callable[[int], str],
    ) -> None:
        self._index = index
        self._networks = networks
        self._listeners = listeners
        self._holder = holder
        self._lock = threading.Lock()

    def put(self, spec: VmConfig, wish: tuple[Publication, ...]) -> None:
        """Publish this of a VM and nothing else, from now on until it is deleted.

        :raise SpecError: an address that cannot be had.
        :raise Conflict: somebody has one of the ports; the VPC has no way out.
        """
        with self._lock:  # of two that want one port one is refused
            former = self._networks.ports.get(spec.id)
            if wish == (former or ()):
                self._converge(spec)
                return
            self._networks.look_around()
            self._check(spec, wish)
            self._check_host(wish, former or ())
            self._change(spec, wish or None)

    def _check(self, spec: VmConfig, wish: Sequence[Publication]) -> None:
        """By what the VM carries, and by what it shall be when it starts again."""
        entry = self._index.get(spec.id)
        for one in dict.fromkeys((spec, spec if entry is None else entry.spec)):
            check(one, wish, self._index, self._networks.policy)

    def _change(self, spec: VmConfig, wish: tuple[Publication, ...] | None) -> None:
        ports = self._networks.ports
        with Undo() as undo:
            with self._index.settling:
                self._check(spec, wish or ())
                undo.add(self._back, spec, ports.get(spec.id))
                ports.set(spec.id, wish)
            point("ports.wished")
            self._converge(spec)
            self._networks.check_known(spec.networks[0].netname)
            point("ports.converged")
            ports.keep(spec.id)
            point("ports.kept")
            undo.forget()

    def _back(self, spec: VmConfig, former: tuple[Publication, ...] | None) -> None:
        self._networks.ports.set(spec.id, former)
        self._converge(spec)
        self._networks.ports.keep(spec.id)

    def _converge(self, spec: VmConfig) -> None:
        nic = inward.target(spec)
        if nic is not None:
            self._networks.converge(nic.netname)

    def _check_host(self, wish: Sequence[Publication], former: Sequence[Publication]) -> None:
        """Refuse ports that a program of this host has. What was published before is not asked for again: a program
        that came to it later has nothing of it."""
        new = [(index, one) for index, one in enumerate(wish) if one not in former]
        there = self._listeners() if new else ()
        for index, one in new:
            for listener in there:
                if listener.takes(one.proto, one.address, one.first, one.last):
                    who = self._holder(listener.inode) or "a program (unknown)"
                    text = f"{listener.proto} port {listener.port} of the host is {who}'s, which listens on it"
                    raise Conflict(text, path=f"[{index}].host_port", other=who, hint="another port or address")


def check(spec: VmConfig, wish: Sequence[Publication], index: Index, policy: Policy) -> None:
    """Refuse publications that cannot be; see ``plan.inward.check``."""
    nic = inward.target(spec)
    mode = policy.mode(nic.netname) if nic is not None else UplinkMode.NONE
    inward.check(spec, wish, routed.specs(index), policy.ports, mode, policy.uplinks)
    _check_overlay(wish, policy)


def _check_overlay(wish: Sequence[Publication], policy: Policy) -> None:
    """Refuse the port by which other hosts reach this one, whether somebody listens on it already or not yet."""
    for index, one in enumerate(wish):
        if one.proto == "udp" and one.first <= policy.port <= one.last and one.address in ("", policy.local):
            text = f"udp port {policy.port} is that of the overlay (VXLAN) between hosts"
            raise Conflict(text, path=f"[{index}].host_port", hint="another port; fabric.port in the settings")


def check_spec(spec: VmConfig, index: Index, policy: Policy) -> None:
    """Refuse a change of a VM's first NIC by which what is published of it could not be any more.

    :raise Conflict: at ``networks[0]``.
    """
    entry = index.get(spec.id)
    if entry is not None and inward.target(entry.spec) == inward.target(spec):
        return  # if it cannot be, that is not this change's fault
    with _kept("it is published", f"change what is published of it first: PUT /v1/vms/{spec.id}/ports"):
        check(spec, policy.ports.get(spec.id, ()), index, policy)
    for one in [one for one in policy.floating.values() if one.vm == spec.id]:
        with _kept(f"{one.address} is led to it", f"lead it elsewhere first: DELETE /v1/floating/{one.address}"):
            floating.check(one, spec, index, policy)


@contextlib.contextmanager
def _kept(what: str, hint: str) -> Iterator[None]:
    """Tell of a wish that could not be any more in the words of a VM's change."""
    try:
        yield
    except (Conflict, SpecError) as error:
        other = error.other if isinstance(error, Conflict) else ""
        raise Conflict(f"{what}: {error.message}", path="networks[0]", other=other, hint=hint) from error


def check_vpc(vpc: str, index: Index, policy: Policy) -> None:
    """Refuse to take the way out of a VPC by which VMs are reached.

    :param policy: as it would be.
    :raise Conflict: there are such VMs.
    """
    if policy.mode(vpc) is not UplinkMode.NONE:
        return
    mine = list(dict.fromkeys(one.id for one in routed.specs(index) if _first(one) == vpc))
    there = [vm for vm in mine if policy.ports.get(vm)]
    if there:
        hint = f"take away what is published first: PUT /v1/vms/{there[0]}/ports with []"
        raise Conflict(f"ports of {', '.join(there)} are published", path="uplink", other=there[0], hint=hint)
    floats = [one for one in policy.floating.values() if one.vm in mine]
    if floats:
        text = f"floating addresses are led to it: {', '.join(one.address for one in floats)}"
        hint = f"take them away first: DELETE /v1/floating/{floats[0].address}"
        raise Conflict(text, path="uplink", other=floats[0].vm, hint=hint)


def _first(spec: VmConfig) -> str:
    nic = inward.target(spec)
    return nic.netname if nic is not None else ""
