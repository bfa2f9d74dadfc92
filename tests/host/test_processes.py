"""A process as /proc has it: its state, and whether it is still the one that a pid file meant."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lvagent.host.processes import Qemus, parse_stat

VM = "i-0000000001"


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    (tmp_path / f"{VM}.pid").write_text(f"{process.pid}\n")
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_its_state_is_read_afresh(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    qemus = Qemus(tmp_path)

    def state() -> str:
        found = qemus.of(VM)
        return "none" if found is None else found.state

    first = qemus.of(VM)
    assert first is not None
    assert (first.pid, first.state) == (sleeper.pid, "running")
    for number, wanted in ((signal.SIGSTOP, "stopped"), (signal.SIGCONT, "running"), (signal.SIGKILL, "zombie")):
        sleeper.send_signal(number)
        until(lambda wanted=wanted: state() == wanted)
    sleeper.wait()
    assert qemus.of(VM) is None


def test_there_is_none(tmp_path: Path) -> None:
    qemus = Qemus(tmp_path)
    assert qemus.of(VM) is None
    (tmp_path / f"{VM}.pid").write_text("nonsense")
    assert qemus.of(VM) is None


def test_a_pid_that_is_another_process_s_by_now_is_none(tmp_path: Path) -> None:
    run, proc = tmp_path / "run", tmp_path / "proc"
    for folder in (run, proc / "7"):
        folder.mkdir(parents=True)
    (run / f"{VM}.pid").write_text("7")
    stat = "7 (a) b) {} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0"
    qemus = Qemus(run, proc)
    (proc / "7/stat").write_text(stat.format("S", 100))
    assert qemus.of(VM) is not None
    (proc / "7/stat").write_text(stat.format("S", 999))
    assert qemus.of(VM) is None
    (run / f"{VM}.pid").unlink()
    (run / "other").write_text("7")
    os.rename(run / "other", run / f"{VM}.pid")  # libvirt started it again
    assert qemus.of(VM) is not None


@pytest.mark.parametrize("text", ["", "7 (x)", "7 (x) S 1 2 3"])
def test_what_is_no_line_of_proc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too short"):
        parse_stat(text)


def test_a_vm_that_went_without_us_is_forgotten(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    qemus = Qemus(tmp_path)
    stays, sleeps = qemus.of(VM), (tmp_path / f"{VM}.pid").read_text()
    (tmp_path / "i-0000000002.pid").write_text(sleeps)
    assert stays is not None
    assert qemus.of("i-0000000002") is not None
    qemus.keep([VM])
    assert list(qemus._seen) == [VM]
    assert qemus.of(VM) is not None
