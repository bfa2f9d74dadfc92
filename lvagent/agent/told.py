"""What an agent tells of what it knows: texts, logs, rules, networks, images. Nothing is changed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lvagent.agent import views
from lvagent.agent.explain import Explainer
from lvagent.agent.index import Entry
from lvagent.agent.lookout import Lookout
from lvagent.agent.measures import Measures
from lvagent.agent.parts import Parts
from lvagent.errors import NotFound
from lvagent.host import files
from lvagent.spec.flow import Explained, Flow
from lvagent.spec.status import FirewallView, ImageView, SubnetView, TimelineEntry, VpcView, named


class Told:
    """The part of an agent that tells. ``_ready`` is the agent's: it refuses before the first sweep."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._index = parts.index
        self._domains = parts.domains
        self._networks = parts.networks
        self._timeline = parts.timeline
        self._lookout = Lookout(parts.networks, parts.timeline)
        self._explainer = Explainer(parts.index, parts.networks)
        self._measures = Measures(parts.index, parts.networks)
        self.tally = self._measures.tally
        parts.timeline.ended = self._measures.ended
        parts.timeline.noted = lambda kind: self.tally.happened.note((kind,))
        self._index.watch = self._changed

    def _ready(self) -> None:
        """Refuse what needs the first sweep; the agent says when."""

    def _changed(self, before: Entry | None, after: Entry | None) -> None:
        """See ``Index.watch``."""
        self._measures.lives.changed(before, after)
        self._timeline.changed(before, after)

    def _entry(self, vm: str) -> Entry:
        entry = self._index.get(vm)
        if entry is None:
            raise NotFound("vm", vm)
        return entry

    def rules(self, vm: str) -> FirewallView:
        """The rules of a VM, with what they have counted until now."""
        self._ready()
        spec = self._entry(vm).carried
        for vpc in spec.vpcs:
            self._networks.counters.look(vpc)
        policy = self._networks.policy
        implied = dict.fromkeys(rule for vpc in spec.vpcs for rule in policy.implied(spec, vpc))
        return self._networks.counters.view(spec, implied)

    def explain(self, flow: Flow, *, live: bool = False) -> Explained:
        """Whether a flow is allowed, and what decides; see ``agent.explain``."""
        self._ready()
        return self._explainer.explain(flow, live=live)

    def domain_xml(self, vm: str) -> str:
        """The domain XML as libvirt has it."""
        self._entry(vm)
        return self._domains.xml(vm)

    def console_log(self, vm: str, tail: int) -> bytes:
        """The last ``tail`` bytes of what the guest wrote to its serial console; empty if it wrote nothing."""
        self._entry(vm)
        return files.tail(Path(self._parts.options.console_log(vm)), tail)

    def timeline(self, vm: str) -> Sequence[TimelineEntry]:
        """What happened to a VM, oldest first; also to one that is gone.

        :raise NotFound: nothing is known of it.
        """
        entry = self._index.get(vm)
        if entry is not None and self._index.loaded:
            self._lookout.look([entry])
        found = self._timeline.entries(vm)
        if not found and entry is None:
            raise NotFound("vm", vm)
        return found

    def _take_down(self) -> None:
        """Take down what is only seen by looking, and keep the timelines within their bounds."""
        entries = self._index.all()
        there = [entry.spec.id for entry in entries]
        self._lookout.look(entries)
        self._lookout.forget(there)
        self._timeline.tidy(there)

    def vpcs(self) -> Sequence[VpcView]:
        """All VPCs, by name."""
        self._ready()
        networks = self._networks
        return views.vpcs(
            self._index.all(), networks.policy, networks.transits(), networks.trouble(), self._index.peerings
        )

    def vpc(self, name: str) -> VpcView:
        """One VPC, with the flows that go by its uplink."""
        return dataclasses.replace(named("vpc", self.vpcs(), name), sessions=self._explainer.sessions(name))

    def subnets(self) -> Sequence[SubnetView]:
        """All subnets, by name."""
        return tuple(sorted((s for vpc in self.vpcs() for s in vpc.subnets), key=lambda subnet: subnet.name))

    def subnet(self, name: str) -> SubnetView:
        """One subnet."""
        return named("subnet", self.subnets(), name)

    def images(self) -> Sequence[ImageView]:
        """The images a volume can be made from."""
        return self._parts.volumes.images()
