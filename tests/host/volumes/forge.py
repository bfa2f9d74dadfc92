"""Disk images made byte by byte, sound ones and hostile ones; nothing here uses the code under test or qemu-img.

Sources: docs/interop/qcow2.txt of QEMU; VMware's "Virtual Disk Format 5.0" (VMDK descriptors).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

CLUSTER = 1 << 16
MIB = 1 << 20
DATA_FILE_BIT = 1 << 2
RAW_DATA_FILE_BIT = 1 << 1
BACKING_FORMAT, DATA_FILE, BITMAPS = 0xE2792ACA, 0x44415441, 0x23852875


def qcow2(
    *,
    size: int = 4 * MIB,
    version: int = 3,
    backing: str | bytes | None = None,
    backing_format: str | None = None,
    features: int = 0,
    autoclear: int = 0,
    extensions: Sequence[tuple[int, bytes]] = (),
    content: bytes = b"",
) -> bytes:
    """A qcow2 file: header, refcount table, refcount block, L1 table, and with ``content`` an L2 table and a cluster.

    :param extensions: pairs (type, data) of header extensions besides the backing file's format.
    :param content: what the disk begins with.
    """
    length = 72 if version == 2 else 104
    said = [(BACKING_FORMAT, backing_format.encode())] if backing_format is not None else []
    area = b"".join(
        struct.pack(">II", kind, len(raw)) + raw.ljust(-(-len(raw) // 8) * 8, b"\0")
        for kind, raw in (*said, *extensions)
    ) + bytes(8)
    name = backing.encode() if isinstance(backing, str) else backing or b""
    place = length + len(area) if backing is not None else 0
    head = struct.pack(">4sIQIIQII", b"QFI\xfb", version, place, len(name), 16, size, 0, 1)
    head += struct.pack(">QQIIQ", 3 * CLUSTER, CLUSTER, 1, 0, 0)
    if version == 3:
        head += struct.pack(">QQQII", features, 0, autoclear, 4, length)
    clusters = [head + area + name, struct.pack(">Q", 2 * CLUSTER), struct.pack(">H", 1) * (6 if content else 4), b""]
    if content:
        copied = 1 << 63
        clusters[3] = struct.pack(">Q", copied | 4 * CLUSTER)
        clusters += [struct.pack(">Q", copied | 5 * CLUSTER), content]
    return b"".join(cluster.ljust(CLUSTER, b"\0") for cluster in clusters)


def with_data_file(name: str, *, raw: bool = False, size: int = 4 * MIB) -> bytes:
    """A qcow2 file whose content is in another file: its first cluster is the other one's."""
    autoclear = RAW_DATA_FILE_BIT if raw else 0
    file = bytearray(
        qcow2(size=size, features=DATA_FILE_BIT, autoclear=autoclear, extensions=[(DATA_FILE, name.encode())])
    )
    copied = 1 << 63
    file[3 * CLUSTER : 3 * CLUSTER + 8] = struct.pack(">Q", copied | 4 * CLUSTER)
    table = b"".join(struct.pack(">Q", copied | number * CLUSTER) for number in range(size // CLUSTER))
    file[2 * CLUSTER + 8 : 2 * CLUSTER + 10] = struct.pack(">H", 1)
    return bytes(file) + table.ljust(CLUSTER, b"\0")


def vmdk_descriptor(extent: str, kind: str = "monolithicFlat") -> bytes:
    """A VMDK that is text: the disk is the file that it names."""
    text = f"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="{kind}"

# Extent description
RW 8 FLAT "{extent}" 0

ddb.adapterType = "ide"
ddb.geometry.cylinders = "1"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
"""
    return text.encode().ljust(1024, b"\0")


def vmdk_sparse(extent: str) -> bytes:
    """A VMDK with a binary header, in which a descriptor names another file."""
    descriptor = vmdk_descriptor(extent, "twoGbMaxExtentFlat")
    head = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 1, 3, 8, 128, 1, 2, 512, 0, 0, 3, 0, b"\n \r\n", 0)
    return head.ljust(512, b"\0") + descriptor


def raw_disk() -> bytes:
    """A raw disk with a partition table."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", 2048, 2048)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa" + bytes(4 * MIB - 512)


def iso() -> bytes:
    """The volume descriptors of an ISO 9660 file system."""
    return bytes(32_768) + b"\x01CD001\x01\0" + bytes(2040) + b"\xffCD001\x01" + bytes(2041)
