"""The Debian image: bookworm with cloud-init, for what a full guest needs.

mmdebstrap makes the root file system as a tar, kept in the cache under the digest of its packages; the texts of
``templates/image/debian`` and the disk around it come later and cost seconds. Mirrors are those of the host's apt.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.host import files, qemu_img
from lvagent.host.images import cached, disk, packages
from lvagent.host.run import run
from lvagent.render import render

NAME = "debian"
RELEASE = "bookworm"
SIZE = 2048
"""MiB; the root file system grows to the volume at the first start."""

CMDLINE = "root=LABEL=debian ro console=tty0 console=ttyS0 net.ifnames=0"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    KERNEL,
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "libpam-systemd",
    "netbase",
    "openssh-server",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service")
"""Units that would wake up a guest for nothing, in the middle of its first start."""

NICS = 8
"""As many NICs are told apart into the first and the others."""

FORGOTTEN = ("etc/machine-id", "var/lib/dbus/machine-id", "etc/resolv.conf", "var/log/bootstrap.log")


def build_debian(settings: Settings, *, watch: Callable[[str], None]) -> Path:
    """Build the Debian image, unless it is there and made of the same. Takes minutes the first time.

    :param watch: told in a few words what happens.
    :return: the image, a qcow2.
    :raise CommandError: a tool failed, or a package cannot be fetched.
    :raise HostError: the host's apt has no such release.
    """
    image = Path(settings.paths.images) / f"{NAME}.qcow2"
    cache = Path(settings.paths.cache)
    found = packages.candidates([*PACKAGES, "grub-pc-bin"])
    versions = [f"{package.name}={package.version}" for package in found.values()]
    key = cached.key(NAME, versions)
    if cached.is_current(image, key):
        return image
    reader = qemu_img.account(settings.volumes.reader, "volumes.reader")
    with cached.locked(cache), cached.locked(image.parent):
        if cached.is_current(image, key):  # built by another while we waited
            return image
        grub = packages.fetch_or_keep([found["grub-pc-bin"]], cache / "packages", image, watch)
        if grub is None:
            return image
        archive = _root_archive(cache, versions, watch)
        with cached.replacing(image, key) as scratch:
            watch(f"building {image}")
            packages.extract(grub, scratch / "grub")
            _root(archive, scratch / "root")
            disk.make(_disk(scratch), scratch / "root", scratch, scratch / image.name, reader)
    return image


def _root_archive(cache: Path, versions: Sequence[str], watch: Callable[[str], None]) -> Path:
    """The root file system as mmdebstrap makes it, from the cache if these versions were made before."""
    sources = _sources()
    digest = hashlib.sha256("\0".join([*versions, *sources, *LEFT_OUT]).encode())
    for path in cached.files_of(cached.texts(NAME) / "early"):
        digest.update(path.read_bytes())
    archive = cache / f"{NAME}-{digest.hexdigest()[:16]}.tar"
    if not archive.exists():
        watch(f"making Debian {RELEASE}, which takes minutes")
        cached.sweep(cache, NAME)
        with cached.scratch(cache, NAME) as folder:
            made = _mmdebstrap(sources, folder)
            for old in cache.glob(f"{NAME}-*.tar"):
                files.remove(old)
            made.rename(archive)
    return archive


def _mmdebstrap(sources: Sequence[str], folder: Path) -> Path:
    folder.chmod(0o755)  # apt's own user reads below it
    early, made = _tar(cached.texts(NAME) / "early", folder / "early.tar"), folder / "root.tar"
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", '--aptopt=Apt::Install-Recommends "false"']
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    argv += [f"--include={','.join(PACKAGES)}", f"--essential-hook=tar-in {early} /"]
    run([*argv, RELEASE, str(made), *sources], timeout=1800, env={"TMPDIR": str(folder)})
    return made


def _sources() -> list[str]:
    """Where the host's apt gets this release from, as lines of a sources.list."""
    wanted = "$(CREATED_BY) $(COMPONENT) $(CODENAME) $(REPO_URI) $(RELEASE)"
    lines = run(["apt-get", "indextargets", "--format", wanted]).splitlines()
    pattern = re.compile(rf"Packages main {RELEASE}(?:-updates|-security)? (\S+) (\S+)")
    found = [f"deb {match[1]} {match[2]} main" for line in lines if (match := pattern.fullmatch(line))]
    if not found:
        raise HostError(f"Debian {RELEASE}", "find", "the host's apt does not know it", hint="add it to sources.list")
    return list(dict.fromkeys(found))


def _tar(folder: Path, target: Path) -> Path:
    """The texts of a folder as an archive, owned by root."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(target, "w") as archive:
        archive.add(folder, ".", filter=owned)
    return target


def _root(archive: Path, root: Path) -> None:
    root.mkdir()
    run(["tar", "-C", str(root), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf", str(archive)], timeout=600)
    for name in FORGOTTEN:
        files.remove(root / name)
    (root / "etc/machine-id").touch()
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        files.remove(key)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    _enable(root, "systemd-networkd.service", "multi-user.target.wants")
    _enable(root, "systemd-networkd-wait-online.service", "network-online.target.wants")
    cached.lay(cached.texts(NAME) / "root", root)
    _nics(root / "etc/systemd/network")


def _nics(folder: Path) -> None:
    """Add to the files that cloud-init writes for networkd, under the names it gives them."""
    for number in range(NICS):
        drop_in = folder / f"10-cloud-init-eth{number}.network.d"
        drop_in.mkdir()
        text = (cached.texts(NAME) / "nics" / ("other.conf" if number else "first.conf")).read_bytes()
        (drop_in / "lvagent.conf").write_bytes(text)


def _enable(root: Path, unit: str, by: str) -> None:
    folder = root / "etc/systemd/system" / by
    folder.mkdir(exist_ok=True)
    link = folder / unit
    if not link.is_symlink():
        link.symlink_to(f"/lib/systemd/system/{unit}")


def _disk(scratch: Path) -> disk.Disk:
    start = render("image/debian/grub.cfg.j2", cmdline=CMDLINE)
    return disk.Disk(SIZE, NAME, scratch / "grub/usr/lib/grub/i386-pc", start)
