"""``lvagent events``."""

from __future__ import annotations

import json

from lvagent.commands.events import parsed
from tests.unit.cli.shell import Shell

VM = "i-0000000001"


def test_events_are_lines(shell: Shell) -> None:
    done = shell.run("events")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "the stream ended" in done.stderr
    shell.agent.news.publish(VM, "crashed", reason="a\x1b[2J", number=1, nothing=None)
    done = shell.run("events", "--after", f"{shell.agent.news.epoch}.0")
    assert done.exit_code == 5


def test_a_stream_is_read_as_it_is_written() -> None:
    raw = b'retry: 1\nid: a.1\n\nid: a.2\nevent: x\ndata: {"vm": "v"}\n\n: heartbeat\nid: a.3\n\ndata: {}\n\n'
    assert list(parsed(raw.splitlines(keepends=True))) == [{"id": "a.2", "vm": "v"}, {"id": None}]


def test_a_line_has_no_control_characters(shell: Shell) -> None:
    told = {"vm": VM, "type": "crashed", "at": "T", "detail": {"reason": "a\x1b[2J", "number": 1, "nothing": None}}
    text = f"id: e.1\nevent: crashed\ndata: {json.dumps(told)}\n\n".encode()
    shell.answers(text)
    done = shell.run("events")
    assert done.stdout == f"T  {VM}  crashed  reason=a?[2J number=1\n"
    done = shell.run("events", "-o", "json", "--vm", VM)
    assert json.loads(done.stdout) == {"id": "e.1", **told}
    shell.answers(b"data: nonsense\n\n")
    assert shell.run("events").exit_code == 1


def test_a_refusal_is_told(shell: Shell) -> None:
    done = shell.run("events", "--vm", "x")
    assert done.exit_code == 1
    assert "query.vm" in done.stderr
