"""qemu processes of this machine: found by what they execute, and ended only if they are the very one that is meant."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lvagent.errors import Conflict
from lvagent.host.qemu_processes import Processes
from lvagent.spec.strays import Process

pytestmark = pytest.mark.host

QEMU = "/usr/bin/qemu-system-x86_64"
BY_HAND = [QEMU, "-machine", "none", "-display", "none", "-S", "-nodefaults"]

OBEDIENT = """
import json, socket, sys
path = sys.argv[2].removeprefix("unix:")
place = socket.socket(socket.AF_UNIX)
place.bind(path)
place.listen()
open(path + "-heard", "w").close()
line, _ = place.accept()
line.sendall(b'{"QMP": {"version": {}}}\\n')
for text in line.makefile():
    line.sendall(b'{"event": "NOISE"}\\n{"return": {}}\\n')
    if json.loads(text)["execute"] == "system_powerdown":
        break
"""
"""A qemu whose guest hears the power button; of QMP it knows as much as that takes."""


def until(what: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


def found(pid: int, processes: Processes | None = None, *emulators: str) -> Process | None:
    everything = (processes or Processes()).qemus(emulators)
    return next((one for one in everything if one.pid == pid), None)


def needed(pid: int, *emulators: str) -> Process:
    until(lambda: found(pid, None, *emulators))
    one = found(pid, None, *emulators)
    assert one is not None
    return one


def test_a_qemu_is_found_with_all_that_is_told(tmp_path: Path) -> None:
    disk, monitor = tmp_path / "d.qcow2", tmp_path / "m.sock"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True)
    block = ["-blockdev", f"driver=qcow2,node-name=d,file.driver=file,file.filename={disk}"]
    with started(*BY_HAND, *block, "-qmp", f"unix:{monitor},server=on,wait=off") as running:
        until(lambda: monitor.exists() and needed(running.pid).state == "S")
        one = needed(running.pid)
        assert (one.program, one.uid, one.apart) == (QEMU, os.getuid(), False)
        assert (one.disks, one.sockets) == ((str(disk),), (str(monitor),))
        assert (one.parent, one.arguments[:3]) == (os.getpid(), tuple(BY_HAND[:3]))
        assert 0 <= one.age < 30


def test_it_is_not_found_by_its_command_line(tmp_path: Path) -> None:
    """What calls itself a qemu is none; what is one and calls itself otherwise is."""
    with started(sys.executable, "-c", "import time; time.sleep(60)", QEMU, "-S") as lying:
        with subprocess.Popen(["sleep-well", *BY_HAND[1:]], executable=QEMU) as hiding:
            try:
                assert needed(hiding.pid).arguments[0] == "sleep-well"
                assert found(lying.pid) is None
            finally:
                hiding.kill()


def test_an_emulator_that_libvirt_names_is_one_and_one_that_was_replaced(tmp_path: Path) -> None:
    program = tmp_path / "my-emulator"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with started(str(program), "60") as running:
        assert needed(running.pid, str(program)).program == str(program)
        assert found(running.pid) is None
        program.unlink()
        assert needed(running.pid, str(program)).program == str(program)


def test_a_zombie_is_told_apart() -> None:
    with subprocess.Popen([QEMU, "-version"], stdout=subprocess.DEVNULL) as child:
        until(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "Z")
        one = needed(child.pid)
        assert (one.zombie, one.parent, one.arguments, one.disks) == (True, os.getpid(), (), ())
        assert not Processes().alive(child.pid)
    assert found(child.pid) is None


def test_a_socket_with_a_tap_is_told(tmp_path: Path) -> None:
    """In a network namespace of its own: no tap is made here."""
    line = [*BY_HAND, "-netdev", "tap,id=n,ifname=t0000000001-0,script=no,downscript=no"]
    with started("unshare", "--net", *line) as running:
        until(lambda: (one := found(running.pid)) is not None and one.taps)
        assert needed(running.pid).taps == ("t0000000001-0",)


def test_another_process_of_the_same_pid_is_not_touched() -> None:
    with started(*BY_HAND) as running:
        one = needed(running.pid)
        with pytest.raises(Conflict, match="another process"):
            Processes().end(dataclasses.replace(one, identity="1"), softly=False)
        assert running.poll() is None
    with pytest.raises(Conflict, match="another process"):
        Processes().end(one, softly=False)
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with pytest.raises(Conflict, match="another process"):
            Processes().end(dataclasses.replace(one, pid=thread.native_id or 0), softly=False)
    finally:
        over.set()
        thread.join()


def _hears(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a function for a signal: the default would end it even when it is stopped."""
    rows = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(rows["SigCgt"], 16) >> (number - 1) & 1)


def test_it_is_ended_by_as_little_as_it_takes(tmp_path: Path) -> None:
    with started(*BY_HAND) as running:
        assert Processes().end(needed(running.pid), softly=True) == "ended by SIGTERM"
    with started(*BY_HAND) as running:
        one = needed(running.pid)
        until(lambda: _hears(running.pid, signal.SIGTERM))
        running.send_signal(signal.SIGSTOP)  # and yet it does not hear it now
        assert Processes(soft=0.5).end(one, softly=True) == "ended by SIGKILL"
    assert running.returncode == -signal.SIGKILL


def test_a_guest_is_asked_first(tmp_path: Path) -> None:
    monitor = tmp_path / "m.sock"
    with started(sys.executable, "-c", OBEDIENT, "-qmp", f"unix:{monitor}") as running:
        until(Path(f"{monitor}-heard").exists)
        one = needed(running.pid, os.path.realpath(sys.executable))
        assert one.sockets == (str(monitor),)
        assert Processes().end(one, softly=True) == "shut down by its guest"


def test_a_real_qemu_hears_the_power_button(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"
    line = [QEMU, "-machine", "q35,accel=tcg", "-display", "none", "-S", "-nodefaults"]
    monitors = [word for path in (ours, theirs) for word in ("-qmp", f"unix:{path},server=on,wait=off")]
    with started(*line, *monitors) as running, socket.socket(socket.AF_UNIX) as listening:
        until(ours.exists)
        listening.settimeout(30)
        until(lambda: listening.connect_ex(str(theirs)) == 0)  # it is bound a moment before it is listened on
        news = listening.makefile()
        assert "QMP" in json.loads(news.readline())
        listening.sendall(b'{"execute": "qmp_capabilities"}\n')
        assert "return" in json.loads(news.readline())
        one = dataclasses.replace(needed(running.pid), sockets=(str(ours),))
        assert Processes(soft=3).end(one, softly=True) == "ended by SIGTERM"
        assert "POWERDOWN" in news.read()


def test_nobody_but_the_process_itself_is_spoken_to(tmp_path: Path) -> None:
    """Somebody else listens where the process says that its monitor is."""
    trap = tmp_path / "trap.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(trap))
        listening.listen()
        listening.settimeout(30)
        with started(*BY_HAND) as running:
            until(lambda: found(running.pid))
            line = ("qemu", "-qmp", f"unix:{trap}")
            one = dataclasses.replace(needed(running.pid), sockets=(str(trap),), arguments=line)
            assert Processes().end(one, softly=True) == "ended by SIGTERM"
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(100) == b""


def test_it_leaves_off_when_told() -> None:
    with started(*BY_HAND) as running:
        assert Processes().end(needed(running.pid), softly=True, go_on=lambda: False) == "left as it is"
        assert running.poll() is None
