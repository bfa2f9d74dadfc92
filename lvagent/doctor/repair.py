"""What ``--fix`` does: to ours only, each time looking again whether it still is.

What several processes may do at once is done here, under the flocks that the agent and the hook take too. All else is a
sweep: the running agent's, or, if none runs, one of an agent made for it, which holds the lock of the one agent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from lvagent import install, main
from lvagent.agent.locks import VpcLocks
from lvagent.agent.policy import locks_folder, policy
from lvagent.config import Settings
from lvagent.doctor.findings import Kind, Repair
from lvagent.doctor.fsck import OURS, Site
from lvagent.errors import HostError, LvagentError
from lvagent.host import bridge_netfilter, files, links, netns, sysctl
from lvagent.host.dnsmasq import DhcpServer
from lvagent.host.netspace import Netspace, translated
from lvagent.host.network import Network
from lvagent.plan import firewall, wanted
from lvagent.plan.resources import Firewall, PortFilter
from lvagent.spec import names

log = logging.getLogger(__name__)

AskAgent = Callable[[], bool]
"""Has the running agent sweep; False: none runs."""


class Repairer:
    """Carries repairs out.

    :param site: what was read; its specs say how a port is plugged.
    :param ask: see ``AskAgent``.
    """

    def __init__(self, settings: Settings, site: Site | None, ask: AskAgent) -> None:
        self._settings = settings
        self._site = site
        self._ask = ask
        self._locks = VpcLocks(locks_folder(settings))

    def do(self, repair: Repair) -> None:
        """Carry out one.

        :raise LvagentError: it could not be done.
        """
        match repair.kind:
            case Kind.SWEEP:
                self._sweep()
            case Kind.LINK:
                self._remove_link(repair.owner, repair.target)
            case Kind.SYSCTL:
                self._set(repair.owner, repair.target, repair.value)
            case Kind.LEASES:
                with self._locks.services(repair.target):
                    DhcpServer(self._settings).renew(repair.target)
            case Kind.PORT:
                self._plug(repair.owner, repair.target)
            case Kind.FOLDER:
                _mend(Path(repair.target), repair.value)
            case Kind.HOOK:
                install.put(Path(repair.target), install.hook_text(self._settings), mode=0o755)

    def _path(self, space: str) -> str:
        return f"{self._settings.paths.netns}/{space}" if space else ""

    def _remove_link(self, space: str, name: str) -> None:
        """Delete a link outside of VPCs, if it still bears our mark."""
        with translated(name, "remove"):
            there = Netspace(self._path(space))
            try:
                found = there.find([name]).get(name)
                if found is not None and found.group == names.LINK_GROUP and name.startswith(OURS):
                    there.send([links.delete(name)])
            finally:
                there.close()

    def _set(self, space: str, name: str, value: int) -> None:
        with translated(space, f"set net/{name} in"):
            netns.inside(self._path(space), lambda: sysctl.write({name: value}))

    def _plug(self, vm: str, tap: str) -> None:
        spec = next((one for one in self._site.specs if one.id == vm), None) if self._site else None
        nics = [nic for nic in spec.networks if names.tap(vm, nic.position) == tap] if spec else []
        network = Network(self._settings)
        try:
            for nic in nics:
                assert spec is not None
                place = wanted.plug(spec, nic, policy(self._settings))
                wall = firewall.firewall(nic.netname, spec)
                bound: list[PortFilter | Firewall] = [wanted.port_filter(spec, nic), wall]
                with self._locks.wires(nic.netname):
                    network.plug(bound, place)
        finally:
            network.close()

    def _sweep(self) -> None:
        if self._ask():
            return
        main.make_folders(self._settings)
        with main.alone(self._settings):
            bridge_netfilter.load()
            agent = main.build(self._settings)
            try:
                if not agent.sweep():
                    raise HostError("the host", "sweep", agent.trouble)
            finally:
                agent.close()


def _mend(folder: Path, mode: int) -> None:
    """Make a folder root's, with its mode; a link is not followed."""
    try:
        if not os.path.lexists(folder):
            files.folder(folder, mode)
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, 0, 0)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(str(folder), "mend", error.strerror or str(error)) from error


def told(error: LvagentError) -> str:
    """An error on one line, with its hint."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
