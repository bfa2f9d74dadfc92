"""Changes that take long: 202, joining, order, limits, and what is remembered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lvagent.api.app import create_app, operations_of
from lvagent.api.operations import KEPT, Operations, Progress
from lvagent.api.protocol import Watch
from lvagent.config import Api, Settings
from lvagent.errors import HostError, NotFound, Unavailable
from lvagent.spec.access import Role
from lvagent.spec.status import PhaseTime
from tests.unit.api.doors import TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm

VM1 = "/v1/vms/i-0000000001"
ASYNC = {"Prefer": "respond-async"}


def call(pool: ThreadPoolExecutor, app: Flask, send: Callable[[FlaskClient], TestResponse]) -> Future[TestResponse]:
    return pool.submit(lambda: send(app.test_client()))


def test_a_client_may_prefer_not_to_wait(client: FlaskClient, agent: FakeAgent) -> None:
    agent.gate.clear()
    answer = client.put(VM1, json=vm(), headers=ASYNC)
    where = answer.headers["Location"]
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "respond-async")
    running = client.get(where).json
    assert where == f"/v1/operations/{running['id']}"
    told = (running["kind"], running["vm"], running["status"], running["result"], running["problem"])
    assert told == ("put", "i-0000000001", "running", None, None)
    assert [phase["phase"] for phase in running["phases"]] == ["parse"]
    agent.gate.set()
    done = client.get(f"{where}?wait=10").json
    assert [phase["phase"] for phase in done["phases"]] == ["parse", "check", "define", "wire", "start"]
    assert (done["status"], done["result"]["outcome"]) == ("succeeded", "created")
    assert done["started_at"] <= done["ended_at"]


@pytest.mark.parametrize(
    "prefer", ["respond-async", "respond-async, wait=0", "wait=0", "handling=lenient; x, respond-async"]
)
def test_ways_to_prefer(client: FlaskClient, agent: FakeAgent, prefer: str) -> None:
    agent.gate.clear()
    assert client.put(VM1, json=vm(), headers={"Prefer": prefer}).status_code == 202


def test_what_takes_longer_than_the_setting_is_answered_with_202(agent: FakeAgent) -> None:
    app = create_app(agent, Settings(api=Api(wait=0)))
    agent.gate.clear()
    answer = app.test_client().put(VM1, json=vm())
    assert (answer.status_code, "Preference-Applied" in answer.headers) == (202, False)
    agent.gate.set()
    assert operations_of(app).close(10)


def test_an_operation_that_fails_has_the_problem(client: FlaskClient, agent: FakeAgent) -> None:
    agent.failure = HostError("dnsmasq", "start", "exit 2").in_phase("services")
    where = client.put(VM1, json=vm(), headers=ASYNC).headers["Location"]
    failed = client.get(f"{where}?wait=10").json
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert failed["problem"] == {
        "type": "urn:lvagent:error:host",
        "title": "The host could not do it",
        "status": 500,
        "detail": "cannot start dnsmasq: exit 2",
        "instance": where,
        "phase": "services",
    }


def test_a_delete_that_succeeded_has_no_result(client: FlaskClient) -> None:
    client.put(VM1, json=vm())
    where = client.delete(VM1, headers=ASYNC).headers["Location"]
    done = client.get(f"{where}?wait=10").json
    assert (done["kind"], done["status"], done["result"], done["problem"]) == ("delete", "succeeded", None, None)


def test_an_equal_put_joins_the_one_that_runs(app: Flask, client: FlaskClient, agent: FakeAgent) -> None:
    agent.gate.clear()
    first = client.put(VM1, json=vm(), headers=ASYNC).headers["Location"]
    second = client.put(VM1, json=vm(), headers=ASYNC).headers["Location"]
    other = client.put(VM1, json=vm(cpus=2), headers=ASYNC).headers["Location"]
    third = client.put(VM1, json=vm(), headers=ASYNC).headers["Location"]
    agent.gate.set()
    done = [client.get(f"{where}?wait=10").json["result"] for where in (first, other, third)]
    assert first == second
    assert len({first, other, third}) == 3
    assert [result["outcome"] for result in done] == ["created", "changed", "changed"]
    assert [result["cpus"] for result in done] == [1, 2, 1]
    assert len(agent.calls) == 3


def test_a_put_after_the_end_of_an_equal_one_is_a_new_one(client: FlaskClient) -> None:
    assert [client.put(VM1, json=vm()).status_code for _ in range(3)] == [201, 200, 200]


def until_joined(app: Flask, count: int) -> None:
    """Wait until so many wait for the end of the operation that is under way."""
    (operation,) = operations_of(app).all()
    deadline = time.monotonic() + 30
    while len(operation._changed._waiters) < count:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_those_who_join_get_the_same_answer(app: Flask, agent: FakeAgent) -> None:
    agent.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        waiting = [call(pool, app, lambda client: client.put(VM1, json=vm())) for _ in range(3)]
        agent.waits_for(1)
        until_joined(app, 3)
        agent.gate.set()
        answers = [one.result(30) for one in waiting]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert answers[0].json == answers[1].json == answers[2].json
    assert agent.calls == [("put", "i-0000000001")]


def test_changes_of_one_vm_keep_their_order_and_others_go_past(client: FlaskClient, agent: FakeAgent) -> None:
    agent.gate.clear()
    client.put(VM1, json=vm(), headers=ASYNC)
    client.delete(VM1, headers=ASYNC)
    client.put(VM1, json=vm(cpus=2), headers=ASYNC)
    last = client.post(f"{VM1}/pause", headers=ASYNC).headers["Location"]
    client.put("/v1/vms/i-0000000002", json=vm(2), headers=ASYNC)
    agent.waits_for(2)
    assert sorted(agent.calls) == [("put", "i-0000000001"), ("put", "i-0000000002")]
    agent.gate.set()
    assert client.get(f"{last}?wait=10").json["result"]["state"] == "paused"
    mine = [what for what, ident in agent.calls if ident == "i-0000000001"]
    assert mine == ["put", "delete grace=0 volumes=False", "put", "pause"]


def test_a_vm_that_is_not_there_is_told_at_once(client: FlaskClient, agent: FakeAgent) -> None:
    assert client.delete(VM1, headers=ASYNC).status_code == 404
    assert client.post(f"{VM1}/start", headers=ASYNC).status_code == 404
    assert agent.calls == []


def test_too_many_changes_are_refused_and_reading_goes_on(client: FlaskClient, agent: FakeAgent) -> None:
    agent.gate.clear()
    codes = [
        client.put(f"/v1/vms/i-{number:010}", json=vm(number), headers=ASYNC).status_code for number in range(1, 18)
    ]
    assert codes == [202] * 16 + [503]
    refused = client.post("/v1/vms", json=vm(99))
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert client.get("/v1/vms").status_code == 200
    agent.waits_for(4)
    assert len(agent.calls) == 4
    agent.gate.set()
    assert client.get(f"/v1/operations/{client.get('/v1/operations').json['items'][15]['id']}?wait=10").json["result"]
    assert client.post("/v1/vms", json=vm(99)).status_code == 201


def test_who_finds_no_seat_to_wait_on_is_told_to_ask_later(app: Flask, agent: FakeAgent) -> None:
    agent.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        waiting = [call(pool, app, lambda client: client.put(VM1, json=vm())) for _ in range(5)]
        wait(waiting, timeout=30, return_when=FIRST_COMPLETED)
        time.sleep(0.2)
        early = [one.result().status_code for one in waiting if one.done()]
        agent.gate.set()
        late = sorted(one.result(30).status_code for one in waiting)
    assert (early, late) == ([202], [201, 201, 201, 201, 202])


def test_waiting_for_the_next_phase(client: FlaskClient, agent: FakeAgent, app: Flask) -> None:
    told: list[int] = []
    go = threading.Semaphore(0)

    def work(watch: Watch) -> None:
        for number in range(3):
            assert go.acquire(timeout=30)
            watch(PhaseTime(f"step {number}", 1.0))

    operation = operations_of(app).submit("put", "i-0000000001", work)
    while True:
        threading.Timer(0.05, go.release).start()
        found = client.get(f"/v1/operations/{operation.id}?wait=10&seen={len(told)}").json
        if found["status"] != "running":
            break
        told.append(len(found["phases"]))
    assert told[:2] == [1, 2]
    assert [phase["phase"] for phase in found["phases"]] == ["step 0", "step 1", "step 2"]


def test_what_is_asked_for_over_tcp_takes_no_place_of_the_socket(tmp_path: Path, agent: FakeAgent) -> None:
    settings = Settings(api=Api(operations=2, threads=12))
    tcp = TcpDoor(tmp_path, settings, agent)
    local = create_app(agent, settings, operations_of(tcp.app)).test_client()
    remote = tcp.of(Role.ADMIN)
    agent.gate.clear()
    paths = [f"/v1/vms/i-{number:010}" for number in range(1, 12)]
    codes = [remote.put(path, json=vm(number), headers=ASYNC).status_code for number, path in enumerate(paths[:9], 1)]
    assert codes == [202] * 8 + [503]
    agent.waits_for(2)
    assert local.put(paths[9], json=vm(10), headers=ASYNC).status_code == 202
    agent.waits_for(3)
    assert agent.calls[2] == ("put", "i-0000000010")
    tcp.close()


# the collection itself


def test_only_the_last_ones_are_remembered() -> None:
    operations = Operations(most=4)
    made = []
    for number in range(KEPT + 10):
        made.append(operations.submit("put", f"vm {number % 7}", lambda _watch: None))
        made[-1].wait(30)
    assert operations.close(30)
    assert operations.all() == tuple(made[10:])
    with pytest.raises(NotFound):
        operations.get(made[9].id)
    assert operations.get(made[10].id) is made[10]


def test_at_the_end_all_is_done_and_nothing_new_begins() -> None:
    operations = Operations(most=2)
    done: list[int] = []

    def work(number: int) -> Callable[[Watch], None]:
        def run(_watch: Watch) -> None:
            time.sleep(0.02)
            done.append(number)

        return run

    made = [operations.submit("put", "vm", work(number)) for number in range(5)]
    assert operations.close(30)
    assert done == [0, 1, 2, 3, 4]
    assert {one.view().status for one in made} == {Progress.SUCCEEDED}
    with pytest.raises(Unavailable):
        operations.submit("put", "vm", work(6))


def test_an_end_that_takes_too_long_is_told() -> None:
    operations = Operations(most=1)
    stuck = threading.Event()

    def hang(_watch: Watch) -> None:
        assert stuck.wait(60)

    operations.submit("put", "vm", hang)
    assert operations.close(0.05) is False
    stuck.set()
