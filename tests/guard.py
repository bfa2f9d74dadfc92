"""Nothing that a test run started outlives it, however it ends.

Daemons leave their parent's process group and session, and a test that starts one knows it only a moment later. So a
run that was killed left some behind, with the machine's PID 1 for a parent. Now, before anything is started:

    front  --fork-->  guard  --fork-->  the tests: what pytest goes on in
    (waits)           (reaps)

The guard takes the place of PID 1 for all that the tests start, be it ever so deep (PR_SET_CHILD_SUBREAPER): what
loses its parent becomes its child. When the tests have ended, or the front has, by whatever signal, it waits a little
for who clears up by himself (the keepers of labs), and kills the rest. All three are in one process group, as a shell
expects; signals that somebody sends to the front reach the tests.

Is the guard itself killed, the tests end with it (PR_SET_PDEATHSIG), and labs do by their own means.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
PATIENCE = 8.0
"""Seconds for those who end by themselves when the tests have ended; then as many for those who were killed."""

_SENT = 0
"""si_code of a signal that a process sent (SI_USER); one of the terminal has reached the tests already."""

_libc = ctypes.CDLL(None, use_errno=True)


def begin() -> None:
    """Put the rest of this process under guard: it goes on as a grandchild, and only there does this return."""
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    alive, front = os.pipe()  # its writing end is the front's alone: it ends when that does
    told, tell = os.pipe()
    guard = os.fork()
    if guard:
        os.close(alive)
        os.close(tell)
        _wait(guard, told)
    os.close(front)
    os.close(told)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    tests = os.fork()
    if tests:
        os.write(tell, str(tests).encode())
        os.close(tell)
        _guard(tests, alive)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(alive)
    os.close(tell)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _wait(guard: int, told: int) -> NoReturn:
    """Be the front: pass signals on to the tests, and end as they did."""
    tests = int(os.read(told, 16) or b"0")
    while True:
        got = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if got.si_signo != signal.SIGCHLD and got.si_code == _SENT and tests:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tests, got.si_signo)
        ended, status = os.waitpid(guard, os.WNOHANG)
        if ended:
            os._exit(_code(status))


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _guard(tests: int, alive: int) -> NoReturn:
    """Reap whatever ends, until the tests have; then see to it that all has."""
    child, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    watched = [alive, child]
    code = None
    while code is None:
        code = _reap(tests)
        if code is None and alive in select.select(watched, [], [], 1)[0]:
            watched.remove(alive)
            os.kill(tests, signal.SIGKILL)
        _drain(child)
    _clear()
    os._exit(code)


def _drain(pipe: int) -> None:
    while select.select([pipe], [], [], 0)[0]:
        os.read(pipe, 512)


def _reap(tests: int) -> int | None:
    """Reap all that has ended; the exit code of the tests if they are among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == tests:
                code = _code(found[1])
    return code


def _clear() -> None:
    """Wait for what the tests have left, and then kill it; what it leaves in its turn comes here, too."""
    patient, end = time.monotonic() + PATIENCE, 0.0
    named: set[int] = set()
    while (left := _children()) and not 0 < end < time.monotonic():
        if time.monotonic() > patient:
            end = end or time.monotonic() + PATIENCE  # from the first who is killed: on a busy machine that is later
            for pid in left:
                if pid not in named:
                    os.write(2, f"tests: was left behind and is killed: {pid} {_argv(pid)}\n".encode())
                named.add(pid)
                os.kill(pid, signal.SIGKILL)  # nobody but this process reaps it, so it is no other by now
        time.sleep(0.02)
        _reap(0)


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _argv(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
