"""Definitions that somebody changed by hand: told, and on request accepted as the wish, or set back to it.

``virsh edit``, ``virsh define`` of an old XML or of one without our element, ``virsh undefine``, a snapshot's revert:
none of them is obeyed by itself. Nothing of a running guest is touched; what is accepted takes effect as any change.
"""

from __future__ import annotations

import dataclasses

from lvagent.agent.index import Entry, Index
from lvagent.agent.ports import Domains
from lvagent.agent.trace import Trace
from lvagent.agent.vms import Vms
from lvagent.errors import Conflict, NotFound, SpecError
from lvagent.host.libvirt import DomainRecord
from lvagent.render.edits import FACTS, beyond, facts, facts_of
from lvagent.render.element import Element, find_element, parse_element
from lvagent.spec.drift import differences
from lvagent.spec.dump import dump_vm
from lvagent.spec.parse import parse_vm
from lvagent.spec.status import Drift, Place, Settling
from lvagent.spec.vm import VmConfig


def edits(entry: Entry, record: DomainRecord, element: Element | None) -> tuple[Drift, ...]:
    """In what a definition differs from the wish.

    :param element: what the element in its config says; None if there is none.
    """
    found: list[Drift] = []
    if not record.persistent:
        return (Drift("definition", "defined", "undefined", Place.DEFINITION),)
    if element is None or element.revision != entry.revision:
        found.append(Drift("revision", entry.revision, element and element.revision, Place.DEFINITION))
    if element is not None:
        known = dataclasses.replace(entry.spec, user_data=element.spec.user_data)
        found += differences(known, element.spec, Place.DEFINITION)
    wish, there = facts_of(entry.spec), facts(record.config)
    told = {one.path.split("[")[0] for one in found}
    for name in FACTS:
        wanted, actual = getattr(wish, name), getattr(there, name)
        if wanted != actual and name not in told:
            found.append(Drift(name, _json(wanted), _json(actual), Place.DEFINITION))
    return tuple(found)


def _json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class Settler:
    """Settles definitions that were changed by hand. The caller holds the VM's lock."""

    def __init__(self, index: Index, domains: Domains, vms: Vms) -> None:
        self._index = index
        self._domains = domains
        self._vms = vms

    def settle(self, entry: Entry, how: Settling, trace: Trace) -> None:
        """Make libvirt's definition the wish, or the wish libvirt's definition again; nothing to do is fine.

        :raise Conflict: it cannot be accepted: it has what no spec can say, which is named.
        :raise SpecError: what it says is no valid spec.
        """
        record = self._domains.record(entry.spec.id)
        if record is None:
            raise NotFound("vm", entry.spec.id)
        element = _element(record.config)
        changed = edits(entry, record, element)
        if how is Settling.ACCEPT:
            spec = self._accepted(entry, record, element)
            if spec == entry.spec and not changed:
                return
        elif not changed and not self._beyond(entry, record):
            return
        else:
            spec = entry.spec
        self._vms.change(entry, spec, trace)

    def _accepted(self, entry: Entry, record: DomainRecord, element: Element | None) -> VmConfig:
        """The spec that a definition says."""
        vm = entry.spec.id
        hint = f"say it in a spec and PUT that, or undo it: lvagent vm restore {vm}"
        if not record.persistent:
            raise Conflict(f"{vm} has no definition that could be accepted", path="definition", hint=hint)
        base = entry.spec if element is None else dataclasses.replace(element.spec, user_data=entry.spec.user_data)
        if base.id != vm:
            raise Conflict(f"the definition is that of {base.id}", path="metadata", hint=hint)
        there, known = facts(record.config), facts_of(base)
        for name in ("volumes", "networks"):
            if getattr(there, name) != getattr(known, name):
                raise Conflict(f"the {name} of the definition are not those of a spec", path=name, hint=hint)
        if there.memory_mb is None:
            raise Conflict("its memory is no whole number of MiB", path="memory_mb", hint=hint)
        spec = dataclasses.replace(base, memory_mb=there.memory_mb, cpus=there.cpus)
        if parts := self._beyond(dataclasses.replace(entry, spec=spec), record):
            raise Conflict(f"no spec can say what its {', '.join(parts)} became", path=parts[0], hint=hint)
        return parse_vm(dump_vm(spec, secrets=True))

    def _beyond(self, entry: Entry, record: DomainRecord) -> tuple[str, ...]:
        return beyond(self._vms.xml(entry), record.config)


def _element(xml: str) -> Element | None:
    try:
        text = find_element(xml)
        return parse_element(text) if text else None
    except SpecError:
        return None
