"""What an agent is made of."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from lvagent.agent.configs import Kept
from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.news import News
from lvagent.agent.ports import Domains, Monitors, Processes, VolumeFolders
from lvagent.agent.timeline import Timeline
from lvagent.config import Settings
from lvagent.host.listeners import Listener
from lvagent.render.domain import DomainOptions


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What an agent is made of. ``going_down``: whether the host is about to stop. ``clock``: of pauses, in seconds.

    ``peerings``: where they are kept; None: in memory alone.
    ``listeners``: the sockets of the host that take what comes. ``holder``: who has one of these numbers open.
    """

    index: Index
    domains: Domains
    monitors: Monitors
    volumes: VolumeFolders
    networks: Networks
    options: DomainOptions
    boot_id: str
    news: News
    timeline: Timeline
    processes: Processes
    settings: Settings = dataclasses.field(default_factory=Settings)
    going_down: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    peerings: Kept | None = None
    listeners: Callable[[], Sequence[Listener]] = lambda: ()
    holder: Callable[[int], str] = lambda _inode: ""
