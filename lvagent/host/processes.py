"""The qemu process of a domain, as the kernel has it (proc_pid_stat(5)).

libvirt writes the pid into a file when it starts a domain. A pid may be another process's by now, so the first look at
a file also notes when its process began; if that is another time later, the process is gone.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lvagent.spec.status import ProcessView, iso_time

STATES = {"Z": "zombie", "T": "stopped", "t": "traced", "X": "dead", "x": "dead"}
"""The states that are not ``running``; a process that sleeps, or waits for a disk, runs."""

TICKS = os.sysconf("SC_CLK_TCK")
"""The kernel's unit of a start time, per second."""

_HERE = "/proc/self/ns/pid"
_GET_PARENT = 0xB702
"""NS_GET_PARENT of linux/nsfs.h."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc says of a process. ``began``: ticks after the boot."""

    state: str
    began: int


def parse_stat(text: str) -> Stat:
    """The line of /proc/<pid>/stat. The name in it may have blanks and brackets.

    :raise ValueError: it is none.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError("the line is too short")
    return Stat(STATES.get(fields[0], "running"), int(fields[19]))


def apart(pid: int) -> bool:
    """Whether a process is in a container: in another pid namespace than this one (pid_namespaces(7)).

    It may have the paths of one of ours among its arguments, and they are other files.

    :raise OSError: there is no such process.
    """
    return not os.path.samestat(os.stat(f"/proc/{pid}/ns/pid"), os.stat(_HERE))


def nested(pid: int) -> bool:
    """Whether a process is in a pid namespace that was made in this one, not in another's (ioctl_ns(2)).

    :raise OSError: there is no such process.
    """
    there = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        above = fcntl.ioctl(there, _GET_PARENT)
    except PermissionError:  # it is this one, and what is above it is out of sight
        return False
    finally:
        os.close(there)
    try:
        return os.path.samestat(os.fstat(above), os.stat(_HERE))
    finally:
        os.close(above)


class Qemus:
    """The qemu processes of libvirt's domains. May be asked by many threads.

    :param run: where libvirt has its pid files.
    :param proc: where the kernel shows its processes.
    """

    def __init__(self, run: Path = Path("/run/libvirt/qemu"), proc: Path = Path("/proc")) -> None:
        self._run = run
        self._proc = proc
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[tuple[int, int, int], int]] = {}

    def of(self, vm: str) -> ProcessView | None:
        """The process of a VM; None if there is none."""
        path = self._run / f"{vm}.pid"
        try:
            pid, status = int(path.read_text()), path.stat()
            stat = parse_stat((self._proc / str(pid) / "stat").read_text())
        except (OSError, ValueError):
            return None
        with self._lock:
            file = (status.st_ino, status.st_mtime_ns, pid)
            known, began = self._seen.get(vm, (None, 0))
            if known != file:
                self._seen[vm] = (file, stat.began)
            elif began != stat.began:
                return None
        return ProcessView(pid, stat.state, iso_time(began_at(stat)))

    def forget(self, vm: str) -> None:
        """There is no such VM any more."""
        with self._lock:
            self._seen.pop(vm, None)

    def keep(self, vms: Iterable[str]) -> None:
        """There are no other VMs than these."""
        kept = frozenset(vms)
        with self._lock:
            self._seen = {vm: seen for vm, seen in self._seen.items() if vm in kept}


def pid(domain: str, run: Path = Path("/run/libvirt/qemu")) -> int | None:
    """The pid of a domain's qemu, from libvirt's pid file; None if there is none."""
    try:
        return int((run / f"{domain}.pid").read_text())
    except (OSError, ValueError):
        return None


def began_at(stat: Stat) -> float:
    """Unix time at which a process began."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + stat.began / TICKS
