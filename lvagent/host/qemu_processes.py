"""qemu processes as /proc has them, and their end.

A pid alone proves nothing, for it is given away again: what is meant is a pid and the time at which its process began,
and before a signal is sent the process is pinned by a pidfd and looked at once more. Source: proc(5), pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lvagent.errors import Conflict, HostError
from lvagent.host import processes, qmp_socket
from lvagent.host.daemons import NO_PROCESS
from lvagent.spec.strays import Process, monitors

log = logging.getLogger(__name__)

EMULATORS = ("/usr/bin/qemu-system-*", "/usr/local/bin/qemu-system-*", "/usr/libexec/qemu-kvm", "/usr/bin/kvm")
"""Where distributions have qemu; libvirt knows the others."""

SHORT = ("qemu-system-", "qemu-kvm")
"""How the short name of a qemu begins. It is all that is left of a zombie's program."""

_TICKS = os.sysconf("SC_CLK_TCK")
_NO_DISKS = (
    "/dev/null", "/dev/kvm", "/dev/net/", "/dev/vhost", "/dev/pts/", "/dev/shm/", "/dev/ptmx", "/dev/vfio/",
    "/dev/urandom", "/dev/random", "/dev/zero", "/dev/tty", "/dev/hugepages/", "/proc/", "/sys/", "/memfd:",
)  # fmt: skip
"""What a qemu holds open that is no disk."""

_NAMELESS = re.compile(r"/#[0-9]+ \(deleted\)\Z")
"""A temporary file that never had a name (O_TMPFILE)."""


class Processes:
    """The qemu processes of this host.

    :param soft: seconds that a guest gets after its power button was pressed, and a process after SIGTERM.
    """

    def __init__(self, *, soft: float = 10) -> None:
        self._soft = soft

    def qemus(self, emulators: Iterable[str]) -> tuple[Process, ...]:
        """All qemu processes, by pid. Those that end meanwhile are left out.

        :param emulators: paths of programs that are qemu too.
        """
        patterns = (*EMULATORS, *emulators, *map(os.path.realpath, emulators))
        found = (_read(int(name), patterns) for name in os.listdir("/proc") if name.isdigit())
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.pid))

    def alive(self, pid: int) -> bool:
        """Whether there is a process of this pid that has not ended."""
        try:
            return _stat(pid)[1][0] not in "ZX"
        except OSError:
            return False

    def end(self, process: Process, *, softly: bool, go_on: Callable[[], bool] = lambda: True) -> str:
        """End a process: its power button if it has a monitor, then SIGTERM, then SIGKILL.

        :param softly: whether the power button is tried.
        :param go_on: asked before each step; False: leave it as it is.
        :return: what ended it, in words.
        :raise Conflict: it is not that process any more.
        :raise HostError: it survived.
        """
        with _pinned(process) as pidfd:
            if softly and go_on() and self._powerdown(process) and _ended(pidfd, self._soft, go_on):
                return "shut down by its guest"
            for number in (signal.SIGTERM, signal.SIGKILL):
                if not go_on():
                    return "left as it is"
                _send(pidfd, number, process.pid)
                if _ended(pidfd, self._soft, go_on):
                    return f"ended by {number.name}"
        raise HostError(f"the process {process.pid}", "end", "it survived SIGKILL", hint="look at its state in /proc")

    def _powerdown(self, process: Process) -> bool:
        return any(qmp_socket.powerdown(path, process.pid) for path in monitors(process))


def _send(pidfd: int, number: signal.Signals, pid: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    except OSError as error:
        hint = "the agent needs CAP_KILL"
        raise HostError(f"the process {pid}", "end", error.strerror or str(error), hint=hint) from error


@contextlib.contextmanager
def _pinned(process: Process) -> Iterator[int]:
    """A pidfd of this very process."""
    gone = f"{process.pid} is another process by now, or none"
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in NO_PROCESS:
            raise Conflict(gone, hint="list the strays again") from None
        raise HostError(f"the process {process.pid}", "end", error.strerror or str(error)) from error
    try:
        if _began(process.pid) != process.identity:
            raise Conflict(gone, hint="list the strays again")
        yield pidfd
    finally:
        os.close(pidfd)


def _ended(pidfd: int, seconds: float, go_on: Callable[[], bool]) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while not poll.poll(250):
        if time.monotonic() > deadline or not go_on():
            return False
    return True


def _stat(pid: int) -> tuple[str, list[str]]:
    """The short name of a process, and the fields of its /proc/PID/stat from the third on."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest.split()


def _began(pid: int) -> str:
    """The identity of the process that has a pid now; empty if there is none."""
    try:
        return _stat(pid)[1][19]
    except OSError:
        return ""


def _read(pid: int, patterns: Iterable[str]) -> Process | None:
    try:
        name, fields = _stat(pid)
        program = "" if fields[0] in "ZX" else os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
        known = (
            any(fnmatch.fnmatchcase(program, pattern) for pattern in patterns) if program else name.startswith(SHORT)
        )
        return _whole(pid, name, fields, program) if known else None
    except OSError:  # a thread of the kernel, or it has ended
        return None


def _whole(pid: int, name: str, fields: list[str], program: str) -> Process:
    parent = int(fields[1])
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    links = _open_files(pid)
    return Process(
        pid=pid,
        identity=fields[19],
        state=fields[0],
        program=program or f"({name})",
        age=max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS),
        uid=_uid(pid),
        parent=parent,
        parent_name=_name(parent),
        arguments=tuple(arguments),
        cgroup=_text(f"/proc/{pid}/cgroup"),
        sockets=_listening(pid, links.values()),
        disks=_disks(links.values()),
        taps=_taps(pid, links),
        apart=_apart(pid),
    )


def _uid(pid: int) -> int:
    rows = (row.split() for row in _text(f"/proc/{pid}/status").splitlines())
    return next((int(row[1]) for row in rows if row[:1] == ["Uid:"]), 0)


def _name(pid: int) -> str:
    try:
        return _stat(pid)[0] if pid else "the kernel"
    except OSError:
        return "?"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _open_files(pid: int) -> dict[str, str]:
    """What each descriptor of a process stands for; nothing of a zombie."""
    found = {}
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


def _listening(pid: int, links: Iterable[str]) -> tuple[str, ...]:
    """The unix sockets with a path that a process holds (unix(7): /proc/net/unix of its own network namespace)."""
    inodes = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}
    rows = (row.split(None, 7) for row in _text(f"/proc/{pid}/net/unix").splitlines()[1:])
    return tuple(sorted({row[7] for row in rows if len(row) == 8 and row[6] in inodes and row[7].startswith("/")}))


def _disks(links: Iterable[str]) -> tuple[str, ...]:
    """The files and disks among what a process holds open."""
    found = {link for link in links if link.startswith("/") and not link.startswith(_NO_DISKS)}
    return tuple(sorted(link for link in found if not _NAMELESS.search(link)))


def _taps(pid: int, links: dict[str, str]) -> tuple[str, ...]:
    """The taps whose descriptors a process holds: their names are in its fdinfo (drivers/net/tun.c)."""
    held = [number for number, link in links.items() if link == "/dev/net/tun"]
    rows = (row.split() for number in held for row in _text(f"/proc/{pid}/fdinfo/{number}").splitlines())
    return tuple(sorted({row[1] for row in rows if len(row) == 2 and row[0] == "iff:"}))


def _apart(pid: int) -> bool:
    try:
        return processes.apart(pid)
    except OSError:
        return False
