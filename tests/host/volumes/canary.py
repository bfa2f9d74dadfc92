"""A secret file that tells whether somebody opened it."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType

IN_ACCESS, IN_MODIFY, IN_OPEN = 0x1, 0x2, 0x20
SECRET = b"the secret of another one; "

_libc = ctypes.CDLL(None, use_errno=True)


class Canary:
    """A secret of some sectors, watched by inotify(7) within the context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(SECRET * 400)
        path.chmod(0o644)  # whoever gets there could read it: that nobody got there is what is shown
        self._before = path.read_bytes()
        self._notices = -1

    def __enter__(self) -> Canary:
        self._notices = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._notices >= 0
        assert _libc.inotify_add_watch(self._notices, bytes(self.path), IN_ACCESS | IN_MODIFY | IN_OPEN) > 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._notices)

    def noticed(self) -> bool:
        """Whether it was opened, read or written since the last call."""
        try:
            raw = os.read(self._notices, 1 << 16)
        except BlockingIOError:
            return False
        return struct.unpack_from("iI", raw)[1] != 0

    def whole(self) -> bool:
        """Whether it is as it was. Looking at it is not noticed."""
        same = self.path.read_bytes() == self._before
        self.noticed()
        return same
