"""The hook's script as libvirt runs it, against agents that answer, refuse, hang, die, or are not there."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lvagent.render.hook import hook_script

pytestmark = pytest.mark.host

VM = "i-0000000001"
XML = f"<domain>\n  <name>{VM}</name>\n  <x>'\"$(id)`id`\\n%s \u00fc</x>\n{'<!-- long -->' * 5000}\n</domain>\n"
BESIDE = """
import json, os, sys, time
open(os.environ["ALONE"], "w").write(json.dumps([sys.argv[1:], sys.stdin.read()]))
time.sleep(float(os.environ.get("ALONE_SLEEP", "0")))
sys.stderr.write(os.environ.get("ALONE_SAYS", ""))
sys.exit(int(os.environ.get("ALONE_CODE", "0")))
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the fake agent got it."""

    line: str
    kind: str
    body: str


@dataclass(slots=True)
class FakeAgent:
    """An agent that answers every hook in one way. ``dies``: it closes instead; ``hangs``: for so many seconds at most.

    Nobody hangs when the test is ``over``.
    """

    path: Path
    status: int = 204
    body: str = ""
    hangs: float = 0
    dies: bool = False
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        length = int(request.headers["Content-Length"])
        kind = str(request.headers["Content-Type"])
        self.asked.append(Asked(request.requestline, kind, request.rfile.read(length).decode()))
        self.over.wait(self.hangs)
        if self.dies:
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        with contextlib.suppress(BrokenPipeError):  # the hook waits no longer
            self._send(request, self.body.encode())

    def _send(self, request: http.server.BaseHTTPRequestHandler, raw: bytes) -> None:
        request.send_response(self.status)
        request.send_header("Content-Length", str(len(raw)))
        request.end_headers()
        request.wfile.write(raw)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    """A fake agent that serves, until the test ends."""
    fake = FakeAgent(tmp_path / "hook.sock")

    class Request(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            fake.answer(self)

        def address_string(self) -> str:
            return "hook"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            return

    with _Server(str(fake.path), Request) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield fake
        fake.over.set()
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True)
class Ran:
    """How the hook ended; ``alone``: what the stand-alone part was given, None if it did not run."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    alone: tuple[list[str], str] | None


@dataclass(frozen=True, slots=True)
class Hook:
    """The script in a folder of its own, with a stand-alone part that notes what it was given."""

    folder: Path

    @property
    def script(self) -> Path:
        return self.folder / "lvagent"

    def run(self, *arguments: str, xml: str = XML, **environment: str) -> Ran:
        """Run it as libvirt does."""
        note = self.folder / "alone.json"
        began = time.monotonic()
        done = subprocess.run(
            [str(self.script), *(arguments or (VM, "start", "begin", "-"))],
            input=xml,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={"PATH": "/nonexistent", "ALONE": str(note), "http_proxy": "http://192.0.2.1:1", **environment},
        )
        seconds = time.monotonic() - began
        alone = json.loads(note.read_text()) if note.exists() else None
        return Ran(done.returncode, done.stdout, done.stderr, seconds, tuple(alone) if alone else None)


def install(folder: Path, deadline: float = 10.0) -> Hook:
    """Write the script into a folder."""
    hook = Hook(folder)
    bootstrap = f"exec(compile({BESIDE!r}, 'alone', 'exec'))"
    hook.script.write_text(hook_script(str(folder / "hook.sock"), "/usr/bin/python3", bootstrap, deadline))
    hook.script.chmod(0o755)
    return hook


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    """The script with the deadline it has in use."""
    return install(tmp_path)


ALONE = (["start", VM], XML.rstrip("\n"))


def test_the_agent_is_asked_with_the_xml(hook: Hook, agent: FakeAgent) -> None:
    ran = hook.run()
    assert (ran.code, ran.stdout, ran.stderr, ran.alone) == (0, "", "", None)
    assert agent.asked == [Asked(f"POST /hook/start/{VM} HTTP/1.1", "application/xml", XML.rstrip("\n"))]


@pytest.mark.parametrize("status", [400, 404, 409, 500, 503])
def test_a_refusal_is_passed_on_with_its_reason(hook: Hook, agent: FakeAgent, status: int) -> None:
    agent.status, agent.body = status, "cannot plug t0000000001-0: 100% full\nand a second line %s"
    ran = hook.run()
    assert (ran.code, ran.stdout, ran.alone) == (1, "", None)
    assert ran.stderr == "lvagent: cannot plug t0000000001-0: 100% full\n"


def test_a_refusal_without_a_reason_is_one(hook: Hook, agent: FakeAgent) -> None:
    agent.status = 503
    ran = hook.run()
    assert (ran.code, ran.stderr, ran.alone) == (1, "lvagent: the agent says no, and not why\n", None)


def test_without_agent_it_works_alone(hook: Hook) -> None:
    ran = hook.run()
    assert (ran.code, ran.stdout, ran.stderr, ran.alone) == (0, "", "", ALONE)


def test_a_socket_that_nobody_serves_is_no_agent(hook: Hook) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(hook.folder / "hook.sock"))
    ran = hook.run()
    assert (ran.code, ran.stderr, ran.alone) == (0, "", ALONE)


def test_an_agent_that_dies_while_it_is_asked_is_no_agent(hook: Hook, agent: FakeAgent) -> None:
    agent.dies = True
    ran = hook.run()
    assert (ran.code, ran.stderr, ran.alone) == (0, "", ALONE)
    assert len(agent.asked) == 1


def test_an_answer_cut_short_is_no_answer(hook: Hook) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hook.folder / "hook.sock"))
        listener.listen()

        def half() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 20)
                client.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\nhalf")

        thread = threading.Thread(target=half)
        thread.start()
        ran = hook.run(xml="<domain/>")
        thread.join()
    assert (ran.code, ran.stderr, ran.alone) == (0, "", (["start", VM], "<domain/>"))


def test_a_failure_alone_refuses_the_start(hook: Hook) -> None:
    ran = hook.run(ALONE_CODE="1", ALONE_SAYS="lvagent: no such bridge\n")
    assert (ran.code, ran.stdout, ran.stderr) == (1, "", "lvagent: no such bridge\n")


def test_an_agent_that_hangs_refuses_the_start_in_time(hook: Hook, agent: FakeAgent) -> None:
    agent.hangs = 60
    ran = hook.run()
    assert (ran.code, ran.stderr, ran.alone) == (1, "lvagent: the agent does not answer\n", None)
    assert 5.5 < ran.seconds < 10


def test_alone_it_ends_in_time_as_well(tmp_path: Path) -> None:
    ran = install(tmp_path, 3.0).run(ALONE_SLEEP="28")
    assert (ran.code, ran.alone) == (1, ALONE)
    assert ran.stderr.splitlines()[-1] in [f"lvagent: the port could not be plugged within {left} s" for left in (1, 2)]


def test_dying_late_leaves_the_rest_of_the_time(tmp_path: Path, agent: FakeAgent) -> None:
    agent.hangs, agent.dies = 1.2, True
    ran = install(tmp_path, 4.0).run(ALONE_SLEEP="28")
    assert (ran.code, ran.alone) == (1, ALONE)
    assert ran.stderr.splitlines()[-1] in [f"lvagent: the port could not be plugged within {left} s" for left in (1, 2)]


OTHERS = [
    (VM, "prepare", "begin", "-"),
    (VM, "started", "begin", "-"),
    (VM, "start", "end", "-"),
    (VM, "stopped", "end", "-"),
    (VM, "release", "end", "-"),
    (VM, "migrate", "begin", "-"),
    (VM, "restore", "begin", "-"),
    (VM, "reconnect", "begin", "-"),
    (VM, "attach", "begin", "-"),
    ("web", "start", "begin", "-"),
    ("i-000000001", "start", "begin", "-"),
    ("i-00000000001", "start", "begin", "-"),
    ("i-000000000a", "start", "begin", "-"),
    ("xi-0000000001", "start", "begin", "-"),
    ("i-0000000001 ", "start", "begin", "-"),
    ("i-0000000001\n", "start", "begin", "-"),
    ("i-0000000001/start/begin", "", "", "-"),
    ("$(id)", "start", "begin", "-"),
    ("", "start", "begin", "-"),
    (VM,),
]


@pytest.mark.parametrize("arguments", OTHERS, ids=" ".join)
def test_all_else_is_none_of_its_business(hook: Hook, agent: FakeAgent, arguments: tuple[str, ...]) -> None:
    ran = hook.run(*arguments)
    assert (ran.code, ran.stdout, ran.stderr, ran.alone, agent.asked) == (0, "", "", None, [])


def test_a_curlrc_is_not_obeyed(hook: Hook, agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text("head\nproxy = http://192.0.2.1:1\n")
    assert hook.run(HOME=str(tmp_path)).code == 0
    assert len(agent.asked) == 1


def test_leaving_at_once_forks_nothing(hook: Hook) -> None:
    trace = subprocess.run(
        ["/usr/bin/dash", "-x", str(hook.script), "web", "start", "begin", "-"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert trace.stderr == "+ exit 0\n"


def _measured_ms(hook: Hook, *arguments: str) -> list[float]:
    return sorted(1000 * hook.run(*arguments, xml=XML[:14_000]).seconds for _ in range(15))


def test_it_costs_little(hook: Hook, agent: FakeAgent) -> None:
    """The quickest of some counts, for the machine may be busy; the figures are printed with -s."""
    other, ours = _measured_ms(hook, VM, "prepare", "begin", "-"), _measured_ms(hook)
    print(f"hook: {other[7]:.1f} ms for others, {ours[7]:.1f} ms with an agent that answers at once")
    assert other[0] < 20
    assert ours[0] < 80
