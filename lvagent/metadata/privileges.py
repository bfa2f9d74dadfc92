"""Giving up all that a process of root has (capabilities(7), credentials(7)).

The order matters: what needs a capability comes before the capability goes. After it the process is an ordinary user
without groups; it cannot gain anything by executing a file; its root folder is empty; and its own network namespace is
empty too, so that it reaches nothing but the sockets it was handed.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource

CLONE_NEWNET = 0x40000000
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
OPEN_FILES = 262_144

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def give_up(user: str, root: str) -> None:
    """Become ``user``, for good.

    :param root: an empty folder, from now on all that the process can see of the host.
    :raise KeyError: there is no such user.
    :raise OSError: a step was refused; the process must not go on.
    """
    account = pwd.getpwnam(user)
    if account.pw_uid == 0:
        raise PermissionError(f"{user} is root")
    _limit()
    os.umask(0o077)
    _check(_libc.unshare(CLONE_NEWNET))
    _empty_bounding_set()
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    _clear_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)


def _limit() -> None:
    """Many sockets, and no core file that would hold the guests' secrets."""
    most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], OPEN_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, PermissionError):  # above fs.nr_open
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _empty_bounding_set() -> None:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _prctl(PR_CAPBSET_DROP, capability)


def _clear_capabilities() -> None:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    empty = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(empty)))


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
