"""What a confined command can do, asked of the kernel from within it; and that nothing outlives its time."""

from __future__ import annotations

import json
import os
import pwd
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvagent.errors import CommandError
from lvagent.host import qemu_img
from lvagent.host.run import FILES, MEMORY, PROCESSES, Confined, run

pytestmark = pytest.mark.host

MIB = 1 << 20
ASK = """
import json, os, resource
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
names = ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "CORE")
print(json.dumps({
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "capabilities": sorted({status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names},
    "folder": os.getcwd(),
    "environment": sorted(os.environ),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "links": [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line],
    "pid": os.getpid(),
}))
"""


@pytest.fixture
def confined() -> Confined:
    account = pwd.getpwnam("lvagent-images")
    return Confined(account.pw_uid, account.pw_gid, cpu=5, file_size=MIB)


def test_what_it_is(confined: Confined) -> None:
    found = json.loads(run(["/usr/bin/python3", "-IS", "-c", ASK], confined=confined))
    uid, gid = confined.uid, confined.gid
    assert found["ids"] == [[uid] * 3, [gid] * 3, []]
    assert found["capabilities"] == ["0" * 16]
    assert (found["no_new_privs"], found["folder"], found["pid"]) == ("1", "/", 1)
    limits = {"AS": MEMORY, "CPU": 5, "FSIZE": MIB, "NOFILE": FILES, "NPROC": PROCESSES, "CORE": 0}
    assert found["limits"] == {name: [value, value] for name, value in limits.items()}
    assert set(found["environment"]) <= {"PATH", "LC_ALL", "LC_CTYPE"}
    assert found["links"] == ["lo"]
    assert found["descriptors"] == [0, 1, 2, 3]  # the last is the folder that was just listed


def test_unconfined_is_as_the_agent() -> None:
    found = json.loads(run(["/usr/bin/python3", "-IS", "-c", ASK]))
    assert found["ids"][0] == [os.getuid()] * 3


def test_it_reads_nothing_of_others(confined: Confined, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    tmp_path.chmod(0o755)
    for owner in (0, pwd.getpwnam("libvirt-qemu").pw_uid):
        os.chown(secret, owner, -1)
        secret.chmod(0o600)
        with pytest.raises(CommandError, match="Permission denied"):
            run(["cat", f"/proc/{os.getpid()}/root{secret}"], confined=confined)
        with secret.open() as file, pytest.raises(CommandError, match="Permission denied"):
            run(["cat", f"/proc/self/fd/{file.fileno()}"], confined=confined, pass_fds=(file.fileno(),))
    secret.chmod(0o644)
    with secret.open() as file:
        assert run(["cat", f"/proc/self/fd/{file.fileno()}"], confined=confined, pass_fds=(file.fileno(),)) == "secret"


def test_a_file_that_grows_too_large(confined: Confined, tmp_path: Path) -> None:
    target = tmp_path / "x"
    with target.open("wb") as file:
        os.fchown(file.fileno(), confined.uid, confined.gid)
        place = f"of=/proc/self/fd/{file.fileno()}"
        with pytest.raises(CommandError):
            run(["dd", "if=/dev/zero", place, "bs=64k", "count=32"], confined=confined, pass_fds=(file.fileno(),))
        assert target.stat().st_size == MIB
        run(["dd", "if=/dev/zero", place, "bs=64k", "count=16"], confined=confined, pass_fds=(file.fileno(),))


def test_one_that_never_ends_and_one_that_eats_memory(confined: Confined) -> None:
    short = Confined(confined.uid, confined.gid, cpu=1, file_size=MIB, memory=256 * MIB)
    began = time.monotonic()
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "while :; do :; done"], confined=short)
    assert caught.value.code is not None  # not our time limit, which is 30 s
    assert time.monotonic() - began < 25
    with pytest.raises(CommandError, match="MemoryError"):
        run(["/usr/bin/python3", "-IS", "-c", "bytes(300 << 20)"], confined=short)


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(CommandError, match="did not end in time"):
        run(["sh", "-c", f"sleep 600 & echo $! >{note}; wait"], timeout=3)
    pid = int(note.read_text())
    deadline = time.monotonic() + 30
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(pid)


def test_nothing_is_left_that_holds_a_descriptor(confined: Confined) -> None:
    """Not even what left its session, closed what it was given to speak, and holds on to a disk."""
    reading, writing = os.pipe()
    stays = "setsid sleep 600 </dev/null >/dev/null 2>&1 & exit 0"
    with os.fdopen(reading, "rb") as held:
        assert run(["sh", "-c", stays], confined=confined, pass_fds=(writing,)) == ""
        os.close(writing)
        assert select.select([held], [], [], 30)[0] == [held]
        assert held.read() == b""  # nobody has its other end


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_dies_with_the_agent(confined: Confined) -> None:
    """An agent that is killed leaves no qemu-img that goes on writing."""
    reading, writing = os.pipe()
    code = "import os; from lvagent.host.run import Confined, run; "
    code += f"os.dup2({writing}, 9); "
    shell = "read pid rest </proc/self/stat; echo $pid >&9; exec sleep 600"  # its number as seen from here
    code += f"run(['sh', '-c', {shell!r}], pass_fds=(9,), confined={confined!r})"
    with os.fdopen(reading) as told:
        agent = subprocess.Popen([sys.executable, "-c", code], pass_fds=(writing,))
        os.close(writing)
        pid = int(told.readline())
        ended = os.pidfd_open(pid)
        try:
            agent.kill()
            agent.wait(30)
            assert select.select([ended], [], [], 30)[0] == [ended]
        finally:
            os.close(ended)


@pytest.mark.parametrize("command", [["no-such-program"], ["qemu-img", "no-such-command"]])
def test_errors_name_the_command(confined: Confined, command: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        run(command, confined=confined)
    assert (caught.value.argv, caught.value.resource) == (tuple(command), command[0])


def test_no_account() -> None:
    for ask in (qemu_img.account, qemu_img.group):
        with pytest.raises(Exception, match="nobody-of-that-name") as caught:
            ask("nobody-of-that-name", "volumes.reader")
        assert "volumes.reader" in str(getattr(caught.value, "hint", ""))
