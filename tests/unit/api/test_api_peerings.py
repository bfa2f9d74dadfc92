"""Peerings over HTTP: one for both orders, errors, and callers who have one of the two VPCs, or both."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from lvagent.errors import Conflict
from lvagent.spec.access import Role
from tests.unit.api.doors import A, B, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm

C = "vpc-cccccccccc"
PAIR = f"/v1/peerings/{A}/{B}"


def test_its_life(client: FlaskClient) -> None:
    assert client.get("/v1/peerings").json == {"items": [], "next": None}
    made = client.put(f"/v1/peerings/{B}/{A}")
    assert (made.status_code, made.headers["Location"]) == (201, PAIR)
    assert [client.put(path).status_code for path in (PAIR, f"/v1/peerings/{B}/{A}")] == [200, 200]
    shown = client.get(f"/v1/peerings/{B}/{A}").json
    assert shown == client.get(PAIR).json == client.get("/v1/peerings").json["items"][0] == made.json
    assert (shown["a"], shown["b"], shown["state"]) == (A, B, "waiting")
    assert [client.delete(f"/v1/peerings/{B}/{A}").status_code for _ in range(2)] == [204, 404]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"/v1/peerings/{A}/{A}", None, 422),
        (f"/v1/peerings/{A}/vpc-x", None, 404),
        (f"/v1/peerings/{A}", None, 404),
        (PAIR, {"metric": 1}, 422),
        (PAIR, [], 422),
    ],
)
def test_what_is_refused(client: FlaskClient, path: str, body: object, status: int) -> None:
    answer = client.put(path, json=body) if body is not None else client.put(path)
    assert (answer.status_code, answer.json["hint"] != "") == (status, True)
    assert client.get("/v1/peerings").json["items"] == []


def test_an_overlap_is_a_conflict(client: FlaskClient, agent: FakeAgent) -> None:
    agent.peers.taken.add(A)
    answer = client.put(PAIR)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:lvagent:error:conflict")
    assert "overlaps" in answer.json["detail"]


def test_one_of_the_two_is_not_enough(tcp: TcpDoor, agent: FakeAgent) -> None:
    admin, his, both = tcp.of(Role.ADMIN), tcp.of(Role.ADMIN, A), tcp.of(Role.ADMIN, A, B)
    for path in (PAIR, f"/v1/peerings/{B}/{A}"):
        answer = his.put(path)
        assert (answer.status_code, answer.json["hint"]) == (403, f"it is limited to {A}")
    assert agent.peers.there == {}
    assert both.put(PAIR).status_code == 201
    assert admin.put(f"/v1/peerings/{B}/{C}").status_code == 201
    for method in ("GET", "DELETE"):
        there, gone = (his.open(f"/v1/peerings/{A}/{vpc}", method=method) for vpc in (B, C))
        assert (there.status_code, gone.status_code) == (404, 404)
        assert there.text.replace(B, C) == gone.text
    assert his.get("/v1/peerings").json["items"] == []
    assert [one["b"] for one in both.get("/v1/peerings").json["items"]] == [B]
    assert [tcp.of(role, A, B).put(PAIR).status_code for role in (Role.READ, Role.OPERATE)] == [403, 403]
    assert both.delete(PAIR).status_code == 204


def test_a_plan_has_no_texts_of_a_vpc_with_a_peering_that_is_not_his(tcp: TcpDoor, agent: FakeAgent) -> None:
    his = tcp.of(Role.ADMIN, A)
    assert his.post("/v1/plan", json=vm(1)).json["nft"] != []
    agent.peers.put(A, B)
    assert his.post("/v1/plan", json=vm(1)).json["nft"] == []
    assert tcp.of(Role.ADMIN, A, B).post("/v1/plan", json=vm(1)).json["nft"] != []


def test_a_conflict_with_what_is_not_his_names_it_not(tcp: TcpDoor, agent: FakeAgent) -> None:
    both = tcp.of(Role.ADMIN, A, B)

    def refuse(one: str, other: str) -> object:
        raise Conflict(f"10.0.0.0/24 overlaps 10.0.0.0/24 in {C}", other=C)

    agent.peers.put = refuse  # type: ignore[method-assign, assignment]
    answer = both.put(PAIR)
    assert answer.status_code == 409
    assert C not in answer.text


def test_it_is_written_down(tcp: TcpDoor) -> None:
    tcp.of(Role.ADMIN).put(f"/v1/peerings/{B}/{A}")
    lines = [(one["route"], one["object"], one["status"]) for one in tcp.audit.lines]
    assert lines == [("putPeering", f"{A}/{B}", 201)]
