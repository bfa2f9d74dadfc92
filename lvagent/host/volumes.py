"""Volumes and images: qcow2 files in folders of ours.

A path comes from a caller, and a file may come from anybody. So a path is resolved by the kernel below a configured
folder (no links, nothing outside), what is found there is looked at through the descriptor that was opened, and a
qcow2 file is believed only after its header, and those of all its backing files, were judged.

A volume is made under a temporary name beside its own and gets its name in one step that replaces nothing: a crash
leaves a temporary file at most, and nothing that existed is ever written to.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import HostError, LvagentError, SpecError
from lvagent.host import foreign, fresh, qcow2, qemu_img
from lvagent.host.beneath import open_beneath
from lvagent.host.chains import Bounds, Link, inside, judge, open_to_all, opened_folder, refusal, regular_file
from lvagent.host.images.cached import lasting
from lvagent.spec.claims import Below
from lvagent.spec.status import ImageView
from lvagent.spec.vm import Volume

log = logging.getLogger(__name__)

IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
SUFFIX = ".qcow2"
"""Of every volume and image: libvirt's AppArmor helper follows chains only of files that are named so."""
MAX_NAME = 200
"""Bytes of a file name, so that a temporary name fits too."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the volumes of a spec are: paths that are to be made, and volumes that others stand on."""

    missing: tuple[str, ...]
    below: tuple[Below, ...] = ()


class VolumeStore:
    """The volumes and images of this host. May be called by many threads; for one VM by one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.volumes
        self._images = os.path.normpath(settings.paths.images)
        self._folders = tuple(os.path.normpath(folder) for folder in settings.volumes.folders)
        self._known: Bounds | None = None

    def check(self, volumes: Sequence[Volume]) -> Judged:
        """Judge the volumes of a spec: before anything is made, and each time that the VM starts.

        :raise SpecError: at ``volumes[i].path``, ``.image`` or ``.size_gb``.
        """
        missing: list[str] = []
        chains: dict[int, tuple[Link, ...]] = {}
        for index, volume in enumerate(volumes):
            chain = self._existing(volume, f"volumes[{index}].path")
            if chain:
                chains[index] = chain
            else:
                self._judge_new(volume, f"volumes[{index}]")
                missing.append(volume.path)
        _check_apart(volumes, chains)
        below = [
            Below(link.path, f"volumes[{index}].path")
            for index, chain in chains.items()
            for link in chain[1:]
            if link.path is not None and not link.image
        ]
        return Judged(tuple(missing), tuple(below))

    def there(self, path: str, at: str) -> bool:
        """Whether anything has the name of a volume; it is not looked into.

        :param at: the JSON path for errors.
        :raise SpecError: it is no path of a volume.
        """
        with self._parent(path, at) as (parent, name):
            try:
                os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def make(self, vm: str, volume: Volume) -> None:
        """Make a volume that does not exist.

        :raise Conflict: it exists by now.
        :raise SpecError: as ``check``.
        :raise HostError: no space, or the file system or qemu-img refused.
        """
        with self._parent(volume.path, "volumes") as (parent, name), ExitStack() as stack:
            fresh.make(parent, vm, name, self._wish(stack, volume), self._bounds())

    def remove(self, vm: str, paths: Sequence[str]) -> None:
        """Make sure that these volumes, which were made for this VM, and their temporary files are not there.

        Goes on after an error.

        :raise LvagentError: the first error, with the others in its message.
        """
        self._each(vm, paths, whole=True)

    def clear(self, vm: str, paths: Sequence[str]) -> None:
        """Remove what a crash left while these volumes were made; the volumes themselves stay."""
        self._each(vm, paths, whole=False)

    def images(self) -> tuple[ImageView, ...]:
        """The images a volume can be made from, by name; a file that is no sound image is left out."""
        try:
            found = sorted(name.removesuffix(SUFFIX) for name in os.listdir(self._images) if name.endswith(SUFFIX))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise HostError("the image folder", "read", str(error.strerror)) from error
        views = (self._image_view(name) for name in found if IMAGE_NAME.match(name))
        return tuple(view for view in views if view is not None)

    def files(self) -> tuple[str, ...]:
        """The paths of all volumes in the volume folders, sorted; links and what has other names are left out."""
        found = (
            os.path.join(folder, name)
            for top in self._folders
            for folder, _, names in os.walk(top)
            for name in names
            if name.endswith(SUFFIX) and not name.startswith(".")
        )
        return tuple(sorted(path for path in found if not os.path.islink(path)))

    def _image_view(self, name: str) -> ImageView | None:
        try:
            with ExitStack() as stack:
                image = self._image(stack, name, "image")[0]
                return ImageView(name, image.header.virtual_size, os.fstat(image.file).st_size)
        except SpecError as error:
            log.warning("image %s is left out: %s", name, error.message)
            return None

    def _bounds(self) -> Bounds:
        """What files may be used; qemu's account may be missing as long as nothing is made for it."""
        if self._known is not None:
            return self._known
        root = frozenset({0})
        bounds = Bounds(self._folders, self._images, root, root, self._settings.largest_gb * qcow2.GIB)
        try:
            uid, gid = self._owner()
        except HostError as error:
            log.debug("%s", error)
            return bounds
        self._known = dataclasses.replace(bounds, owners=root | {uid}, groups=root | {gid})
        return self._known

    def _owner(self) -> tuple[int, int]:
        uid, _ = qemu_img.account(self._settings.user, "volumes.user")
        return uid, qemu_img.group(self._settings.group, "volumes.group")

    @contextmanager
    def _parent(self, path: str, at: str) -> Iterator[tuple[int, str]]:
        """The open folder of a volume, and the volume's name in it."""
        folder, inner = self._place(path, at)
        with ExitStack() as stack:
            base = opened_folder(stack, folder)
            parent = os.path.dirname(inner)
            try:
                opened = open_beneath(base, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise refusal(at, error, "its folder") from error
            stack.callback(os.close, opened)
            if open_to_all(opened):
                raise SpecError(at, "is in a folder that everybody may write to", "chmod o-w")
            yield opened, os.path.basename(inner)

    def _place(self, path: str, at: str) -> tuple[str, str]:
        """Which of the volume folders a path is in, and the rest of the path."""
        if not path.startswith("/") or os.path.normpath(path) != path or "\0" in path:
            raise SpecError(at, "is not a plain absolute path", "write it without .., . and double slashes")
        name = os.path.basename(path)
        if not name.endswith(SUFFIX) or name.startswith(".") or len(os.fsencode(name)) > MAX_NAME:
            raise SpecError(at, f"is no name of a volume: it must end in {SUFFIX} and not begin with a dot")
        place = inside(path, (*self._folders, self._images))
        if place is None or place[0] not in self._folders:
            raise SpecError(at, "is outside the volume folders", f"choose one in {', '.join(self._folders)}")
        return place

    def _existing(self, volume: Volume, at: str) -> tuple[Link, ...]:
        """Judge the file of a volume. Its chain, closed by then; empty if there is none."""
        with self._parent(volume.path, at) as (parent, name), ExitStack() as stack:
            try:
                file = regular_file(stack, parent, name, at)
            except FileNotFoundError:
                return ()
            return judge(stack, file, at, self._bounds())

    def _image(self, stack: ExitStack, name: str, at: str) -> tuple[Link, ...]:
        """The chain of an image, open and judged. Nobody mends an image when it is opened, so it must be whole."""
        try:
            if not IMAGE_NAME.match(name):
                raise FileNotFoundError(name)
            file = regular_file(stack, opened_folder(stack, self._images), name + SUFFIX, at)
        except FileNotFoundError as error:
            raise SpecError(at, f"there is no image {name!r}", "list them with GET /v1/images") from error
        chain = judge(stack, file, at, self._bounds(), image=True)
        for link in chain:
            _check_image(link, at)
        return chain

    def _judge_new(self, volume: Volume, at: str) -> None:
        with ExitStack() as stack:
            image = self._image(stack, volume.image, f"{at}.image") if volume.image is not None else ()
            self._size(volume, image, at)

    def _size(self, volume: Volume, image: tuple[Link, ...], at: str) -> int:
        """The size (bytes) of a volume that is to be made."""
        asked = (volume.size_gb or 0) * qcow2.GIB
        if not image and not asked:
            raise SpecError(f"{at}.path", "the file is not there", "give size_gb or image, and it is made")
        if asked > self._settings.largest_gb * qcow2.GIB:
            raise SpecError(f"{at}.size_gb", "is too large", f"at most {self._settings.largest_gb}")
        if image and asked and asked < image[0].header.virtual_size:
            least = -(-image[0].header.virtual_size // qcow2.GIB)
            raise SpecError(f"{at}.size_gb", "is smaller than the image", f"at least {least}, or leave it out")
        return asked or image[0].header.virtual_size

    def _wish(self, stack: ExitStack, volume: Volume) -> fresh.Wish:
        settings = self._settings
        image = self._image(stack, volume.image, "volumes") if volume.image is not None else ()
        copied = bool(image) and settings.copy == "full"
        return fresh.Wish(
            path=volume.path,
            size=self._size(volume, image, "volumes"),
            image=image,
            backing=self._backing(volume.image) if volume.image is not None and not copied else None,
            owner=self._owner(),
            reader=qemu_img.account(settings.reader, "volumes.reader") if copied else None,
            seconds=settings.timeout,
        )

    def _backing(self, image: str) -> str:
        """The image's file under the name that a later build of the image leaves alone."""
        return str(lasting(Path(self._images, f"{image}{SUFFIX}")))

    def _each(self, vm: str, paths: Sequence[str], *, whole: bool) -> None:
        errors: list[LvagentError] = []
        for path in paths:
            try:
                self._absent(vm, path, whole)
            except LvagentError as error:
                errors.append(error)
        if len(errors) > 1:
            raise HostError("volumes", "remove", "; ".join(error.message for error in errors)) from errors[0]
        if errors:
            raise errors[0]

    def _absent(self, vm: str, path: str, whole: bool) -> None:
        try:
            with self._parent(path, "volumes") as (parent, name):
                fresh.unlink(parent, fresh.temporary_name(vm, name))
                if whole:
                    fresh.remove_regular(parent, name, path)
        except OSError as error:
            raise HostError(path, "remove", str(error.strerror)) from error
        except SpecError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise


def _check_apart(volumes: Sequence[Volume], chains: Mapping[int, tuple[Link, ...]]) -> None:
    """No two volumes of a VM are one file, and none stands on one that the guest writes to."""
    tops: dict[tuple[int, int], int] = {}
    for index, chain in chains.items():
        first = tops.setdefault(chain[0].identity, index)
        if first != index:
            raise SpecError(f"volumes[{index}].path", f"is the same file as volumes[{first}].path")
    for index, chain in chains.items():
        for link in chain[1:]:
            other = tops.get(link.identity)
            if other is not None and not volumes[other].readonly:
                raise SpecError(f"volumes[{index}].path", f"stands on volumes[{other}].path, which the guest writes to")


def _check_image(link: Link, at: str) -> None:
    if link.header.dirty:
        raise SpecError(at, "the file was not closed properly", "qemu-img check -r all")
    length = os.fstat(link.file).st_size
    tail = os.pread(link.file, foreign.TAIL, max(0, length - foreign.TAIL))
    besides = foreign.also(os.pread(link.file, link.header.header_end, 0), tail)
    if besides:
        raise SpecError(at, f"the file is a qcow2 file and {besides} at once", "make it anew: qemu-img convert")
