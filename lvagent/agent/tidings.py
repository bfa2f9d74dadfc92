"""What a change in the index is news of. A function of two entries: what a VM was, and what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lvagent.agent.index import Entry, Phase
from lvagent.agent.news import News, Plain
from lvagent.agent.wishes import restart_needed

Tiding = tuple[str, Mapping[str, Plain]]


def told(before: Entry | None, after: Entry | None) -> Iterator[Tiding]:
    """The news of a change, as kinds with details. At least one of the two is there."""
    if after is None:
        if before is not None:
            yield ("deleted" if before.phase is Phase.DELETING else "gone"), {}
        return
    if before is None:
        yield "state", _state(after)
        return
    if before.phase is Phase.CREATING and after.phase is Phase.LIVE:
        yield "created", {"revision": after.revision}
    elif after.revision != before.revision:
        yield "changed", {"revision": after.revision}
    if before.shown != after.shown:
        yield "state", {**_state(after), "before": before.shown[0].value}
    if _wanted(before) != _wanted(after):
        yield "wanted", {"wanted": _wanted(after)}
    yield from _drift(before, after)


def _state(entry: Entry) -> Mapping[str, Plain]:
    state, reason = entry.shown
    return {"state": state.value, "reason": reason}


def _wanted(entry: Entry) -> str:
    return "running" if entry.power == "running" else "stopped"


def _drift(before: Entry, after: Entry) -> Iterator[Tiding]:
    if after.outdated != before.outdated:
        yield "drift", {"definition": "older than what is wanted" if after.outdated else "as wanted"}
    if after.applied is before.applied and after.spec is before.spec:
        return
    paths = restart_needed(after)
    if paths != restart_needed(before):
        yield "drift", {"paths": ", ".join(paths)}


class Reporter:
    """Publishes what changes in an index, with the VPCs that the VM was or is in.

    :param news: where.
    """

    def __init__(self, news: News) -> None:
        self._news = news

    def __call__(self, before: Entry | None, after: Entry | None) -> None:
        """An entry was replaced; called under the index's lock."""
        there = [entry for entry in (before, after) if entry is not None]
        vpcs = frozenset(vpc for entry in there for vpc in (*entry.spec.vpcs, *entry.carried.vpcs))
        for kind, detail in told(before, after):
            self._news.tell(there[0].spec.id, kind, detail, vpcs)
