"""GET and POST /v1/explain: what is told, to whom, and what is written down of it."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from lvagent.spec.access import Role
from tests.unit.api.doors import A, B, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm

ONE, TWO, THEIRS = "i-0000000001", "i-0000000002", "i-0000000003"
ASK = f"/v1/explain?from={ONE}&to={TWO}&proto=tcp&port=22"


def numbered(number: int, vpc: str = A, host: int = 0) -> dict[str, object]:
    """A VM in a VPC."""
    spec = vm(number, rules=[{"proto": "tcp", "port": 22}])
    subnet = f"subnet-{vpc[4:]}"
    spec["networks"][0] |= {
        "netname": vpc,
        "subnetname": subnet,
        "vxlanid": 0,
        "ipv4": f"10.0.0.{host or number + 4}/24",
        "ipv6": f"fd00:a::{host or number + 4}/64",
    }
    return spec


@pytest.fixture
def admin(tcp: TcpDoor) -> FlaskClient:
    """There are two VMs in A and one in B."""
    client = tcp.of(Role.ADMIN)
    for spec in (numbered(1), numbered(2), numbered(3, B)):
        assert client.post("/v1/vms", json=spec).status_code == 201
    return client


def test_a_walk_as_json(admin: FlaskClient) -> None:
    told = admin.get(ASK).json
    assert (told["from"], told["to"], told["proto"], told["port"]) == (ONE, TWO, "tcp", 22)
    assert (told["verdict"], told["decider"]["element"], told["live"]) == ("allowed", "rules[0]", None)
    assert told["packet"] == {"source": "10.0.0.5", "destination": "10.0.0.6"}
    assert [step["stage"] for step in told["steps"]] == ["guest", "port", "egress", "route", "ingress", "arrival"]
    refused = admin.get(ASK.replace("port=22", "port=23")).json
    assert (refused["verdict"], refused["steps"][-1]["passed"]) == ("refused", False)


def test_what_is_asked_wrongly(admin: FlaskClient) -> None:
    for query, status, path in (
        ("", 422, "query.proto"),
        (f"?from={ONE}&to={TWO}&proto=tcp", 422, "query.port"),
        (f"?from={ONE}&to={TWO}&proto=tcp&port=0", 422, "query.port"),
        (f"?from={ONE}&to={TWO}&proto=tcp&port=22&source=x", 422, "query.source"),
        (f"?from={ONE}&to={'9' * 70}&proto=tcp&port=22", 422, "query.to"),
        (f"?from={ONE}&to=i-0000000009&proto=tcp&port=22", 404, None),
        (f"?from=i-0000000009&to={ONE}&proto=tcp&port=22", 404, None),
    ):
        answer = admin.get(f"/v1/explain{query}")
        assert (answer.status_code, answer.json.get("path")) == (status, path), query


def test_live_is_for_operators_and_is_written_down(tcp: TcpDoor, admin: FlaskClient) -> None:
    told = tcp.of(Role.OPERATE).post(ASK).json
    assert (told["live"]["sent"], told["live"]["agrees"]) == (True, True)
    assert tcp.of(Role.READ).post(ASK).status_code == 403
    assert tcp.of(Role.READ).get(ASK).status_code == 200
    assert admin.post(ASK, json={"x": 1}).status_code == 422
    lines = [line for line in tcp.audit.lines if line["route"] == "explainLive"]
    assert [(line["object"], line["command"], line["status"]) for line in lines[:1]] == [
        (ONE, f"tcp 22 from {ONE} to {TWO}", 200)
    ]


def test_who_is_limited_hears_of_his_own(tcp: TcpDoor, admin: FlaskClient, agent: FakeAgent) -> None:
    mine = tcp.of(Role.OPERATE, A)
    assert mine.get(ASK).json["verdict"] == "allowed"
    for path in (ASK.replace(TWO, THEIRS), ASK.replace(ONE, THEIRS)):
        assert mine.get(path).status_code == 404
    both = {**numbered(4, host=9), "rules": [{"proto": "tcp", "port": 22}]}
    networks = both["networks"]
    assert isinstance(networks, list)
    networks.append({**numbered(4, B, host=9)["networks"][0], "position": 1})  # type: ignore[index]
    assert admin.post("/v1/vms", json=both).status_code == 201
    told = mine.get(f"/v1/explain?from={ONE}&to=10.0.0.9&proto=tcp&port=22")
    assert told.json["verdict"] == "allowed"
    assert "i-0000000004" not in told.text
    assert told.json["decider"]["text"].startswith("it contradicts")
    assert admin.get(f"/v1/explain?from={ONE}&to=10.0.0.9&proto=tcp&port=22").json["decider"]["where"] == "i-0000000004"
    live = mine.post(ASK).json["live"]
    assert (live["agrees"], live["decider"], live["seen"]) == (True, "", [])
    world = f"/v1/explain?from=world&to={ONE}&proto=tcp&port=22"
    assert (mine.get(world).status_code, mine.post(world).status_code) == (200, 403)
    assert admin.post(world).status_code == 200


def test_who_is_limited_hears_nothing_of_a_peer(tcp: TcpDoor, admin: FlaskClient) -> None:
    far = numbered(5, B)
    far["networks"][0] |= {"subnetname": "subnet-b000000005", "ipv4": "10.0.5.9/24", "gateway_v4": "10.0.5.1"}  # type: ignore[index]
    far["networks"][0] |= {"ipv6": None, "gateway_v6": None}  # type: ignore[index]
    assert admin.post("/v1/vms", json=far).status_code == 201
    assert admin.delete(f"/v1/vms/{THEIRS}").status_code in (200, 204)
    assert admin.put(f"/v1/peerings/{A}/{B}").status_code == 201
    ask = f"/v1/explain?from={ONE}&to=10.0.5.9&proto=tcp&port=22"
    whole = admin.get(ask).json
    assert [step["stage"] for step in whole["steps"][3:]] == ["peering", "ingress", "arrival"]
    told = tcp.of(Role.READ, A).get(ask)
    assert told.json["verdict"] == "allowed"
    assert not any(name in told.text for name in (B, "i-0000000005", "b000000005"))
