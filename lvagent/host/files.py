"""Files written whole or not at all, and removed without complaint."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write(path: Path, content: str | bytes, *, mode: int = 0o644, sync: bool = True) -> None:
    """Replace a file by content, atomically: a reader (and a crash) sees the old one or the new one.

    :param mode: permission bits of the new file.
    :param sync: False leaves out the fsync, for what is rebuilt after a reboot anyway.
    :raise OSError: no space, no folder, read-only.
    """
    raw = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            os.fchmod(file.fileno(), mode)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        remove(Path(temporary))
        raise


def folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder that is not there, and those above it, whatever the umask.

    :param mode: permission bits of the folder; those above it get 0755.
    :raise OSError: it cannot be made.
    """
    if path.is_dir():
        return
    if path.parent != path:
        folder(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:  # another thread was first; or it is no folder
        if not path.is_dir():
            raise
        return
    path.chmod(mode)


def remove(path: Path) -> None:
    """Make sure that there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def tail(path: Path, count: int) -> bytes:
    """The last bytes of a file; none if it is not there.

    :param count: how many, at most.
    :raise OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - count))
            return file.read(count)
    except FileNotFoundError:
        return b""


@contextlib.contextmanager
def flocked(path: Path) -> Iterator[None]:
    """Hold the flock of a file, which is made if need be; not to be taken twice.

    :raise OSError: it cannot be opened.
    """
    folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
