"""Strays and the sweep over HTTP: what bodies are taken, and what is written down."""

from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient

from lvagent.spec.access import Role
from tests.unit.api.doors import A, TcpDoor
from tests.unit.api.fake_agent import STRAY, FakeAgent

KILL = f"/v1/strays/{STRAY.pid}/kill"


def test_strays_are_told_whole(client: FlaskClient) -> None:
    found = client.get("/v1/strays").json
    assert (found["policy"], found["grace"]) == ("report", 3)
    assert found["objects"] == [{"kind": "volume", "name": "/v/old.qcow2", "why": "no VM has it"}]
    [one] = found["processes"]
    assert (one["pid"], one["identity"], one["sort"], one["arguments"]) == (4711, "123456", "nobody", ["qemu", "-S"])


BAD = (
    b"",
    b"[]",
    b"1",
    b"{}",
    b'{"identity": 123456}',
    b'{"identity": ""}',
    b'{"identity": "-1"}',
    b'{"identity": "x"}',
)
MORE = (
    b'{"identity": "1", "force": true}',
    b'{"identity": "1", "identity": "2"}',
    b'{"identity": "' + b"9" * 21 + b'"}',
)


@pytest.mark.parametrize("body", [*BAD, *MORE], ids=repr)
def test_who_is_meant_must_be_said(client: FlaskClient, agent: FakeAgent, body: bytes) -> None:
    answer = client.post(KILL, data=body, content_type="application/json")
    assert answer.status_code in (400, 422), answer.text
    assert agent.calls == []


def test_the_one_that_is_meant_is_ended_once(client: FlaskClient, agent: FakeAgent) -> None:
    assert client.post(KILL, json={"identity": "1"}).status_code == 409
    assert client.post(KILL, json={"identity": STRAY.identity}).json["pid"] == STRAY.pid
    assert client.post(KILL, json={"identity": STRAY.identity}).status_code == 404
    assert [what for what, _ in agent.calls] == ["kill"] * 3


@pytest.mark.parametrize("pid", ["0", "-1", "x", "01", "99999999", "1.0", "%20"])
def test_only_a_pid_is_looked_up(client: FlaskClient, agent: FakeAgent, pid: str) -> None:
    assert client.post(f"/v1/strays/{pid}/kill", json={"identity": "1"}).status_code == 404
    assert agent.calls == []


def test_a_sweep_is_forced_only_by_a_word(client: FlaskClient, agent: FakeAgent) -> None:
    agent.held = "nothing is removed"
    assert client.post("/v1/sweep").json == {"held": "nothing is removed"}
    assert client.post("/v1/sweep?force=false").json == {"held": "nothing is removed"}
    assert client.post("/v1/sweep?force=true").json == {"held": None}
    assert client.post("/v1/sweep?force=1").status_code == 422
    assert client.post("/v1/sweep", json={"force": True}).status_code == 422
    assert [what for what, _ in agent.calls] == ["sweep force=False"] * 2 + ["sweep force=True"]


def test_what_is_done_is_written_down_and_not_for_limited_admins(tcp: TcpDoor, agent: FakeAgent) -> None:
    assert tcp.of(Role.ADMIN).post(KILL, json={"identity": STRAY.identity}).status_code == 200
    mine = tcp.of(Role.ADMIN, A)
    for method, path in (("GET", "/v1/strays"), ("POST", KILL), ("POST", "/v1/sweep?force=true")):
        answer = mine.open(path, method=method, json={"identity": "1"} if path == KILL else None)
        assert answer.status_code == 403, answer.text
    assert [what for what, _ in agent.calls] == ["kill"]
    lines = [(line["route"], line["object"], line["status"]) for line in tcp.audit.lines if line["status"] != 403]
    assert lines == [("killStray", str(STRAY.pid), 200)]
    assert STRAY.identity not in json.dumps(tcp.audit.lines)
