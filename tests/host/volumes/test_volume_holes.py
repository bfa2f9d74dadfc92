"""Every published hole of this kind, as a file that the test makes, brought in at every entrance.

The entrances: the path of an existing volume; an image; a sound file that is replaced after it was checked, seen at
the next start and while a copy is made of it. Each file is shown to be dangerous first: qemu-img, called as those who
had the hole called it, opens the secret. Then lvagent does not: it refuses the file, the secret is not opened (inotify
watches it), and nothing is left. The same file without what makes it hostile is taken at the same entrances.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lvagent.errors import CommandError, Conflict, HostError, LvagentError, SpecError
from lvagent.host.run import run
from tests.host.volumes import forge
from tests.host.volumes.canary import SECRET, Canary
from tests.host.volumes.store import VM, Store, create, qemu_img

pytestmark = pytest.mark.host

OUTSIDE = "its backing file lies outside the volume and image folders"
DATA_FILE = "the file has an external data file"
SOUND = forge.qcow2(content=b"sound")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    with Canary(tmp_path / "secret") as canary:
        assert not canary.noticed()
        canary.path.read_bytes()
        assert canary.noticed()
        yield canary


@pytest.fixture(params=["overlay", "full"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    return Store(tmp_path, copy=request.param)


def leaks(canary: Canary, hostile: bytes, *options: str) -> None:
    """Show that the file is dangerous: converted as those who had the hole did it, the secret is in the result."""
    file, out = canary.path.with_name("hostile"), canary.path.with_name("out")
    file.write_bytes(hostile)
    qemu_img("convert", *options, "-O", "raw", file, out)
    assert SECRET in out.read_bytes()
    assert canary.noticed()
    file.unlink()
    out.unlink()


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def as_volume(site: Store, hostile: bytes, reason: str) -> None:
    """It is there under the path of a volume; it is neither used nor written over."""
    Path(site.path()).write_bytes(hostile)
    assert site.refused() == reason
    with pytest.raises(Conflict):
        site.store.make(VM, site.volume(size=1))
    assert Path(site.path()).read_bytes() == hostile
    assert left(site.volumes) == ["a.qcow2"]
    Path(site.path()).unlink()


def as_image(site: Store, hostile: bytes, reason: str) -> None:
    """It is in the image folder: not listed, not stood on, not copied, not grown."""
    image = site.images / "evil.qcow2"
    image.write_bytes(hostile)
    assert site.store.images() == ()
    for size in (None, 2):
        for attempt in (lambda one: site.store.check([one]), lambda one: site.store.make(VM, one)):
            with pytest.raises(SpecError) as caught:
                attempt(site.volume(size=size, image="evil"))
            assert caught.value.message == reason
    assert left(site.volumes) == []
    image.unlink()


def as_backing(site: Store, hostile: bytes, reason: str) -> None:
    """A sound file stands on it."""
    (site.images / "evil.qcow2").write_bytes(hostile)
    Path(site.path()).write_bytes(forge.qcow2(backing=str(site.images / "evil.qcow2"), backing_format="qcow2"))
    assert site.refused() == reason
    Path(site.path()).unlink()
    (site.images / "evil.qcow2").unlink()


def swapped(site: Store, hostile: bytes, reason: str) -> None:
    """A sound file was taken, and is replaced before the VM starts, or before a volume is made of it."""
    Path(site.path()).write_bytes(SOUND)
    (site.images / "evil.qcow2").write_bytes(SOUND)
    assert site.check() == ()
    assert site.store.check([site.volume("b.qcow2", image="evil")]).missing == (site.path("b.qcow2"),)
    for place in (Path(site.path()), site.images / "evil.qcow2"):
        place.with_name("new").write_bytes(hostile)
        place.with_name("new").rename(place)
    assert site.refused() == reason
    with pytest.raises(SpecError) as caught:
        site.store.make(VM, site.volume("b.qcow2", image="evil"))
    assert (caught.value.message, left(site.volumes)) == (reason, ["a.qcow2"])
    Path(site.path()).unlink()
    (site.images / "evil.qcow2").unlink()


def refused_everywhere(site: Store, canary: Canary, hostile: bytes, reason: str) -> None:
    canary.noticed()
    for entrance in (as_volume, as_image, as_backing, swapped):
        entrance(site, hostile, reason)
    assert not canary.noticed()
    assert canary.whole()


def taken_everywhere(site: Store, twin: bytes) -> None:
    """The twin without the hostile part: as a volume, as an image, as what a volume stands on."""
    (site.images / "twin.qcow2").write_bytes(twin)
    Path(site.path("v.qcow2")).write_bytes(twin)
    Path(site.path("w.qcow2")).write_bytes(forge.qcow2(backing=str(site.images / "twin.qcow2"), backing_format="qcow2"))
    assert "twin" in [image.name for image in site.store.images()]
    assert site.check("v.qcow2", "w.qcow2") == ()
    site.store.make(VM, site.volume("t.qcow2", image="twin"))
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", site.path("t.qcow2"), site.images / "twin.qcow2")
    assert "No errors" in qemu_img("check", "-f", "qcow2", site.path("t.qcow2"))


def test_cve_2015_1851(site: Store, canary: Canary) -> None:
    """Cinder: a guest writes a qcow2 header with a backing file into its raw volume; when the volume is uploaded as
    an image, qemu-img guesses the format, as root, and puts the host's file into the image.
    """
    hostile = forge.qcow2(backing=str(canary.path)).ljust(forge.MIB, b"\0")
    leaks(canary, hostile)
    refused_everywhere(site, canary, hostile, OUTSIDE)
    taken_everywhere(site, forge.qcow2(content=b"twin").ljust(forge.MIB, b"\0"))


def test_cve_2015_5163(site: Store, canary: Canary) -> None:
    """Glance: the task that imports and converts an image follows the backing file of the qcow2 that was uploaded."""
    hostile = forge.qcow2(version=2, backing=str(canary.path), backing_format="raw")
    leaks(canary, hostile, "-f", "qcow2")
    refused_everywhere(site, canary, hostile, OUTSIDE)
    taken_everywhere(site, forge.qcow2(version=2, content=b"twin"))


def test_cve_2015_7548(site: Store, canary: Canary) -> None:
    """Nova: a guest writes a qcow2 header over its raw disk; a snapshot of the guest guesses the format.

    Besides the entrances: written by a guest into a volume of ours it is content, at every later look.
    """
    hostile = forge.qcow2(backing=str(canary.path), backing_format="raw")
    leaks(canary, hostile)
    refused_everywhere(site, canary, hostile, OUTSIDE)
    written_by_a_guest(site, canary, hostile)


def written_by_a_guest(site: Store, canary: Canary, hostile: bytes) -> None:
    """A disk whose first sectors are the hostile file: as a volume, and as an image that is copied and grown."""
    canary.noticed()
    payload = canary.path.with_name("payload")
    payload.write_bytes(hostile)
    for place in (site.path("g.qcow2"), site.images / "guest.qcow2"):
        create(place)
        run(["qemu-io", "-f", "qcow2", "-c", f"write -s {payload} 0 {len(hostile)}", str(place)])
    assert site.check("g.qcow2") == ()
    for size in (None, 1):
        volume = site.volume(f"h{size}.qcow2", size, "guest")
        site.store.make(VM, volume)
        assert site.store.check([volume]).below == ()
        raw = canary.path.with_name("raw")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", volume.path, raw)
        with raw.open("rb") as disk:
            assert disk.read(len(hostile)) == hostile
    assert not canary.noticed()


def test_cve_2016_2140(site: Store, canary: Canary) -> None:
    """Nova: a guest writes a qcow2 header that names a device of the host into its ephemeral raw disk; resize and
    migration convert the disk, guessing its format, and the guest reads the device.
    """
    leaks(canary, forge.qcow2(backing=str(canary.path), backing_format="raw"))
    for device in ("/dev/sda3", "/dev/../dev/vda", "/dev/disk/by-id/x", str(canary.path)):
        refused_everywhere(site, canary, forge.qcow2(backing=device, backing_format="raw"), OUTSIDE)
    written_by_a_guest(site, canary, forge.qcow2(backing=str(canary.path), backing_format="raw"))
    taken_everywhere(site, SOUND)


def test_cve_2022_47951(site: Store, canary: Canary) -> None:
    """Cinder, Glance, Nova: a VMDK whose descriptor names a file of the host as its extent."""
    flat = forge.vmdk_descriptor(str(canary.path))
    leaks(canary, flat, "-f", "vmdk")
    leaks(canary, flat)
    refused_everywhere(
        site, canary, flat, "the file is not a qcow2 file, but a VMDK descriptor, which names other files"
    )
    refused_everywhere(site, canary, forge.vmdk_sparse(str(canary.path)), "the file is not a qcow2 file, but a VMDK")
    taken_everywhere(site, SOUND)


def test_cve_2024_32498(site: Store, canary: Canary) -> None:
    """Cinder, Glance, Nova: a qcow2 whose content is an external data file on the host.

    A data file named by "json:" is opened by a QEMU without the repair of CVE-2024-4467 only.
    """
    plain = forge.with_data_file(str(canary.path))
    behind_json = forge.with_data_file(f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{canary.path}"}}}}')
    leaks(canary, plain, "-f", "qcow2")
    for hostile in (plain, behind_json):
        refused_everywhere(site, canary, hostile, DATA_FILE)
    as_raw = forge.with_data_file(str(canary.path), raw=True)
    unnamed = forge.qcow2(features=forge.DATA_FILE_BIT)
    only_named = forge.qcow2(extensions=[(forge.DATA_FILE, str(canary.path).encode())])
    only_raw = forge.qcow2(autoclear=forge.RAW_DATA_FILE_BIT)
    for hostile in (as_raw, unnamed, only_named, only_raw):
        refused_everywhere(site, canary, hostile, DATA_FILE)
    taken_everywhere(site, forge.qcow2(extensions=[(0x6803F857, b"\0\2external data file".ljust(48, b"\0"))]))


def test_cve_2024_40767(site: Store, canary: Canary) -> None:
    """Nova, the repair of the last one: an image that was declared raw, and so not looked at, is a qcow2 with a backing
    file or a VMDK descriptor by its content. Here the other way round: all are declared qcow2, by their name.
    """
    names = (
        f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{canary.path}"}}}}',
        f"file:{canary.path}",
        "nbd://192.0.2.1:10809/x",
        "nbd:unix:/run/x.sock",
        f"fat:{canary.path.parent}",
    )
    leaks(canary, forge.qcow2(backing=names[0]))
    leaks(canary, forge.qcow2(backing=names[1], backing_format="raw"))
    for name in names:
        refused_everywhere(site, canary, forge.qcow2(backing=name, backing_format="raw"), OUTSIDE)
    behind_nul = forge.qcow2(backing=b"/dev/null\0" + bytes(canary.path), backing_format="raw")
    refused_everywhere(site, canary, behind_nul, "the file has a name in its header that is no text")
    relative = forge.qcow2(backing=f"../{canary.path.name}", backing_format="raw")
    refused_everywhere(site, canary, relative, "its backing file is named by a relative path")
    refused_everywhere(site, canary, forge.raw_disk(), "the file is not a qcow2 file, but a raw disk")
    refused_everywhere(site, canary, SECRET * 99, "the file is not a qcow2 file")
    taken_everywhere(site, SOUND)


def test_cve_2024_44082(site: Store, canary: Canary) -> None:
    """Ironic: images went to qemu-img before anybody had looked what they are, and it knows many formats.

    What is no qcow2 is refused by its name. An image that is two things at once is refused too: we do not guess, but
    the next one might.
    """
    others = {
        "an ISO 9660 file system": forge.iso(),
        "a VHDX": b"vhdxfile".ljust(forge.MIB, b"\0"),
        "a VDI": bytes(64) + b"\x7f\x10\xda\xbe" + bytes(600),
        "a VHD": b"conectix".ljust(1024, b"\0"),
        "a QED": b"QED\0".ljust(1024, b"\0"),
        "a LUKS container": b"LUKS\xba\xbe".ljust(1024, b"\0"),
        "a gzip archive: unpack it first": b"\x1f\x8b\x08".ljust(1024, b"\0"),
    }
    leaks(canary, forge.vmdk_descriptor(str(canary.path)))
    for name, hostile in others.items():
        refused_everywhere(site, canary, hostile, f"the file is not a qcow2 file, but {name}")
    cd = bytearray(SOUND)
    cd[32_768 : 32_768 + 8] = b"\x01CD001\x01\0"
    as_image(site, bytes(cd), "the file is a qcow2 file and an ISO 9660 file system at once")
    vhd = SOUND + b"conectix".ljust(512, b"\0")
    as_image(site, vhd, "the file is a qcow2 file and a VHD at once")
    taken_everywhere(site, SOUND)


def test_cve_2026_24708(site: Store, canary: Canary) -> None:
    """Nova with flat disks: a guest writes a qcow2 header into its disk, and a resize calls qemu-img without a format:
    what the header names is resized.

    lvagent resizes no file. A volume gets its size when it is made, larger than its image or not.
    """
    hostile = forge.with_data_file(str(canary.path), raw=True)
    file = canary.path.with_name("disk")
    file.write_bytes(hostile)
    before = canary.path.stat().st_size
    qemu_img("resize", "-q", file, "8M")
    assert canary.path.stat().st_size == 8 * forge.MIB > before
    os.truncate(canary.path, before)
    refused_everywhere(site, canary, hostile, DATA_FILE)
    written_by_a_guest(site, canary, hostile)
    assert canary.path.stat().st_size == before
    taken_everywhere(site, SOUND)


def test_an_image_that_is_swapped_all_the_time(tmp_path: Path, canary: Canary) -> None:
    """Replaced in any moment of a copy: what was judged is what is read, for qemu-img has no name to follow."""
    site = Store(tmp_path, copy="full")
    image, spare = site.images / "x.qcow2", site.images / "spare"
    image.write_bytes(SOUND)
    stop = threading.Event()
    hostile = itertools.cycle(
        [forge.qcow2(backing=str(canary.path), backing_format="raw"), forge.with_data_file(str(canary.path)), SOUND]
    )

    def swap() -> None:
        while not stop.is_set():
            spare.write_bytes(next(hostile))
            spare.rename(image)

    thread = threading.Thread(target=swap)
    results: list[bool] = []
    canary.noticed()
    thread.start()
    try:
        while len(results) < 60 or (len(set(results)) < 2 and len(results) < 600):  # a busy machine swaps seldom
            results.append(made(site, len(results)))
    finally:
        stop.set()
        thread.join()
    assert not canary.noticed()
    assert {True, False} == set(results)
    assert len(left(site.volumes)) == results.count(True)


def made(site: Store, number: int) -> bool:
    """Whether a volume could be made; if so, it is whole."""
    volume = site.volume(f"{number}.qcow2", image="x")
    try:
        site.store.make(VM, volume)
    except (SpecError, Conflict, HostError):
        return False
    run(["qemu-io", "-f", "qcow2", "-c", "read -P 115 0 1", volume.path])  # the s of sound
    return site.store.check([volume]).below == ()


def test_an_image_that_is_swapped_below_an_overlay(tmp_path: Path) -> None:
    """The name in the overlay's header is that of the image that was judged, or nothing is made."""
    site = Store(tmp_path)
    image, spare = site.images / "x.qcow2", site.images / "spare"
    image.write_bytes(SOUND)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            spare.write_bytes(SOUND)
            spare.rename(image)

    thread = threading.Thread(target=swap)
    thread.start()
    told: list[str] = []
    try:
        for number in range(100):
            told += attempt(lambda number=number: site.store.make(VM, site.volume(f"{number}.qcow2", image="x")))
    finally:
        stop.set()
        thread.join()
    assert {text.split(" was ")[-1] for text in told} <= {"replaced just now"}
    assert len(left(site.volumes)) == 100 - len(told)


def attempt(call: Callable[[], None]) -> list[str]:
    try:
        call()
    except LvagentError as error:
        return [error.message]
    return []


def test_the_ways_to_show_danger_can_fail(canary: Canary) -> None:
    """A sound file leaks nothing: neither the watch nor the search for the secret says yes to everything."""
    file, out = canary.path.with_name("sound"), canary.path.with_name("out")
    file.write_bytes(SOUND)
    canary.noticed()
    qemu_img("convert", "-O", "raw", file, out)
    assert SECRET not in out.read_bytes()
    assert not canary.noticed()
    with pytest.raises(CommandError):
        qemu_img("convert", "-f", "vmdk", "-O", "raw", file, out)
