"""The qcow2 header: read with suspicion, and written.

A qcow2 file can name other files: a backing file, an external data file. Whoever opens it opens those too, so a file
of unknown origin is judged by its header before any program that follows such names sees it. What is judged here is
the format (docs/interop/qcow2.txt of QEMU, and the limits of its block/qcow2.h); which places a backing file may lie
in is judged by ``chains``. Nothing is followed and nothing allocated by what the file says: ``HEAD`` bytes are read,
whatever they are.

Not judged are the tables themselves (L1, L2, refcounts, the entries of snapshots and bitmaps): they hold offsets into
the same file, and qemu bounds them when it reads them. A guest cannot write any of this: what it writes to its disk
lands in data clusters, which are not looked at for a header.

A new file has four parts and no data: header, refcount table, one refcount block, L1 table. Writing these few bytes
takes a tenth of a millisecond, starting qemu-img some 12 ms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lvagent.host import foreign

MAGIC = foreign.QCOW2
HEAD = foreign.HEAD
"""How many bytes of the beginning ``parse`` is to be given: header, extensions and names are in there."""

GIB = 1 << 30
SECTOR = 512
MAX_L1 = (32 << 20) // 8
"""Entries (QCOW_MAX_L1_SIZE in QEMU's block/qcow2.h)."""
MAX_REFTABLE = 8 << 20
"""Bytes (QCOW_MAX_REFTABLE_SIZE)."""
MAX_SNAPSHOTS, SNAPSHOT = 65_536, 40
"""QCOW_MAX_SNAPSHOTS; bytes of the smallest entry of the snapshot table."""
MAX_BITMAPS = 65_535
"""QCOW2_MAX_BITMAPS; their directory may have a KiB for each."""
MAX_NAME, MAX_FORMAT = 1023, 15
"""Bytes of a backing file's name, and of its format's."""

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
KNOWN_FEATURES = 0b11111
"""Incompatible features of the format; a file with another one may mean anything."""
BITMAPS, RAW_DATA_FILE = 1 << 0, 1 << 1
"""Autoclear features."""
ZSTD = 1
"""The one compression type besides 0 (zlib)."""

EXT_END, EXT_BACKING_FORMAT, EXT_DATA_FILE, EXT_LUKS = 0, 0xE2792ACA, 0x44415441, 0x0537BE77
EXT_BITMAPS = 0x23852875

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_BITMAPS = struct.Struct(">IIQQ")
COMPRESSION_AT = _V2.size + _V3.size
"""Where the compression type stands, the first of the additional fields."""
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS


class BadQcow2(Exception):
    """The file is no qcow2 file that may be used; says why."""


class NotQcow2(BadQcow2):
    """It is something else."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a file that was found sound. ``virtual_size`` in bytes.

    ``dirty``: it was not closed properly, and qemu repairs it when it opens it to write. ``header_end``: bytes of its
    beginning in which the format allows nothing but the header.
    """

    version: int
    virtual_size: int
    backing_file: str | None
    backing_format: str | None
    dirty: bool = False
    header_end: int = CLUSTER


@dataclass(frozen=True, slots=True)
class Layout:
    """A new file: pairs (offset, bytes), all else a hole, and its length in bytes."""

    parts: tuple[tuple[int, bytes], ...]
    length: int


@dataclass(frozen=True, slots=True)
class _Fields:
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt: int
    l1_size: int
    l1_offset: int
    reftable_offset: int
    reftable_clusters: int
    snapshots: int
    snapshots_offset: int
    features: int
    autoclear: int
    refcount_order: int
    header_length: int
    compression: int

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits


def parse(head: bytes, file_size: int) -> Header:
    """Judge a file by its beginning.

    :param head: its first ``HEAD`` bytes (all of it, if it is shorter).
    :param file_size: its length in bytes.
    :raise BadQcow2: it is no qcow2, is damaged, encrypted, has an external data file, an absurd size or a feature that
        is not known.
    """
    fields = _fields(head)
    _check_features(fields)
    _check_sizes(fields)
    end = -(-file_size // fields.cluster) * fields.cluster
    extensions = _extensions(head, fields)
    _check_extensions(extensions, fields)
    _check_places(fields, extensions.get(EXT_BITMAPS), end)
    backing_format = extensions.get(EXT_BACKING_FORMAT)
    return Header(
        version=fields.version,
        virtual_size=fields.size,
        backing_file=_backing(head, fields),
        backing_format=None if backing_format is None else _name(backing_format, MAX_FORMAT),
        dirty=bool(fields.features & DIRTY),
        header_end=min(fields.cluster, HEAD),
    )


def _check(*checks: tuple[bool, str]) -> None:
    for sound, otherwise in checks:
        if not sound:
            raise BadQcow2(otherwise)


def _fields(head: bytes) -> _Fields:
    if head[:4] != MAGIC:
        other = foreign.named(head)
        raise NotQcow2(f"is not a qcow2 file, but {other}" if other else "is not a qcow2 file")
    version = struct.unpack_from(">I", head, 4)[0] if len(head) >= 8 else 0
    if version not in (2, 3) or len(head) < (_V2.size if version == 2 else COMPRESSION_AT):
        raise NotQcow2("is not a qcow2 file of version 2 or 3")
    _, _, name, name_size, bits, size, crypt, l1, l1_at, ref_at, refs, snapshots, at = _V2.unpack_from(head)
    features, _, autoclear, order, length = (0, 0, 0, 4, _V2.size) if version == 2 else _V3.unpack_from(head, _V2.size)
    compression = head[COMPRESSION_AT] if length > COMPRESSION_AT < len(head) else 0
    return _Fields(
        *(version, name, name_size, bits, size, crypt, l1, l1_at, ref_at, refs, snapshots, at),
        *(features, autoclear, order, length, compression),
    )


def _check_features(fields: _Fields) -> None:
    features = fields.features
    _check(
        (not fields.crypt, "is encrypted"),
        (not features & DATA_FILE and not fields.autoclear & RAW_DATA_FILE, "has an external data file"),
        (not features & CORRUPT, "is marked corrupt"),
        (not features & ~KNOWN_FEATURES, "has a feature that is not known"),
        (fields.compression in (0, ZSTD), "has a compression that is not known"),
        (bool(features & COMPRESSION) == bool(fields.compression), "does not say how it is compressed"),
    )


def _check_sizes(fields: _Fields) -> None:
    _check((9 <= fields.cluster_bits <= 21, "has clusters of an absurd size"))
    extended = bool(fields.features & EXTENDED_L2)
    per_table = fields.cluster // (16 if extended else 8)
    needed = -(-fields.size // (fields.cluster * per_table))
    least, length = (_V2.size if fields.version == 2 else COMPRESSION_AT), fields.header_length
    _check(
        (fields.cluster_bits >= 14 or not extended, "has clusters of an absurd size"),
        (fields.size > 0 and fields.size % SECTOR == 0, "has no size that a disk can have"),
        (needed <= fields.l1_size <= MAX_L1, "has an L1 table of an absurd size"),
        (0 < fields.reftable_clusters * fields.cluster <= MAX_REFTABLE, "has a refcount table of an absurd size"),
        (fields.snapshots <= MAX_SNAPSHOTS, "has an absurd number of snapshots"),
        (fields.refcount_order <= 6, "has refcounts of an absurd width"),
        (least <= length <= min(fields.cluster, HEAD) and length % 8 == 0, "has a header of a wrong length"),
    )


def _check_places(fields: _Fields, bitmaps: bytes | None, end: int) -> None:
    """Each table lies on a cluster's beginning, behind the header, in the file, and on no other one."""
    taken: list[tuple[int, int]] = []
    for offset, length, what in _tables(fields, bitmaps):
        last = offset + length
        sound = offset % fields.cluster == 0 and offset >= fields.cluster and last <= end
        _check((sound, f"has its {what} outside"))
        clash = any(offset < other_last and other < last for other, other_last in taken)
        _check((not clash, f"has its {what} over another table"))
        taken.append((offset, last))


def _tables(fields: _Fields, bitmaps: bytes | None) -> Iterator[tuple[int, int, str]]:
    """Offset, length (bytes) and name of each table whose place the header tells."""
    yield fields.l1_offset, fields.l1_size * 8, "L1 table"
    yield fields.reftable_offset, fields.reftable_clusters * fields.cluster, "refcount table"
    if fields.snapshots:
        yield fields.snapshots_offset, fields.snapshots * SNAPSHOT, "snapshot table"
    if bitmaps is not None:
        _, _, length, offset = _BITMAPS.unpack(bitmaps)
        yield offset, length, "bitmap directory"


def _extensions(head: bytes, fields: _Fields) -> dict[int, bytes]:
    """Read as QEMU reads them: up to the end mark, the backing file's name, or the end of the first cluster."""
    found: dict[int, bytes] = {}
    at = fields.header_length
    end = min(fields.backing_offset or fields.cluster, fields.cluster)
    head = head.ljust(HEAD, b"\0")  # what is behind the end of a file reads as zeros
    while at < end:
        if at + 8 > min(end, HEAD):
            raise BadQcow2("has a header extension that does not end")
        kind, length = struct.unpack_from(">II", head, at)
        if kind == EXT_END:
            break
        if at + 8 + length > min(end, HEAD):
            raise BadQcow2("has a header extension that does not end")
        if kind in found:
            raise BadQcow2("has a header extension twice")
        found[kind] = head[at + 8 : at + 8 + length]
        at += 8 + -(-length // 8) * 8
    return found


def _check_extensions(found: dict[int, bytes], fields: _Fields) -> None:
    bitmaps = found.get(EXT_BITMAPS)
    _check(
        (EXT_DATA_FILE not in found, "has an external data file"),
        (EXT_LUKS not in found, "is encrypted"),
        (bitmaps is not None or not fields.autoclear & BITMAPS, "says that it has bitmaps, and has none"),
    )
    if bitmaps is not None:
        _check((len(bitmaps) == _BITMAPS.size, "has a bitmaps extension of a wrong length"))
        number, reserved, length, _ = _BITMAPS.unpack(bitmaps)
        sound = 0 < number <= MAX_BITMAPS and reserved == 0 and 0 < length <= MAX_BITMAPS * 1024
        _check((sound, "has an absurd number of bitmaps"))


def _backing(head: bytes, fields: _Fields) -> str | None:
    start, size = fields.backing_offset, fields.backing_size
    if not start:
        return None
    end = start + size
    sound = 0 < size <= MAX_NAME and start >= fields.header_length and end <= min(len(head), fields.cluster)
    _check((sound, "has the name of its backing file in a wrong place"))
    return _name(head[start:end], MAX_NAME)


def _name(raw: bytes, longest: int) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadQcow2("has a name in its header that is no text") from None
    if not text.isprintable() or len(raw) > longest:
        raise BadQcow2("has a name in its header that is no text")
    return text


def new(size: int, backing: str | None = None) -> Layout:
    """A new, empty file: reads as zeros, or as its backing file.

    :param size: virtual size, bytes.
    :param backing: path of a qcow2 file that it is an overlay of.
    :raise ValueError: the size is no multiple of 512 or too large, the path too long.
    """
    entries = -(-size // (CLUSTER * (CLUSTER // 8)))
    if size % 512 or size <= 0 or entries > MAX_L1:
        raise ValueError(f"{size} bytes cannot be the size of a volume")
    clusters = 3 + -(-entries * 8 // CLUSTER)
    return Layout(
        parts=(
            (0, _header(size, entries, backing)),
            (CLUSTER, struct.pack(">Q", 2 * CLUSTER)),
            (2 * CLUSTER, struct.pack(">H", 1) * clusters),
        ),
        length=clusters * CLUSTER,
    )


def _header(size: int, entries: int, backing: str | None) -> bytes:
    name = (backing or "").encode()
    if len(name) > MAX_NAME:
        raise ValueError("the path of the image is too long for a qcow2 header")
    length = _V2.size + _V3.size
    extensions = struct.pack(">II5s3x", EXT_BACKING_FORMAT, 5, b"qcow2") if name else b""
    extensions += struct.pack(">II", EXT_END, 0)
    offset = length + len(extensions) if name else 0
    base = _V2.pack(MAGIC, 3, offset, len(name), CLUSTER_BITS, size, 0, entries, 3 * CLUSTER, CLUSTER, 1, 0, 0)
    return base + _V3.pack(0, 0, 0, 4, length) + extensions + name
