"""The tiny image: busybox, dropbear, a DHCPv6 client and Debian's cloud kernel.

The root file system is a list of files picked from packages and the texts of ``templates/image/tiny/root``. The
initramfs loads the modules that the disk needs and goes on; GRUB has its lines built in. All of that is for the start
to be short where a guest has no hardware acceleration.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.host import qemu_img
from lvagent.host.images import cached, cpio, disk, modules, packages
from lvagent.host.run import run
from lvagent.render import render

NAME = "tiny"
KERNEL = "linux-image-cloud-amd64"
SIZE = 64
"""MiB."""

CMDLINE = " ".join(
    (
        "root=/dev/vda1 console=ttyS0 quiet panic=5 nokaslr mitigations=off init_on_alloc=0",
        "tsc=reliable no_timer_check cryptomgr.notests",
    )
)
"""The kernel's command line, for those who start ``tiny_kernel`` directly as well."""

LIB = "lib/x86_64-linux-gnu"
PICKS = (
    ("busybox", "bin/busybox", "bin"),
    ("dropbear-bin", "usr/sbin/dropbear", "usr/sbin"),
    ("dropbear-bin", "usr/bin/dropbearkey", "usr/bin"),
    ("dropbear-bin", "usr/bin/dbclient", "usr/bin"),
    ("wide-dhcpv6-client", "usr/sbin/dhcp6c", "usr/sbin"),
    ("libc6", "lib/*/ld-linux-x86-64.so.2", LIB),
    ("libc6", "lib/*/libc.so.6", LIB),
    ("libc6", "lib/*/libresolv.so.2", LIB),
    ("libcrypt1", "lib/*/libcrypt.so.1", LIB),
    ("zlib1g", "lib/*/libz.so.1", LIB),
    ("libfl2", "usr/lib/*/libfl.so.2", LIB),
    ("libgmp10", "usr/lib/*/libgmp.so.10", LIB),
    ("libtomcrypt1", "usr/lib/*/libtomcrypt.so.1", LIB),
    ("libtommath1", "usr/lib/*/libtommath.so.1", LIB),
)
"""(package, file in it, folder of the root it goes to): programs and the libraries they name."""

FOLDERS = (
    "bin",
    "sbin",
    "dev",
    "proc",
    "sys",
    "run",
    "mnt",
    "tmp",
    "root/.ssh",
    "var/lib",
    "var/log",
    "boot",
    "lib64",
    LIB,
)
DISK_MODULES = ("virtio_pci", "virtio_blk")
ROOT_MODULES = ("virtio_net", "virtio_rng", "virtio_balloon", "virtio_console", "button", "evdev", "8021q", "dummy")


@dataclass(frozen=True, slots=True)
class Material:
    """The unpacked packages: ``programs``, ``kernel`` (its package's files) and GRUB's i386-pc folder."""

    programs: Path
    kernel: Path
    grub: Path

    @property
    def vmlinuz(self) -> Path:
        """The kernel itself."""
        return next((self.kernel / "boot").glob("vmlinuz-*"))

    @property
    def modules(self) -> Path:
        """The folder of its modules; its name is the kernel's release."""
        return next((self.kernel / "lib/modules").iterdir())


def build_tiny(settings: Settings, *, watch: Callable[[str], None]) -> Path:
    """Build the tiny image, unless it is there and made of the same.

    :param watch: told in a few words what happens.
    :return: the image, a qcow2.
    :raise CommandError: a tool failed, or a package cannot be fetched.
    :raise HostError: a package or file is not there.
    """
    image, cache = Path(settings.paths.images) / f"{NAME}.qcow2", Path(settings.paths.cache)
    wanted = _packages()
    key = cached.key(NAME, [f"{package.name}={package.version}" for package in wanted])

    def is_current() -> bool:
        return cached.is_current(image, key) and all(path.exists() for path in _boot_files(settings))

    if is_current():
        return image
    reader = qemu_img.account(settings.volumes.reader, "volumes.reader")
    with cached.locked(cache), cached.locked(image.parent):
        if is_current():  # built by another while we waited
            return image
        archives = packages.fetch_or_keep(wanted, cache / "packages", image, watch)
        if archives is None:
            return image
        with cached.replacing(image, key) as scratch:
            watch(f"building {image}")
            material = _unpack(wanted, archives, scratch)
            _root(material, scratch / "root")
            disk.make(_disk(material), scratch / "root", scratch, scratch / image.name, reader)
            for path in _boot_files(settings):
                (scratch / "root/boot" / path.name.removeprefix(f"{NAME}-")).rename(path)
    return image


def tiny_kernel(settings: Settings, *, watch: Callable[[str], None]) -> tuple[Path, Path]:
    """The kernel and the initramfs of the tiny image as files, for a start without firmware and boot loader.

    Their command line is ``CMDLINE``. Builds the image first if need be.

    :return: kernel and initramfs, beside the image.
    """
    build_tiny(settings, watch=watch)
    return _boot_files(settings)


def _boot_files(settings: Settings) -> tuple[Path, Path]:
    folder = Path(settings.paths.images)
    return folder / f"{NAME}-vmlinuz", folder / f"{NAME}-initrd"


def _packages() -> list[packages.Package]:
    names = list(dict.fromkeys(["busybox-static", "grub-pc-bin", *(package for package, _, _ in PICKS)]))
    found = packages.candidates([KERNEL, *names])
    meta = found.pop(KERNEL)
    release = next(name for name in meta.depends if name.startswith("linux-image-"))
    return [packages.Package(release, meta.version, meta.architecture), *(found[name] for name in names)]


def _unpack(wanted: list[packages.Package], archives: list[Path], scratch: Path) -> Material:
    for package, archive in zip(wanted, archives, strict=True):
        packages.extract([archive], scratch / "packages" / package.name)
    programs = scratch / "packages"
    return Material(programs, programs / wanted[0].name, programs / "grub-pc-bin/usr/lib/grub/i386-pc")


def _root(material: Material, root: Path) -> None:
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("root", "root/.ssh"):
        (root / name).chmod(0o700)
    for package, pattern, folder in PICKS:
        _pick(material.programs / package, pattern, root / folder)
    (root / "lib64/ld-linux-x86-64.so.2").symlink_to(f"/{LIB}/ld-linux-x86-64.so.2")
    _applets(root)
    cached.lay(cached.texts(NAME) / "root", root)
    modules.install(material.modules, ROOT_MODULES, root / "lib/modules" / material.modules.name)
    shutil.copyfile(material.vmlinuz, root / "boot/vmlinuz")
    (root / "boot/initrd").write_bytes(_initramfs(material))


def _pick(package: Path, pattern: str, folder: Path) -> None:
    found = sorted(package.glob(pattern))
    if len(found) != 1:
        raise HostError(package.name, "find", f"{len(found)} files like {pattern}")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found[0], folder / found[0].name)
    (folder / found[0].name).chmod(0o755)


def _applets(root: Path) -> None:
    for name in run([str(root / "bin/busybox"), "--list"]).split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    for name in ("init", "reboot", "poweroff", "halt", "getty"):
        (root / "sbin" / name).symlink_to("../bin/busybox")


def _initramfs(material: Material) -> bytes:
    busybox = (material.programs / "busybox-static/bin/busybox").read_bytes()
    init = (cached.texts(NAME) / "initramfs/init").read_bytes()
    entries = [cpio.folder(name) for name in ("bin", "dev", "proc", "sys", "mnt", "modules")]
    entries += [cpio.file("bin/busybox", busybox, 0o755), cpio.file("init", init, 0o755)]
    for number, path in enumerate(modules.closure(material.modules, DISK_MODULES), 10):
        entries.append(cpio.file(f"modules/{number}-{path.name}", path.read_bytes()))
    return cpio.archive(entries)


def _disk(material: Material) -> disk.Disk:
    start = render("image/tiny/grub.cfg.j2", cmdline=CMDLINE)
    return disk.Disk(SIZE, NAME, material.grub, start, features="^metadata_csum,^64bit")
