"""Judging a file of unknown origin, and all that it stands on.

A qcow2 file names its backing file, which may name another. Each must lie in a folder where backing files may be, be
reached without a link, be a regular file that only root and qemu can write to, and say of what format the next one is
(else whoever opens it guesses, and a guest that wrote a qcow2 header into a raw disk chooses what is opened next).
Below an image there are only images: else what many VMs read would hang on a disk that one of them writes.

What is judged is what was opened, and it stays open for whoever goes on with it: a name may mean another file by then.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lvagent.errors import HostError, LvagentError, SpecError
from lvagent.host import qcow2
from lvagent.host.beneath import open_beneath

MAX_CHAIN = 8
"""Backing files below one file."""

_PROTOCOL = re.compile(r"[^/:]*:")
"""What QEMU takes for the name of a protocol (path_has_protocol in its block.c): nbd:, json:, file: and so on."""

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What files may be used.

    ``volumes``: folders of volumes. ``images``: folder of images. ``owners``, ``groups``: uids and gids that may write
    to a file. ``largest``: virtual size, bytes.
    """

    volumes: tuple[str, ...]
    images: str
    owners: frozenset[int]
    groups: frozenset[int]
    largest: int


@dataclass(frozen=True, slots=True)
class Link:
    """A judged file of a chain. ``path``: the name that the file above has for it; None: it is the top.

    ``file``: its descriptor, open as long as the stack that ``judge`` was given. ``image``: it is in the image folder.
    """

    file: int
    header: qcow2.Header
    path: str | None
    identity: tuple[int, int]
    image: bool


def judge(stack: ExitStack, file: int, at: str, bounds: Bounds, *, image: bool = False) -> tuple[Link, ...]:
    """Judge an open file and all its backing files.

    :param stack: keeps the backing files open.
    :param at: JSON path for the error.
    :param image: whether it is one of the image folder.
    :return: the file and its backing files, the top first.
    :raise SpecError: one of them may not be used; the message says why.
    """
    links = [_link(file, None, at, bounds, image=image)]
    while (path := links[-1].header.backing_file) is not None:
        if len(links) > MAX_CHAIN:
            raise SpecError(at, f"it has more than {MAX_CHAIN} backing files")
        folder, inner = _place(path, links[-1].header.backing_format, at, bounds, image=image)
        image = folder == bounds.images
        try:
            below = regular_file(stack, opened_folder(stack, folder), inner, at)
        except FileNotFoundError as error:
            raise SpecError(at, "its backing file is not there") from error
        links.append(_link(below, path, at, bounds, image=image))
    return tuple(links)


def _link(file: int, path: str | None, at: str, bounds: Bounds, *, image: bool) -> Link:
    found = os.fstat(file)
    _check_rights(found, at, bounds)
    if not image and found.st_nlink != 1:
        raise SpecError(at, "has a second name (hard link)", "copy it: another VM may use it by that name")
    try:
        header = qcow2.parse(os.pread(file, qcow2.HEAD, 0), found.st_size)
    except qcow2.BadQcow2 as error:
        hint = "make one of it: qemu-img convert -f ... -O qcow2" if isinstance(error, qcow2.NotQcow2) else ""
        raise SpecError(at, f"the file {error}", hint) from error
    if header.virtual_size > bounds.largest:
        most = bounds.largest // qcow2.GIB
        raise SpecError(at, f"the file is a disk of more than {most} GiB", "volumes.largest_gb is the limit")
    return Link(file, header, path, (found.st_dev, found.st_ino), image)


def _check_rights(found: os.stat_result, at: str, bounds: Bounds) -> None:
    """Whoever may write to a file can change it after it was judged."""
    mode = stat.S_IMODE(found.st_mode)
    others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and found.st_gid not in bounds.groups)
    if found.st_uid not in bounds.owners or others:
        raise SpecError(at, "can be written to by others than root and qemu", "chown root:root, chmod go-w")
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise SpecError(at, "is a file that runs with the rights of its owner", "chmod ug-s")


def _place(path: str, kind: str | None, at: str, bounds: Bounds, *, image: bool) -> tuple[str, str]:
    """The folder a backing file is in, and the rest of its path."""
    folders = (bounds.images,) if image else (*bounds.volumes, bounds.images)
    if not path.startswith("/") and not _PROTOCOL.match(path):
        raise SpecError(at, "its backing file is named by a relative path", "qemu-img rebase -u, with an absolute one")
    place = inside(path, (*bounds.volumes, bounds.images))
    if place is None or os.path.normpath(path) != path:
        raise SpecError(at, "its backing file lies outside the volume and image folders")
    if place[0] not in folders:
        raise SpecError(at, "it is an image whose backing file is none", "images stand on images only")
    if kind != "qcow2":
        raise SpecError(at, "the format of its backing file is not said to be qcow2")
    return place


def inside(path: str, folders: Sequence[str]) -> tuple[str, str] | None:
    """The folder that a path is in by its letters, and the rest; the longest folder if there are several."""
    fitting = [folder for folder in folders if path.startswith(f"{folder}/")]
    folder = max(fitting, key=len, default=None)
    return None if folder is None else (folder, path.removeprefix(f"{folder}/"))


def opened_folder(stack: ExitStack, folder: str) -> int:
    """A configured folder, open as long as the stack lives. Its path is the operator's and may have links.

    :raise HostError: it is not there, or anybody may rename what is in it.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(folder, "open", str(error.strerror), hint="is it a folder, and there?") from error
    stack.callback(os.close, opened)
    if open_to_all(opened):
        raise HostError(folder, "trust", "everybody may write to it", hint="chmod o-w")
    return opened


def open_to_all(folder: int) -> bool:
    """Whether everybody may rename what is in an open folder."""
    mode = os.fstat(folder).st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def regular_file(stack: ExitStack, folder: int, path: str, at: str) -> int:
    """A regular file below a folder, open for reading. Nothing else is opened: a device would notice, a FIFO wait.

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


_NOT_HIS_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


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
    if error.errno in _NOT_HIS_FAULT:
        return HostError(at, "open", str(error.strerror))
    return SpecError(at, f"{what} {reasons.get(error.errno or 0, f'cannot be opened: {error.strerror}')}")
