"""A test run that is killed leaves nothing behind: a run of its own, killed while it starts daemons."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

CONFTEST = """
import signal
from tests import guard

def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in the background ignores it
    guard.PATIENCE = 0.3
    guard.begin()
"""
RUN = """
import subprocess, sys, time
from pathlib import Path
from lvagent.host.imds import MetadataService
from tests.host.metadata.site import settings_in

FOLDER = Path({folder!r})

def test_it():
    FOLDER.chmod(0o755)
    sleeper = "import time; time.sleep(1000)"
    subprocess.Popen([sys.executable, "-c", sleeper, str(FOLDER)], start_new_session=True)
    (FOLDER / "pid").write_text(str(__import__("os").getpid()))
    while True:
        service = MetadataService(settings_in(FOLDER))
        service.ready()
        (FOLDER / "served").touch()
        time.sleep(0.05)
        service.stop()
"""


@dataclass(frozen=True, slots=True)
class Killed:
    """A run of pytest with a guard, in a folder that all it starts has among its arguments."""

    folder: Path
    front: subprocess.Popen[bytes]

    def left(self) -> list[str]:
        """The processes of the run that are there, zombies aside."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                argv = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in argv:
                found.append(argv)
        return found


def start(folder: Path) -> Killed:
    """Start a run and wait until it has served metadata once."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_run.py").write_text(RUN.format(folder=str(folder)))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    quiet = subprocess.DEVNULL
    front = subprocess.Popen(argv, cwd=folder, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    return Killed(folder, front)


def until(what: object, seconds: float = 90) -> bool:
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


WAYS = ("front", "tests", "interrupt")


def test_whoever_is_killed_nothing_is_left(folder: Path) -> None:
    runs = {}
    for way in WAYS:
        (folder / way).mkdir(mode=0o755)
        runs[way] = start(folder / way)
    for one in runs.values():
        assert until((one.folder / "served").exists), one.left()
        left = one.left()
        assert len(left) >= 4, "\n".join(left)  # the front, the guard, the tests, and the sleeper
    os.kill(runs["front"].front.pid, signal.SIGKILL)
    os.kill(int((runs["tests"].folder / "pid").read_text()), signal.SIGKILL)
    os.kill(runs["interrupt"].front.pid, signal.SIGINT)
    codes = {way: one.front.wait(timeout=90) for way, one in runs.items()}
    assert codes == {"front": -9, "tests": 128 + 9, "interrupt": 2}
    for way, one in runs.items():
        assert until(lambda one=one: not one.left()), (way, one.left())  # type: ignore[misc]
