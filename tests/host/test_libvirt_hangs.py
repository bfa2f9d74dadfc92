"""A libvirtd that takes connections and says nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.errors import Unavailable
from lvagent.host import libvirt_lines
from lvagent.host.libvirt import Hypervisor

pytestmark = pytest.mark.host


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """The URI of one."""
    path = tmp_path / "libvirt-sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        yield f"qemu+unix:///system?socket={path}"


def test_nobody_waits_for_it_without_end(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_lines, "OPEN_SECONDS", 0.3)
    hypervisor = Hypervisor(silent)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="libvirtd"):
            hypervisor.records()
        assert 0.2 < time.monotonic() - began < 20
    hypervisor.close()
