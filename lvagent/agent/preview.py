"""What a put would do, told without doing it."""

from __future__ import annotations

import dataclasses

from lvagent.agent import publications
from lvagent.agent.index import Entry, Index
from lvagent.agent.networks import Networks
from lvagent.agent.vms import Vms
from lvagent.agent.wishes import restart_needed
from lvagent.plan import diff, wanted
from lvagent.plan.resources import Filter, Peer, Subnet
from lvagent.render import dnsmasq, nft
from lvagent.spec.status import Outcome, Plan
from lvagent.spec.vm import VmConfig

LEASE_SHOWN = 3600


class Preview:
    """Plans a put with the same functions that carry it out."""

    def __init__(self, index: Index, networks: Networks, vms: Vms) -> None:
        self._index = index
        self._networks = networks
        self._vms = vms

    def plan(self, spec: VmConfig) -> Plan:
        """The texts and steps of a put of this spec.

        :raise SpecError: what the put would raise.
        :raise Conflict: likewise.
        """
        entry = self._index.get(spec.id)
        wish = self._vms.prepare(spec)
        if entry is not None:
            publications.check_spec(spec, self._index, self._networks.policy)
            self._vms.check_uuid(entry.spec, spec)
            wish = dataclasses.replace(entry, spec=spec, files=(*entry.files, *wish.files))
        members = {vpc: self._members(vpc, spec) for vpc in spec.vpcs}
        return Plan(
            outcome=self._outcome(entry, spec),
            xml=self._vms.xml(wish),
            nft=tuple((vpc, self._nft(vpc, specs)) for vpc, specs in members.items()),
            dnsmasq=tuple((vpc, self._dnsmasq(vpc, specs)) for vpc, specs in members.items()),
            steps=self._steps(entry, wish, members),
            restart_needed=self._restart(entry, spec),
        )

    def _members(self, vpc: str, spec: VmConfig) -> tuple[VmConfig, ...]:
        others = tuple(member for member in self._index.members(vpc) if member.id != spec.id)
        return tuple(sorted((*others, spec), key=lambda member: member.id))

    def _outcome(self, entry: Entry | None, spec: VmConfig) -> Outcome:
        if entry is None:
            return Outcome.CREATED
        return Outcome.UNCHANGED if entry.spec == spec else Outcome.CHANGED

    def _restart(self, entry: Entry | None, spec: VmConfig) -> tuple[str, ...]:
        return () if entry is None else restart_needed(dataclasses.replace(entry, spec=spec))

    def _nft(self, vpc: str, members: tuple[VmConfig, ...]) -> str:
        resources = wanted.network(vpc, members, self._networks.policy, self._index.near(vpc))
        parts = [item for item in resources if isinstance(item, Filter | Subnet | Peer)]
        return nft.vpc_text(sorted(parts, key=diff.identity), self._networks.policy.limits)

    def _dnsmasq(self, vpc: str, members: tuple[VmConfig, ...]) -> str:
        wish = wanted.dhcp(vpc, members, self._networks.policy)
        texts = dnsmasq.texts(wish, vpc, LEASE_SHOWN) if wish is not None else {}
        return "".join(f"# {name}\n{text}" for name, text in texts.items())

    def _steps(self, entry: Entry | None, wish: Entry, members: dict[str, tuple[VmConfig, ...]]) -> tuple[str, ...]:
        vm = wish.spec.id
        if entry is not None and entry.spec == wish.spec:
            return ()
        steps = [f"define domain {vm}"] if entry is None else [f"change domain {vm}"]
        made = wish.files if entry is None else wish.files[len(entry.files) :]
        steps += [f"make volume {path}" for path in made]
        for vpc, specs in members.items():
            steps += [f"make {diff.describe(step)}" for step in self._networks.preview(vpc, specs).ensure]
            steps += [f"serve {vpc}: dnsmasq, metadata"]
        if entry is None:
            steps += [f"start {vm}, plug {len(wish.spec.networks)} taps"]
        return tuple(steps)
