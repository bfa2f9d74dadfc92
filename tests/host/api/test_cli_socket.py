"""The command line as a program, against an agent on a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.api.app import create_app
from lvagent.api.server import ApiServer
from lvagent.config import Api, Settings
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm

pytestmark = pytest.mark.host

TREE = Path(__file__).parents[3]


class Host:
    """An agent on a socket, and the command line beside it."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "api.sock"
        self.config = folder / "lvagent.toml"
        self.config.write_text(f'[paths]\nrun = "{folder}"\n')
        self.agent = FakeAgent()
        settings = Settings(api=Api(socket=str(self.socket), group="", slow=2))
        self.server = ApiServer(create_app(self.agent, settings), settings)

    def popen(self, *args: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "lvagent", "--config", str(self.config), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=TREE, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def run(self, *args: str, stdin: str = "") -> tuple[int, str, str]:
        with self.popen(*args) as command:
            out, err = command.communicate(stdin, timeout=30)
        return command.returncode, out, err


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.server.start()
    yield host
    host.agent.gate.set()
    host.server.stop()


def test_from_create_to_delete(host: Host) -> None:
    assert host.run("vm", "ls") == (0, "there are no VMs\n", "")
    code, out, err = host.run("vm", "create", "-f", "-", stdin=json.dumps(vm()))
    assert (code, err) == (0, "")
    assert out.splitlines()[-3] == "i-0000000001 created, running"
    code, out, _ = host.run("vm", "show", "i-0000000001", "-o", "json")
    assert (code, json.loads(out)["state"]) == (0, "running")
    assert host.run("vm", "log", "i-0000000001") == (0, "login: \n", "")
    assert host.run("vm", "delete", "i-0000000001")[0] == 0
    assert host.run("vm", "show", "i-0000000001")[0] == 3


def test_phases_are_printed_as_they_come(host: Host) -> None:
    host.agent.gate.clear()
    with host.popen("vm", "create", "-f", "-") as command:
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write(json.dumps(vm()))
        command.stdin.close()
        assert command.stdout.readline().split()[0] == "parse"
        host.agent.gate.set()
        rest = command.stdout.read()
        assert command.wait(60) == 0
    assert [line.split()[0] for line in rest.splitlines()[:4]] == ["check", "define", "wire", "start"]


def test_an_interrupted_create_goes_on(host: Host) -> None:
    host.agent.gate.clear()
    with host.popen("vm", "create", "-f", "-") as command:
        assert command.stdin is not None
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdin.write(json.dumps(vm()))
        command.stdin.close()
        command.stdout.readline()
        command.send_signal(2)
        assert "stopped waiting; it goes on" in command.stderr.read()
        assert command.wait(60) == 1
    host.agent.gate.set()
    deadline = time.monotonic() + 60
    while host.run("vm", "show", "i-0000000001")[0] != 0:
        assert time.monotonic() < deadline


def test_nobody_answers(host: Host, tmp_path: Path) -> None:
    host.server.stop()
    for path in (tmp_path / "api.sock", tmp_path / "nothing"):
        code, out, err = host.run("--socket", str(path), "vm", "ls")
        assert (code, out) == (5, "")
        assert err == (
            f"error: the agent does not answer on {path}: No such file or directory\n"
            "hint: start it: systemctl start lvagent, or sudo lvagent serve\n"
        )


def test_someone_without_the_right(host: Host) -> None:
    code = (
        "import os, sys; from lvagent.cli import root; from lvagent.commands import client, vm; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); root(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", code, "--socket", str(host.socket), "vm", "ls"]
    done = subprocess.run(argv, cwd=TREE, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == (
        f"error: the agent does not answer on {host.socket}: Permission denied\n"
        "hint: use sudo, or join the group that the socket belongs to\n"
    )


def test_a_large_file_is_refused_with_the_reason(host: Host) -> None:
    code, _, err = host.run("vm", "create", "-f", "-", stdin=" " * (8 << 20))
    assert (code, err.splitlines()) == (
        1,
        [
            "error: The entity sent with the request exceeds the maximum allowed bytes",
            "hint: api.max_body is the limit, in bytes",
        ],
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lvagent.cli import root; root(['--help'], standalone_mode=False); "
        "heavy = {'flask', 'libvirt', 'pydantic', 'lxml', 'jinja2', 'lvagent.config'}; print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TREE, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
