"""Mounts of the tests' own: names of namespaces that they make are seen by nobody else, and go with the test run."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_NEW_MOUNTS, _PRIVATE, _RECURSIVE = 0x00020000, 1 << 18, 1 << 14
_libc = ctypes.CDLL(None, use_errno=True)


def _check(code: int, what: str) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


@pytest.fixture(scope="session", autouse=True)
def _own_mounts() -> Iterator[None]:
    """From here on the test run has a mount namespace of its own, with an empty /run/netns.

    ``ip netns add`` makes that folder a mount, which nobody takes away again.
    """
    names = Path("/run/netns")
    made = not names.exists()
    _check(_libc.unshare(_NEW_MOUNTS), "unshare")
    _check(_libc.mount(b"none", b"/", None, _PRIVATE | _RECURSIVE, None), "/")
    names.mkdir(exist_ok=True)
    _check(_libc.mount(b"names", bytes(names), b"tmpfs", 0, b"mode=755"), str(names))
    yield
    while _libc.umount2(bytes(names), 2) == 0:  # detached; also what ip has mounted over it
        pass
    if made:
        names.rmdir()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in /run that others may enter: what gave up its privileges too."""
    made = Path(tempfile.mkdtemp(dir="/run", prefix="lvagent-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)
