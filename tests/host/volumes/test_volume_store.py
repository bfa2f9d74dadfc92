"""Volumes on a real file system; qemu-img says what was made, and makes what is hostile."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.config import Paths, Settings
from lvagent.errors import Conflict, HostError, LvagentError, SpecError
from lvagent.host import beneath
from lvagent.host.run import run
from lvagent.host.volumes import VolumeStore
from lvagent.spec.status import ImageView
from lvagent.spec.vm import Volume
from tests.host.volumes.store import VM, Store, create, qemu_img

pytestmark = pytest.mark.host

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Store:
    return Store(tmp_path)


def described(path: str) -> dict[str, object]:
    found = json.loads(qemu_img("info", "-f", "qcow2", "--output=json", path))
    return {key: found[key] for key in ("virtual-size", "backing-filename", "backing-filename-format") if key in found}


def image(site: Store, name: str = "tiny", size: str = "64M") -> Path:
    path = site.images / f"{name}.qcow2"
    create(path, size=size)
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 65 1M 1M", str(path)])
    return path


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_empty(site: Store) -> None:
    volume = site.volume(size=10)
    assert site.store.check([volume]).missing == (volume.path,)
    site.store.make(VM, volume)
    assert described(volume.path) == {"virtual-size": 10 * GIB}
    assert "No errors" in qemu_img("check", "-f", "qcow2", volume.path)
    found = os.stat(volume.path)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, pwd.getpwnam("libvirt-qemu").pw_uid)
    assert left(site.volumes) == ["a.qcow2"]
    assert site.store.check([volume]).missing == ()


@pytest.mark.parametrize("size", [1, 512, 513, 8192, 65536])
def test_qemu_can_write_an_empty_one_anywhere(site: Store, size: int) -> None:
    volume = site.volume(size=size)
    site.store.make(VM, volume)
    last = size * GIB - 65536
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 66 0 64k", "-c", f"write -P 67 {last} 64k", volume.path])
    run(["qemu-io", "-f", "qcow2", "-c", "read -P 66 0 64k", "-c", f"read -P 67 {last} 64k", volume.path])
    assert "No errors" in qemu_img("check", "-f", "qcow2", volume.path)


@pytest.mark.parametrize(("size_gb", "virtual"), [(None, 64 * MIB), (3, 3 * GIB)])
@pytest.mark.parametrize("copy", ["overlay", "full"])
def test_from_an_image(tmp_path: Path, copy: str, size_gb: int | None, virtual: int) -> None:
    site = Store(tmp_path, copy=copy)
    source = image(site)
    volume = site.volume(size=size_gb, image="tiny")
    assert site.store.check([volume]).missing == (volume.path,)
    site.store.make(VM, volume)
    backing = {"backing-filename": str(source), "backing-filename-format": "qcow2"} if copy == "overlay" else {}
    assert described(volume.path) == {"virtual-size": virtual, **backing}
    assert "No errors" in qemu_img("check", "-f", "qcow2", volume.path)
    read = run(["qemu-io", "-f", "qcow2", "-c", "read -P 65 1M 1M", "-c", "read -P 0 2M 1M", volume.path])
    assert "Pattern verification failed" not in read
    if size_gb is None:
        assert "identical" in qemu_img("compare", "-f", "qcow2", "-F", "qcow2", source, volume.path)
    assert site.store.check([volume]).missing == ()


def test_image_rules(site: Store) -> None:
    image(site, size="3G")
    cases = {
        ("volumes[0].image", "there is no image 'none'"): site.volume(image="none"),
        ("volumes[0].image", "there is no image '../images/tiny'"): site.volume(image="../images/tiny"),
        ("volumes[0].size_gb", "is smaller than the image"): site.volume(size=2, image="tiny"),
        ("volumes[0].path", "the file is not there"): site.volume(),
    }
    for (path, message), volume in cases.items():
        with pytest.raises(SpecError) as caught:
            site.store.check([volume])
        assert (caught.value.path, caught.value.message) == (path, message)
    assert site.store.check([site.volume(size=3, image="tiny")]).missing == (site.path(),)


def test_images(site: Store) -> None:
    source = image(site, "debian-12")
    (site.images / "broken.qcow2").write_text("no image")
    (site.images / "notes.txt").write_text("")
    (site.images / "link.qcow2").symlink_to(source)
    create(site.images / "evil.qcow2", "-u", "-b", "/etc/passwd", "-F", "raw")
    assert site.store.images() == (ImageView("debian-12", 64 * MIB, source.stat().st_size),)


def test_no_image_folder(tmp_path: Path) -> None:
    assert VolumeStore(Settings(paths=Paths(images=str(tmp_path / "none")))).images() == ()


def test_an_existing_one_is_left_alone(site: Store) -> None:
    create(site.path())
    before = Path(site.path()).read_bytes()
    assert site.check() == ()
    with pytest.raises(Conflict):
        site.store.make(VM, site.volume(size=1))
    assert (Path(site.path()).read_bytes(), left(site.volumes)) == (before, ["a.qcow2"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/passwd", "is no name of a volume: it must end in .qcow2 and not begin with a dot"),
        ("/etc/a.qcow2", "is outside the volume folders"),
        ("{}/../outside/a.qcow2", "is not a plain absolute path"),
        ("{}//a.qcow2", "is not a plain absolute path"),
        ("{}/./a.qcow2", "is not a plain absolute path"),
        ("a.qcow2", "is not a plain absolute path"),
        ("{}x/a.qcow2", "is outside the volume folders"),
        ("{}/a.img", "is no name of a volume: it must end in .qcow2 and not begin with a dot"),
        ("{}/.lvagent-i-0000000001-a.qcow2", "is no name of a volume: it must end in .qcow2 and not begin with a dot"),
        ("{}/none/a.qcow2", "its folder is not there"),
        ("{}/a\0.qcow2", "is not a plain absolute path"),
    ],
)
def test_paths(site: Store, path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        site.store.check([Volume(path.format(site.volumes), 0, 1)])
    assert (caught.value.path, caught.value.message) == ("volumes[0].path", message)


def test_a_folder_below_is_fine(site: Store) -> None:
    (site.volumes / "team").mkdir()
    volume = site.volume("team/a.qcow2", 1)
    assert site.store.check([volume]).missing == (volume.path,)
    site.store.make(VM, volume)
    assert left(site.volumes / "team") == ["a.qcow2"]
    site.store.remove(VM, [volume.path])
    assert left(site.volumes / "team") == []


def _symlink(site: Store, path: Path) -> None:
    create(site.outside / "x.qcow2")
    path.symlink_to(site.outside / "x.qcow2")


def _dangling(site: Store, path: Path) -> None:
    path.symlink_to(site.outside / "new.qcow2")


def _device(site: Store, path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


def _block(site: Store, path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 99))


def _fifo(site: Store, path: Path) -> None:
    os.mkfifo(path)


def _folder(site: Store, path: Path) -> None:
    path.mkdir()


def _socket(site: Store, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _hard_link(site: Store, path: Path) -> None:
    create(site.outside / "x.qcow2")
    os.link(site.outside / "x.qcow2", path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_symlink, "it is, or leads through, a symbolic link"),
        (_dangling, "it is, or leads through, a symbolic link"),
        (_device, "is a device, not a file"),
        (_block, "is a device, not a file"),
        (_fifo, "is a FIFO, not a file"),
        (_folder, "is a folder, not a file"),
        (_socket, "is a socket, not a file"),
        (_hard_link, "has a second name (hard link)"),
    ],
)
def test_what_is_no_file(site: Store, make: Callable[[Store, Path], None], message: str) -> None:
    make(site, site.volumes / "a.qcow2")
    assert site.refused() == message
    with pytest.raises((Conflict, SpecError)):
        site.store.make(VM, site.volume(size=1))
    assert (left(site.volumes), "new.qcow2" in left(site.outside)) == (["a.qcow2"], False)


def test_a_folder_that_became_a_link(site: Store) -> None:
    (site.volumes / "team").symlink_to(site.outside)
    create(site.outside / "a.qcow2")
    message = "its folder is, or leads through, a symbolic link"
    assert site.refused("team/a.qcow2") == message
    for call in (site.store.make, lambda vm, volume: site.store.remove(vm, [volume.path])):
        with pytest.raises(SpecError) as caught:
            call(VM, site.volume("team/a.qcow2", 1))
        assert caught.value.message == message
    assert left(site.outside) == ["a.qcow2"]


def test_a_folder_that_is_swapped_all_the_time(site: Store) -> None:
    """Whatever the moment: made inside, or refused; never outside."""
    team, spare, link = site.volumes / "team", site.volumes / "spare", site.volumes / "link"
    team.mkdir()
    link.symlink_to(site.outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(team, spare)
            os.rename(link, team)
            os.rename(team, link)
            os.rename(spare, team)

    thread = threading.Thread(target=swap)
    thread.start()
    made = 0
    try:
        for number in range(5000):  # on a busy machine the one thread may hardly meet what the other leaves
            if number >= 300 and made:
                break
            try:
                site.store.make(VM, site.volume(f"team/{number}.qcow2", 1))
                made += 1
            except LvagentError:
                continue
    finally:
        stop.set()
        thread.join()
    assert (left(site.outside), len(left(team)), made > 0) == ([], made, True)


def _backed(backing: str, kind: str = "qcow2") -> Callable[[Store, Path], None]:
    def make(site: Store, path: Path) -> None:
        create(path, "-u", "-b", backing.format(site.volumes.parent), "-F", kind)

    return make


def _data_file(site: Store, path: Path) -> None:
    create(path, "-o", f"data_file={site.outside}/data.raw,data_file_raw=on")


def _encrypted(site: Store, path: Path) -> None:
    secret = ["--object", "secret,id=s,data=abc"]
    qemu_img(
        "create",
        "-q",
        *secret,
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
        path,
        "64M",
    )


def _raw(site: Store, path: Path) -> None:
    qemu_img("create", "-q", "-f", "raw", path, "64M")


def _other(kind: str) -> Callable[[Store, Path], None]:
    def make(site: Store, path: Path) -> None:
        qemu_img("create", "-q", "-f", kind, path, "64M")

    return make


def _unsaid(site: Store, path: Path) -> None:
    _backed("{}/images/tiny.qcow2")(site, path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(bytes.fromhex("e2792aca"), bytes.fromhex("0badc0de"), 1))


def _chain(site: Store, path: Path) -> None:
    create(site.images / "second.qcow2", "-u", "-b", "/etc/shadow", "-F", "raw")
    _backed("{}/images/second.qcow2")(site, path)


def _loop(site: Store, path: Path) -> None:
    create(path)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", path, "-F", "qcow2", path)


def _linked_backing(site: Store, path: Path) -> None:
    create(site.outside / "x.qcow2")
    (site.images / "x.qcow2").symlink_to(site.outside / "x.qcow2")
    _backed("{}/images/x.qcow2")(site, path)


OUTSIDE = "its backing file lies outside the volume and image folders"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_backed("/etc/passwd", "raw"), OUTSIDE),
        (_backed("/etc/passwd"), OUTSIDE),
        (_backed("{}/volumes/../../../../etc/passwd"), OUTSIDE),
        (_backed("../outside/x.qcow2"), "its backing file is named by a relative path"),
        (_backed("x.qcow2"), "its backing file is named by a relative path"),
        (_backed("nbd://192.0.2.1/x", "raw"), OUTSIDE),
        (_backed('json:{{"driver":"file","filename":"/etc/passwd"}}', "raw"), OUTSIDE),
        (_backed("file:{}/images/tiny.qcow2"), OUTSIDE),
        (_backed("/dev/sda", "raw"), OUTSIDE),
        (_backed("{}/images/tiny.qcow2", "raw"), "the format of its backing file is not said to be qcow2"),
        (_unsaid, "the format of its backing file is not said to be qcow2"),
        (_backed("{}/images/none.qcow2"), "its backing file is not there"),
        (_linked_backing, "it is, or leads through, a symbolic link"),
        (_chain, OUTSIDE),
        (_loop, "it has more than 8 backing files"),
        (_data_file, "the file has an external data file"),
        (_encrypted, "the file is encrypted"),
        (_raw, "the file is not a qcow2 file"),
        (_other("vmdk"), "the file is not a qcow2 file, but a VMDK"),
        (_other("vdi"), "the file is not a qcow2 file, but a VDI"),
        (_other("qed"), "the file is not a qcow2 file, but a QED"),
        (_other("vhdx"), "the file is not a qcow2 file, but a VHDX"),
        (_other("vpc"), "the file is not a qcow2 file, but a VHD"),
        (_other("qcow"), "the file is not a qcow2 file of version 2 or 3"),
    ],
)
def test_hostile_files(site: Store, make: Callable[[Store, Path], None], message: str) -> None:
    image(site)
    make(site, site.volumes / "a.qcow2")
    assert site.refused() == message


def test_a_hostile_image(site: Store) -> None:
    create(site.images / "evil.qcow2", "-u", "-b", "/etc/passwd", "-F", "raw")
    with pytest.raises(SpecError) as caught:
        site.store.check([site.volume(image="evil")])
    assert (caught.value.path, caught.value.message) == ("volumes[0].image", OUTSIDE)


def test_sound_ones_of_qemu_are_taken(site: Store) -> None:
    source = image(site)
    plain: dict[str, tuple[str, ...]] = {
        "v2": ("-o", "compat=0.10"),
        "small": ("-o", "cluster_size=4k"),
        "large": ("-o", "cluster_size=2M"),
        "lazy": ("-o", "lazy_refcounts=on"),
        "extended": ("-o", "extended_l2=on,cluster_size=128k"),
        "zstd": ("-o", "compression_type=zstd"),
        "full": ("-o", "preallocation=metadata"),
        "narrow": ("-o", "refcount_bits=1"),
        "backed": ("-b", str(source), "-F", "qcow2"),
    }
    for name, options in plain.items():
        create(site.path(f"{name}.qcow2"), *options)
    qemu_img("snapshot", "-c", "one", site.path("v2.qcow2"))
    assert site.check(*(f"{name}.qcow2" for name in plain)) == ()


def test_the_same_file_twice(site: Store) -> None:
    create(site.path())
    with pytest.raises(SpecError, match=r"is the same file as volumes\[0\].path"):
        site.check("a.qcow2", "a.qcow2")


def test_remove(site: Store) -> None:
    for name in ("a.qcow2", "b.qcow2", "c.qcow2"):
        site.store.make(VM, site.volume(name, 1))
    site.store.remove(VM, [site.path("a.qcow2"), site.path("b.qcow2"), site.path("none/x.qcow2")])
    site.store.remove(VM, [site.path("a.qcow2")])
    assert left(site.volumes) == ["c.qcow2"]


def test_remove_goes_on(site: Store) -> None:
    site.store.make(VM, site.volume("b.qcow2", 1))
    (site.volumes / "a.qcow2").mkdir()
    create(site.outside / "x.qcow2")
    with pytest.raises(HostError) as caught:
        site.store.remove(VM, [site.path(), str(site.outside / "x.qcow2"), site.path("b.qcow2")])
    assert "no regular file" in caught.value.message
    assert "outside the volume folders" in caught.value.message
    assert (left(site.volumes), left(site.outside)) == (["a.qcow2"], ["x.qcow2"])


def test_what_a_crash_left(site: Store) -> None:
    rest, others = ".lvagent-i-0000000001-a.qcow2", ".lvagent-i-0000000002-a.qcow2"
    for name in (rest, others):
        (site.volumes / name).write_text("half")
    create(site.path("b.qcow2"))
    site.store.clear(VM, [site.path(), site.path("b.qcow2")])
    assert left(site.volumes) == [others, "b.qcow2"]
    (site.volumes / rest).symlink_to(site.path("b.qcow2"))
    site.store.make(VM, site.volume(size=1))
    assert left(site.volumes) == [others, "a.qcow2", "b.qcow2"]


def test_unknown_owner(tmp_path: Path) -> None:
    site = Store(tmp_path, user="nobody-of-that-name")
    with pytest.raises(HostError, match="nobody-of-that-name") as caught:
        site.store.make(VM, site.volume(size=1))
    assert (caught.value.hint, left(site.volumes)) == ("make it, or set volumes.user", [])


def test_no_folder(tmp_path: Path) -> None:
    site = Store(tmp_path)
    site.volumes.rmdir()
    with pytest.raises(HostError) as caught:
        site.store.check([site.volume(size=1)])
    assert (caught.value.resource, caught.value.action) == (str(site.volumes), "open")


@pytest.mark.parametrize("copy", ["overlay", "full"])
def test_disk_full(tmp_path: Path, copy: str) -> None:
    site = Store(tmp_path, copy=copy)
    image(site)
    caught: list[BaseException] = []
    names: list[str] = []

    def body() -> None:
        _private_mounts()
        run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(site.volumes)])
        if copy == "overlay":
            (site.volumes / "filler").write_bytes(bytes(252 << 10))
        try:
            site.store.make(VM, site.volume(image="tiny"))
        except LvagentError as error:
            caught.append(error)
        names.extend(left(site.volumes))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert [(type(error), str(error)) for error in caught] == [
        (HostError, f"cannot make {site.path()}: No space left on device")
    ]
    assert isinstance(caught[0], HostError)
    assert caught[0].hint == "free space in the folder of the volume"
    assert names == (["filler"] if copy == "overlay" else [])


def _private_mounts() -> None:
    """Give the calling thread mounts of its own, which end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0
    assert libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None) == 0


def test_an_image_that_qemu_may_not_read(tmp_path: Path) -> None:
    """The copy is made by qemu's user, not by root."""
    site = Store(tmp_path, copy="full")
    image(site).chmod(0o600)
    with pytest.raises(HostError, match=r"copy the image for .*Permission denied"):
        site.store.make(VM, site.volume(image="tiny"))
    assert left(site.volumes) == []


def test_a_copy_that_takes_too_long(tmp_path: Path) -> None:
    site = Store(tmp_path, copy="full", timeout=0)
    image(site)
    with pytest.raises(HostError, match="did not end in time") as caught:
        site.store.make(VM, site.volume(image="tiny"))
    assert (caught.value.hint, left(site.volumes)) == ("raise volumes.timeout, or use volumes.copy = overlay", [])


def test_two_at_once(site: Store) -> None:
    """The same path for two VMs: one makes it, the other is told."""
    results: list[str] = []
    barrier = threading.Barrier(2)

    def body(vm: str) -> None:
        barrier.wait()
        try:
            site.store.make(vm, site.volume(size=1))
            results.append("made")
        except Conflict:
            results.append("conflict")

    threads = [threading.Thread(target=body, args=(f"i-000000000{number}",)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(results), left(site.volumes)) == (["conflict", "made"], ["a.qcow2"])


def test_beneath(site: Store) -> None:
    folder = os.open(site.volumes, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path in ("../outside", "/etc/passwd", "../../../../proc/self/root/etc/passwd"):
            with pytest.raises(OSError, match="Invalid cross-device link"):
                os.close(beneath.open_beneath(folder, path, os.O_RDONLY))
    finally:
        os.close(folder)
