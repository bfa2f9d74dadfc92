"""Why A reaches B, or not: the walk over what is wanted now, and the packet that is sent to see whether it is so."""

from __future__ import annotations

from lvagent.agent import routed
from lvagent.agent.index import Entry, Index
from lvagent.agent.networks import Networks
from lvagent.errors import Conflict, NotFound, Vanished
from lvagent.plan.explain.facts import Facts
from lvagent.plan.explain.probe import probe
from lvagent.plan.explain.walk import explain
from lvagent.plan.sessions import MOST, sessions
from lvagent.spec import names
from lvagent.spec.flow import Explained, Flow, Live, Walk
from lvagent.spec.status import SessionsView
from lvagent.spec.vpc import UplinkMode


class Explainer:
    """Answers for the agent."""

    def __init__(self, index: Index, networks: Networks) -> None:
        self._index = index
        self._networks = networks

    def explain(self, flow: Flow, *, live: bool) -> Explained:
        """Walk the way of a flow's first packet; with ``live``, send it too.

        :raise NotFound: a VM that it names is not there.
        :raise Conflict: what is wanted of what it passes cannot be read.
        :raise SpecError: it is one of which nothing can be said.
        :raise HostError: it could not be sent.
        """
        facts = self._facts()
        for vm in (flow.origin, flow.target):
            if isinstance(vm, str) and names.VM_ID.match(vm) and vm not in facts.vms:
                raise NotFound("vm", vm)
        self._check_read(flow, facts)
        walk = explain(flow, facts)
        return Explained(walk, self._live(walk, facts) if live else None)

    def _check_read(self, flow: Flow, facts: Facts) -> None:
        """Refuse to walk by a wish that cannot be read: its part stands as it stood, and is not known here."""
        ends = [facts.vms[vm] for vm in (flow.origin, flow.target) if isinstance(vm, str) and vm in facts.vms]
        if len(ends) == 2 and set(ends[0].vpcs) & set(ends[1].vpcs):
            return
        networks = self._networks
        unread = [f"the way out of {vpc}" for end in ends for vpc in end.vpcs if vpc in networks.configs.broken()]
        unread += [f"what is published of {end.id}" for end in ends if end.id in networks.ports.broken()]
        unread += [f"where {one} leads" for one in networks.floating.broken() if one == str(flow.target)]
        if unread:
            hint = "mend the file (the log names it), or put it again; what is there stays as it is meanwhile"
            raise Conflict(f"{unread[0]} is not known: its file cannot be read", hint=hint)

    def sessions(self, vpc: str) -> SessionsView | None:
        """The flows that go by a VPC's uplink now; None: it has none.

        :raise HostError: they could not be listed.
        """
        if self._networks.policy.mode(vpc) is UplinkMode.NONE:
            return None
        return sessions(vpc, self._networks.flows(vpc, MOST), self._facts())

    def _live(self, walk: Walk, facts: Facts) -> Live:
        found = probe(walk, facts)
        if isinstance(found, str):
            return Live(False, False, None, found)
        try:
            seen = self._networks.probe(found)
        except (Conflict, Vanished) as error:  # no way, or none any more: a VM, or its VPC, comes or goes
            return Live(False, False, None, f"{error} ({error.hint})")
        agrees = seen.arrived == walk.allowed
        text = f"{'the host agrees' if agrees else 'the host does NOT agree'}: {seen.where}"
        return Live(True, seen.arrived, agrees, text, seen.decider, seen.path)

    def _facts(self) -> Facts:
        entries, policy = self._index.all(), self._networks.policy_afresh()
        return Facts(
            vms={entry.spec.id: entry.carried for entry in entries},
            running=frozenset(entry.spec.id for entry in entries if _runs(entry)),
            policy=policy,
            transits=self._networks.transits(),
            peerings=self._index.peerings,
            contested=frozenset((vpc, net) for vpc, net, _ in routed.contested(self._index, policy)),
        )


def _runs(entry: Entry) -> bool:
    return entry.domain is not None and entry.domain.active
