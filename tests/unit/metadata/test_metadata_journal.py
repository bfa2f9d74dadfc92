"""The log: a line a record, and never longer than it may be."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from lvagent.metadata.journal import Journal


def record(text: str) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, "", 0, text, None, None)
    made.created = 0
    return made


def test_a_record_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    Journal(descriptor).emit(record("one\r\n1970 forged\x85line\ud800"))
    os.close(descriptor)
    assert file.read_text() == "1970-01-01T00:00:00Z warning one 1970 forged line?\n"


def test_the_log_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    journal = Journal(descriptor, most=1000)
    for number in range(100):
        journal.emit(record(f"{number:050}"))
        assert file.stat().st_size <= 1100
    os.close(descriptor)
    assert file.read_text().endswith(f"{99:050}\n")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.close(descriptor)
    Journal(descriptor).emit(record("lost"))
    assert (tmp_path / "log").read_text() == ""
