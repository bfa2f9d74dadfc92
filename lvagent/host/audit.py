"""The audit log: one line of JSON for each thing that was done, or that somebody tried.

``audit.log`` in the state folder, root's alone, only ever appended to (O_APPEND, and never through a link); when it
has grown to its size it becomes ``audit.log.1``, and the oldest one goes. A line is written with one write(2). A disk
that is full stops nothing: what could not be written is counted, told in the agent's log, and told by the first line
that can be written again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lvagent.host import files

log = logging.getLogger(__name__)

FILE = "audit.log"
TELL_SECONDS = 60.0
"""How often the log tells that lines are lost."""


class AuditLog:
    """The audit log of one agent. May be written to by many threads.

    :param folder: the state folder; made again if somebody deletes it.
    :param size: bytes after which a new file is begun.
    :param keep: how many old files stay.
    """

    def __init__(self, folder: Path, *, size: int, keep: int) -> None:
        self.path = folder / FILE
        self.lost = 0
        """Lines that could not be written since the agent began."""
        self._untold = 0
        self._size = size
        self._keep = keep
        self._lock = threading.Lock()
        self._file = -1
        self._told = 0.0

    def write(self, line: Mapping[str, object]) -> None:
        """Append a line; never raises."""
        with self._lock:
            try:
                self._append(self._encoded(line))
            except OSError as error:
                self._lose(error)

    def _encoded(self, line: Mapping[str, object]) -> bytes:
        more = {"lost_before": self._untold} if self._untold else {}
        return json.dumps({**line, **more}, separators=(",", ":")).encode() + b"\n"

    def _append(self, raw: bytes) -> None:
        size = self._open()
        if size and size + len(raw) > self._size:
            self._rotate()
            self._open()
        before = os.fstat(self._file).st_size
        if os.write(self._file, raw) < len(raw):
            os.ftruncate(self._file, before)  # half a line would spoil the next one too
            raise OSError(28, "no space for a whole line")
        self._untold = 0

    def _open(self) -> int:
        """Make sure that the file which has the name is open; its size."""
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(self.path)
            mine = os.fstat(self._file) if self._file >= 0 else None
            if mine is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return mine.st_size
        self.close()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(self.path, flags, 0o600)
        os.fchmod(self._file, 0o600)
        return os.fstat(self._file).st_size

    def _rotate(self) -> None:
        self.close()
        if not self._keep:
            files.remove(self.path)
            return
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.rename(self.path, f"{self.path}.1")

    def _lose(self, error: OSError) -> None:
        self.lost += 1
        self._untold += 1
        if time.monotonic() - self._told > TELL_SECONDS or self.lost == 1:
            self._told = time.monotonic()
            log.error("the audit log %s cannot be written, %d lines are lost: %s", self.path, self.lost, error.strerror)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def tail(folder: Path, count: int) -> Iterator[str]:
    """The last lines of the log, oldest first, the older files included.

    :param count: how many, at most.
    :raise OSError: a file cannot be read.
    """
    kept: list[list[str]] = []
    left, path, number = count, folder / FILE, 0
    while left > 0:
        try:
            lines = path.read_text(errors="replace").splitlines()[-left:]
        except FileNotFoundError:
            if number:
                break
            lines = []  # it was renamed just now, and the new one is not there yet
        kept.append(lines)
        left -= len(lines)
        number += 1
        path = folder / f"{FILE}.{number}"
    for lines in reversed(kept):
        yield from lines
