"""The composition root: the only place that knows all parts.

Order matters. The hook's socket is served first, for libvirtd may be starting its autostart domains right now; then
the API, which answers 503 until the first sweep is done; then libvirt.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lvagent import failpoints
from lvagent.agent.core import Agent, Parts
from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.news import News
from lvagent.agent.peering import KEY
from lvagent.agent.policy import configs, domain_options, float_wishes, locks_folder, policy, port_wishes, uplink_policy
from lvagent.agent.tidings import Reporter
from lvagent.agent.timeline import Timeline
from lvagent.api.app import create_app
from lvagent.api.doors import TokenDoor
from lvagent.api.hooks import HookServer
from lvagent.api.operations import Operations
from lvagent.api.server import ApiServer
from lvagent.config import Settings
from lvagent.errors import HostError, SpecError
from lvagent.host import bridge_netfilter, files, host, listeners, memory, privileges
from lvagent.host.audit import AuditLog
from lvagent.host.dnsmasq import DhcpServer
from lvagent.host.imds import MetadataService
from lvagent.host.libvirt import Hypervisor
from lvagent.host.network import Network
from lvagent.host.qemu_processes import Processes
from lvagent.host.qmp import Monitor
from lvagent.host.timelines import TimelineFiles
from lvagent.host.tokens import TokenStore
from lvagent.host.volumes import VolumeStore
from lvagent.host.wishes import WishFiles
from lvagent.observe.events import LibvirtEvents, run_event_loop
from lvagent.observe.filters import ROOT, FilterWatch
from lvagent.observe.forwarding import ForwardingWatch
from lvagent.observe.intake import Intake
from lvagent.render.domain import DomainOptions
from lvagent.render.unit import CAPABILITIES

log = logging.getLogger(__name__)

LOG_VARIABLE = "LVAGENT_LOG"

OPEN_FILES = 262_144
"""Descriptors: some four for each VPC, and one for each request; the metadata process inherits the limit."""


def build(settings: Settings) -> Agent:
    """An agent of all its real parts; nothing is touched yet."""
    news = News(lambda vm: index.vpcs_of(vm))
    index = Index(Reporter(news))
    options = domain_options(settings)
    rules = policy(settings)
    networks = Networks(
        index,
        Network(settings),
        DhcpServer(settings),
        MetadataService(settings),
        rules,
        locks_folder(settings),
        configs(settings),
        lambda: uplink_policy(settings, rules.local),
        port_wishes(settings),
        float_wishes(settings),
    )
    return Agent(
        Parts(
            index=index,
            domains=Hypervisor(settings.libvirt.uri),
            monitors=Monitor(settings.libvirt.uri, seconds=settings.libvirt.monitor),
            volumes=VolumeStore(settings),
            networks=networks,
            options=options,
            boot_id=host.boot_id(),
            news=news,
            timeline=_timeline(settings, options),
            processes=Processes(),
            settings=settings,
            going_down=host.going_down,
            peerings=WishFiles(Path(settings.paths.vpcs), KEY, "peering"),
            listeners=listeners.listeners,
            holder=listeners.holder,
        )
    )


def _timeline(settings: Settings, options: DomainOptions) -> Timeline:
    def console(vm: str, count: int) -> bytes:
        return files.tail(Path(options.console_log(vm)), count)

    return Timeline(TimelineFiles(Path(settings.paths.state)), console)


def log_level(text: str) -> str:
    """The least level that is logged; INFO if nothing is said.

    :raise SpecError: there is no such level.
    """
    level = text.upper() or "INFO"
    if level not in logging.getLevelNamesMapping():
        raise SpecError(LOG_VARIABLE, f"{text!r} cannot be", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return level


def serve(settings: Settings) -> int:
    """Run the agent in the foreground until SIGTERM or SIGINT. VMs and VPCs outlive it.

    :return: the exit code.
    """
    logging.basicConfig(
        level=log_level(os.environ.get(LOG_VARIABLE, "")),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    make_folders(settings)
    with alone(settings):
        failpoints.arm(os.environ.get(failpoints.VARIABLE, ""), Path(settings.paths.run))
        _give_up_privileges()
        memory.share_heaps()
        run_event_loop()
        with _told_to_stop() as told, _serving(build(settings), settings) as names:
            log.info("serving on %s", settings.api_socket)
            _notify("READY=1")
            told.recv(1)
            log.info("stopping; VMs go on running")
            names.put(STOP)
    return 0


@contextlib.contextmanager
def _told_to_stop() -> Iterator[socket.socket]:
    """A socket that can be read when a SIGTERM or SIGINT has come.

    The kernel may give a signal to any thread, and a lock that the main thread waits for does not notice then; the
    wake-up descriptor is written to whichever thread it is (signal.set_wakeup_fd).
    """
    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(-1)


STOP = "."


@contextlib.contextmanager
def _serving(agent: Agent, settings: Settings) -> Iterator[queue.SimpleQueue[str]]:
    names: queue.SimpleQueue[str] = queue.SimpleQueue()
    intake = Intake()
    hooks = HookServer(Path(settings.hook_socket), agent.plugger)
    api = _api(agent, settings)
    events = LibvirtEvents(settings.libvirt.uri, intake, agent.lose)
    filters = FilterWatch(settings.paths.netns, settings.fabric.netns, agent.heal)
    forwarding = ForwardingWatch(lambda: agent.heal(ROOT))
    worker = threading.Thread(target=_watch, args=(agent, names, settings.sweep.interval), name="sweep")
    witness = threading.Thread(target=_witness, args=(agent, intake, names), name="witness")
    hooks.start()
    try:
        api.start()
        worker.start()
        witness.start()
        agent.start()
        filters.start()  # before the first sweep: what somebody changes behind its back is to be heard
        forwarding.start()
        events.start()
        yield names
    finally:
        names.put(STOP)
        agent.news.close()
        filters.stop()
        forwarding.stop()
        events.stop()
        intake.close()
        api.stop()
        hooks.stop()
        for thread in (worker, witness):
            if thread.is_alive():
                thread.join()
        agent.close()


def _api(agent: Agent, settings: Settings) -> ApiServer:
    """The API on its sockets; what is done on any of them goes through the same operations and the same audit log.

    :raise SpecError: the TLS files cannot be used.
    """
    state = Path(settings.paths.state)
    audit = AuditLog(state, size=settings.api.audit_mb << 20, keep=settings.api.audit_keep)
    operations = Operations(most=settings.api.operations, told=agent.news.tell)
    app = create_app(agent, settings, operations, audit=audit)
    if not settings.api.listen:
        return ApiServer(app, settings)
    door = TokenDoor(settings.api, TokenStore(state))
    log.info("the API is also on %s, for bearers of tokens", settings.api.listen)
    return ApiServer(app, settings, create_app(agent, settings, operations, door=door, audit=audit))


def _witness(agent: Agent, intake: Intake, names: queue.SimpleQueue[str]) -> None:
    """Tell the agent what libvirt tells; where something may have been missed, have everything looked at."""
    while (batch := intake.take()) is not None:
        if batch.resync:
            names.put("")
        agent.happened(batch)


def _watch(agent: Agent, names: queue.SimpleQueue[str], interval: float) -> None:
    """Sweep at once, at intervals, and look at each VM whose name comes from the queue."""
    due = 0.0
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + (interval if agent.sweep() else min(interval, 1.0))
        try:
            name = names.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            continue
        if name == STOP:
            return
        if name:
            agent.observe(name)
        else:
            due = 0.0


def make_folders(settings: Settings) -> None:
    """Make the folders that are not there. The run folder is root's; its sockets have modes of their own."""
    paths = settings.paths
    for folder, mode in (
        (paths.run, 0o755),
        (paths.state, 0o700),
        (paths.vpcs, 0o700),
        (paths.images, 0o755),
        *((folder, 0o711) for folder in settings.volumes.folders),
    ):
        try:
            files.folder(Path(folder), mode)
        except OSError as error:
            raise HostError(folder, "make", error.strerror or str(error)) from error


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Hold the lock that lets one agent run on a host.

    :raise HostError: another one runs.
    """
    path = Path(settings.paths.run) / "agent.lock"
    with path.open("a") as file:
        os.fchmod(file.fileno(), 0o600)  # whoever may open it may lock it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError("the agent", "start", "another one runs on this host") from None
        yield


def _notify(state: str) -> None:
    """Tell the service manager (sd_notify(3)); from READY on, what the unit is ordered before may start.

    Ready means that the sockets listen: libvirtd, whose autostart domains ask on them, comes after.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _give_up_privileges() -> None:
    """Do what needs more than the agent keeps, and keep the rest. No thread has been started yet."""
    try:
        bridge_netfilter.load()
    except HostError as error:
        log.warning("%s", error)  # a create says it again; nothing else needs it
    privileges.raise_open_files(OPEN_FILES)
    privileges.confine(CAPABILITIES)
