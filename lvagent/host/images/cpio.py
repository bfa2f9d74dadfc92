"""An initramfs as the kernel reads it: cpio in "newc" format, owned by root, without times.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Equal content gives equal bytes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

ALIGN = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A member. ``mode`` has the file's type in it (stat.S_IFREG and so on); ``content`` of a link is its target."""

    name: str
    mode: int
    content: bytes = b""


def folder(name: str) -> Entry:
    """A directory, 0755."""
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | mode, content)


def archive(entries: list[Entry]) -> bytes:
    """The whole archive: the entries in their order (folders before what is in them) and the trailer."""
    members = [_member(number, entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*members, _member(0, Entry("TRAILER!!!", 0))])


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(raw: bytes) -> bytes:
    return raw + b"\0" * (-len(raw) % ALIGN)
