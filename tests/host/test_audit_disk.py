"""The audit log on a disk that is full."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.host.audit import AuditLog

pytestmark = pytest.mark.host

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB; a mount of the test's own."""
    folder = tmp_path / "state"
    folder.mkdir()
    code = _libc.mount(b"small", bytes(folder), b"tmpfs", 0, b"size=64k")
    assert code == 0, os.strerror(ctypes.get_errno())
    yield folder
    assert _libc.umount2(bytes(folder), 2) == 0


def test_a_disk_that_is_full_spoils_nothing_and_stops_nobody(small: Path) -> None:
    log = AuditLog(small, size=1 << 30, keep=1)
    filler = small / "filler"
    filler.write_bytes(b"x" * 40_000)
    line = {"text": "y" * 1000}
    for _ in range(100):
        log.write(line)
    kept = log.path.read_text().splitlines()
    assert log.lost == 100 - len(kept) > 0
    assert [json.loads(one) for one in kept] == [line] * len(kept)
    filler.unlink()
    log.write(line)
    assert json.loads(log.path.read_text().splitlines()[-1]) == {**line, "lost_before": log.lost}
    log.close()
