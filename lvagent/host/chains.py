"""Judging a file of unknown origin, and all that it stands on.

A qcow2 file names its backing file, which may name another. Each must lie in a folder where backing files may be, be
reached without a link, be a regular file, and say of what format the next one is (else whoever opens it guesses, and
a guest that wrote a qcow2 header into a raw disk chooses what is opened next).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack

from lvagent.errors import HostError, LvagentError, SpecError
from lvagent.host import qcow2
from lvagent.host.beneath import open_beneath

MAX_CHAIN = 8
"""Backing files below one file."""

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link"}


def judge(file: int, at: str, folders: Sequence[str], depth: int = MAX_CHAIN) -> qcow2.Header:
    """Judge an open file and all its backing files.

    :param at: JSON path for the error.
    :param folders: where backing files may lie.
    :raise SpecError: one of them may not be used; the message says why.
    """
    try:
        header = qcow2.parse(os.pread(file, qcow2.HEAD, 0), os.fstat(file).st_size)
    except qcow2.BadQcow2 as error:
        raise SpecError(at, f"the file {error}") from error
    if header.backing_file is not None:
        _judge_backing(header.backing_file, header.backing_format, at, folders, depth)
    return header


def _judge_backing(path: str, kind: str | None, at: str, folders: Sequence[str], depth: int) -> None:
    place = inside(path, folders)
    if place is None or os.path.normpath(path) != path:
        raise SpecError(at, "its backing file lies outside the volume and image folders")
    if kind != "qcow2":
        raise SpecError(at, "the format of its backing file is not said to be qcow2")
    if depth == 0:
        raise SpecError(at, f"it has more than {MAX_CHAIN} backing files")
    with ExitStack() as stack:
        try:
            file = regular_file(stack, opened_folder(stack, place[0]), place[1], at)
        except FileNotFoundError as error:
            raise SpecError(at, "its backing file is not there") from error
        judge(file, at, folders, depth - 1)


def inside(path: str, folders: Sequence[str]) -> tuple[str, str] | None:
    """The folder that a path is in by its letters, and the rest; the longest folder if there are several."""
    fitting = [folder for folder in folders if path.startswith(f"{folder}/")]
    folder = max(fitting, key=len, default=None)
    return None if folder is None else (folder, path.removeprefix(f"{folder}/"))


def opened_folder(stack: ExitStack, folder: str) -> int:
    """A configured folder, open as long as the stack lives. Its path is the operator's and may have links."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(folder, "open", str(error.strerror), hint="is it a folder, and there?") from error
    stack.callback(os.close, opened)
    return opened


def regular_file(stack: ExitStack, folder: int, path: str, at: str) -> int:
    """A regular file below a folder, open for reading. Nothing else is opened: a device would notice.

    :raise FileNotFoundError: there is nothing of that name.
    """
    try:
        pinned = open_beneath(folder, path, os.O_PATH)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refusal(at, error, "it") from error
    stack.callback(os.close, pinned)
    kind = stat.S_IFMT(os.fstat(pinned).st_mode)
    if kind != stat.S_IFREG:
        raise SpecError(at, f"is {_KINDS.get(kind, 'a device')}, not a file")
    try:
        file = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(path, "open", str(error.strerror)) from error
    stack.callback(os.close, file)
    return file


def refusal(at: str, error: OSError, what: str) -> LvagentError:
    """What an error of ``open_beneath`` tells the caller who sent the path."""
    reasons = {
        errno.ELOOP: "is, or leads through, a symbolic link",
        errno.EXDEV: "leads out of the volume folder",
        errno.ENOTDIR: "leads through something that is no folder",
        errno.ENOENT: "is not there",
        errno.ENAMETOOLONG: "has too long a name",
    }
    if error.errno == errno.ENOSYS:
        return HostError("openat2", "use", "the kernel does not have it", hint="Linux 5.6 or later is needed")
    return SpecError(at, f"{what} {reasons.get(error.errno or 0, f'cannot be opened: {error.strerror}')}")
