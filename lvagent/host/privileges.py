"""Giving up what a process of root does not need (capabilities(7), prctl(2), user_namespaces(7)).

Capabilities belong to a thread, so all of this comes before the first thread is started. The bounding set is what
counts: root gets all of it back whenever it executes a program, and none of what is not in it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import threading
from collections.abc import Collection

log = logging.getLogger(__name__)

_NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip

NUMBERS = {name: number for number, name in enumerate(_NAMES)}
"""The capabilities by name (linux/capability.h)."""

PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 23, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_HIGHEST = 63

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def bound(names: Collection[str]) -> None:
    """Leave no capabilities but these to what this process executes.

    :param names: as in ``NUMBERS``.
    :raise OSError: it may not (EPERM: no CAP_SETPCAP).
    """
    for number in range(_HIGHEST + 1):
        if not _mask(names) >> number & 1 and _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl(PR_CAPBSET_DROP, number)


def keep(names: Collection[str]) -> None:
    """Keep no capabilities but these; nothing is inherited but what the bounding set lets through.

    :raise OSError: a step was refused.
    """
    header, sets = _own()
    for word, half in enumerate((_mask(names) & 0xFFFFFFFF, _mask(names) >> 32)):
        effective, permitted, inheritable = range(3 * word, 3 * word + 3)
        sets[permitted] &= half
        sets[effective] &= half
        sets[inheritable] = 0
    _prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    check(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")


def missing(names: Collection[str]) -> list[str]:
    """Those of these capabilities that this process does not have."""
    _, sets = _own()
    there = sets[0] | sets[3] << 32
    return [name for name in names if not there >> NUMBERS[name] & 1]


def _own() -> tuple[_Header, ctypes.Array[ctypes.c_uint32]]:
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    check(_libc.capget(ctypes.byref(header), ctypes.byref(sets)), "capget")
    return header, sets


def _mask(names: Collection[str]) -> int:
    return sum(1 << NUMBERS[name] for name in names)


def no_new_privileges() -> None:
    """Never gain anything by executing a file: no setuid, no file capabilities."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def no_dumps() -> None:
    """No core file and no reading by others of the same user: there are secrets in the memory.

    The limit alone does not keep a core from a program that the kernel pipes it to (core(5)).
    """
    limit(resource.RLIMIT_CORE, 0)
    _prctl(PR_SET_DUMPABLE, 0)


def limit(kind: int, most: int) -> None:
    """Set a limit, soft and hard; a hard one that is lower already stays.

    :param kind: a RLIMIT_ number.
    """
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def raise_open_files(most: int) -> None:
    """Open as many files as this, or as many as may be: above the hard limit goes only with CAP_SYS_RESOURCE."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for wish in (max(hard, most), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wish, wish))
        except (ValueError, OSError):  # not allowed, or above fs.nr_open
            continue
        return


def confine(names: Collection[str]) -> None:
    """What the agent does at its start: keep these capabilities, gain no others, leave no memory behind.

    Where that cannot be (a container) it is said, and the agent goes on with what it has.
    """
    assert threading.active_count() == 1, "threads keep what they have"
    os.umask(0o077)
    no_dumps()
    no_new_privileges()
    if lacking := missing(names):
        log.warning("the agent has no CAP_%s: some of its work will fail", ", CAP_".join(map(str.upper, lacking)))
    try:
        bound(names)
    except OSError as error:
        log.warning("the commands of the agent keep all capabilities: %s", error.strerror)
    keep(names)


def _prctl(option: int, value: int) -> None:
    check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def check(result: int, what: str) -> None:
    """Turn the failure of a call of libc into an OSError.

    :param result: what it returned.
    :raise OSError: that was not 0.
    """
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
