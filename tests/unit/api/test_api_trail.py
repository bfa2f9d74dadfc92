"""The audit log and the log: who did what, once for each change, and never a secret."""

from __future__ import annotations

import json
import logging

import pytest
from flask.testing import FlaskClient

from lvagent.agent.pace import Pace
from lvagent.api.app import create_app, operations_of
from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.spec.access import Role
from tests.unit.api.doors import A, Lines, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import full, vm

VM1 = "/v1/vms/i-0000000001"


def short(line: dict[str, object]) -> tuple[object, ...]:
    return tuple(line[name] for name in ("event", "method", "route", "object", "status", "type"))


def test_a_line_for_each_change_and_none_for_looking(tcp: TcpDoor) -> None:
    admin = tcp.of(Role.ADMIN)
    admin.put(VM1, json=vm())
    admin.put(VM1, data=b"{", content_type="application/json")
    admin.get(VM1)
    admin.get("/v1/vms/i-0000000009")
    admin.post(f"{VM1}/resume")
    admin.post(f"{VM1}/qmp", json={"execute": "query-status"})
    admin.post(f"{VM1}/hmp", json={"command": "change vnc password swordfish"})
    admin.delete("/v1/vms/i-0000000009")
    admin.delete(VM1)
    assert [short(line) for line in tcp.audit.lines] == [
        ("request", "PUT", "putVm", "i-0000000001", 201, None),
        ("request", "PUT", "putVm", "i-0000000001", 422, "spec"),
        ("request", "POST", "actOnVm", "i-0000000001", 409, "conflict"),
        ("request", "POST", "askQmp", "i-0000000001", 200, None),
        ("request", "POST", "askHmp", "i-0000000001", 200, None),
        ("request", "DELETE", "deleteVm", "i-0000000009", 404, "not-found"),
        ("request", "DELETE", "deleteVm", "i-0000000001", 204, None),
    ]
    assert [line["command"] for line in tcp.audit.lines[3:5]] == ["query-status", "change"]
    assert all(isinstance(line["ms"], float) for line in tcp.audit.lines)
    assert str(tcp.audit.lines[0]["operation"]).startswith("op-")


def test_a_line_says_who_from_where_and_within_what(tcp: TcpDoor) -> None:
    client = tcp.of(Role.ADMIN, A)
    client.post("/v1/vms", json=vm())
    token = tcp.store.all()[0]
    line = tcp.audit.lines[0]
    told = {name: line[name] for name in ("address", "token", "name", "vpcs", "object")}
    assert told == {
        "address": "192.0.2.99", "token": token.id, "name": "a admin", "vpcs": [A], "object": "i-0000000001",
    }  # fmt: skip


def test_on_the_unix_socket_it_is_the_process(agent: FakeAgent) -> None:
    audit = Lines()
    app = create_app(agent, Settings(), audit=audit)
    client = app.test_client()
    client.environ_base.update({"X_REMOTE_UID": "1000", "X_REMOTE_PID": "4242"})
    client.put(VM1, json=vm())
    assert (audit.lines[0]["uid"], audit.lines[0]["pid"], audit.lines[0]["token"]) == (1000, 4242, None)
    assert "address" not in audit.lines[0]
    assert operations_of(app).close(5)


@pytest.mark.parametrize("failure", [None, HostError("disk", "fill", "full")])
def test_what_goes_on_has_a_second_line_at_its_end(tcp: TcpDoor, agent: FakeAgent, failure: Exception | None) -> None:
    admin = tcp.of(Role.ADMIN)
    agent.gate.clear()
    where = admin.put(VM1, json=vm(), headers={"Prefer": "respond-async"}).headers["Location"]
    assert [short(line)[-2] for line in tcp.audit.lines] == [202]
    agent.failure = failure
    agent.gate.set()
    admin.get(f"{where}?wait=5")
    assert operations_of(tcp.app).close(5)
    first, second = tcp.audit.lines
    ended = ("succeeded", None) if failure is None else ("failed", "host")
    assert short(second) == ("end", "PUT", "putVm", "i-0000000001", *ended)
    assert first["operation"] == second["operation"] == where.rsplit("/", 1)[1]


def test_who_is_refused_is_written_down_but_not_a_thousand_times(
    tcp: TcpDoor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    read, nobody = tcp.of(Role.READ), tcp.client("lva_" + "0" * 12 + "_" + "f" * 64)
    for _ in range(1000):
        nobody.get("/v1/vms")
    for _ in range(3):
        read.delete(VM1)
    lines = [(line["status"], line["type"], line.get("token")) for line in tcp.audit.lines]
    assert lines == [(401, "unauthenticated", None)] * 10 + [(403, "forbidden", tcp.store.all()[0].id)] * 3
    assert len(caplog.records) == 13


def test_many_addresses_fill_no_log(tcp: TcpDoor, caplog: pytest.LogCaptureFixture) -> None:
    client = tcp.client()
    for number in range(500):
        client.environ_base["REMOTE_ADDR"] = f"2001:db8::{number:x}"
        client.post("/v1/vms")
    assert len(tcp.audit.lines) == 100
    assert len(caplog.records) == 100


def test_a_token_file_that_is_broken_fills_no_log_either(tcp: TcpDoor, caplog: pytest.LogCaptureFixture) -> None:
    tcp.store.path.parent.mkdir()
    tcp.store.path.write_text("")
    client = tcp.client("lva_" + "0" * 12 + "_" + "f" * 64)
    assert {client.post("/v1/vms").status_code for _ in range(100)} == {503}
    assert len(tcp.audit.lines) == 10
    assert len(caplog.records) == 11


def test_the_pace_is_kept_for_each_source_and_tells_what_was_left_out() -> None:
    now = 0.0
    pace = Pace(most=2, per_minute=6, clock=lambda: now)
    assert [pace.take("a") for _ in range(5)] == [0, 0, None, None, None]
    assert pace.take("b") == 0
    now = 10.0
    assert [pace.take("a"), pace.take("a")] == [3, None]
    for number in range(Pace.SOURCES):
        pace.take(str(number))
    assert [pace.take("a") for _ in range(3)] == [0, 0, None]


def test_a_source_that_may_do_all_again_is_forgotten_and_one_with_something_untold_is_not() -> None:
    now = 0.0
    pace = Pace(most=2, per_minute=6, clock=lambda: now)
    for number in range(100):
        assert pace.take(f"vm {number}") == 0
    assert [pace.take("noisy") for _ in range(3)] == [0, 0, None]
    now = Pace.TIDY_SECONDS
    pace.take("new")
    assert set(pace._sources) == {"noisy", "new"}
    assert pace.take("noisy") == 1


def test_no_secret_is_written_down_anywhere(
    tcp: TcpDoor, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """All logs at their loudest, the audit log, and every answer, in a run with each kind of success and failure."""
    caplog.set_level(logging.DEBUG)
    text = tcp.token(Role.ADMIN)
    admin, secret = tcp.client(text), text.split("_")[2]
    spec = full()
    answers = [
        admin.put(VM1, json=spec),
        admin.put(VM1, json={**spec, "user_data": {"base64": "c3dvcmRmaXNo!"}}),
        admin.put(VM1, json={**spec, "user_data": "swordfish" * 10_000}),
        admin.post("/v1/plan", json=spec),
        admin.get(VM1),
        admin.get(f"{VM1}/domain.xml"),
        admin.get(f"/v1/{text}"),
        admin.delete(f"/v1/vms/{text}"),
        admin.post(f"{VM1}/qmp", json={"execute": text}),
        admin.post(f"{VM1}/hmp", json={"command": "set_password vnc swordfish"}),
        tcp.client(text[:-1] + "!").get("/v1/vms"),
        tcp.client(text, scheme="Basic").get("/v1/vms"),
        client.get("/v1/vms", headers={"Authorization": f"Bearer {text}"}),
    ]
    tcp.agent.failure = RuntimeError("a defect")
    answers.append(admin.put(VM1, json={**spec, "cpus": 2}))
    kept = tcp.store.path.read_text()
    written = "\n".join([caplog.text, *(json.dumps(line) for line in tcp.audit.lines), kept])
    assert "lvagent.api" in caplog.text
    assert secret not in written
    for word in ("swordfish", "c3dvcmRmaXNo"):
        assert word not in written
        assert [answer.text for answer in answers if word in answer.text] == []
