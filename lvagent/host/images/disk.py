"""A bootable disk out of a folder, without loop devices or mounts.

sector 0       GRUB's boot code, the partition table
sector 1..     GRUB's core image (its modules, and the lines that start the kernel)
1 MiB..        one ext4 file system, written by mke2fs from a folder
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lvagent.errors import HostError
from lvagent.host import fresh, qcow2, qemu_img
from lvagent.host.run import run

SECTOR = 512
START = 2048
MIB = 1 << 20
BLOCK = 4096
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux16")
BOOT_CODE = 440
SECONDS = 600
LINUX = 0x83
BEYOND_CYLINDERS = b"\xfe\xff\xff"
"""CHS address of a sector that has none; BIOSes of this age use LBA."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What a disk shall be. ``size`` in MiB; ``grub``: folder with GRUB's i386-pc files; ``start``: GRUB's lines.

    ``features``: for mke2fs -O; ``extended``: for mke2fs -E.
    """

    size: int
    label: str
    grub: Path
    start: str
    features: str = ""
    extended: Sequence[str] = ()


def make(disk: Disk, root: Path, scratch: Path, target: Path, reader: tuple[int, int]) -> None:
    """Write the qcow2 ``target`` with the content of the folder ``root``.

    :param scratch: a folder for what is needed on the way; the caller removes it.
    :param reader: uid and gid that qemu-img runs as.
    :raise CommandError: a tool failed (no space, say).
    """
    raw = scratch / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(disk.size * MIB)
    _file_system(disk, root, raw)
    _boot(disk, raw, scratch)
    _convert(disk, raw, target, reader)


def _convert(disk: Disk, raw: Path, target: Path, reader: tuple[int, int]) -> None:
    raw.chmod(0o644)
    with raw.open("rb") as source, target.open("xb+") as new:
        fresh.lay_out(new.fileno(), qcow2.new(disk.size * MIB))
        qemu_img.convert([source.fileno()], "raw", new.fileno(), disk.size * MIB, reader, SECONDS)


def _file_system(disk: Disk, root: Path, raw: Path) -> None:
    extended = ",".join([f"offset={START * SECTOR}", "root_owner=0:0", "lazy_itable_init=1", *disk.extended])
    features = ["-O", disk.features] if disk.features else []
    blocks = (disk.size * MIB - START * SECTOR) // BLOCK
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", *features, "-m", "1", "-L", disk.label, "-b", str(BLOCK)]
    run([*argv, "-E", extended, "-d", str(root), str(raw), str(blocks)], timeout=600)


def _boot(disk: Disk, raw: Path, scratch: Path) -> None:
    config, core = scratch / "grub.cfg", scratch / "core.img"
    config.write_text(disk.start)
    argv = ["grub-mkimage", "-O", "i386-pc", "-d", str(disk.grub), "-p", "(hd0,msdos1)/boot/grub"]
    run([*argv, "-c", str(config), "-o", str(core), *GRUB_MODULES], timeout=60)
    image = core.read_bytes()
    if len(image) > (START - 1) * SECTOR:
        raise HostError("GRUB", "embed", f"its core image has {len(image)} bytes")
    code = (disk.grub / "boot.img").read_bytes()[:BOOT_CODE]
    with raw.open("r+b") as file:
        file.write(code.ljust(BOOT_CODE, b"\0") + _table(disk.size * MIB // SECTOR))
        file.seek(SECTOR)
        file.write(image)


def _table(sectors: int) -> bytes:
    """The rest of the first sector: a disk signature and one bootable partition over the whole disk."""
    signature = struct.pack("<IH", 0x6C76_0001, 0)
    entry = struct.pack("<B3sB3sII", 0x80, BEYOND_CYLINDERS, LINUX, BEYOND_CYLINDERS, START, sectors - START)
    return signature + entry + bytes(3 * 16) + b"\x55\xaa"
