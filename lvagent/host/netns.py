"""Network namespaces: making, naming, entering and removing them, and the descriptors made inside.

A thread's namespace is its own. ``inside`` runs a function in a thread made for it, which ends in the namespace it
entered; so no thread of the agent is ever left in the wrong one. Sockets stay in the namespace they were made in,
whichever thread uses them later.

A namespace has a name as long as it is bind-mounted on a file, the way ip-netns(8) does it. The folder is a shared
mount, so that the name is seen in other mount namespaces too (libvirtd's, say), and it is locked while names come and
go, as ip locks it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lvagent.host import files

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_OURS = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


class NameGone(OSError):
    """No namespace has this name: there never was one, or it went away just now."""


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def enter(descriptor: int) -> None:
    """Put the calling thread into the network namespace of an open descriptor (setns(2))."""
    _check(_libc.setns(descriptor, CLONE_NEWNET), "setns")


def inside(path: str, function: Callable[[], T]) -> T:
    """Call a function in the namespace named by ``path`` (such as /run/netns/vpc-aaaaaaaaaa; empty: where we are).

    :return: what the function returns.
    :raise NameGone: there is no such namespace. Whatever the function raises comes through as it is.
    :raise OSError: it cannot be entered.
    """
    if not path:
        return function()

    def body() -> T:
        _enter_named(path)
        return function()

    return in_thread(body)


def _enter_named(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # A name that comes or goes is, for a moment, a file that no namespace is mounted on (EINVAL).
        if error.errno in (errno.ENOENT, errno.EINVAL):
            raise NameGone(error.errno, "there is no such namespace", path) from error
        raise


def in_thread(body: Callable[[], T]) -> T:
    """Call a function in a thread made for it: whatever namespace it enters, no other thread is there.

    :return: what it returns. Whatever it raises comes through as it is.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(body())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    try:
        if failure:
            raise failure[0]
        return result[0]
    finally:
        failure.clear()  # it knows this frame, which knows it: what both hold would wait for the collector


def scratch(function: Callable[[], T]) -> T:
    """Call a function in a new namespace, which ends with what the function leaves open.

    :raise OSError: no right to make one. Whatever the function raises comes through as it is.
    """

    def body() -> T:
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        return function()

    return in_thread(body)


def inode(path: str) -> int | None:
    """The identity of the namespace behind a name (or a /proc/PID/ns/net), None if there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def exists(path: str) -> bool:
    """Whether a namespace is mounted on the name; a plain file that a crash left there is none."""
    try:
        return os.stat(path).st_dev == os.stat(_OURS).st_dev
    except OSError:
        return False


def create(path: str) -> bool:
    """Make a network namespace with this name, unless there is one.

    What a crash left (a plain file without a namespace) is used.

    :return: whether it was made now.
    :raise OSError: no right to, or no such folder can be made.
    """
    folder = Path(path).parent
    files.folder(folder)
    with _locked(folder):
        if exists(path):
            return False
        _share(str(folder))
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))

        def body() -> None:
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            _check(_libc.mount(_OURS.encode(), path.encode(), b"none", _MS_BIND, None), path)

        try:
            in_thread(body)
        except OSError:
            os.unlink(path)
            raise
    return True


def prepare(folder: str) -> None:
    """Make the folder in which namespaces are named a shared mount, so that libvirtd sees what is made in it later.

    :raise OSError: no right to, or no such folder can be made.
    """
    files.folder(Path(folder))
    with _locked(Path(folder)):
        _share(folder)


def delete(path: str) -> None:
    """Make sure that there is no such name. The namespace itself ends when its last socket and thread do.

    :raise OSError: no right to.
    """
    if not os.path.lexists(path):
        return
    with _locked(Path(path).parent):
        while exists(path):
            failed = _libc.umount2(path.encode(), _MNT_DETACH)
            if failed and exists(path):  # else somebody was faster who does not lock the folder
                _check(failed, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _share(folder: str) -> None:
    """Make a folder a shared mount (as ``ip netns add`` does); it is one already at the next call."""
    flags = _MS_SHARED | _MS_REC
    if _libc.mount(b"", folder.encode(), b"none", flags, None) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:
        _check(-1, folder)
    _check(_libc.mount(folder.encode(), folder.encode(), b"none", _MS_BIND | _MS_REC, None), folder)
    _check(_libc.mount(b"", folder.encode(), b"none", flags, None), folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
