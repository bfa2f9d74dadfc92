"""The audit log as a file: appended to, bounded, and never in anybody's way."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from lvagent.host.audit import FILE, AuditLog, tail


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_line_each_for_root_alone(folder: Path) -> None:
    log = AuditLog(folder, size=1 << 20, keep=2)
    log.write({"a": 1, "b": "x\ny\u2028"})
    log.write({"a": 2})
    assert lines(log.path) == [{"a": 1, "b": "x\ny\u2028"}, {"a": 2}]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, log.path)] == [0o700, 0o600]
    log.close()
    AuditLog(folder, size=1 << 20, keep=2).write({"a": 3})
    assert [line["a"] for line in lines(log.path)] == [1, 2, 3]


def test_it_is_bounded(folder: Path) -> None:
    log = AuditLog(folder, size=200, keep=2)
    for number in range(100):
        log.write({"number": number, "text": "x" * 30})
    assert sorted(os.listdir(folder)) == [FILE, f"{FILE}.1", f"{FILE}.2"]
    assert max(path.stat().st_size for path in folder.iterdir()) <= 200
    kept = [line["number"] for name in (f"{FILE}.2", f"{FILE}.1", FILE) for line in lines(folder / name)]
    assert kept == list(range(100 - len(kept), 100))
    assert [json.loads(line)["number"] for line in tail(folder, 5)] == [95, 96, 97, 98, 99]
    assert len(list(tail(folder, 1000))) == len(kept)


def test_none_is_kept_if_none_shall_be(folder: Path) -> None:
    log = AuditLog(folder, size=100, keep=0)
    for number in range(10):
        log.write({"number": number, "text": "x" * 40})
    assert os.listdir(folder) == [FILE]
    assert lines(log.path)[-1]["number"] == 9


def test_the_folder_may_be_deleted_at_any_time(folder: Path) -> None:
    log = AuditLog(folder, size=1 << 20, keep=2)
    log.write({"a": 1})
    log.path.unlink()
    folder.rmdir()
    log.write({"a": 2})
    assert (lines(log.path), log.lost) == ([{"a": 2}], 0)


def test_it_is_not_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (tmp_path / "precious").write_text("precious")
    (folder / FILE).symlink_to(tmp_path / "precious")
    log = AuditLog(folder, size=1 << 20, keep=2)
    log.write({"a": 1})
    assert ((tmp_path / "precious").read_text(), log.lost) == ("precious", 1)


def test_what_could_not_be_written_is_counted_and_told_later(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("no folder")
    log = AuditLog(folder, size=1 << 20, keep=2)
    for number in range(5):
        log.write({"a": number})
    assert (log.lost, len(caplog.records)) == (5, 1)
    folder.unlink()
    log.write({"a": 5})
    log.write({"a": 6})
    assert lines(log.path) == [{"a": 5, "lost_before": 5}, {"a": 6}]


def test_many_threads_spoil_no_line(folder: Path) -> None:
    log = AuditLog(folder, size=20_000, keep=50)

    def write(who: int) -> None:
        for number in range(100):
            log.write({"who": who, "number": number, "text": "y" * 50})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in tail(folder, 10_000)]
    assert len(found) == 800
    assert [one["number"] for one in found if one["who"] == 3] == list(range(100))


def test_nothing_was_written_yet(folder: Path) -> None:
    assert list(tail(folder, 10)) == []
