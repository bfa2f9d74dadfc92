"""The one place that starts commands.

Argument lists only, a time limit on everything, stderr kept for the error. Every call is logged as a line that can be
pasted into a shell. A command is the leader of a process group of its own: who runs out of time is ended with all that
it started.

What reads files of unknown origin runs ``Confined``: as an account that owns nothing, without capabilities and without
a network, within limits that the kernel keeps. That is done by prlimit(1), unshare(1) and setpriv(1) in front of the
command, not by code between fork and exec, which is unsafe in a process with threads; they cost 5 ms.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lvagent.errors import CommandError

log = logging.getLogger(__name__)

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
MEMORY = 2 << 30
FILES = 64
PROCESSES = 2048
"""Threads of one uid, so of all commands that run as this account at once: a qemu-img has some ten."""


@dataclass(frozen=True, slots=True)
class Confined:
    """Rights and limits of a command (setpriv(1), getrlimit(2)).

    ``uid``, ``gid``: its only ones. ``cpu``: seconds. ``file_size``: bytes that a file it writes may have. ``memory``:
    bytes of address space.
    """

    uid: int
    gid: int
    cpu: int
    file_size: int
    memory: int = MEMORY

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command with all that confines it.

        It dies with the thread that started it, and is the first of its pid namespace: what it started and left behind
        ends with it, so that nobody holds a descriptor of ours afterwards.
        """
        limits = [f"--cpu={self.cpu}", f"--fsize={self.file_size}", f"--as={self.memory}"]
        limits += [f"--nofile={FILES}", f"--nproc={PROCESSES}", "--core=0"]
        account = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--no-new-privs"]
        account += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--pdeathsig=KILL"]
        alone = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--"]
        dies = ["setpriv", "--pdeathsig=KILL", "--"]
        return ["prlimit", *limits, "--", *dies, *alone, "setpriv", *account, "--", *command]


def run(
    argv: Sequence[str],
    *,
    timeout: float = 30,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    confined: Confined | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a command to its end, in the namespaces of the calling thread.

    :param timeout: seconds, after which it is killed with all that it started.
    :param stdin: text for its standard input; None: empty.
    :param env: variables over a minimal environment (PATH, LC_ALL=C).
    :param confined: as whom and within which limits, in the folder /; None: as the agent.
    :param pass_fds: descriptors that it inherits, under the same numbers.
    :return: its standard output.
    :raise CommandError: it is not there, ended with another code than 0, or not in time.
    """
    whole = list(argv) if confined is None else confined.argv(argv)
    log.debug("run %s", shlex.join(whole))
    try:
        with subprocess.Popen(
            whole,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={"PATH": PATH, "LC_ALL": "C", **(env or {})},
            cwd=None if confined is None else "/",
            pass_fds=pass_fds,
            process_group=0,
        ) as process:
            return _result(process, argv, stdin or "", timeout)
    except FileNotFoundError as error:
        raise CommandError(argv, 127, f"{whole[0]}: command not found", hint="is its package installed?") from error
    except OSError as error:
        raise CommandError(argv, 126, os.strerror(error.errno or 0)) from error


def _result(process: subprocess.Popen[str], argv: Sequence[str], stdin: str, timeout: float) -> str:
    try:
        out, told = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _end(process)
        _, told = process.communicate()
        raise CommandError(argv, None, told) from error
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        raise CommandError(argv, process.returncode, told)
    return out


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the command's process group; it has not been waited for, so the number is still its own."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
