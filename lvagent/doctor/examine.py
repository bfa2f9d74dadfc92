"""One examination: gather, judge, and look twice at what may only be under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from lvagent.config import Settings
from lvagent.doctor import bystanders, fsck, gather, machine
from lvagent.doctor.findings import Finding, Level, unknown
from lvagent.doctor.fsck import Site
from lvagent.doctor.site import Reader
from lvagent.errors import LvagentError
from lvagent.host import rootfilter, survey
from lvagent.plan.resources import Uplink, Vxlan

SETTLE_SECONDS = 1.0
"""Between two looks: a VM that is being made or deleted has moved on by then."""


def examine(settings: Settings) -> list[Finding]:
    """All findings about this host."""
    found = machine.judge(gather.machine(settings))
    site, disagreements = _site(settings)
    segments, ways = (sum(isinstance(one, kind) for one in site.wanted()) if site else 0 for kind in (Vxlan, Uplink))
    return [*found, *_filters(settings, segments, ways), *disagreements]


def _filters(settings: Settings, segments: int, ways: int) -> Iterator[Finding]:
    try:
        filters = rootfilter.read()
    except LvagentError as error:
        yield unknown("root's filter", error.message, error.hint)
        return
    yield from bystanders.bridged(filters, survey.bridge_calls(), settings.fabric.netns)
    yield from bystanders.underlay(filters, settings.fabric.port, segments=segments)
    yield from bystanders.uplinks(filters, there=ways)
    yield from bystanders.other_links(filters)


def _site(settings: Settings) -> tuple[Site | None, list[Finding]]:
    reader = Reader(settings)
    try:
        return twice(reader.read, time.sleep)
    except LvagentError as error:
        return None, [unknown("what the specs call for", f"could not be compared: {error.message}", error.hint)]
    finally:
        reader.close()


def twice(read: Callable[[], Site], pause: Callable[[float], object]) -> tuple[Site, list[Finding]]:
    """Judge a site; what is wrong is believed only if it still is a moment later."""
    site = read()
    first = fsck.judge(site)
    if all(finding.level is Level.PASS for finding in first):
        return site, first
    pause(SETTLE_SECONDS)
    site = read()
    again = fsck.judge(site)
    return site, [finding for finding in again if finding.level is Level.PASS or finding in first]
