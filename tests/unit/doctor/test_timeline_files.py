"""The flight recorder's files: bounded, root's alone, and never in anybody's way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lvagent.host.timelines import TimelineFiles

VM, GONE = "i-0000000001", "i-0000000002"


def line(number: int) -> dict[str, object]:
    return {"at": number, "kind": "state", "text": "x" * 80}


def numbers(files: TimelineFiles, vm: str = VM) -> list[object]:
    return [one["at"] for one in files.read(vm)]


def test_lines_come_back_in_their_order(tmp_path: Path) -> None:
    files = TimelineFiles(tmp_path / "state")
    for number in range(5):
        files.append(VM, line(number))
    assert numbers(TimelineFiles(tmp_path / "state")) == list(range(5))
    path = tmp_path / f"state/timelines/{VM}.jsonl"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert files.read("i-0000000009") == files.read("../../etc/passwd") == []


def test_a_file_is_bounded_and_the_newest_lines_stay(tmp_path: Path) -> None:
    files = TimelineFiles(tmp_path, size=2000)
    for number in range(500):
        files.append(VM, line(number))
    kept = numbers(files)
    assert kept == list(range(500 - len(kept), 500))
    assert len(kept) >= 15
    assert sum(path.stat().st_size for path in (tmp_path / "timelines").iterdir()) <= 4000


def test_a_file_that_is_begun_anew_while_it_is_read_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TimelineFiles(tmp_path, size=2000)
    for number in range(10):
        files.append(VM, line(number))
    lines = TimelineFiles._lines

    def overtaken(self: TimelineFiles, path: Path) -> list[dict[str, object]]:
        monkeypatch.setattr(TimelineFiles, "_lines", lines)
        found = list(lines(self, path))
        while not (tmp_path / f"timelines/{VM}.jsonl.old").exists():
            files.append(VM, line(10))
        return found

    monkeypatch.setattr(TimelineFiles, "_lines", overtaken)
    assert numbers(files)[:10] == list(range(10))


def test_the_oldest_of_those_that_are_gone_go(tmp_path: Path) -> None:
    files = TimelineFiles(tmp_path, size=2000, total=3000)
    for vm in (GONE, "i-0000000003", VM):
        for number in range(12):
            files.append(vm, line(number))
    for age, vm in enumerate((VM, GONE, "i-0000000003")):
        os.utime(tmp_path / f"timelines/{vm}.jsonl", (1000 + age, 1000 + age))
    files.tidy([VM])
    assert [len(files.read(vm)) for vm in (VM, GONE, "i-0000000003")] == [12, 0, 12]
    TimelineFiles(tmp_path, total=10).tidy([VM])
    assert [len(files.read(vm)) for vm in (VM, "i-0000000003")] == [12, 0]
    TimelineFiles(tmp_path / "nowhere").tidy([VM])


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "timelines").mkdir()
    target = tmp_path / "target"
    target.write_text('{"at": 1}\n')
    (tmp_path / f"timelines/{VM}.jsonl").symlink_to(target)
    files = TimelineFiles(tmp_path)
    files.append(VM, line(1))
    assert (files.lost, target.read_text(), files.read(VM)) == (1, '{"at": 1}\n', [])


def test_what_cannot_be_written_is_lost_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "timelines").write_text("no folder")
    files = TimelineFiles(tmp_path)
    for number in range(5):
        files.append(VM, line(number))
    files.append("../x", line(9))
    assert files.lost == 6
    assert len(caplog.records) == 3  # the first, second and fourth
    files.tidy([])


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    files = TimelineFiles(tmp_path)
    files.append(VM, line(1))
    with (tmp_path / f"timelines/{VM}.jsonl").open("a") as file:
        file.write('{"at": 2, "ki\n[3]\n\x00\n')
    files.append(VM, line(4))
    assert numbers(files) == [1, 4]
