"""The unix socket in the file system: its mode and group from the first moment, and never two agents on it.

The socket's inode gets its mode before it has a name (fchmod(2) before bind(2); unix(7): the name is made with the
mode of the inode), so there is no moment at which it is open to more than it should be, and the umask, which all
threads share, stays as it is. Looking who is there, taking a dead one's name and listening are one step, under a lock
of the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from lvagent.errors import HostError

log = logging.getLogger(__name__)

PATH_MAX = 107
"""Bytes of a unix socket's path (unix(7))."""


def listen(path: Path, *, mode: int, group: str, backlog: int) -> socket.socket:
    """A listening unix socket of this name.

    :param mode: permission bits of the name.
    :param group: the group it belongs to; empty: the agent's own. One that is not there leaves it to the owner alone.
    :raise HostError: another agent listens there, something else has the name, or it cannot be made.
    """
    if len(os.fsencode(path)) > PATH_MAX:
        raise HostError(str(path), "listen on", f"its path has more than {PATH_MAX} bytes", hint="set api.socket")
    try:
        with _locked(path.parent):
            _make_room(path)
            return _bound(path, mode, _group_id(group), backlog)
    except OSError as error:
        raise HostError(str(path), "listen on", error.strerror or str(error)) from error


def _bound(path: Path, mode: int, group: int | None, backlog: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(made.fileno(), 0o600)
        made.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
            os.chmod(path, mode)
        else:
            os.chmod(path, mode & 0o700)
        made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def _group_id(group: str) -> int | None:
    if not group:
        return os.getegid()
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        log.warning("there is no group %s: the API is for the agent's own user only (setting api.group)", group)
        return None


def _make_room(path: Path) -> None:
    """Take away the socket of an agent that is dead.

    :raise HostError: it lives, or the name is not a socket's.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HostError(str(path), "listen on", "there is something else of that name", hint="move it away")
    if _answers(path):
        raise HostError(str(path), "listen on", "another agent is running", hint="stop it first")
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except ConnectionRefusedError:
            return False
    return True


def remove(path: Path, inode: int) -> None:
    """Take the name away, if it is still that of the socket with this inode."""
    with contextlib.suppress(FileNotFoundError), _locked(path.parent):
        if path.lstat().st_ino == inode:
            path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
