"""Formats that are not ours, told by their magic numbers.

The agent takes qcow2 and nothing else. This is for two things: an error that names what somebody sent in its place, and
an image that is two things at once. A file can begin as a qcow2 file and still be a CD or a virtual disk of another
kind for whoever guesses; we never guess, but an image is handed on, to tools that do.

Sources: QEMU's block drivers (block/*.c, their probe functions), ECMA-119 (ISO 9660), the UEFI specification (GPT).
"""

from __future__ import annotations

HEAD = 1 << 16
"""Bytes of the beginning that are looked at."""
TAIL = 512
"""Bytes of the end."""

QCOW2 = b"QFI\xfb"

_BEGINNINGS = (
    (b"KDMV", "a VMDK"),
    (b"COWD", "a VMDK"),
    (b"# Disk DescriptorFile", "a VMDK descriptor, which names other files"),
    (b"QED\0", "a QED"),
    (b"vhdxfile", "a VHDX"),
    (b"conectix", "a VHD"),
    (b"LUKS\xba\xbe", "a LUKS container"),
    (b"WithoutFreeSpace", "a Parallels disk"),
    (b"WithouFreSpacExt", "a Parallels disk"),
    (b"Bochs Virtual HD Image", "a Bochs disk"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
)
_INSIDE = (
    (64, b"\x7f\x10\xda\xbe", "a VDI"),
    (512, b"EFI PART", "a raw disk"),
    (32_769, b"CD001", "an ISO 9660 file system"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (510, b"\x55\xaa", "a raw disk"),
)
_ENDINGS = (
    (512, b"conectix", "a VHD"),
    (512, b"koly", "a DMG"),
)


def named(head: bytes) -> str:
    """What a file is that is no qcow2, by its first ``HEAD`` bytes; empty if nothing tells."""
    for magic, name in _BEGINNINGS:
        if head.startswith(magic):
            return name
    return _inside(head)


def also(head: bytes, tail: bytes) -> str:
    """What a qcow2 file is besides; empty if nothing tells.

    :param head: the part of its beginning in which there may be a header only.
    :param tail: its last ``TAIL`` bytes.
    """
    found = _inside(head)
    for before_end, magic, name in _ENDINGS:
        if tail[-before_end:].startswith(magic):
            found = found or name
    return found


def _inside(head: bytes) -> str:
    for offset, magic, name in _INSIDE:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""
