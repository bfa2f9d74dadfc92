"""Commands in a lab host: their environment, their end, and SSH to a guest."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
"""The tree that is tested."""

SEARCH_PATH = "/run/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SSH_FAILED = 255
SSH_OPTIONS = (
    "-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR",
    "-oConnectTimeout=3", "-oServerAliveInterval=5", "-oServerAliveCountMax=3", "-oIdentitiesOnly=yes",
)  # fmt: skip


def tree_environment() -> dict[str, str]:
    """The variables with which python finds this tree, and writes nothing into it."""
    return {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}


def environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {"PATH": SEARCH_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(more or {})}


def child_of(process: subprocess.Popen[Any]) -> int:
    """The pid, as seen from the machine, of the command that a process of ``popen`` waits for; 0 if it ended."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0]) if children else 0
    return 0


def end(process: subprocess.Popen[Any], number: signal.Signals = signal.SIGKILL, *, wait: float = 60) -> int:
    """Send the command of ``popen`` a signal and wait for its end; one that ended already is fine.

    The command itself is signalled and not the nsenter that waits for it: else the machine's PID 1 would inherit it,
    and the lab could not end until that one reaps it.

    :return: its exit code, negative for a signal.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child_of(process) or process.pid, number)
    return process.wait(timeout=wait)


def freeze(process: subprocess.Popen[Any]) -> None:
    """Stop the command of ``popen``; returns when the nsenter above it, which stops with its child, has stopped too."""
    child = child_of(process)
    assert child, "it has ended"
    os.kill(child, signal.SIGSTOP)
    _await(process.pid, stopped=True)


def thaw(process: subprocess.Popen[Any]) -> None:
    """Let a frozen command go on; nsenter, once it goes on, lets its child go on."""
    os.kill(process.pid, signal.SIGCONT)
    _await(child_of(process), stopped=False)


def _await(pid: int, *, stopped: bool, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while (Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T") != stopped:
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} does not {'stop' if stopped else 'go on'}")
        time.sleep(0.005)
