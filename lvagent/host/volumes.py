"""Volumes and images: qcow2 files in folders of ours.

A path comes from a caller, and a file may come from anybody. So a path is resolved by the kernel below a configured
folder (no links, nothing outside), what is found there is looked at through the descriptor that was opened, and a
qcow2 file is believed only after its header, and those of all its backing files, were judged.

A volume is made under a temporary name beside its own and gets its name in one step that replaces nothing: a crash
leaves a temporary file at most, and nothing that existed is ever written to.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import CommandError, Conflict, HostError, LvagentError, SpecError
from lvagent.host import qcow2
from lvagent.host.beneath import open_beneath, rename_new
from lvagent.host.chains import inside, judge, opened_folder, refusal, regular_file
from lvagent.host.images.cached import lasting
from lvagent.host.run import run
from lvagent.spec import names
from lvagent.spec.status import ImageView
from lvagent.spec.vm import Volume

log = logging.getLogger(__name__)

IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
SUFFIX = ".qcow2"
"""Of every volume and image: libvirt's AppArmor helper follows chains only of files that are named so."""
MAX_NAME = 200
"""Bytes of a file name, so that a temporary name fits too."""
CONVERT_MEMORY = 2 << 30
"""Bytes of address space that qemu-img may take."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_HINT = "free space in the folder of the volume"


class VolumeStore:
    """The volumes and images of this host. May be called by many threads; for one VM by one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.volumes
        self._images = os.path.normpath(settings.paths.images)
        self._folders = tuple(os.path.normpath(folder) for folder in settings.volumes.folders)
        self._backings = (*self._folders, self._images)

    def check(self, volumes: Sequence[Volume]) -> tuple[str, ...]:
        """Judge the volumes of a spec before anything is made.

        :return: the paths that do not exist yet and are to be made.
        :raise SpecError: at ``volumes[i].path``, ``.image`` or ``.size_gb``.
        """
        missing = []
        seen: dict[tuple[int, int], int] = {}
        for index, volume in enumerate(volumes):
            at = f"volumes[{index}]"
            identity = self._existing(volume, f"{at}.path")
            if identity is None:
                self._size(volume, at)
                missing.append(volume.path)
            elif identity in seen:
                raise SpecError(f"{at}.path", f"is the same file as volumes[{seen[identity]}].path")
            else:
                seen[identity] = index
        return tuple(missing)

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
        with self._parent(volume.path, "volumes") as (parent, name):
            temporary = _temporary(vm, name)
            _unlink(parent, temporary)
            try:
                self._fill(parent, temporary, volume)
                rename_new(parent, temporary, name)
                os.fsync(parent)
            except FileExistsError as error:
                raise Conflict(f"{volume.path} exists by now", path="volumes", hint="put the spec again") from error
            except OSError as error:
                raise _failure(volume.path, error) from error
            finally:
                _unlink(parent, temporary)

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

    def _image_view(self, name: str) -> ImageView | None:
        try:
            with self._image(name, "image") as (file, header):
                return ImageView(name, header.virtual_size, os.fstat(file).st_size)
        except SpecError as error:
            log.warning("image %s is left out: %s", name, error.message)
            return None

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
            yield opened, os.path.basename(inner)

    def _place(self, path: str, at: str) -> tuple[str, str]:
        """Which of the volume folders a path is in, and the rest of the path."""
        if not path.startswith("/") or os.path.normpath(path) != path or "\0" in path:
            raise SpecError(at, "is not a plain absolute path", "write it without .., . and double slashes")
        name = os.path.basename(path)
        if not name.endswith(SUFFIX) or name.startswith(".") or len(os.fsencode(name)) > MAX_NAME:
            raise SpecError(at, f"is no name of a volume: it must end in {SUFFIX} and not begin with a dot")
        place = inside(path, self._folders)
        if place is None:
            raise SpecError(at, "is outside the volume folders", f"choose one in {', '.join(self._folders)}")
        return place

    def _existing(self, volume: Volume, at: str) -> tuple[int, int] | None:
        """Judge the file of a volume. Its (device, inode); None if there is none."""
        with self._parent(volume.path, at) as (parent, name), ExitStack() as stack:
            try:
                file = regular_file(stack, parent, name, at)
            except FileNotFoundError:
                return None
            found = os.fstat(file)
            if found.st_nlink != 1:
                raise SpecError(at, "has a second name (hard link)", "copy it: another VM may use it by that name")
            judge(file, at, self._backings)
            return found.st_dev, found.st_ino

    @contextmanager
    def _image(self, name: str, at: str) -> Iterator[tuple[int, qcow2.Header]]:
        """An image, open and judged."""
        with ExitStack() as stack:
            try:
                if not IMAGE_NAME.match(name):
                    raise FileNotFoundError(name)
                file = regular_file(stack, opened_folder(stack, self._images), name + SUFFIX, at)
            except FileNotFoundError as error:
                raise SpecError(at, f"there is no image {name!r}", "list them with GET /v1/images") from error
            yield file, judge(file, at, self._backings)

    def _size(self, volume: Volume, at: str) -> int:
        """The size (bytes) of a volume that is to be made."""
        asked = (volume.size_gb or 0) * qcow2.GIB
        if volume.image is None:
            if not asked:
                raise SpecError(f"{at}.path", "the file is not there", "give size_gb or image, and it is made")
            return asked
        with self._image(volume.image, f"{at}.image") as (_, header):
            if asked and asked < header.virtual_size:
                least = -(-header.virtual_size // qcow2.GIB)
                raise SpecError(f"{at}.size_gb", "is smaller than the image", f"at least {least}, or leave it out")
            return asked or header.virtual_size

    def _fill(self, parent: int, temporary: str, volume: Volume) -> None:
        size = self._size(volume, "volumes")
        overlay = volume.image is not None and self._settings.copy == "overlay"
        layout = qcow2.new(size, self._backing(volume) if overlay else None)
        owner = self._owner()
        file = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
        )
        try:
            _lay_out(file, layout)
            os.fchown(file, *owner)
            if volume.image is not None and not overlay:
                self._copy(volume, file, owner)
            os.fsync(file)
        finally:
            os.close(file)

    def _backing(self, volume: Volume) -> str:
        """The image's file under the name that a later build of the image leaves alone."""
        return str(lasting(Path(self._images, f"{volume.image}{SUFFIX}")))

    def _copy(self, volume: Volume, target: int, owner: tuple[int, int]) -> None:
        """Copy an image into a new file, by qemu-img with as few rights as will do."""
        seconds = self._settings.timeout
        with self._image(volume.image or "", "volumes") as (source, _):
            limits = ["prlimit", f"--cpu={seconds}", f"--as={CONVERT_MEMORY}", "--core=0", "--"]
            convert = ["qemu-img", "convert", "-n", "--target-is-zero", "-f", "qcow2", "-O", "qcow2"]
            places = [f"/proc/self/fd/{source}", f"/proc/self/fd/{target}"]
            try:
                run(
                    [*limits, *convert, *places],
                    timeout=seconds,
                    user=owner[0],
                    group=owner[1],
                    pass_fds=(source, target),
                )
            except CommandError as error:
                raise _copy_failure(volume, error) from error

    def _owner(self) -> tuple[int, int]:
        try:
            return pwd.getpwnam(self._settings.user).pw_uid, grp.getgrnam(self._settings.group).gr_gid
        except KeyError as error:
            raise HostError(
                "the owner of volumes", "find", f"{error.args[0]}", hint="set volumes.user, .group"
            ) from error

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
                _unlink(parent, _temporary(vm, name))
                if whole:
                    _unlink_regular(parent, name, path)
        except OSError as error:
            raise HostError(path, "remove", str(error.strerror)) from error
        except SpecError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise


def _temporary(vm: str, name: str) -> str:
    if not names.VM_ID.match(vm):
        raise ValueError(f"{vm!r} is no id of a VM")
    return f".lvagent-{vm}-{name}"


def _lay_out(file: int, layout: qcow2.Layout) -> None:
    os.ftruncate(file, layout.length)
    for offset, part in layout.parts:
        if os.pwrite(file, part, offset) != len(part):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def _unlink_regular(parent: int, name: str, path: str) -> None:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise HostError(path, "remove", "it is no regular file", hint="it is not what was made; look at it")
    _unlink(parent, name)


def _failure(path: str, error: OSError) -> HostError:
    return HostError(path, "make", str(error.strerror), hint=_FULL_HINT if error.errno in _FULL else "")


def _copy_failure(volume: Volume, error: CommandError) -> HostError:
    for code in _FULL:
        if os.strerror(code) in error.stderr:
            return HostError(volume.path, "make", os.strerror(code), hint=_FULL_HINT)
    hint = "" if error.code is not None else "raise volumes.timeout, or use volumes.copy = overlay"
    return HostError(volume.path, "copy the image for", error.cause, hint=hint)
