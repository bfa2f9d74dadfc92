"""What a daemon sees of the host's files: all of it read-only, but for one folder, and some of it not at all.

A daemon that parses what guests send may be taken over by one. It runs as a user of its own; but that user may write to
/tmp, read all that is not closed to everybody, and ask libvirt's read-only socket. So it gets a mount namespace, and in
that a view. The thread that starts it goes into the view first, and what it executes stays there; no other program is
needed for that. Mounts that go away on the host go away here too (they are slaves, mount_namespaces(7)); names of
network namespaces are taken out at once, else those would live on here.

Needs mount_setattr(2), so Linux 5.12.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lvagent.host import netns
from lvagent.host.privileges import check

T = TypeVar("T")

_NEW_MOUNTS = 0x00020000
_BIND, _RECURSIVE, _SLAVE = 1 << 12, 1 << 14, 1 << 19
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_DETACH = 2
_MOUNT_SETATTR = 442
"""The number of the system call, the same on every machine; libc has the function since 2.36 only."""

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """struct mount_attr of linux/mount.h; its first flags are those of mount(2)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


@dataclass(frozen=True, slots=True)
class View:
    """``writable``: the one folder. ``hidden``: folders that are shown empty; the writable one may be in one of them.
    ``namespaces``: the folder of the names of network namespaces."""

    writable: str
    hidden: Sequence[str]
    namespaces: str

    def within(self, namespace: str, function: Callable[[], T]) -> T:
        """Call a function in a thread that has this view and is in the network namespace of this name.

        :raise OSError: a step was refused. Whatever the function raises comes through as it is.
        """

        def body() -> T:
            self._enter()
            return function()

        return netns.inside(namespace, body) if namespace else netns.in_thread(body)

    def _enter(self) -> None:
        """Put the calling thread, and it alone, into the view."""
        check(_libc.unshare(_NEW_MOUNTS), "unshare")
        _mount("none", "/", "", _SLAVE | _RECURSIVE)
        while _libc.umount2(os.fsencode(self.namespaces), _DETACH) == 0:
            pass
        _set("/", _AT_RECURSIVE, _READ_ONLY | _NO_SETUID, 0)
        folder = os.open(self.writable, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._hide()
            _mount(f"/proc/self/fd/{folder}", self.writable, "", _BIND)
        finally:
            os.close(folder)
        _set(self.writable, 0, _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS, _READ_ONLY)
        # Of processes it sees those of its own user.
        _mount("proc", "/proc", "proc", _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS, "hidepid=invisible")

    def _hide(self) -> None:
        flags = _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS
        for place in filter(os.path.isdir, self.hidden):
            _mount("nothing", place, "tmpfs", flags, "size=64k,nr_inodes=16,mode=755")
            if os.path.commonpath([place, self.writable]) == place:
                os.makedirs(self.writable, exist_ok=True)
                _open_way(place, self.writable)
            _set(place, 0, _READ_ONLY, 0)


def _open_way(top: str, bottom: str) -> None:
    """Let everybody pass the folders from one to the other, whatever the umask."""
    while bottom != top:
        os.chmod(bottom, 0o755)
        bottom = os.path.dirname(bottom)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    raw = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    check(_libc.mount(*raw), f"mount {target}")


def _set(target: str, how: int, flags: int, cleared: int) -> None:
    wish = _Attributes(flags, cleared, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(wish))
    made = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), how, ctypes.byref(wish), size)
    check(made, f"mount_setattr {target}")
