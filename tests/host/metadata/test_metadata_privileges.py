"""What a process that has given everything up can still do: it tries, from inside, as one that was taken over would."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lvagent
from lvagent.metadata import privileges
from lvagent.metadata.journal import MOST

pytestmark = pytest.mark.host

USER = "nobody"

INSIDE = r"""
import asyncio, ctypes, ctypes.util, json, os, resource, signal, socket, subprocess, sys, threading
from lvagent.metadata.privileges import give_up, leave_pids

user, root, outer, port, name, log, forgotten = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *words):
    if getattr(libc, name)(*words) == -1:
        raise OSError(ctypes.get_errno(), name)

def connect(family, address):
    with socket.socket(family) as made:
        made.settimeout(2)
        made.connect(address)

def write(path):
    open(path, "w").close()

TRIES = {
    "read": lambda: open("/etc/passwd").read(),
    "read up": lambda: open("../../../../etc/passwd").read(),
    "proc": lambda: os.listdir("/proc"),
    "list": lambda: os.listdir("/"),
    "write": lambda: write("/file"),
    "folder": lambda: os.mkdir("/folder"),
    "node": lambda: os.mknod("/null", 0o20666, os.makedev(1, 3)),
    "own memory": lambda: open("/proc/self/mem", "rb"),
    "forgotten": lambda: os.read(int(forgotten), 1),
    "execute": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "execute shell": lambda: subprocess.run(["/bin/sh", "-c", ":"]),
    "fork": lambda: os.fork() or os._exit(0),
    "thread": lambda: threading.Thread(target=print).start(),
    "ptrace": lambda: call("ptrace", 16, int(outer), 0, 0),
    "ptrace by own numbers": lambda: call("ptrace", 16, os.getppid() or 2, 0, 0),
    "signal": lambda: os.kill(int(outer), 0),
    "signal to all": lambda: os.kill(-1, 0),
    "root again": lambda: os.setuid(0),
    "group again": lambda: os.setgroups([0]),
    "chroot": lambda: os.chroot("."),
    "mount": lambda: call("mount", b"x", b"/", b"tmpfs", 0, None),
    "unmount": lambda: call("umount2", b"/", 2),
    "user namespace": lambda: call("unshare", 0x10000000),
    "network namespace": lambda: call("unshare", 0x40000000),
    "host name": lambda: socket.sethostname("x"),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "host by loopback": lambda: connect(socket.AF_INET, ("127.0.0.1", int(port))),
    "host by its abstract socket": lambda: connect(socket.AF_UNIX, "\0" + name),
    "world": lambda: connect(socket.AF_INET, ("192.0.2.1", 80)),
    "port 80": lambda: socket.create_server(("127.0.0.1", 80)),
    "higher limits": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (10, 10)),
    "core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
    "memory": lambda: bytearray(5 << 30),
    "locked memory": lambda: call("mlockall", 3),
    "much log": lambda: [os.write(int(log), b"x" * (1 << 20)) for _ in range(8)],
}

def outcome(one):
    try:
        return "done: " + str(one())
    except BaseException as error:
        return type(error).__name__

reading, writing = os.pipe()
leave_pids()
if os.fork() == 0:
    before = os.open("/", os.O_RDONLY)
    give_up(user, root, {1, 2, writing, int(log)})
    found = {name: outcome(one) for name, one in TRIES.items()}
    found["dumpable"] = libc.prctl(3, 0, 0, 0, 0)
    found["pid"] = os.getpid()
    asyncio.run(asyncio.sleep(0))
    os.write(writing, json.dumps(found).encode())
    os._exit(0)
os.close(writing)
print(os.fdopen(reading).read())
os.wait()
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def abstract() -> Iterator[str]:
    name = f"lvagent-test-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"\0{name}")
        made.listen()
        yield name


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of the same user."""
    account = pwd.getpwnam(USER)
    with subprocess.Popen(["sleep", "1000"], user=account.pw_uid, group=account.pw_gid, extra_groups=[]) as made:
        yield made
        made.kill()


def tried(folder: Path, *words: str, log: int, forgotten: int) -> dict[str, object]:
    """What came of each try inside."""
    numbers = [str(log), str(forgotten)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", INSIDE, USER, str(folder), *words, *numbers],
        env={"PYTHONPATH": str(Path(lvagent.__file__).parent.parent), "PATH": "/usr/bin:/bin"},
        pass_fds=(log, forgotten), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_can_do_nothing(
    tmp_path: Path, listener: socket.socket, abstract: str, sleeper: subprocess.Popen[bytes]
) -> None:
    root, port = tmp_path / "empty", listener.getsockname()[1]
    root.mkdir()
    with open(tmp_path / "log", "ab") as log, open("/etc/passwd") as forgotten:
        words = (str(sleeper.pid), str(port), abstract)
        found = tried(root, *words, log=log.fileno(), forgotten=forgotten.fileno())
    assert (found.pop("dumpable"), found.pop("pid")) == (0, 1)
    assert {name: how for name, how in found.items() if str(how).startswith("done")} == {"list": "done: []"}
    assert {found[name] for name in ("read", "read up", "proc", "own memory")} == {"FileNotFoundError"}
    assert {found[name] for name in ("root again", "user namespace", "mount", "raw socket")} == {"PermissionError"}
    assert (found["fork"], found["thread"], found["memory"]) == ("BlockingIOError", "RuntimeError", "MemoryError")
    assert (found["ptrace"], found["signal"]) == ("ProcessLookupError", "ProcessLookupError")
    assert sleeper.poll() is None
    assert MOST < (tmp_path / "log").stat().st_size <= privileges.LOG
    assert os.listdir(root) == []
    assert str(root) not in Path("/proc/self/mounts").read_text()


def test_without_the_right_to_drop_it_is_shut_in_all_the_same(tmp_path: Path) -> None:
    script = (
        "import os, sys; from lvagent.metadata.privileges import *; keep = {0, 1, 2}\n"
        "status = open('/proc/self/status'); give_up(sys.argv[1], sys.argv[2], keep | {status.fileno()})\n"
        "print(status.read())"
    )
    argv = ["setpriv", "--bounding-set", "-setpcap", sys.executable, "-P", "-c", script, USER, str(tmp_path)]
    environment = {"PYTHONPATH": str(Path(lvagent.__file__).parent.parent), "PATH": "/usr/bin:/bin"}
    text = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout
    found = {name: value.strip() for name, _, value in (row.partition(":") for row in text.splitlines())}
    assert int(found["CapBnd"], 16) != 0
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert (found["NoNewPrivs"], found["Groups"]) == ("1", "")
