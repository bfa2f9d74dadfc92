"""Whether a volume's name is taken, told without looking into what has it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from lvagent.config import Paths, Settings, Volumes
from lvagent.errors import HostError, SpecError
from lvagent.host.volumes import VolumeStore

pytestmark = pytest.mark.host


def test_whatever_has_the_name_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    folder.mkdir()
    store = VolumeStore(Settings(paths=Paths(images=str(tmp_path)), volumes=Volumes(folders=(str(folder),))))
    path = folder / "a.qcow2"
    assert not store.there(str(path), "volumes[0].path")
    for make in (Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nonexistent")):
        make(path)
        assert store.there(str(path), "volumes[0].path")
        path.rmdir() if path.is_dir() else path.unlink()
    for outside in (tmp_path / "a.qcow2", folder / ".." / "a.qcow2", folder / "none" / "a.qcow2", folder / "a.raw"):
        with pytest.raises(SpecError) as refused:
            store.there(str(outside), "volumes[3].path")
        assert refused.value.path == "volumes[3].path"


def test_that_the_agent_has_no_descriptors_left_is_not_the_fault_of_a_spec(tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    folder.mkdir()
    store = VolumeStore(Settings(paths=Paths(images=str(tmp_path)), volumes=Volumes(folders=(str(folder),))))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(folder, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, limits[1]))
    try:
        with pytest.raises(HostError, match="Too many open files"):
            store.there(str(folder / "a.qcow2"), "volumes[0].path")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(taken[0])
