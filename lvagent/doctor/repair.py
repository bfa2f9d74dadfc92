"""What ``--fix`` does: to ours only, each time looking again whether it still is.

What several processes may do at once is done here, under the flocks that the agent and the hook take too. All else is a
sweep: the running agent's, or, if none runs, one of an agent made for it, which holds the lock of the one agent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lvagent import install, main
from lvagent.agent.locks import VpcLocks
from lvagent.agent.policy import locks_folder
from lvagent.config import Settings
from lvagent.doctor.findings import Kind, Repair, repairs
from lvagent.doctor.fsck import OURS, Site, judge
from lvagent.doctor.site import Reader
from lvagent.errors import HostError, LvagentError
from lvagent.host import bridge_netfilter, files, links, netns, survey, sysctl
from lvagent.host.dnsmasq import DhcpServer
from lvagent.host.netspace import opened, translated
from lvagent.spec import names

AskAgent = Callable[[], bool]
"""Has the running agent sweep; False: none runs."""


class Repairer:
    """Carries repairs out.

    :param ask: see ``AskAgent``.
    :param read: reads what the specs say, and what there is; None: on this host.
    """

    def __init__(self, settings: Settings, ask: AskAgent, read: Callable[[], Site] | None = None) -> None:
        self._settings = settings
        self._ask = ask
        self._read = read or self._reread
        self._locks = VpcLocks(locks_folder(settings))

    def do(self, repair: Repair) -> None:
        """Carry out one.

        :raise LvagentError: it could not be done.
        """
        match repair.kind:
            case Kind.SWEEP:
                self._sweep()
            case Kind.LINK:
                self._remove_link(repair)
            case Kind.SYSCTL:
                self._set(repair.owner, repair.target, repair.value)
            case Kind.LEASES:
                with self._locks.services(repair.target):
                    DhcpServer(self._settings).renew(repair.target)
            case Kind.PORT:
                self._plug(repair)
            case Kind.FOLDER:
                _mend(Path(repair.target), repair.value)
            case Kind.HOOK:
                install.put(Path(repair.target), install.hook_text(self._settings), mode=0o755)
                _own(Path(repair.target), 0o755, 0)

    def _path(self, space: str) -> str:
        return f"{self._settings.paths.netns}/{space}" if space else ""

    def _reread(self) -> Site:
        reader = Reader(self._settings)
        try:
            return reader.read()
        finally:
            reader.close()

    def _still(self, repair: Repair) -> Site | None:
        """What is read now, if it calls for this repair still: somebody may have thought about it for long."""
        site = self._read()
        return site if repair in repairs(judge(site)) else None

    def _remove_link(self, repair: Repair) -> None:
        """Delete a link outside of VPCs, if it still bears our mark, and nobody wants it by now."""
        name = repair.target
        with translated(name, "remove"), opened(self._path(repair.owner)) as there:
            seen = None if there is None else there.find([name]).get(name)
            if there is None or seen is None or seen.group != names.LINK_GROUP or not name.startswith(OURS):
                return
            if self._still(repair) is not None:
                there.send([links.delete(one.name) for one in there.find([name]).values() if one.index == seen.index])

    def _set(self, space: str, name: str, value: int) -> None:
        """Set a sysctl of a namespace of ours, and those that change with it (ip_forward puts others back)."""
        table = sysctl.FABRIC if space == self._settings.fabric.netns else sysctl.VPC
        path = self._path(space)
        with translated(space, f"set net/{name} in"):
            netns.inside(path, lambda: sysctl.write({name: value}))
            wrong = survey.wrong_sysctls(path, table)
            there = {one: right for one, (found, right) in wrong.items() if found}
            netns.inside(path, lambda: sysctl.write(there))

    def _plug(self, repair: Repair) -> None:
        """Tell the bridge again which MAC is at a port; its filter and its place are not touched."""
        vm, tap, site = repair.owner, repair.target, self._still(repair)
        specs = site.specs if site else ()
        nics = [nic for spec in specs if spec.id == vm for nic in spec.networks]
        for nic in nics:
            if names.tap(vm, nic.position) == tap:
                with self._locks.wires(nic.netname), translated(tap, "plug"), opened(self._path(nic.netname)) as there:
                    if there is not None:
                        there.send([links.forward(link, nic.mac) for link in there.find([tap]).values()])

    def _sweep(self) -> None:
        if self._ask():
            return
        main.make_folders(self._settings)
        with main.alone(self._settings):
            bridge_netfilter.load()
            agent = main.build(self._settings)
            try:
                if not agent.sweep() or agent.held:
                    raise HostError("the host", "sweep", agent.held or agent.trouble)
            finally:
                agent.close()


def _mend(folder: Path, mode: int) -> None:
    """Make a folder that is not there; one that is becomes root's, with its mode."""
    if os.path.lexists(folder):
        _own(folder, mode, os.O_DIRECTORY)
        return
    with translated(str(folder), "make"):
        files.folder(folder, mode)


def _own(path: Path, mode: int, kind: int) -> None:
    """Make a file or folder root's, with a mode; a link is not followed."""
    with translated(str(path), "mend"):
        descriptor = os.open(path, os.O_RDONLY | kind | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.fchown(descriptor, 0, 0)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def told(error: LvagentError) -> str:
    """An error on one line, with its hint."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
