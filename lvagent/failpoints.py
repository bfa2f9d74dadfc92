"""Named places between the steps of an operation, where a fault can be asked for: for tests and for game days.

    point("create.defined")

does nothing in an agent that was started as usual. One that was started with ``LVAGENT_FAILPOINTS`` naming a file in
its run folder, which belongs to root and is closed to all others (0600), looks at each point whether the file has a
line ``<name> <action>``:

    kill      end this process as ``kill -9`` does
    raise     fail, as a step of the host that cannot be done
    hang      wait until the line is taken away, ``HANG_SECONDS`` at most; it reads ``<name> hanging`` meanwhile

A line counts once: it is taken out before the fault happens, so an agent that starts again does not fall over it anew.
Lines that begin with ``#`` say nothing. Nothing but root's own file can arm a point, and the log says so at each step.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lvagent.errors import HostError, SpecError

log = logging.getLogger(__name__)

VARIABLE = "LVAGENT_FAILPOINTS"
ACTIONS = ("kill", "raise", "hang")
HANGING = "hanging"
HANG_SECONDS = 60.0
LARGEST_FILE = 65_536

POINTS = {
    "create.claimed": "the index knows the new VM, libvirt does not",
    "create.defined": "the domain is defined, without its mark",
    "create.secret": "its user data is kept",
    "volume.made": "one volume of a create or a change is made",
    "create.started": "its qemu runs; it has no mark yet",
    "create.committed": "it has its mark; the undoing is not forgotten yet",
    "connect.wired": "beside a start: the wires of its VPCs are made, nothing is served",
    "connect.served": "beside a start: its VPCs are served",
    "plug.judged": "in the hook's request: the VM may start, its taps are where libvirt made them",
    "plug.plugged": "in the hook's request: its taps are in their places, the hook was not answered",
    "change.wished": "the index has the new wish, libvirt the old one",
    "change.noted": "the old wish says that the volumes to come are ours",
    "change.secret": "its new user data is kept beside the old",
    "change.defined": "the domain is defined anew",
    "change.marked": "its live copy says what was applied",
    "change.converged": "its VPCs are as they should be; the undoing is not forgotten yet",
    "undo.step": "something failed, and the next step of the undoing is about to begin",
    "delete.marked": "the wish in libvirt is that it be absent",
    "delete.stopped": "its qemu has ended",
    "delete.unpublished": "nothing of it is published any more, by the files",
    "delete.volumes": "its volumes are gone, if that was asked for",
    "delete.secret": "its user data is gone",
    "delete.log": "its console log is gone",
    "delete.undefined": "libvirt does not know it any more, the index does",
    "delete.forgotten": "the index does not know it any more; its network is there",
    "delete.unwired": "all is gone, and nobody was told",
    "power.wished": "the wanted power is written, nothing else was done",
    "power.acted": "the action is done, and was not looked at",
    "network.removed": "what no VM needs of a VPC is gone, what is missing was not made",
    "network.made": "the VPC's namespace, links and filters are as they should be",
    "network.plugged": "one tap is in its place, other NICs of the VM may not be",
    "wires.based": "a VPC has its namespace and its filter, and no links",
    "wires.segments": "the underlay side has the segments, and they lead nowhere",
    "peer.wished": "the index knows a new peering, no file does",
    "peer.stored": "a new peering has its file, and no link",
    "peer.paired": "two VPCs have the ends of their link, closed and down",
    "peer.routed": "the link of two VPCs is up, with its routes, and closed",
    "peer.made": "two VPCs that are peered have their link; nobody was told",
    "peer.unwished": "a peering is not wanted any more; its link is there",
    "peer.closed": "one end of the link of two VPCs is closed, both are there",
    "peer.removed": "the link of two VPCs is gone; nobody was told",
    "wires.linked": "bridges and veths of a VPC are made",
    "uplink.closed": "a VPC has the table of its uplink, and no link",
    "uplink.linked": "the veth of an uplink is made and down",
    "uplink.addressed": "an uplink is up with its addresses; no route leads to it",
    "uplink.removed": "the veth of an uplink is gone, its table is there",
    "router.filtered": "root has its table for uplinks, and forwards as it did",
    "router.forwarding": "root forwards for uplinks",
    "router.restored": "root forwards as before there were uplinks, its table is there",
    "vpc.wished": "in memory a VPC has a new wish; nothing was done for it",
    "vpc.converged": "the VPC is as its new wish says, which is written nowhere",
    "vpc.kept": "the new wish of a VPC is written",
    "ports.wished": "in memory a VM has other published ports; nothing was done for it",
    "ports.converged": "the ports are published as wished, which is written nowhere",
    "ports.kept": "what is published of a VM is written",
    "floating.wished": "in memory a floating address is led elsewhere; nothing was done for it",
    "floating.converged": "a floating address is led as wished, which is written nowhere",
    "floating.kept": "where a floating address is led is written",
    "floating.proxied": "the host answers for a floating address, and has not announced it",
    "inward.led": "in a VPC what comes is led to VMs, root leads nothing there yet",
    "inward.opened": "root leads what is published to its VPC",
    "inward.closed": "root leads nothing to a VPC any more, in there all is as it was",
    "unwire.ports": "ports are taken out of a VPC, what they stood on is there",
    "unwire.crossing": "what leads to the underlay side is gone, the VPC's own links are there",
    "dhcp.served": "a VPC's dnsmasq serves what it should",
    "dhcp.removed": "a VPC's dnsmasq is gone",
    "metadata.served": "the metadata service serves a VPC as it should",
    "metadata.removed": "the metadata service has left a VPC",
    "sweep.prepared": "a sweep has begun, libvirt was not read",
    "sweep.read": "libvirt was read, nothing was done",
    "sweep.kept": "a VM that an earlier agent did not finish, and that runs, has its mark",
    "sweep.discarding": "a VM that was never finished has lost its volumes",
    "sweep.discarded": "a VM that was never finished is gone from libvirt; the index knows it",
    "sweep.restarted": "a VM that ran before the host's last boot runs again, and that is not noted",
    "sweep.settled": "all VMs are settled, no VPC was looked at",
    "sweep.converged": "one VPC is converged, no tap was put back",
}
"""Every point, and what has just happened there."""


class Armed:
    """The points of a file.

    :param file: the path; it is read at each point.
    :raise SpecError: it is not such a file, or not in this folder.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        if file.parent != folder:
            raise SpecError(VARIABLE, f"the file must lie in {folder}")
        self._file = file
        self._lock = threading.Lock()
        for line in self._lines():
            _parse(line)

    def reach(self, name: str) -> None:
        """Do what the file says of this point, once."""
        action = self._take(name)
        if not action:
            return
        log.warning("FAILPOINT %s: %s", name, action)
        match action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise HostError(name, "pass", "a fault was asked for here")
            case _:
                self._hang(name)

    def _take(self, name: str) -> str:
        """The action for a point, taken out of the file; empty: none."""
        with self._lock:
            try:
                lines = self._lines()
                mine = next((line for line in lines if line.split()[0] == name and line.split()[1] in ACTIONS), None)
                if mine is None:
                    return ""
                lines.remove(mine)
                action = _parse(mine)[1]
                self._write([*lines, f"{name} {HANGING}"] if action == "hang" else lines)
            except (OSError, SpecError, IndexError) as error:
                log.warning("FAILPOINTS: %s cannot be used: %s", self._file, error)
                return ""
        return action

    def _hang(self, name: str) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline:
            try:
                if f"{name} {HANGING}" not in self._lines():
                    break
            except (OSError, SpecError):
                break
            time.sleep(0.01)
        log.warning("FAILPOINT %s: goes on", name)

    def _lines(self) -> list[str]:
        """Its lines that say something.

        :raise SpecError: it does not belong to root, is open to others, too large, or no file.
        """
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SpecError(VARIABLE, f"{self._file}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            own = found.st_uid == os.geteuid()  # the agent's own account, which is root
            if not stat.S_ISREG(found.st_mode) or not own or stat.S_IMODE(found.st_mode) != 0o600:
                raise SpecError(
                    VARIABLE, "it must be a file of root, mode 0600", f"chown root and chmod 600 {self._file}"
                )
            text = file.read(LARGEST_FILE).decode(errors="replace")
        lines = (line.strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    def _write(self, lines: Sequence[str]) -> None:
        new = self._file.with_name(f".{self._file.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
        os.rename(new, self._file)


_armed: Armed | None = None


def point(name: str) -> None:
    """Say that an operation is here; ``name`` is one of ``POINTS``.

    :raise HostError: the file of failpoints says so.
    """
    if _armed is not None:
        _armed.reach(name)


def arm(named: str, folder: Path) -> None:
    """Let points do what a file says from now on; an empty name: nothing, as is usual.

    :param named: the value of ``LVAGENT_FAILPOINTS``.
    :param folder: the run folder, in which the file must lie.
    :raise SpecError: the file is not such that only root can have written it, or says what is not understood.
    """
    global _armed
    _armed = Armed(Path(named), folder) if named else None
    if named:
        log.warning("FAILPOINTS ARE ARMED by %s: this agent will fail where that file says", named)


def _parse(line: str) -> tuple[str, str]:
    """One line of the file.

    :raise SpecError: no such point, or no such action.
    """
    name, _, action = line.partition(" ")
    if name not in POINTS:
        raise SpecError(VARIABLE, f"there is no point {name!r}", "they are in lvagent/failpoints.py")
    if action not in (*ACTIONS, HANGING):
        raise SpecError(VARIABLE, f"{name}: no action {action!r}", f"one of {', '.join(ACTIONS)}")
    return name, action
