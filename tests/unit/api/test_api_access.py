"""Every route of the document, tried by every kind of caller: who is let in, and what the refusal says."""

from __future__ import annotations

import datetime
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from werkzeug.test import TestResponse

from lvagent.api.routes import ROUTES
from lvagent.config import Api, Settings
from lvagent.spec.access import Caller, Role
from tests.unit.api.doors import A, B, TcpDoor
from tests.unit.api.fake_agent import STRAY, FakeAgent
from tests.unit.api.specs import vm
from tests.unit.api.test_api_document import check

Json = dict[str, Any]

VM1, GONE = "i-0000000001", "i-0000000009"
SPEC = vm(2)

LEAST: dict[str, str] = {
    "GET /healthz": "none",
    "GET /readyz": "read",
    "GET /metrics": "read",
    "GET /openapi.json": "read",
    "GET /docs": "read",
    "GET /v1/vms": "read",
    "GET /v1/vms/{id}": "read",
    "GET /v1/vpcs": "read",
    "GET /v1/vpcs/{name}": "read",
    "GET /v1/subnets": "read",
    "GET /v1/subnets/{name}": "read",
    "GET /v1/peerings": "read",
    "GET /v1/peerings/{a}/{b}": "read",
    "PUT /v1/peerings/{a}/{b}": "admin",
    "DELETE /v1/peerings/{a}/{b}": "admin",
    "GET /v1/images": "read",
    "GET /v1/vms/{id}/rules": "read",
    "GET /v1/vms/{id}/timeline": "read",
    "GET /v1/vms/{id}/ports": "read",
    "PUT /v1/vms/{id}/ports": "admin",
    "GET /v1/floating": "read",
    "GET /v1/floating/{address}": "read",
    "PUT /v1/floating/{address}": "admin",
    "DELETE /v1/floating/{address}": "admin",
    "GET /v1/explain": "read",
    "POST /v1/explain": "operate",
    "GET /v1/operations": "read",
    "GET /v1/operations/{id}": "read",
    "GET /v1/events": "read",
    "GET /v1/vms/{id}/status": "operate",
    "GET /v1/vms/{id}/console": "operate",
    "GET /v1/vms/{id}/domain.xml": "operate",
    "POST /v1/vms/{id}/{action}": "operate",
    "POST /v1/vms/{id}/qmp": "operate",
    "POST /v1/vms/{id}/hmp": "operate",
    "POST /v1/vms": "admin",
    "PUT /v1/vms/{id}": "admin",
    "DELETE /v1/vms/{id}": "admin",
    "POST /v1/plan": "admin",
    "POST /v1/vms/{id}/accept": "admin",
    "POST /v1/vms/{id}/restore": "admin",
    "GET /v1/strays": "operate",
    "POST /v1/strays/{pid}/kill": "admin",
    "POST /v1/sweep": "admin",
    "PUT /v1/vpcs/{name}": "admin",
    "DELETE /v1/vpcs/{name}": "admin",
}
"""Which role each route needs. Decided here by hand: a new route without a line fails."""

FLOATS = ("PUT /v1/floating/{address}", "DELETE /v1/floating/{address}")
OF_THE_HOST = ("GET /v1/strays", "POST /v1/strays/{pid}/kill", "POST /v1/sweep", *FLOATS)
BY_HAND = ("POST /v1/vms/{id}/accept", "POST /v1/vms/{id}/restore")
"""What nobody may do who is limited to some VPCs."""

BODIES: dict[str, Json] = {
    "POST /v1/strays/{pid}/kill": {"identity": STRAY.identity},
    "PUT /v1/vpcs/{name}": {"uplink": "nat"},
    "PUT /v1/floating/{address}": {"vm": VM1},
    "PUT /v1/vms/{id}/ports": [{"host_port": 8080, "port": 80}],
    "POST /v1/vms": SPEC,
    "PUT /v1/vms/{id}": SPEC,
    "POST /v1/plan": SPEC,
    "POST /v1/vms/{id}/qmp": {"execute": "query-status"},
    "POST /v1/vms/{id}/hmp": {"command": "info status"},
}
NAMES = {
    "/v1/vms/{id}": {"id": VM1, "action": "pause"},
    "/v1/vpcs": {"name": A},
    "/v1/peerings": {"a": A, "b": B},
    "/v1/floating": {"address": "192.0.2.50"},
    "/v1/strays": {"pid": str(STRAY.pid)},
    "/v1/subnets": {"name": "subnet-aaaaaaaaaa"},
}
RANK = {"none": 0, "read": 1, "operate": 2, "admin": 3}

NEW = ("/v1/vms/{id}", "/v1/vpcs/{name}", "/v1/peerings/{a}/{b}")
"""What a PUT makes, where it is not there: elsewhere that is forbidden, of all else there is nothing."""

BAD = ("none", "wrong", "expired", "revoked", "other scheme", "id of another")
GOOD = ("read", "operate", "admin", "admin elsewhere", "admin of it")


def path_of(path: str, operation: str) -> str:
    """A path with names of what is there."""
    if path == "/v1/explain":
        return f"{path}?from={VM1}&to=10.0.0.1&proto=icmp"
    if path.startswith("/v1/operations/"):
        return path.format(id=operation)
    found = next((names for begin, names in NAMES.items() if path.startswith(begin)), {})
    return path.format(**found) if "{" in path else path


class Walk:
    """An agent with a VM, an operation, and a client for each kind of caller."""

    def __init__(self, tcp: TcpDoor) -> None:
        self.tcp = tcp
        admin = tcp.of(Role.ADMIN)
        assert admin.put(f"/v1/vms/{VM1}", json=vm()).status_code == 201
        assert admin.put(f"/v1/peerings/{A}/{B}").status_code == 201
        assert admin.put("/v1/floating/192.0.2.50", json={"vm": VM1}).status_code == 200
        self.operation = admin.get("/v1/operations").json["items"][0]["id"]
        self.document = admin.get("/openapi.json").json
        self.clients = {**self._bad(), **self._good()}

    def _bad(self) -> dict[str, FlaskClient]:
        tcp = self.tcp
        real = tcp.token(Role.ADMIN)
        expired = tcp.token(Role.ADMIN, expires="1h")
        revoked = tcp.token(Role.ADMIN)
        tcp.store.revoke(revoked.split("_")[1])
        tcp.now += datetime.timedelta(hours=2)
        id_of_another = f"lva_{real.split('_')[1]}_{tcp.token(Role.ADMIN).split('_')[2]}"
        return {
            "none": tcp.client(),
            "wrong": tcp.client("lva_" + "0" * 12 + "_" + "0" * 64),
            "expired": tcp.client(expired),
            "revoked": tcp.client(revoked),
            "other scheme": tcp.client(real, scheme="Basic"),
            "id of another": tcp.client(id_of_another),
        }

    def _good(self) -> dict[str, FlaskClient]:
        tcp = self.tcp
        return {
            **{role.value: tcp.of(role) for role in Role},
            "admin elsewhere": tcp.of(Role.ADMIN, B),
            "admin of it": tcp.of(Role.ADMIN, A, B),
        }

    def routes(self) -> list[tuple[str, str]]:
        return [(m.upper(), path) for path, methods in self.document["paths"].items() for m in methods]

    def call(self, who: str, method: str, path: str) -> TestResponse:
        body = BODIES.get(f"{method} {path}")
        target = path_of(path, self.operation)
        if method == "PUT" and body is not None and "id" in body:
            target = f"/v1/vms/{body['id']}"
        return self.clients[who].open(target, method=method, json=body)


@pytest.fixture
def walk(tcp: TcpDoor) -> Walk:
    return Walk(tcp)


def test_each_route_says_the_role_that_was_decided(walk: Walk) -> None:
    paths = walk.document["paths"]
    told = {f"{method} {path}": paths[path][method.lower()]["x-lvagent-role"] for method, path in walk.routes()}
    assert told == LEAST
    assert {f"{route.method} {route.path}" for route in ROUTES} <= told.keys()


def test_the_document_says_who_needs_a_token(walk: Walk, client: FlaskClient) -> None:
    local = client.get("/openapi.json").json
    for document, security in ((walk.document, [{"token": []}]), (local, [{"token": []}, {}])):
        validate(document, cls=OpenAPIV31SpecValidator)
        assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        for method, path in walk.routes():
            operation = document["paths"][path][method.lower()]
            assert operation["security"] == ([] if path == "/healthz" else security), path
            assert ("401" in operation["responses"]) is (path != "/healthz")


def test_every_route_and_every_caller(walk: Walk) -> None:
    for (method, path), who in itertools.product(walk.routes(), (*BAD, *GOOD)):
        least = LEAST[f"{method} {path}"]
        answer = walk.call(who, method, path)
        check(walk.document, method, path, answer)
        said = (method, path, who, answer.status_code, answer.text[:200])
        if least == "none":
            assert answer.status_code == 200, said
        elif who in BAD:
            assert answer.status_code == 401, said
        elif RANK[who.split(maxsplit=1)[0]] < RANK[least]:
            assert answer.status_code == 403, said
            assert f"needs the role {least}" in answer.json["detail"], said
        elif is_of_the_host(who, f"{method} {path}"):
            assert answer.status_code == 403, said
        elif who == "admin elsewhere" and ("{" in path or method != "GET" or path == "/v1/explain"):
            outside = path in ("/v1/vms", "/v1/plan") or (method == "PUT" and path in NEW)
            assert answer.status_code == (403 if outside else 404), said
        else:
            assert answer.status_code < 300, said
        if method in ("DELETE", "PUT", "POST") and answer.status_code < 300:
            renew(walk)


def is_of_the_host(who: str, route: str) -> bool:
    """Whether a route is one that a caller who is limited to VPCs may not use, whatever is his."""
    limited = who in ("admin elsewhere", "admin of it")
    return (limited and route in OF_THE_HOST) or (who == "admin of it" and route in BY_HAND)


def renew(walk: Walk) -> None:
    """Bring back what a change has changed."""
    admin = walk.clients["admin"]
    admin.put(f"/v1/vms/{VM1}", json=vm())
    admin.put("/v1/floating/192.0.2.50", json={"vm": VM1})
    admin.post(f"/v1/vms/{VM1}/start")
    admin.put(f"/v1/peerings/{A}/{B}")
    admin.delete("/v1/vms/i-0000000002")
    walk.tcp.agent.stray_processes[STRAY.pid] = STRAY


def test_who_is_refused_changes_nothing(walk: Walk, agent: FakeAgent) -> None:
    before = list(agent.calls)
    for (method, path), who in itertools.product(walk.routes(), BAD):
        if method != "GET":
            walk.call(who, method, path)
    assert agent.calls == before


def test_there_is_one_text_for_all_bad_tokens(walk: Walk, tcp: TcpDoor) -> None:
    odd = [tcp.client(text) for text in ("x", "lva_", "lva_0_0", "ä", "a b", "x" * 5000)]
    answers = [client.get("/v1/vms") for client in (*(walk.clients[who] for who in BAD), *odd)]
    assert {(answer.status_code, answer.text, answer.headers["WWW-Authenticate"]) for answer in answers} == {
        (401, answers[0].text, "Bearer")
    }
    assert answers[0].json["type"] == "urn:lvagent:error:unauthenticated"


def test_a_path_that_is_not_there_needs_a_token_too(walk: Walk) -> None:
    for path in ("/", "/v1", "/nowhere", "/v1/vms/", "/healthz/", f"/v1/vms/{VM1}/explode"):
        assert walk.clients["none"].get(path).status_code == 401
        assert walk.clients["read"].get(path).status_code == 404
    assert walk.clients["none"].patch("/v1/vms").status_code == 401
    assert walk.clients["read"].patch("/v1/vms").status_code == 405
    assert walk.clients["none"].options("/v1/vms").status_code == 401
    assert walk.clients["read"].options("/v1/vms").status_code == 200
    assert walk.clients["none"].head("/healthz").status_code == 200


def test_a_role_is_looked_at_before_anything_is_looked_up(walk: Walk) -> None:
    """Whether it is there, whether its name could be one, whether the body is any: the refusal is the same."""
    read, operate = walk.clients["read"], walk.clients["operate"]
    for client, method, paths in (
        (read, "POST", [f"/v1/vms/{VM1}/stop", f"/v1/vms/{GONE}/stop", "/v1/vms/x/stop"]),
        (read, "GET", [f"/v1/vms/{VM1}/console", f"/v1/vms/{GONE}/console?x=1"]),
        (operate, "DELETE", [f"/v1/vms/{VM1}", f"/v1/vms/{GONE}", "/v1/vms/x"]),
        (operate, "PUT", [f"/v1/vms/{VM1}", f"/v1/vms/{GONE}"]),
    ):
        answers = [client.open(path, method=method, data=b"{", content_type="application/json") for path in paths]
        assert {answer.status_code for answer in answers} == {403}
        assert len({answer.json["detail"] for answer in answers}) == 1


def test_a_token_that_is_revoked_or_over_opens_nothing_from_the_next_request_on(tcp: TcpDoor) -> None:
    text = tcp.token(Role.READ, expires="1h")
    client = tcp.client(text)
    assert client.get("/v1/vms").status_code == 200
    tcp.now += datetime.timedelta(minutes=59)
    assert client.get("/v1/vms").status_code == 200
    tcp.now += datetime.timedelta(minutes=1)
    assert client.get("/v1/vms").status_code == 401
    other = tcp.of(Role.READ)
    assert other.get("/v1/vms").status_code == 200
    tcp.store.revoke(tcp.store.all()[-1].id)
    assert other.get("/v1/vms").status_code == 401


def test_a_token_file_that_cannot_be_believed_lets_nobody_in(tcp: TcpDoor) -> None:
    client = tcp.of(Role.ADMIN)
    raw = tcp.store.path.read_bytes()
    for spoil in (lambda: tcp.store.path.chmod(0o644), lambda: tcp.store.path.write_text("[]")):
        spoil()
        answer = client.get("/v1/vms")
        assert (answer.status_code, answer.json["detail"]) == (503, "the token file is not available")
        assert client.get("/healthz").status_code == 200
        tcp.store.path.write_bytes(raw)
        tcp.store.path.chmod(0o600)
        assert client.get("/v1/vms").status_code == 200
    tcp.store.path.unlink()
    assert client.get("/v1/vms").status_code == 401


# web pages


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://192.0.2.10:7443", "https://ok.example.evil"]
)
def test_no_web_page_is_served(walk: Walk, client: FlaskClient, origin: str) -> None:
    for method, path in walk.routes():
        for who in ("none", "admin"):
            before = len(walk.tcp.agent.calls)
            target = path_of(path, walk.operation)
            answer = walk.clients[who].open(target, method=method, headers={"Origin": origin})
            assert (answer.status_code, answer.json["type"]) == (403, "urn:lvagent:error:forbidden")
            assert len(walk.tcp.agent.calls) == before
            assert [name for name, _ in answer.headers if name.lower().startswith("access-control")] == []
        assert client.open(path_of(path, walk.operation), method=method, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.0.2.10:7443", 200),
        ("192.0.2.10", 200),
        ("[::ffff:192.0.2.10]:7443", 200),
        ("Api.Example:1", 200),
        ("api.example.", 200),
        ("192.0.2.11:7443", 421),
        ("evil.example:7443", 421),
        ("localhost", 421),
        ("192.0.2.10.evil.example", 421),
        ("api.example@evil.example", 421),
        ("", 421),
        ("a:b:c", 421),
    ],
)
def test_the_host_is_one_of_ours(agent: FakeAgent, tmp_path: Path, host: str, status: int) -> None:
    door = TcpDoor(tmp_path, Settings(api=Api(hosts=("api.example",), origins=("https://ok.example",))), agent)
    client = door.client(door.token(Role.READ), host=host)
    for path in ("/v1/vms", "/healthz"):
        answer = client.get(path)
        assert answer.status_code == status
        if status != 200:
            assert answer.json["type"] == "urn:lvagent:error:misdirected"
        assert client.get(path, headers={"Origin": "https://ok.example"}).status_code == status
    door.close()


def test_on_loopback_it_may_be_called_localhost(tcp: TcpDoor) -> None:
    client = tcp.client(tcp.token(Role.READ), host="localhost:7443")
    for address in ("127.0.0.1", "::1"):
        client.environ_base["lvagent.local_address"] = address
        assert client.get("/v1/vms").status_code == 200


def test_there_are_roles_in_an_order_and_one_predicate() -> None:
    assert [[one.covers(other) for other in Role] for one in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    limited, free = Caller(Role.ADMIN, frozenset({A})), Caller(Role.READ)
    assert [limited.sees(vpcs) for vpcs in ((), (A,), (B,), (A, B))] == [False, True, False, False]
    assert all(free.sees(vpcs) for vpcs in ((), (A,), (A, B)))


def test_every_role_is_told_on_the_page(tcp: TcpDoor) -> None:
    page = tcp.of(Role.READ).get("/docs").text
    assert len(re.findall(r"Role: (?:read|operate|admin)\.", page)) == len(LEAST) - 1
