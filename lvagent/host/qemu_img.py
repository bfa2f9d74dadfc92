"""qemu-img, the one use we have for it: to copy the content of a disk into a new qcow2 file.

It reads what others wrote, so it is given descriptors and no names: the files that were judged are the files that it
reads, whatever the names mean by then. Each node of the chain is said with its format, and below the last one there is
none: neither a format is probed nor a name in a header followed. QEMU 7.2's qemu-img has no ``add-fd``, so a descriptor
is opened once more as /proc/self/fd/N: that needs no rights in the folders above, only those of the file itself, for
the account that qemu-img runs as.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Sequence

from lvagent.errors import HostError
from lvagent.host.run import Confined, run

METADATA = 64 << 20
"""Bytes that the tables of any qcow2 file may have, over a thousandth of the disk's size."""


def account(user: str, setting: str) -> tuple[int, int]:
    """The uid of an account, and the gid of its own group.

    :param setting: where the name comes from, for the error.
    :raise HostError: there is none.
    """
    try:
        found = pwd.getpwnam(user)
    except KeyError as error:
        raise HostError(f"the account {user!r}", "find", "there is none", hint=f"make it, or set {setting}") from error
    return found.pw_uid, found.pw_gid


def group(name: str, setting: str) -> int:
    """The gid of a group.

    :raise HostError: there is none.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise HostError(f"the group {name!r}", "find", "there is none", hint=f"make it, or set {setting}") from error


def convert(sources: Sequence[int], kind: str, target: int, size: int, reader: tuple[int, int], seconds: int) -> None:
    """Copy a disk into an empty qcow2 file.

    :param sources: descriptors of the disk's file and of its backing files, the top first.
    :param kind: format of the first (``raw`` or ``qcow2``); all others are qcow2.
    :param target: descriptor of an empty qcow2 file of at least the disk's size; belongs to the caller afterwards, as
        before.
    :param size: virtual size of the target, bytes.
    :param reader: uid and gid that qemu-img runs as; it must be able to read the sources.
    :param seconds: of time, and of CPU time.
    :raise CommandError: it failed, or took too long.
    """
    owner = os.fstat(target)
    confined = Confined(*reader, cpu=seconds, file_size=size + size // 1000 + METADATA)
    argv = ["qemu-img", "convert", "-n", "--target-is-zero", "-f", kind, "-O", "qcow2", _node(sources, kind)]
    os.fchown(target, *reader)
    try:
        run([*argv, _place(target)], timeout=seconds, confined=confined, pass_fds=(*sources, target))
    finally:
        os.fchown(target, owner.st_uid, owner.st_gid)


def _node(sources: Sequence[int], kind: str) -> str:
    """The chain as a pseudo-protocol name (qemu(1), "json:"): made of numbers alone."""
    node: dict[str, object] | None = None
    for source in reversed(sources):
        file = {"driver": "file", "filename": _place(source)}
        node = {"driver": "qcow2", "file": file, "backing": node}
    if node is not None and kind == "raw":
        node = {"driver": "raw", "file": node["file"]}
    return f"json:{json.dumps(node)}"


def _place(file: int) -> str:
    return f"/proc/self/fd/{file}"
