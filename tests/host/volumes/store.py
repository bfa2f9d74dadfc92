"""A volume store with folders of its own, for the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvagent.config import Paths, Settings, Volumes
from lvagent.errors import SpecError
from lvagent.host.run import run
from lvagent.host.volumes import VolumeStore
from lvagent.spec.vm import Volume

VM = "i-0000000001"


class Store:
    """The folders ``volumes``, ``images`` and, for what nobody may reach, ``outside``."""

    def __init__(self, root: Path, *, copy: str = "overlay", user: str = "libvirt-qemu", timeout: int = 60) -> None:
        self.volumes = root / "volumes"
        self.images = root / "images"
        self.outside = root / "outside"
        for folder in (self.volumes, self.images, self.outside):
            folder.mkdir(exist_ok=True)
        volumes = Volumes(folders=(str(self.volumes),), copy=copy, user=user, group="kvm", timeout=timeout)
        self.store = VolumeStore(Settings(paths=Paths(images=str(self.images)), volumes=volumes))

    def path(self, name: str = "a.qcow2") -> str:
        return str(self.volumes / name)

    def volume(self, name: str = "a.qcow2", size: int | None = None, image: str | None = None) -> Volume:
        return Volume(self.path(name), 0, size, image)

    def check(self, *names: str) -> tuple[str, ...]:
        return self.store.check([self.volume(name) for name in names or ("a.qcow2",)]).missing

    def refused(self, name: str = "a.qcow2") -> str:
        with pytest.raises(SpecError) as caught:
            self.check(name)
        assert caught.value.path == "volumes[0].path"
        return caught.value.message


def qemu_img(*arguments: object) -> str:
    return run(["qemu-img", *map(str, arguments)])


def create(path: Path | str, *options: object, size: str = "64M") -> None:
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
