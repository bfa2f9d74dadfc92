"""The flight recorder's files: for each VM one of JSON lines, in ``timelines`` in the state folder, root's alone.

Bounded twice: a file that has grown to its size becomes ``.old`` and the one before it goes; and when all together are
too large, those of VMs that are gone go, oldest first. A line is appended with one write(2), so the agent and the hook
working alone can both write. What cannot be written is lost, counted, and stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lvagent.host import files
from lvagent.spec import names

log = logging.getLogger(__name__)

FOLDER = "timelines"
SUFFIX, OLD = ".jsonl", ".jsonl.old"
SIZE = 64 << 10
"""Bytes after which a VM's file is begun anew; the one before it is kept."""
TOTAL = 32 << 20
"""Bytes of all files, beyond which those of VMs that are gone are removed."""


TRIES = 3
"""How often a timeline is read whose file is begun anew meanwhile."""


class TimelineFiles:
    """The timelines of one host.

    :param state: the state folder.
    :param size: see ``SIZE``.
    :param total: see ``TOTAL``.
    """

    def __init__(self, state: Path, *, size: int = SIZE, total: int = TOTAL) -> None:
        self._folder = state / FOLDER
        self._size = size
        self._total = total
        self.lost = 0
        """Lines that could not be written."""

    def append(self, vm: str, line: Mapping[str, object]) -> None:
        """Add a line to a VM's timeline; never raises."""
        try:
            self._append(self._path(vm), json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except (OSError, ValueError) as error:
            self.lost += 1
            if self.lost & (self.lost - 1) == 0:  # the first, second, fourth ...: a full disk must not fill the log
                log.warning("the timeline of %s cannot be written (%d lines are lost): %s", vm, self.lost, error)

    def _path(self, vm: str) -> Path:
        if not names.VM_ID.match(vm):
            raise ValueError("that is no VM's id")
        return self._folder / f"{vm}{SUFFIX}"

    def _append(self, path: Path, raw: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(path).st_size
            if there and there + len(raw) > self._size:
                os.rename(path, path.with_suffix(OLD))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        try:
            if os.write(descriptor, raw) < len(raw):
                os.write(descriptor, b"\n")  # half a line is left out when it is read; the next begins its own
                raise OSError(28, "no space for a whole line")
        finally:
            os.close(descriptor)

    def read(self, vm: str) -> list[dict[str, object]]:
        """The lines of a VM's timeline, oldest first; what is no line of ours is left out, and so is a broken disk."""
        try:
            path = self._path(vm)
        except ValueError:
            return []
        old = path.with_suffix(OLD)
        for _ in range(TRIES):
            before = _inode(old)
            found = [*self._lines(old), *self._lines(path)]
            if _inode(old) == before:  # else what was the new one is the old one by now, and was not read
                break
        return found

    def _lines(self, path: Path) -> Iterator[dict[str, object]]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                raw = file.read(4 * self._size)
        except OSError:
            return
        for line in raw.splitlines():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value

    def tidy(self, there: Iterable[str]) -> None:
        """Remove the oldest timelines of VMs that are not there, while all together are too large. Never raises."""
        kept = frozenset(there)
        try:
            found = sorted(
                (entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self._folder)
            )
        except OSError:
            return
        left = sum(size for _, size, _ in found)
        for _, size, path in found:
            if left <= self._total:
                return
            if Path(path).name.partition(".")[0] not in kept:
                with contextlib.suppress(OSError):
                    files.remove(Path(path))
                    left -= size


def _inode(path: Path) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0
