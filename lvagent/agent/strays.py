"""Strays: qemu processes that nobody wants, told of or stopped; and objects of ours that nobody wants, told of.

A process must have been seen as a stray in several sweeps before anything is done to it, and is sorted afresh, with
what libvirt says then, right before. Whatever is not surely nobody's, or ours and lost, is left alone.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.ports import Domains, Processes, VolumeFolders
from lvagent.config import Settings
from lvagent.errors import Conflict, LvagentError, NotFound
from lvagent.spec.strays import (
    STRAYS,
    LooseObject,
    Process,
    Running,
    Sorted,
    StraysView,
    StrayView,
    sort_process,
    view,
    without_secrets,
)

log = logging.getLogger(__name__)

Key = tuple[int, str]
"""A pid and when its process began: together they are one process."""


class Strays:
    """The strays of this host. Every method may be called by many threads; ``sweep`` by one at a time.

    :param clock: seconds; sweeps that follow each other within half an interval count as one.
    """

    def __init__(
        self,
        index: Index,
        domains: Domains,
        processes: Processes,
        networks: Networks,
        volumes: VolumeFolders,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._domains = domains
        self._processes = processes
        self._networks = networks
        self._volumes = volumes
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Key, int] = {}
        self._counted: float | None = None
        self._stopping: set[Key] = set()
        self._closed = False
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="strays")

    # what is told

    def view(self) -> StraysView:
        """All strays as they are now.

        :raise Unavailable: libvirt cannot be asked: nothing is known to be a stray then.
        """
        found = self._strays()
        with self._lock:
            processes = tuple(view(one, self._seen.get(_key(one.process), 0)) for one in found)
        settings = self._settings.strays
        return StraysView(settings.policy, settings.grace, processes, self._objects())

    def _strays(self) -> tuple[Sorted, ...]:
        """The processes are read first: of one that is begun meanwhile nothing is said, instead of the wrong thing."""
        processes = self._processes.qemus(self._domains.emulators())
        domains = self._running()
        return tuple(one for one in (sort_process(each, domains) for each in processes) if one.sort in STRAYS)

    def _running(self) -> tuple[Running, ...]:
        ours = {entry.spec.id for entry in self._index.all()}
        return tuple(dataclasses.replace(one, ours=one.name in ours) for one in self._domains.running())

    def _objects(self) -> tuple[LooseObject, ...]:
        return (*self._empty_domains(), *self._networks.leftovers.loose(), *self._loose_volumes())

    def _empty_domains(self) -> list[LooseObject]:
        why = "libvirt says that it runs, and it has no process; restart libvirtd, then start it"
        return [
            LooseObject("domain", one.name, why)
            for one in self._running()
            if one.ours and (one.pid is None or not self._processes.alive(one.pid))
        ]

    def _loose_volumes(self) -> list[LooseObject]:
        why = "no VM has it; it is never removed by the agent"
        return [LooseObject("volume", path, why) for path in self._index.unshared("", self._volumes.files())]

    @property
    def known(self) -> int:
        """How many stray processes there were when last looked."""
        return len(self._seen)

    # what is done

    def sweep(self) -> None:
        """Count who is there, and stop who was seen often enough, if that is the policy.

        :raise Unavailable: libvirt cannot be asked; nothing is done.
        """
        found = self._strays()
        with self._lock:
            due = self._due()
            before = self._seen
            self._seen = {key: before.get(key, 0) + (due or key not in before) for key in map(_key_of, found)}
            new = [one for one in found if _key_of(one) not in before]
            ripe = [one for one in found if self._is_ripe(one)]
            self._stopping |= {_key_of(one) for one in ripe}
        for one in new:
            log.warning("a stray: qemu process %d, %s: %s", one.process.pid, one.sort, one.why)
        for one in ripe:
            self._workers.submit(self._stop, _key_of(one))

    def _due(self) -> bool:
        now = self._clock()
        if self._counted is not None and now - self._counted < self._settings.sweep.interval / 2:
            return False
        self._counted = now
        return True

    def _is_ripe(self, one: Sorted) -> bool:
        policy, key = self._settings.strays, _key_of(one)
        if policy.policy != "stop" or one.process.zombie or key in self._stopping or self._closed:
            return False
        return self._seen[key] >= policy.grace

    def _stop(self, key: Key) -> None:
        try:
            one = self._find(*key)
            line = " ".join(without_secrets(one.process.arguments))[:500]
            log.warning("stopping the stray %d, %s: %s: %s", key[0], one.sort, one.why, line)
            log.warning("the stray %d: %s", key[0], self._end(one.process, softly=True))
        except LvagentError as error:
            log.warning("the stray %d: %s", key[0], error)
        except Exception:  # nobody waits for this thread
            log.exception("the stray %d", key[0])
        finally:
            with self._lock:
                self._stopping.discard(key)

    def _end(self, process: Process, *, softly: bool) -> str:
        return self._processes.end(process, softly=softly, go_on=lambda: not self._closed)

    def kill(self, pid: int, identity: str) -> StrayView:
        """End a stray now, with SIGTERM and then SIGKILL.

        :param identity: when its process began, as it was told.
        :return: the stray as it was.
        :raise NotFound: there is no stray of this pid.
        :raise Conflict: it is another process by now, or a zombie.
        """
        one = self._find(pid, identity)
        if one.process.zombie:
            hint = f"have its parent {one.process.parent_name} ({one.process.parent}) mended or ended"
            raise Conflict(f"{pid} is a zombie: it has ended already", hint=hint)
        log.warning("the stray %d: %s", pid, self._end(one.process, softly=False))
        return view(one, self._seen.get((pid, identity), 0))

    def _find(self, pid: int, identity: str) -> Sorted:
        found = [one for one in self._strays() if one.process.pid == pid]
        if not found:
            raise NotFound("stray", str(pid))
        if found[0].process.identity != identity:
            raise Conflict(f"{pid} is another process by now", path="identity", hint="list the strays again")
        return found[0]

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way to leave off."""
        self._closed = True
        self._workers.shutdown(wait=True, cancel_futures=True)


def _key(process: Process) -> Key:
    return process.pid, process.identity


def _key_of(one: Sorted) -> Key:
    return _key(one.process)
