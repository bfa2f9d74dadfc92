"""The wish of a VPC: put, and taken back; all or nothing.

The wish is settled in memory, the VPC brought to it, and then it is written down. Whoever fails on the way leaves the
VPC as it was; a crash before the writing leaves the old wish, which the next sweep brings back, one after it the new.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from lvagent.agent import routed
from lvagent.agent.index import Index
from lvagent.agent.locks import VmLocks
from lvagent.agent.networks import Networks
from lvagent.agent.publications import check_vpc
from lvagent.agent.undo import Undo
from lvagent.errors import NotFound, SpecError
from lvagent.failpoints import point
from lvagent.plan import inward, uplinks
from lvagent.plan.wanted import Policy
from lvagent.spec.addresses import Net
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import VpcConfig


class VpcWishes:
    """Changes what is wanted of VPCs.

    :param ready: refuses before the first sweep.
    """

    def __init__(self, index: Index, networks: Networks, ready: Callable[[], None]) -> None:
        self._index = index
        self._networks = networks
        self._ready = ready
        self._locks = VmLocks()

    def put(self, vpc: str, config: VpcConfig) -> None:
        """Want this of a VPC, from now on and as long as nobody says otherwise.

        :raise SpecError: it cannot be had here.
        :raise Conflict: its members, or others, stand in the way.
        """
        self._ready()
        with self._locks.hold(vpc):
            if self._networks.configs.get(vpc) == config:
                self._converge(vpc)
                return
            self._change(vpc, config)

    def drop(self, vpc: str) -> None:
        """Forget what was wanted of a VPC: it is as the settings have it.

        :raise NotFound: nothing was, and no VM is in it.
        """
        self._ready()
        with self._locks.hold(vpc):
            configs = self._networks.configs
            if configs.get(vpc) is None and vpc not in configs.broken():
                if vpc not in self._index.vpcs():
                    raise NotFound("vpc", vpc)
                return
            self._change(vpc, None)

    def _change(self, vpc: str, config: VpcConfig | None) -> None:
        configs = self._networks.configs
        with Undo() as undo:
            with self._index.settling:
                self._check(vpc, config or VpcConfig())
                undo.add(self._back, vpc, configs.get(vpc))
                configs.set(vpc, config)
            point("vpc.wished")
            self._converge(vpc)
            point("vpc.converged")
            configs.keep(vpc)
            point("vpc.kept")
            undo.forget()

    def _back(self, vpc: str, former: VpcConfig | None) -> None:
        self._networks.configs.set(vpc, former)
        self._converge(vpc)
        self._networks.configs.keep(vpc)

    def _converge(self, vpc: str) -> None:
        """Bring the VPC to what is wanted, if there is anything of it: a name that is only named leaves nothing."""
        if vpc in self._networks.known():
            self._networks.converge(vpc)

    def _check(self, vpc: str, config: VpcConfig) -> None:
        policy = self._networks.policy_with(vpc, config)
        if policy.uplinks is None:
            return
        for index, forwarder in enumerate(config.forwarders or ()):
            if ip_address(forwarder) in policy.uplinks.own:
                hint = "a VPC reaches nothing of the host itself; name a server elsewhere"
                raise SpecError(f"forwarders[{index}]", f"{forwarder} is an address of this host", hint)
        check_vpc(vpc, self._index, policy)
        for net in routed.nets_of(vpc, routed.specs(self._index)):
            check(vpc, {"uplink": net}, self._index, policy)


def check_spec(spec: VmConfig, index: Index, policy: Policy) -> None:
    """Refuse a VM whose prefixes cannot go out by the uplinks of its VPCs; of one that is there only new ones count.

    :raise Conflict: at ``networks[i].ipv4`` or ``ipv6``.
    """
    entry = index.get(spec.id)
    for vpc in spec.vpcs:
        had = set() if entry is None else routed.nets_of(vpc, [entry.spec])
        check(vpc, {path: net for path, net in uplinks.nets_of(spec, vpc).items() if net not in had}, index, policy)


def check(vpc: str, subnets: dict[str, Net], index: Index, policy: Policy) -> None:
    """Refuse prefixes that cannot go out by the uplink of a VPC, or that cover what is led to VMs from outside.

    :raise Conflict: see ``plan.uplinks.check`` and ``plan.inward.check_nets``.
    """
    if policy.uplinks is not None:
        mode = policy.mode(vpc)
        uplinks.check(vpc, mode, subnets, routed.routed(index, policy, vpc), policy.uplinks)
        homes = inward.homes(routed.specs(index))
        inward.check_nets(vpc, mode, subnets, policy.floating.values(), homes, policy.uplinks)
