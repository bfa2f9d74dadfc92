"""Opening files below a folder that whoever owns the folder below it cannot lead astray.

openat2(2) resolves a path under an open folder and refuses, in the kernel and in one step, symbolic links, magic links
and ``..`` above the folder: there is no moment between a check and a use.
"""

from __future__ import annotations

import ctypes
import errno
import os

OPENAT2 = 437
"""Its number on every architecture (Linux 5.6)."""

NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 0x02, 0x04, 0x08
NOREPLACE = 1
_TRIES = 100

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(folder: int, path: str, flags: int) -> int:
    """Open a path below a folder, without following any link.

    :param folder: descriptor of the folder.
    :param flags: as of open(2), without O_CREAT.
    :return: a descriptor, closed on exec.
    :raise OSError: ELOOP: a symbolic link is in it; EXDEV: it leads out; and as of open(2).
    """
    how = _How(flags | os.O_CLOEXEC, 0, BENEATH | NO_SYMLINKS | NO_MAGICLINKS)
    for _ in range(_TRIES):
        got: int = _libc.syscall(
            ctypes.c_long(OPENAT2),
            ctypes.c_int(folder),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if got >= 0:
            return got
        # Something was renamed while the kernel looked: it could not prove where it was.
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def rename_new(folder: int, old: str, new: str) -> None:
    """Give a file in a folder its final name, in one step, unless that name is taken (renameat2(2)).

    :raise FileExistsError: it is taken.
    """
    if _libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)
