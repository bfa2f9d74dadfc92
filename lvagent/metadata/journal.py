"""The service's log: a descriptor that it was handed, since it can open no file; emptied when it grows too large."""

from __future__ import annotations

import logging
import os
import time

MOST = 1 << 20
"""Bytes."""


class Journal(logging.Handler):
    """Writes lines to a descriptor. Times are UTC: there is no time zone in an empty root folder."""

    def __init__(self, descriptor: int, most: int = MOST) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most = most

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as one line; a log that cannot be written stops nothing."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line = f"{stamp} {record.levelname.lower()} {' '.join(record.getMessage().splitlines())}\n"
        try:
            if os.fstat(self._descriptor).st_size > self._most:
                os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, line.encode(errors="replace"))
        except OSError:
            return
