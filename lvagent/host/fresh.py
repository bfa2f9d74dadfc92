"""A volume that is made: an empty qcow2 file, an overlay of an image, or a copy of one.

It is written under a temporary name, which nobody uses, with the rights it will have, and gets its own name in one step
that replaces nothing. Before that it is judged like any file that comes from elsewhere: it must be what was asked for,
and stand on the very image that was judged.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from lvagent.errors import CommandError, Conflict, HostError
from lvagent.host import qcow2, qemu_img
from lvagent.host.beneath import rename_new
from lvagent.host.chains import Bounds, Link, judge
from lvagent.spec import names

FULL_HINT = "free space in the folder of the volume"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Wish:
    """What the new file shall be.

    ``path``: for errors. ``size``: virtual size, bytes. ``image``: the judged chain of the image it begins as, open.
    ``backing``: the name by which it is an overlay of that image; None: a copy, or empty. ``owner``: uid and gid.
    ``reader``: uid and gid that qemu-img runs as. ``seconds``: for a copy.
    """

    path: str
    size: int
    image: tuple[Link, ...]
    backing: str | None
    owner: tuple[int, int]
    reader: tuple[int, int] | None
    seconds: int


def make(folder: int, vm: str, name: str, wish: Wish, bounds: Bounds) -> None:
    """Make a file in a folder.

    :param folder: descriptor.
    :raise Conflict: it exists by now.
    :raise HostError: no space, the file system or qemu-img refused, or it did not become what was asked for.
    """
    temporary = temporary_name(vm, name)
    unlink(folder, temporary)
    try:
        with _created(folder, temporary) as file:
            _fill(file, wish)
            _confirm(file, wish, bounds)
            rename_new(folder, temporary, name)
            _keep(folder, name, file, wish.path)
    except FileExistsError as error:
        raise Conflict(f"{wish.path} exists by now", path="volumes", hint="put the spec again") from error
    except OSError as error:
        raise _failure(wish.path, error) from error
    finally:
        unlink(folder, temporary)


def temporary_name(vm: str, name: str) -> str:
    """The name of a file while it is made; it begins with a dot, as no volume does."""
    if not names.VM_ID.match(vm):
        raise ValueError(f"{vm!r} is no id of a VM")
    return f".lvagent-{vm}-{name}"


def unlink(folder: int, name: str) -> None:
    """Make sure that there is no file of this name in a folder."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


@contextmanager
def _created(folder: int, name: str) -> Iterator[int]:
    file = os.open(name, _NEW, stat.S_IRUSR | stat.S_IWUSR, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)


def _fill(file: int, wish: Wish) -> None:
    lay_out(file, qcow2.new(wish.size, wish.backing))
    os.fchown(file, *wish.owner)
    if wish.reader is not None and wish.image and wish.backing is None:
        _copy(file, wish, wish.reader)
    os.fsync(file)


def lay_out(file: int, layout: qcow2.Layout) -> None:
    """Write a new qcow2 file.

    :param file: descriptor of an empty file.
    :raise OSError: no space.
    """
    os.ftruncate(file, layout.length)
    for offset, part in layout.parts:
        if os.pwrite(file, part, offset) != len(part):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _copy(file: int, wish: Wish, reader: tuple[int, int]) -> None:
    sources = [link.file for link in wish.image]
    try:
        qemu_img.convert(sources, "qcow2", file, wish.size, reader, wish.seconds)
    except CommandError as error:
        raise _copy_failure(wish.path, error) from error


def _confirm(file: int, wish: Wish, bounds: Bounds) -> None:
    with ExitStack() as stack:
        chain = judge(stack, file, "volumes", bounds)
    stands_on = [link.identity for link in chain[1:2]]
    meant = [link.identity for link in wish.image[:1]] if wish.backing is not None else []
    if stands_on != meant:
        raise Conflict(f"the image of {wish.path} was replaced just now", path="volumes", hint="put the spec again")
    if chain[0].header.virtual_size != wish.size or chain[0].header.dirty:
        raise HostError(wish.path, "make", "it did not become what was asked for")


def _keep(folder: int, name: str, file: int, path: str) -> None:
    """Make the name last, if what bears it is the file that was judged."""
    named, ours = os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(file)
    if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
        raise HostError(path, "make", "somebody put another file in its place", hint="who writes to its folder?")
    try:
        os.fsync(folder)
    except OSError:
        unlink(folder, name)
        raise


def _failure(path: str, error: OSError) -> HostError:
    return HostError(path, "make", str(error.strerror), hint=FULL_HINT if error.errno in _FULL else "")


def _copy_failure(path: str, error: CommandError) -> HostError:
    for code in _FULL:
        if os.strerror(code) in error.stderr:
            return HostError(path, "make", os.strerror(code), hint=FULL_HINT)
    hint = "" if error.code is not None else "raise volumes.timeout, or use volumes.copy = overlay"
    if os.strerror(errno.EACCES) in error.stderr:
        hint = "the account volumes.reader must be able to read the image: chmod o+r"
    return HostError(path, "copy the image for", error.cause, hint=hint)


def remove_regular(folder: int, name: str, path: str) -> None:
    """Make sure that a volume is not there.

    :raise HostError: what bears its name is no file, so it is not what was made.
    """
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise HostError(path, "remove", "it is no regular file", hint="it is not what was made; look at it")
    unlink(folder, name)
