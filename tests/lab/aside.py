"""Other software of a host, beside lvagent: it runs in the host's network, and sees files and processes of its own.

    with Aside(tree) as aside:
        aside.start("firewalld", "--nofork")
        aside.run("firewall-cmd", "--reload")

``tree`` (see ``unpacked``) is laid over /usr; /etc is the machine's with what is written to it kept apart, and /run,
/var, /tmp and /root are empty. All of it lives in a mount and a pid namespace whose PID 1 ends when the writing end of
a pipe does, which only the test holds: then the kernel ends every process in it. Modules are not loaded from there:
whatever needs one has the kernel ask for it, and br_netfilter would reach bridges of the machine.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
FIRST = Path(__file__).with_name("aside.sh")


class Aside:
    """Such a place, in the network namespace of the calling thread, or of where ``within`` leads.

    :param tree: what is laid over /usr.
    :param within: a command that executes another one elsewhere: ``LabHost.argv``.
    """

    def __init__(self, tree: Path, within: Sequence[str] = ()) -> None:
        self._tree = tree
        self._within = within
        self._first: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self.pid = 0
        """Its PID 1, as the machine counts."""

    def __enter__(self) -> Self:
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        self._first = subprocess.Popen(
            [*self._within, *enter, "sh", str(FIRST), str(self._tree)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd="/",
        )  # fmt: skip
        assert self._first.stdout is not None
        if self._first.stdout.readline() != "ready\n":
            _, said = self._first.communicate(timeout=30)
            raise AssertionError(f"no place beside the host came up: {said}")
        self.pid = _first_below(self._first.pid)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        assert self._first is not None
        self._first.communicate(timeout=60)  # its input ends, and with it all
        for one in self._started:
            one.wait(timeout=60)

    def _argv(self, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", "--wd=/", "--"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", *command]

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Run a command in it; what it wrote, errors too.

        :raise AssertionError: it ended with another code than 0.
        """
        done = subprocess.run(
            self._argv(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=ENVIRONMENT, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (command, done.returncode, done.stdout)
        return done.stdout

    def start(self, *command: str, log: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a program that stays; it ends with the place at the latest."""
        started = subprocess.Popen(
            self._argv(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
        )
        self._started.append(started)
        return started

    def path(self, inside: str) -> Path:
        """A path in it, as the machine sees it; without links that are absolute."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        """Write a file in it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _first_below(pid: int) -> int:
    """The PID 1 of the innermost pid namespace, at the end of the processes that only wait for one another."""
    while True:
        with contextlib.suppress(ValueError):
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            counted = next(line for line in status if line.startswith("NSpid:")).split()
            if len(counted) > 2 and counted[-1] == "1":
                return pid
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def until(done: Callable[[], object], seconds: float, step: float = 0.02) -> bool:
    """Whether something comes to be within this time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True
