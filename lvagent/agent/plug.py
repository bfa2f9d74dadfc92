"""What the libvirt hook asks for: the taps of a VM that is starting, put into their VPCs.

At ``start begin`` libvirt has made the taps and qemu does not run. This never waits for a VM's lock, and never asks
libvirt anything: the caller of ``create()`` may hold the one, and libvirt is waiting for the hook. The index is
believed before the XML that the hook was given, for a restore brings an old one.

The VM's volumes are judged once more here, where every start passes, also one by hand.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from lxml import etree

from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.networks import Networks
from lvagent.agent.ports import VolumeFolders
from lvagent.agent.timeline import Recorder
from lvagent.agent.trace import Trace
from lvagent.errors import HostError, LvagentError
from lvagent.failpoints import point
from lvagent.host.libvirt import DomainState
from lvagent.render.element import Element, find_element, parse_element
from lvagent.spec import names
from lvagent.spec.claims import Below
from lvagent.spec.status import PhaseTime, State
from lvagent.spec.vm import VmConfig

log = logging.getLogger(__name__)

HOOK_PHASES = ("plug", "hook")
"""The phases that the agent measures while libvirt waits for the hook: moving taps, and all it does."""

STARTING = DomainState(State.PENDING, "starting up", active=True)
"""What is shown of a VM that only its hook tells of: it migrates here, say, or was started before the first sweep."""

LOCK_SECONDS = 5.0
"""How long a hook waits for the lock of a VPC; libvirt has no time limit of its own for hooks."""


def taps_of(domain: etree._Element) -> frozenset[str]:
    """The taps that libvirt made for this domain: the targets of its ethernet interfaces."""
    found = domain.xpath("./devices/interface[@type='ethernet']/target/@dev")
    return frozenset(str(name) for name in found) if isinstance(found, list) else frozenset()


def parse_domain(xml: str) -> etree._Element:
    """A domain's XML as a tree; nothing outside of the text is read."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise HostError("the domain's XML", "read", str(error)) from error


def entry_of(element: Element) -> Entry:
    """An entry for a VM that only its XML tells of."""
    return Entry(
        spec=element.spec,
        phase=Phase.LIVE if element.power in ("running", "stopped") else Phase.DELETING,
        revision=element.revision,
        power=element.power,
        created=element.created,
        files=element.files,
        making=element.making,
    )


def check_phase(entry: Entry) -> None:
    """Refuse a VM that is being deleted: it would run on after its domain is gone.

    :raise HostError: it is.
    """
    if entry.phase is Phase.DELETING:
        raise HostError(entry.spec.id, "start", "it is being deleted")


def check_taps(vm: str, spec: VmConfig, taps: frozenset[str]) -> None:
    """Refuse a domain with a port that its spec does not know: nothing would filter it.

    :raise HostError: naming the taps.
    """
    unknown = taps - {names.tap(vm, nic.position) for nic in spec.networks}
    if unknown:
        hint = (
            f"PUT its spec again; one that was saved with an older spec: virsh managedsave-remove {vm}; "
            f"a snapshot of an older spec: lvagent vm accept {vm}, then revert again"
        )
        port = f"port {', '.join(sorted(unknown))} of {vm}"
        raise HostError(port, "plug", f"its spec has no such network ({hint})")


def brought(xml: str, entry: Entry) -> VmConfig:
    """What the guest of this XML has: the wish, or, restored from an older state, the machine it was then.

    Its network is the wish's in any case, for that is what its ports are bound to.
    """
    text = find_element(xml)
    element = parse_element(text) if text else None
    if element is None or element.revision >= entry.revision:
        return entry.spec
    wish = entry.spec
    return dataclasses.replace(
        element.spec, networks=wish.networks, rules=wish.rules, keys=wish.keys, user_data=wish.user_data
    )


def with_hook(timings: tuple[PhaseTime, ...], hook: tuple[PhaseTime, ...]) -> tuple[PhaseTime, ...]:
    """The timings of a start, with those that its hook measured in place of older ones."""
    return (*(one for one in timings if one.phase not in HOOK_PHASES), *hook)


def standing(entry: Entry, below: Sequence[Below]) -> Entry:
    """An entry that also knows what was found below its volumes; the first sweep looks for itself."""
    if entry.below is None:
        return entry
    return dataclasses.replace(entry, below=tuple(dict.fromkeys((*entry.below, *below))))


class Plugger:
    """Answers the hook."""

    def __init__(
        self, index: Index, networks: Networks, volumes: VolumeFolders, beside: Executor, recorder: Recorder
    ) -> None:
        self._index = index
        self._recorder = recorder
        self._volumes = volumes
        self._networks = networks
        self._beside = beside

    def start(self, vm: str, xml: str, waits: Callable[[], bool]) -> None:
        """Plug the taps of a VM that is starting.

        :param xml: the domain's XML as the hook got it.
        :param waits: whether the hook still waits for the answer.
        :raise LvagentError: it could not be plugged; the start must be refused.
        """
        trace = Trace()
        try:
            with trace.phase("hook"):
                self._plug(vm, xml, waits, trace)
        except LvagentError as error:
            self._recorder.record(vm, "not plugged", {"error": str(error), "hint": error.hint})
            raise
        if self._index.get(vm) is not None:
            self._recorder.record(vm, "plugged", {"ms": {one.phase: one.ms for one in trace.phases}})
        self._index.update(vm, lambda now: dataclasses.replace(now, timings=with_hook(now.timings, trace.phases)))

    def _plug(self, vm: str, xml: str, waits: Callable[[], bool], trace: Trace) -> None:
        domain = parse_domain(xml)
        entry = self._entry(vm, xml)
        if entry is None:
            return  # a stranger's domain whose name looks like ours
        taps = taps_of(domain)
        check_phase(entry)
        check_taps(vm, entry.spec, taps)
        machine = brought(xml, entry)
        below = self._volumes.check(machine.volumes).below
        self._index.check_start(entry.spec, below)
        self._apply(vm, machine)
        self._index.update(vm, lambda now: standing(now, below))
        try:
            point("plug.judged")
            self._networks.plug(entry.spec, taps, waits, trace, within=LOCK_SECONDS)
            point("plug.plugged")
        except LvagentError:
            self._apply(vm, entry.applied)
            raise
        if entry.phase is not Phase.CREATING and self._index.loaded:  # else the first sweep serves, when all are known
            self._beside.submit(self._serve, entry.spec)

    def _apply(self, vm: str, spec: VmConfig | None) -> None:
        """Note what the VM runs with; what libvirt was asked before says nothing about it any more."""
        self._index.update(vm, lambda now: dataclasses.replace(now, applied=spec, observed_at=time.monotonic()))

    def _entry(self, vm: str, xml: str) -> Entry | None:
        entry = self._index.get(vm)
        element = find_element(xml)
        if entry is not None or element is None:
            return entry if element is not None else None
        made = entry_of(parse_element(element))
        if made.spec.id != vm:
            raise HostError(vm, "plug", f"its element is that of {made.spec.id}")
        self._index.check_start(made.spec)
        self._index.adopt(dataclasses.replace(made, domain=STARTING))
        return made

    def _serve(self, spec: VmConfig) -> None:
        for vpc in spec.vpcs:
            try:
                self._networks.welcome(spec.id, vpc)
            except LvagentError as error:
                log.warning("%s: %s", vpc, error)
            except Exception:  # nobody waits for this thread
                log.exception("serving %s in %s", spec.id, vpc)
