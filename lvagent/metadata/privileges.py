"""Giving up all that a process of root has.

The order matters: what needs a capability comes before the capability goes. After it the process

* is an ordinary user without groups and capabilities, and gains none by executing a file;
* sees no file: its mount namespace holds one empty file system, which cannot be written to. In that it is shut up once
  more (chroot), because such a process cannot make a user namespace (user_namespaces(7), EPERM), in which it would be
  root over a network of its own, and the kernel's code for that within its reach;
* reaches nothing but the sockets it was handed: its network namespace is empty, and of pids, IPC and host names it has
  its own, so that it cannot send a signal to another process of the same user;
* starts no process and no thread, and takes no more memory, and no more room for its log, than it needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
from collections.abc import Collection
from pathlib import Path

from lvagent.host import privileges

_NEW_MOUNTS, _NEW_NAME, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_PIDS, _NEW_NETWORK = 0x20000000, 0x40000000
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS, _REMOUNT = 1, 2, 4, 8, 32
_RECURSIVE, _PRIVATE = 1 << 14, 1 << 18
_DETACH = 2
_PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41
"""The number of the system call, for which libc has no function (asm/unistd.h; elsewhere asm-generic/unistd.h)."""

OPEN_FILES = 262_144

MEMORY = 4 << 30
"""Bytes of address space. Ten thousand guests with all the user data there may be take one GiB."""

LOG = 4 << 20
"""Bytes that a file it writes to may have: of the log, which is emptied at one MiB."""

_libc = ctypes.CDLL(None, use_errno=True)


def leave_pids() -> None:
    """Let the children of this process have pids of their own; the first of them is their init.

    :raise OSError: no right to.
    """
    privileges.check(_libc.unshare(_NEW_PIDS), "unshare")


def give_up(user: str, root: str, keep: Collection[int]) -> None:
    """Become ``user``, for good.

    :param root: a folder, over which the empty file system is mounted; nobody else sees that.
    :param keep: descriptors that stay open.
    :raise KeyError: there is no such user.
    :raise OSError: a step was refused; the process must not go on.
    """
    account = pwd.getpwnam(user)
    if account.pw_uid == 0:
        raise PermissionError(f"{user} is root")
    _close_others(keep)
    _be_the_first_to_go()
    os.umask(0o077)
    privileges.check(_libc.unshare(_NEW_MOUNTS | _NEW_NAME | _NEW_IPC | _NEW_NETWORK), "unshare")
    # Without CAP_SETPCAP the set stays as it is, which no_new_privileges makes worth nothing.
    with contextlib.suppress(PermissionError):
        privileges.bound(())
    _leave_files(root)
    _limit()
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    privileges.keep(())
    privileges.no_new_privileges()
    privileges.no_dumps()


def _be_the_first_to_go() -> None:
    """When memory runs out this process goes before the agent, whose score it has inherited."""
    score = Path("/proc/self/oom_score_adj")
    if int(score.read_text()) < 0:  # one that somebody has raised may not be lowered
        score.write_text("0")


def _close_others(keep: Collection[int]) -> None:
    first = 0
    for descriptor in sorted(keep):
        if first < descriptor:  # CPython takes (0, 0) for all
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _leave_files(root: str) -> None:
    """Put an empty file system in the place of all (pivot_root(2), "pivot_root(".", ".")"), and go into it."""
    flags = _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS
    _mount("none", "/", "", _PRIVATE | _RECURSIVE)
    _mount("nothing", root, "tmpfs", flags, "size=4k,nr_inodes=2,mode=555")
    os.mkdir(f"{root}/nothing")
    os.chmod(f"{root}/nothing", 0o555)
    _mount("nothing", root, "", flags | _READ_ONLY | _REMOUNT)
    os.chdir(root)
    privileges.check(_libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
    privileges.check(_libc.umount2(b".", _DETACH), "umount")
    os.chroot("/nothing")
    os.chdir("/")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    made = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    privileges.check(made, f"mount {target}")


def _limit() -> None:
    privileges.raise_open_files(OPEN_FILES)
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, LOG),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        privileges.limit(kind, most)
