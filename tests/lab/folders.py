"""The folder on disk that a lab host keeps its files in, and who may remove it.

A folder is locked (flock) from its birth to the end of its host. One that is there and not locked is a leftover of a
run that was killed, keeper and all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

STATES = Path("/var/tmp")  # a disk, not a tmpfs: qemu's cache='none' needs O_DIRECT
PREFIX = "lvagent-lab-"


def claim() -> tuple[Path, int]:
    """Make a folder, and lock it before another run takes it for a leftover.

    :return: the folder, and the descriptor that holds the lock: whoever inherits it holds it as well.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=STATES))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            folder.chmod(0o755)  # qemu, which is not root, must come through
            return folder, descriptor
        os.close(descriptor)


def folders() -> set[Path]:
    """Those that are there, of all runs."""
    return set(STATES.glob(f"{PREFIX}*"))


def remove_leftovers() -> None:
    """Remove those that nobody holds the lock of."""
    for folder in folders():
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
