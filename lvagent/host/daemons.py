"""Daemons that outlive the agent.

A daemon is started from a thread that has entered the namespace it shall live in, goes into the background by itself,
and is found again later by a pid file. A pid alone proves nothing: it may have been given to another program since. So
before anything is believed of it or sent to it, it is pinned by a pidfd and its program, its arguments and its
namespace are looked at.

Where systemd runs, a daemon gets a scope of its own, else stopping the agent's unit would end it too (KillMode of
systemd.kill(5)).
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lvagent.errors import HostError, Vanished
from lvagent.host import netns, processes
from lvagent.host.run import run
from lvagent.host.view import View

SYSTEMD = "/run/systemd/system"
"""There exactly when systemd is PID 1 (sd_booted(3))."""

SLICE = "lvagent.slice"

NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""What pidfd_open(2) says of a pid that is nobody's, or that a thread of some process has by now."""

MAX_PID = 1 << 22
"""PID_MAX_LIMIT of the kernel (proc(5), pid_max)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a daemon of this host from any other process: the name of its program, and an argument only it has.

    An agent in a container of this host has daemons of its own, with the same arguments: they are strangers.
    ``nested``: it has pids of its own.
    """

    program: str
    argument: str
    nested: bool = False

    def matches(self, pid: int) -> bool:
        """Whether the process of this pid, alive and no zombie, is that daemon."""
        try:
            program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            here = processes.nested(pid) if self.nested else not processes.apart(pid)
        except OSError:
            return False
        return os.path.basename(program) == self.program and self.argument.encode() in arguments and here


def start(argv: Sequence[str], *, namespace: str, view: View, unit: str, timeout: float = 10) -> None:
    """Start a daemon that puts itself into the background once it serves.

    :param namespace: path of the network namespace it shall live in ('': where we are).
    :param view: what it sees of the host's files.
    :param unit: the beginning of the name of its systemd scope.
    :param timeout: seconds that it may take until it serves.
    :raise CommandError: it could not start; carries what it wrote to stderr.
    :raise HostError: there is no such namespace, or the view cannot be made.
    """
    command = [*_scope(unit), *argv]
    try:
        view.within(namespace, lambda: run(command, timeout=timeout))
    except netns.NameGone as error:
        raise Vanished(argv[0], "start", str(error.strerror)) from error
    except OSError as error:
        raise HostError(argv[0], "start", f"{error.filename or namespace}: {error.strerror}") from error


def _scope(unit: str) -> list[str]:
    if not os.path.isdir(SYSTEMD):
        return []
    # A scope that is about to vanish still holds its name: a fresh one each time.
    name = f"{unit}-{secrets.token_hex(4)}.scope"
    return ["systemd-run", "--scope", "--quiet", "--collect", f"--slice={SLICE}", f"--unit={name}", "--"]


def from_file(pid_file: Path, identity: Identity) -> int | None:
    """The pid in a pid file, if that is this daemon, alive."""
    pid = _pid(pid_file)
    return pid if pid and identity.matches(pid) else None


def _pid(pid_file: Path) -> int:
    """The pid in a file that its daemon could have written anything to; 0 for anything else."""
    try:
        with pid_file.open("rb") as file:
            text = file.read(32).strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() and 1 < int(text) <= MAX_PID else 0


def running(identity: Identity) -> list[int]:
    """The pids of all processes that are this daemon, with or without a pid file."""
    return [pid for pid in pids() if identity.matches(pid)]


def pids() -> Iterator[int]:
    """All pids there are."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def lives_in(pid: int, namespace: str) -> bool:
    """Whether the network namespace of a process is the one that this path names now."""
    try:
        return os.path.samestat(os.stat(namespace), os.stat(f"/proc/{pid}/ns/net"))
    except OSError:
        return False


def let_die(pid_file: Path, *, patience: float = 2) -> None:
    """Wait for a daemon that is dying: it has no program any more, so nobody knows it, but it holds its sockets still.

    :param patience: seconds.
    """
    pid = _pid(pid_file)
    if not pid:
        return
    with _pinned(pid) as pidfd:
        if pidfd is not None and not os.path.exists(f"/proc/{pid}/exe"):
            _ended(pidfd, patience)


def end(pid: int, identity: Identity, *, patience: float = 5) -> None:
    """Make sure that this daemon does not run: SIGTERM, and SIGKILL to one that does not go.

    :param patience: seconds between the two, and seconds to wait after the second.
    :raise HostError: it is still there.
    """
    with _pinned(pid) as pidfd:
        if pidfd is None or not identity.matches(pid):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            _send(pidfd, number)
            if _ended(pidfd, patience):
                return
    raise HostError(f"{identity.program} ({pid})", "end", "it survived SIGKILL", hint="look at its state in /proc")


@contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in NO_PROCESS:
            raise
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def _ended(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
