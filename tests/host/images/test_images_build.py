"""The builder: what is on the disk, when it builds again, and what a failure leaves."""

from __future__ import annotations

import resource
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from lvagent.config import Settings
from lvagent.errors import CommandError, HostError
from lvagent.host import netns
from lvagent.host.images import build_tiny, cached, cpio, lasting, modules, packages, tiny_kernel
from tests.host.images.cloud import Cloud
from tests.host.images.conftest import settings_in

pytestmark = pytest.mark.host

KERNEL_MAGIC = b"HdrS"
EXT4_MAGIC = 0xEF53


def raw(image: Path, folder: Path) -> Path:
    target = folder / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(target)], check=True)
    return target


def debugfs(disk: Path, request: str) -> str:
    argv = ["debugfs", "-R", request, f"{disk}?offset={1 << 20}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_disk_has_boot_code_one_bootable_partition_and_its_file_system(tiny: Path, tmp_path: Path) -> None:
    disk = raw(tiny, tmp_path)
    sectors = disk.stat().st_size // 512
    with disk.open("rb") as file:
        first, core = file.read(512), file.read(512)
        file.seek((1 << 20) + 1024)
        superblock = file.read(1024)
    assert b"GRUB" in first[:440]
    assert core.strip(b"\0")
    assert first[510:] == b"\x55\xaa"
    entries = [struct.unpack("<B3sB3sII", first[446 + 16 * n : 462 + 16 * n]) for n in range(4)]
    assert [(flag, kind, start, length) for flag, _, kind, _, start, length in entries] == [
        (0x80, 0x83, 2048, sectors - 2048),
        (0, 0, 0, 0),
        (0, 0, 0, 0),
        (0, 0, 0, 0),
    ]
    assert struct.unpack_from("<H", superblock, 56)[0] == EXT4_MAGIC
    assert superblock[120:136].rstrip(b"\0") == b"tiny"


def test_file_system_is_clean_and_belongs_to_root(tiny: Path, tmp_path: Path) -> None:
    disk = raw(tiny, tmp_path)
    subprocess.run(["e2fsck", "-fn", f"{disk}?offset={1 << 20}"], check=True, capture_output=True)
    for folder in ("/", "/bin", "/etc", "/usr/sbin", "/root", "/root/.ssh"):
        owners = {tuple(line.split()[3:5]) for line in debugfs(disk, f"ls -l {folder}").splitlines() if line.strip()}
        assert owners == {("0", "0")}, folder
    modes = {line.split()[-1]: line.split()[1] for line in debugfs(disk, "ls -l /").splitlines() if line.strip()}
    assert (modes["tmp"], modes["root"], modes["etc"]) == ("41777", "40700", "40755")


def test_image_is_small(tiny: Path) -> None:
    assert tiny.stat().st_size < 30 << 20


def seconds_used() -> float:
    """Processor time of the test and the commands it ran; unlike the clock's, it is the same on a busy machine."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def test_second_build_does_nothing_within_a_second(tiny: Path, image_settings: Settings) -> None:
    before, used = tiny.stat(), seconds_used()
    said: list[str] = []
    assert build_tiny(image_settings, watch=said.append) == tiny
    assert (said, tiny.stat()) == ([], before)
    assert seconds_used() - used < 3  # a build takes many; most of it is apt-cache's, where apt keeps no binary cache


def test_image_that_lost_its_key_is_built_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    image = build_tiny(settings, watch=lambda _: None)
    first = image.stat().st_ino
    (tmp_path / "tiny.qcow2.key").unlink()
    said: list[str] = []
    build_tiny(settings, watch=said.append)
    assert said == [f"building {image}"]
    assert image.stat().st_ino != first


def test_two_builds_at_once_build_once(tmp_path: Path) -> None:
    said: list[str] = []
    settings = settings_in(tmp_path)
    threads = [threading.Thread(target=build_tiny, args=(settings,), kwargs={"watch": said.append}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [f"building {tmp_path / 'tiny.qcow2'}"]


def test_without_a_network_the_image_that_is_there_will_do(one_nic: Cloud, tiny: Path, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "images", tmp_path / "cache")
    image = tmp_path / "images/tiny.qcow2"
    said: list[str] = []

    def build() -> Path:
        return build_tiny(settings, watch=said.append)

    with pytest.raises(CommandError, match=r"cannot run env: ended with \d+"):
        netns.inside(f"/run/netns/{one_nic.namespace}", build)
    assert not image.exists()
    image.write_bytes(b"older")
    assert netns.inside(f"/run/netns/{one_nic.namespace}", build) == image
    assert image.read_bytes() == b"older"
    assert said[-1] == f"newer packages cannot be fetched; {image} stays as it is"
    assert not list((tmp_path / "cache/packages").glob("*"))


def test_damaged_package_leaves_nothing_and_says_so(tiny: Path, image_settings: Settings, tmp_path: Path) -> None:
    cache, images = tmp_path / "cache", tmp_path / "images"
    (cache / "packages").mkdir(parents=True)
    for archive in (Path(image_settings.paths.cache) / "packages").iterdir():
        (cache / "packages" / archive.name).symlink_to(archive)
    kernel = next((cache / "packages").glob("linux-image-*"))
    kernel.unlink()
    kernel.write_bytes(b"not a package")
    with pytest.raises(CommandError) as caught:
        build_tiny(settings_in(images, cache), watch=lambda _: None)
    assert caught.value.argv[:2] == ("dpkg-deb", "-x")
    assert names(images) == {".lock"}


def test_failure_keeps_the_image_that_was_there(tmp_path: Path) -> None:
    image = tmp_path / "some.qcow2"
    with cached.replacing(image, "one") as scratch:
        (scratch / image.name).write_text("first")

    def fail() -> None:
        with cached.replacing(image, "two") as scratch:
            (scratch / image.name).write_text("half")
            raise HostError("disk", "write", "no space")

    with pytest.raises(HostError):
        fail()
    assert image.read_text() == "first"
    assert cached.is_current(image, "one")
    assert names(tmp_path) == {"some.qcow2", "some.qcow2.key", "versions", "versions/some-one.qcow2"}


def test_scratch_of_a_killed_build_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".some-abcdef"
    left.mkdir()
    (left / "disk.raw").write_text("half")
    with cached.replacing(tmp_path / "some.qcow2", "one") as scratch:
        (scratch / "some.qcow2").write_text("whole")
    assert not left.exists()


def test_overlay_keeps_the_content_it_was_made_over(tmp_path: Path) -> None:
    image = tmp_path / "some.qcow2"
    for content in ("first", "second"):
        with cached.replacing(image, content) as scratch:
            (scratch / image.name).write_text(content)
        if content == "first":
            below = lasting(image)
    assert (image.read_text(), below.read_text(), lasting(image).read_text()) == ("second", "first", "second")


def test_lasting_name_of_a_strangers_image_is_its_own(tmp_path: Path) -> None:
    image = tmp_path / "mine.qcow2"
    image.write_text("brought by the operator")
    assert lasting(image) == image


def test_key_depends_on_every_part() -> None:
    keys = {cached.key("tiny", parts) for parts in (["a=1"], ["a=2"], ["a=1", "b=1"], [])} | {cached.key("debian", [])}
    assert len(keys) == 5
    assert cached.key("tiny", ["a=1"]) == cached.key("tiny", ["a=1"])


def test_kernel_files_are_those_of_the_image(tiny: Path, image_settings: Settings, tmp_path: Path) -> None:
    kernel, initrd = tiny_kernel(image_settings, watch=lambda _: None)
    assert kernel.read_bytes()[0x202:0x206] == KERNEL_MAGIC
    disk = raw(tiny, tmp_path)
    for path, inside in ((kernel, "/boot/vmlinuz"), (initrd, "/boot/initrd")):
        debugfs(disk, f"dump {inside} {tmp_path / 'dumped'}")
        assert (tmp_path / "dumped").read_bytes() == path.read_bytes()


def test_archive_unpacks_to_what_went_in(tmp_path: Path) -> None:
    content = cpio.archive(
        [cpio.folder("a"), cpio.file("a/odd", b"12345"), cpio.file("a/empty", b""), cpio.file("run", b"#!", 0o755)]
    )
    argv = ["cpio", "--quiet", "-idm", "-D", str(tmp_path)]
    subprocess.run(argv, input=content, check=True)
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*")}
    assert {name: path.stat().st_mode for name, path in found.items()} == {
        "a": 0o40755,
        "a/odd": 0o100644,
        "a/empty": 0o100644,
        "run": 0o100755,
    }
    assert (found["a/odd"].read_bytes(), found["a/empty"].read_bytes()) == (b"12345", b"")


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    tree = tmp_path / "6.1.0-test"
    for name, needed in {"disk": "ring,bus-pci", "bus-pci": "", "ring": "base", "base": "", "other": ""}.items():
        path = tree / "kernel" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + needed.replace("-", "_").encode() + b"\0name=x\0")
    assert [path.stem for path in modules.closure(tree, ["disk"])] == ["base", "ring", "bus-pci", "disk"]
    modules.install(tree, ["disk"], tmp_path / "picked")
    assert (tmp_path / "picked/modules.dep").read_text().splitlines() == [
        "base.ko:",
        "ring.ko: base.ko",
        "bus-pci.ko:",
        "disk.ko: bus-pci.ko ring.ko base.ko",
    ]
    with pytest.raises(HostError, match="module absent"):
        modules.closure(tree, ["absent"])


def test_package_that_apt_does_not_know_is_named() -> None:
    with pytest.raises(HostError, match="no-such-package-lvagent"):
        packages.candidates(["busybox", "no-such-package-lvagent"])
