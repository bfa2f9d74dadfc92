"""What processes take, as the kernel has it (proc_pid_stat(5)): of a qemu, and of the agent itself.

Nobody is asked but the kernel; so it is told also while libvirtd hangs, and costs some 0.05 ms.
"""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

from lvagent.host.processes import TICKS, began_at, parse_stat
from lvagent.spec.metrics import ProcessMetrics, Usage

PAGE = os.sysconf("SC_PAGE_SIZE")
"""The kernel's unit of resident memory, bytes."""

_USER, _SYSTEM, _VIRTUAL, _RESIDENT = 11, 12, 20, 21
"""Places after the process's name: its 14th, 15th, 23rd and 24th field."""


def usage(pid: int, proc: Path = Path("/proc")) -> Usage | None:
    """What a process takes; None if there is none."""
    try:
        return parse_usage((proc / str(pid) / "stat").read_text())
    except (OSError, ValueError):
        return None


def parse_usage(text: str) -> Usage:
    """The line of /proc/<pid>/stat.

    :raise ValueError: it is none.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _RESIDENT:
        raise ValueError("the line is too short")
    return Usage((int(fields[_USER]) + int(fields[_SYSTEM])) / TICKS, int(fields[_RESIDENT]) * PAGE)


def own() -> ProcessMetrics | None:
    """What this process takes; None if the kernel does not say."""
    try:
        text = Path("/proc/self/stat").read_text()
        return ProcessMetrics(
            usage=parse_usage(text),
            virtual_bytes=int(text.rpartition(")")[2].split()[_VIRTUAL]),
            started_at=began_at(parse_stat(text)),
            files=len(os.listdir("/proc/self/fd")) - 1,  # without that of this look
            most_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            threads=threading.active_count(),
        )
    except (OSError, ValueError):
        return None
