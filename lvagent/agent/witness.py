"""What happens to VMs, as libvirt tells it: published, and looked at.

An event only says that it is time to look. The looks are made by a few threads of their own, for one may have to wait:
while a domain's ``start`` hook runs, libvirt does not tell its state. Many events of one VM are one look.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lvagent.agent.index import Entry, Index
from lvagent.agent.networks import Networks
from lvagent.agent.news import News
from lvagent.agent.pace import Pace
from lvagent.agent.ports import Domains
from lvagent.errors import LvagentError, NotFound
from lvagent.observe.intake import Batch, Event

log = logging.getLogger(__name__)

LOOKS = 4
"""VMs that are looked at at the same time."""

AT_ONCE, PER_MINUTE = 100, 120
"""Events of one VM that are published; a guest can make any number of them (resets, its clock, its disks)."""


class Witness:
    """Sees what happens.

    :param ended: is told of a VM that may have ended.
    :param glance: is told of a VM whose definition may have been changed.
    """

    def __init__(
        self,
        index: Index,
        domains: Domains,
        networks: Networks,
        news: News,
        ended: Callable[[str], None],
        glance: Callable[[str], None],
    ) -> None:
        self._index = index
        self._domains = domains
        self._networks = networks
        self._news = news
        self._ended = ended
        self._glance = glance
        self._pace = Pace(most=AT_ONCE, per_minute=PER_MINUTE)
        self._guard = threading.Lock()
        self._waiting: set[str] = set()
        self._looks = ThreadPoolExecutor(max_workers=LOOKS, thread_name_prefix="look")

    def happened(self, batch: Batch) -> None:
        """Publish what libvirt told of VMs of ours, and have a look at those whose life went on. Never waits."""
        if batch.resync:
            self._news.publish("", "resync", reason=batch.resync)
        for event in batch.events:
            if self._index.get(event.vm) is not None:
                self._publish(event)
        for vm in dict.fromkeys(event.vm for event in batch.events if event.kind == "lifecycle"):
            self._look_soon(vm)

    def _publish(self, event: Event) -> None:
        untold = 0 if event.kind == "lifecycle" else self._pace.take(event.vm)
        if untold is not None:
            more = {"untold": untold} if untold else {}
            self._news.publish(event.vm, event.kind, **event.detail, **more)

    def _look_soon(self, vm: str) -> None:
        with self._guard:
            if vm in self._waiting:
                return
            self._waiting.add(vm)
        self._looks.submit(self._look, vm)

    def _look(self, vm: str) -> None:
        with self._guard:
            self._waiting.discard(vm)  # before the look: what happens from now on is another one
        self.observe(vm)

    def observe(self, vm: str) -> None:
        """Look at one VM in libvirt, for something happened to it."""
        asked_at = time.monotonic()
        known = self._index.get(vm)
        try:
            try:
                state = self._domains.state(vm)
            except NotFound:
                state = None
            self._index.observed(vm, state, asked_at=asked_at)
            self._leave(known, self._index.get(vm))
            self._glance(vm)
        except LvagentError as error:
            log.warning("%s: %s", vm, error)
            return
        except Exception:  # nobody waits for this thread
            log.exception("looking at %s", vm)
            return
        if state is not None:
            self._ended(vm)

    def _leave(self, before: Entry | None, after: Entry | None) -> None:
        """Take away what a VM ran with and no longer wants, now that it has stopped."""
        if before is not None and after is not None and before.carried.networks != after.carried.networks:
            for vpc in before.carried.vpcs:
                self._networks.converge(vpc)

    def close(self) -> None:
        """Wait for the looks that are under way."""
        self._looks.shutdown(wait=True, cancel_futures=True)
