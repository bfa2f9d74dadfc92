"""What a volume stands on, who may write to a file, and what is read of one."""

from __future__ import annotations

import errno
import json
import os
import pwd
import stat
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvagent.config import Paths, Settings, Volumes
from lvagent.errors import CommandError, Conflict, HostError, SpecError
from lvagent.host import fresh, qcow2, qemu_img
from lvagent.host.chains import Bounds, Link, judge
from lvagent.host.run import Confined, run
from lvagent.host.volumes import VolumeStore
from lvagent.spec.claims import Below
from lvagent.spec.vm import Volume
from tests.host.volumes import forge
from tests.host.volumes.store import VM, Store

pytestmark = pytest.mark.host

GIB = 1 << 30
SOUND = forge.qcow2(content=b"sound")


@pytest.fixture
def site(tmp_path: Path) -> Store:
    return Store(tmp_path)


def lay(path: Path | str, raw: bytes = SOUND, mode: int = 0o600) -> Path:
    Path(path).write_bytes(raw)
    Path(path).chmod(mode)
    return Path(path)


def upon(path: Path | str) -> bytes:
    return forge.qcow2(backing=str(path), backing_format="qcow2")


# what a volume stands on


def test_what_a_volume_stands_on_is_told(site: Store) -> None:
    image = lay(site.images / "x.qcow2")
    base = lay(site.path("base.qcow2"), upon(image))
    middle = lay(site.path("middle.qcow2"), upon(base))
    lay(site.path("top.qcow2"), upon(middle))
    found = site.store.check([site.volume("new.qcow2", size=1), site.volume("top.qcow2")])
    assert found.missing == (site.path("new.qcow2"),)
    assert found.below == (Below(str(middle), "volumes[1].path"), Below(str(base), "volumes[1].path"))


def test_what_the_guest_writes_to_is_not_stood_on(site: Store) -> None:
    base = lay(site.path("base.qcow2"))
    lay(site.path("top.qcow2"), upon(base))
    volumes = [Volume(site.path("top.qcow2"), 0), Volume(str(base), 1)]
    with pytest.raises(SpecError) as caught:
        site.store.check(volumes)
    assert (caught.value.path, caught.value.message) == (
        "volumes[0].path",
        "stands on volumes[1].path, which the guest writes to",
    )
    readonly = [volumes[0], Volume(str(base), 1, readonly=True)]
    assert site.store.check(readonly).below == (Below(str(base), "volumes[0].path"),)


def test_images_stand_on_images_only(site: Store) -> None:
    base = lay(site.path("base.qcow2"))
    lay(site.images / "x.qcow2", upon(base))
    with pytest.raises(SpecError, match="an image whose backing file is none"):
        site.store.check([site.volume("new.qcow2", image="x")])
    lay(site.path("top.qcow2"), upon(site.images / "x.qcow2"))
    assert site.refused("top.qcow2") == "it is an image whose backing file is none"
    lay(site.images / "y.qcow2")
    lay(site.images / "x.qcow2", upon(site.images / "y.qcow2"))
    assert site.store.check([site.volume("new.qcow2", image="x"), site.volume("top.qcow2")]).below == ()


def test_an_image_is_no_volume_also_if_its_folder_is_among_them(tmp_path: Path) -> None:
    images = tmp_path / "all" / "images"
    images.mkdir(parents=True)
    lay(images / "x.qcow2")
    lay(tmp_path / "all" / "v.qcow2")
    store = VolumeStore(
        Settings(paths=Paths(images=str(images)), volumes=Volumes(folders=(str(tmp_path / "all"),), group="kvm"))
    )
    assert store.check([Volume(str(tmp_path / "all" / "v.qcow2"), 0)]).missing == ()
    with pytest.raises(SpecError, match="outside the volume folders"):
        store.check([Volume(str(images / "x.qcow2"), 0)])


def test_a_chain_of_images_is_copied_flat(tmp_path: Path) -> None:
    site = Store(tmp_path, copy="full")
    lay(site.images / "base.qcow2", mode=0o644)
    lay(site.images / "x.qcow2", upon(site.images / "base.qcow2"), 0o644)
    site.store.make(VM, site.volume(image="x"))
    run(["qemu-io", "-f", "qcow2", "-c", "read -P 115 0 1", site.path()])
    info = json.loads(qemu_img_info(site.path()))
    assert "backing-filename" not in info


def qemu_img_info(path: str) -> str:
    return run(["qemu-img", "info", "-f", "qcow2", "--output=json", path])


# who may write to a file


QEMU = "libvirt-qemu"


@pytest.mark.parametrize(
    ("owner", "group", "mode", "sound"),
    [
        ("root", "root", 0o600, True),
        (QEMU, "kvm", 0o660, True),
        ("root", "kvm", 0o664, True),
        ("root", "root", 0o444, True),
        ("nobody", "root", 0o600, False),
        ("lvagent-images", "root", 0o600, False),
        ("root", "root", 0o602, False),
        ("root", "nogroup", 0o660, False),
        (QEMU, "kvm", 0o666, False),
    ],
)
def test_rights(site: Store, owner: str, group: str, mode: int, sound: bool) -> None:
    """Whoever may write to a file can put another header into it after it was judged."""
    other = "can be written to by others than root and qemu"
    for place in (Path(site.path()), site.images / "x.qcow2"):
        lay(place)
        os.chown(place, pwd.getpwnam(owner).pw_uid, qemu_img.group(group, ""))
        place.chmod(mode)
    lay(site.path("top.qcow2"), upon(site.images / "x.qcow2"))
    if sound:
        assert site.check("a.qcow2", "top.qcow2") == ()
        assert len(site.store.images()) == 1
    else:
        assert {site.refused(), site.refused("top.qcow2")} == {other}
        assert site.store.images() == ()


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
def test_a_program_is_no_volume(site: Store, mode: int) -> None:
    lay(site.path(), mode=mode)
    assert site.refused() == "is a file that runs with the rights of its owner"


def test_folders_that_everybody_may_write_to(site: Store) -> None:
    team = site.volumes / "team"
    team.mkdir()
    lay(team / "a.qcow2")
    team.chmod(0o777)
    assert site.refused("team/a.qcow2") == "is in a folder that everybody may write to"
    team.chmod(0o1777)  # there nobody renames what is another's
    assert site.check("team/a.qcow2") == ()
    site.volumes.chmod(0o777)
    with pytest.raises(HostError, match="everybody may write to it"):
        site.check("team/a.qcow2")


def test_a_backing_file_with_a_second_name(site: Store) -> None:
    base = lay(site.path("base.qcow2"))
    lay(site.path("top.qcow2"), upon(base))
    os.link(base, site.path("other.qcow2"))
    assert site.refused("top.qcow2") == "has a second name (hard link)"
    os.unlink(site.path("other.qcow2"))
    assert site.check("top.qcow2") == ()


def test_an_image_may_have_two_names(site: Store) -> None:
    image = lay(site.images / "x.qcow2")
    os.link(image, site.images / "y.qcow2")
    lay(site.path("top.qcow2"), upon(image))
    assert site.check("top.qcow2") == ()
    assert [one.name for one in site.store.images()] == ["x", "y"]


def test_a_fifo_is_not_waited_for(site: Store) -> None:
    os.mkfifo(site.images / "x.qcow2")
    os.mkfifo(site.path("base.qcow2"))
    lay(site.path("top.qcow2"), upon(site.path("base.qcow2")))
    assert site.refused("top.qcow2") == "is a FIFO, not a file"
    with pytest.raises(SpecError, match="is a FIFO"):
        site.store.check([site.volume("new.qcow2", image="x")])


# sizes and states


def test_sizes(tmp_path: Path) -> None:
    site = Store(tmp_path)
    volumes = Volumes(folders=(str(site.volumes),), group="kvm", largest_gb=2)
    store = VolumeStore(Settings(paths=Paths(images=str(site.images)), volumes=volumes))
    for size, sound in ((2 * GIB, True), (2 * GIB + 512, False)):
        raw = bytearray(forge.qcow2(size=size))
        raw[36:40] = struct.pack(">I", 5)  # entries of L1, each for half a GiB
        for place in (Path(site.path()), site.images / "x.qcow2"):
            lay(place, bytes(raw))
        for volume, at in ((site.volume(), "path"), (site.volume("new.qcow2", image="x"), "image")):
            if sound:
                store.check([volume])
                continue
            with pytest.raises(SpecError) as caught:
                store.check([volume])
            assert (caught.value.path, caught.value.message) == (
                f"volumes[0].{at}",
                "the file is a disk of more than 2 GiB",
            )
    assert store.check([site.volume("new.qcow2", size=2)]).missing == (site.path("new.qcow2"),)
    with pytest.raises(SpecError, match="is too large") as caught:
        store.check([site.volume("new.qcow2", size=3)])
    assert (caught.value.path, caught.value.hint) == ("volumes[0].size_gb", "at most 2")


def test_a_volume_that_was_not_closed_is_taken_and_an_image_is_not(site: Store) -> None:
    """qemu mends a volume when it opens it to write; nobody ever opens an image to write."""
    dirty = forge.qcow2(features=1)
    lay(site.path(), dirty)
    lay(site.images / "x.qcow2", dirty)
    assert site.check() == ()
    assert site.store.images() == ()
    with pytest.raises(SpecError, match="was not closed properly"):
        site.store.check([site.volume("new.qcow2", image="x")])


# what is made


def bounds(site: Store) -> Bounds:
    return Bounds((str(site.volumes),), str(site.images), frozenset({0}), frozenset({0}), 1 << 50)


def chain(stack: ExitStack, site: Store, path: Path) -> tuple[Link, ...]:
    file = os.open(path, os.O_RDONLY)
    stack.callback(os.close, file)
    return judge(stack, file, "volumes", bounds(site), image=True)


def make(site: Store, image: tuple[Link, ...], backing: str | None, size: int = 4 << 20) -> None:
    folder = os.open(site.volumes, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wish = fresh.Wish(site.path(), size, image, backing, (0, 0), None, 60)
        fresh.make(folder, VM, "a.qcow2", wish, bounds(site))
    finally:
        os.close(folder)


def test_an_overlay_stands_on_the_image_that_was_judged(site: Store) -> None:
    first, second = lay(site.images / "x.qcow2"), lay(site.images / "y.qcow2")
    with ExitStack() as stack:
        image = chain(stack, site, first)
        with pytest.raises(Conflict, match="was replaced just now"):
            make(site, image, str(second))
        first.unlink()
        lay(first)
        with pytest.raises(Conflict, match="was replaced just now"):
            make(site, image, str(first))
        assert os.listdir(site.volumes) == []
        make(site, chain(stack, site, first), str(first))
    assert os.listdir(site.volumes) == ["a.qcow2"]


def test_an_overlay_of_what_became_hostile_is_not_made(site: Store) -> None:
    image = lay(site.images / "x.qcow2")
    with ExitStack() as stack:
        judged = chain(stack, site, image)
        with image.open("r+b") as file:
            file.write(forge.with_data_file("/etc/passwd"))
        with pytest.raises(SpecError, match="external data file"):
            make(site, judged, str(image))
    assert os.listdir(site.volumes) == []


def test_rights_of_a_new_file_from_its_first_moment(site: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask says: nobody else reads or writes it, not even while it is made."""
    seen: list[int] = []
    fchown = os.fchown

    def watched(file: int, uid: int, gid: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(file).st_mode))
        fchown(file, uid, gid)

    monkeypatch.setattr(os, "fchown", watched)
    before = os.umask(0)
    try:
        site.store.make(VM, site.volume(size=1))
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert stat.S_IMODE(os.stat(site.path()).st_mode) == 0o600


def test_a_folder_that_cannot_be_written_down(site: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails when the name is to be made lasting: the name goes again."""
    fsync = os.fsync

    def failing(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(HostError, match="Input/output error"):
        site.store.make(VM, site.volume(size=1))
    assert os.listdir(site.volumes) == []


def test_a_copy_belongs_to_qemu_and_not_to_the_reader(tmp_path: Path) -> None:
    site = Store(tmp_path, copy="full")
    lay(site.images / "x.qcow2", mode=0o644)
    site.store.make(VM, site.volume(image="x"))
    assert os.stat(site.path()).st_uid == pwd.getpwnam(QEMU).pw_uid


def test_a_copy_that_grows_beyond_its_disk_is_cut_off(site: Store) -> None:
    """A target of 64 KiB for a disk of 128 MiB, all of it data: more than its tables may take."""
    source = site.outside / "big.raw"
    source.write_bytes(b"x" * (128 << 20))
    target = site.outside / "target"
    reader = qemu_img.account("lvagent-images", "")
    with source.open("rb") as disk, target.open("xb+") as new:
        fresh.lay_out(new.fileno(), qcow2.new(128 << 20))
        with pytest.raises(CommandError):
            qemu_img.convert([disk.fileno()], "raw", new.fileno(), 1 << 16, reader, 60)
        assert target.stat().st_size <= (1 << 16) + 66 + qemu_img.METADATA
        assert target.stat().st_uid == 0


# parse against qemu


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["plain", "v2", "backed", "data", "bitmaps"]),
    st.lists(st.tuples(st.integers(4, 190), st.binary(min_size=1, max_size=4)), max_size=3),
)
def test_what_is_believed_of_a_header_is_what_qemu_reads(
    site: Store, kind: str, writes: list[tuple[int, bytes]]
) -> None:
    """Any header that is taken has, for qemu too, no other backing file, no data file, no encryption, no other size."""
    raw = bytearray(SHAPES[kind]())
    for offset, part in writes:
        raw[offset : offset + len(part)] = part
    try:
        header = qcow2.parse(bytes(raw[: qcow2.HEAD]), len(raw))
    except qcow2.BadQcow2:
        return
    file = lay(site.outside / "x", bytes(raw), 0o644)
    site.outside.parent.chmod(0o755)
    told = seen_by_qemu(file)
    if told is None:
        return  # qemu takes less than we do: its own tables are its business
    special = told.get("format-specific", {}).get("data", {})
    assert told["virtual-size"] == header.virtual_size
    assert told.get("backing-filename") == header.backing_file
    assert told.get("backing-filename-format") == header.backing_format or header.backing_file is None
    assert not told.get("encrypted", False)
    assert (special.get("data-file"), special.get("corrupt", False)) == (None, False)


def seen_by_qemu(file: Path) -> dict[str, object] | None:
    uid, gid = qemu_img.account("lvagent-images", "")
    confined = Confined(uid, gid, cpu=5, file_size=0)
    with file.open("rb") as opened:
        place = f"/proc/self/fd/{opened.fileno()}"
        argv = ["qemu-img", "info", "-f", "qcow2", "--output=json", place]
        try:
            return dict(json.loads(run(argv, confined=confined, pass_fds=(opened.fileno(),))))
        except CommandError:
            return None


SHAPES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: forge.qcow2(content=b"x"),
    "v2": lambda: forge.qcow2(version=2),
    "backed": lambda: forge.qcow2(backing="/images/a.qcow2", backing_format="qcow2"),
    "data": lambda: forge.with_data_file("/images/a"),
    "bitmaps": lambda: forge.qcow2(extensions=[(forge.BITMAPS, struct.pack(">IIQQ", 1, 0, 64, 4 * forge.CLUSTER))]),
}


@pytest.mark.parametrize("kind", ["plain", "v2", "backed"])
def test_qemu_takes_the_shapes_that_we_take(site: Store, kind: str) -> None:
    raw = SHAPES[kind]()
    file = lay(site.outside / "x", raw, 0o644)
    told, header = seen_by_qemu(file), qcow2.parse(raw[: qcow2.HEAD], len(raw))
    assert told is not None
    assert (told["virtual-size"], told.get("backing-filename")) == (header.virtual_size, header.backing_file)
