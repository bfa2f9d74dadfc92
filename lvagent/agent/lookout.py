"""What is only seen by looking: leases, metadata requests, and what the filter refused. At sweeps, and when asked.

The VM's timeline gets a line when something is new; of what may come all the time, one line in ten minutes at most,
with the sum of what came meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from lvagent.agent.index import Entry
from lvagent.agent.networks import Networks
from lvagent.agent.timeline import Timeline
from lvagent.errors import LvagentError
from lvagent.spec.status import iso_time
from lvagent.spec.vm import VmConfig

log = logging.getLogger(__name__)

PACE_SECONDS = 600.0

Counts = tuple[int, ...]


class Lookout:
    """Looks, and remembers what was seen before."""

    def __init__(self, networks: Networks, timeline: Timeline) -> None:
        self._networks = networks
        self._timeline = timeline
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, str], str] = {}
        self._counted: dict[tuple[str, str], Counts] = {}
        self._told: dict[tuple[str, str], float] = {}

    def look(self, entries: Iterable[Entry]) -> None:
        """Look at the VPCs of these VMs. What cannot be read is left out."""
        specs = [entry.carried for entry in entries]
        with self._lock:
            for vpc in sorted({vpc for spec in specs for vpc in spec.vpcs}):
                try:
                    self._vpc(vpc, [spec for spec in specs if vpc in spec.vpcs])
                except LvagentError as error:
                    log.debug("%s: %s", vpc, error)
            for spec in specs:
                self._refused(spec)

    def forget(self, vms: Iterable[str]) -> None:
        """Forget all VMs but these."""
        kept = frozenset(vms)
        with self._lock:
            self._leases = {key: value for key, value in self._leases.items() if key[0] in kept}
            self._counted = {key: value for key, value in self._counted.items() if key[0] in kept}
            self._told = {key: value for key, value in self._told.items() if key[0] in kept}

    def _vpc(self, vpc: str, specs: list[VmConfig]) -> None:
        granted = self._networks.leased(vpc)
        for spec in specs:
            for nic in spec.networks:
                for address in (nic.ipv4, nic.ipv6) if nic.netname == vpc else ():
                    if address is not None and str(address.ip) in granted:
                        self._lease(spec.id, str(address.ip), granted[str(address.ip)])
        asked = self._networks.asked(vpc)
        for spec in specs:
            if spec.id in asked:
                count, last = asked[spec.id]
                self._count(spec.id, "metadata", (count,), ("requests",), at=last)

    def _lease(self, vm: str, address: str, granted: float) -> None:
        """A lease, new or renewed; after a restart of the agent the timeline tells whether it is news."""
        at = iso_time(granted)
        if self._leases.get((vm, address)) == at:
            return
        first = (vm, address) not in self._leases
        self._leases[vm, address] = at
        known = self._timeline.written(vm) if first else ()
        if not any(one.kind == "dhcp" and one.at == at and one.detail.get("address") == address for one in known):
            self._timeline.record(vm, "dhcp", {"address": address}, at=granted)

    def _refused(self, spec: VmConfig) -> None:
        view = self._networks.counters.view(spec)
        counts = (view.refused_in[0], view.refused_out[0])
        self._count(spec.id, "refused", counts, ("in", "out"), at=time.time())

    def _count(self, vm: str, kind: str, counts: Counts, labels: tuple[str, ...], *, at: float) -> None:
        """Tell what came since the last time that it was told, if that is long enough ago."""
        before = self._counted[vm, kind] if (vm, kind) in self._counted else self._known(vm, kind, len(counts))
        if any(now < then for now, then in zip(counts, before, strict=True)):
            before = (0,) * len(counts)  # they were counted anew
        if counts == before:
            self._counted[vm, kind] = counts
        elif time.monotonic() - self._told.get((vm, kind), -PACE_SECONDS) >= PACE_SECONDS:
            came = (now - then for now, then in zip(counts, before, strict=True))
            self._timeline.record(vm, kind, {**dict(zip(labels, came, strict=True)), "all": counts}, at=at)
            self._counted[vm, kind] = counts
            self._told[vm, kind] = time.monotonic()

    def _known(self, vm: str, kind: str, length: int) -> Counts:
        """What an agent before this one had told of already."""
        told = [one.detail.get("all") for one in self._timeline.written(vm) if one.kind == kind]
        last = told[-1] if told else None
        if isinstance(last, list) and len(last) == length and all(isinstance(one, int) for one in last):
            return tuple(last)
        return (0,) * length
