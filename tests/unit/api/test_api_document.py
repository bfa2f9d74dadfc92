"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from werkzeug.test import TestResponse

from lvagent.api.problems import KINDS, TITLES
from lvagent.errors import HostError
from lvagent.spec.parse import vm_schema
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import full, vm

Json = dict[str, Any]


@pytest.fixture
def document(client: FlaskClient) -> Json:
    found = client.get("/openapi.json").json
    assert isinstance(found, dict)
    return found


def described(document: Json) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def test_it_is_valid(document: Json) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)
    assert document["openapi"] == "3.1.0"


def test_it_has_every_route_and_no_other(document: Json, app: Flask) -> None:
    served = {
        (method, re.sub(r"<(?:any\([\w,]+\):)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described(document) == served


def test_path_parameters_are_those_of_the_path(document: Json) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            names = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert names == re.findall(r"{(\w+)}", path)


def test_a_spec_is_described_as_it_is_parsed(document: Json) -> None:
    expected = {name: value for name, value in vm_schema().items() if name != "$schema"}
    assert document["components"]["schemas"]["VmSpec"] == expected


def test_every_kind_of_error_has_a_title() -> None:
    assert set(KINDS.values()) <= set(TITLES)


def check(document: Json, method: str, path: str, answer: TestResponse) -> None:
    """The answer is one that the document has for this route."""
    responses = document["paths"][path][method.lower()]["responses"]
    response = responses[str(answer.status_code)]
    content = response.get("content", {})
    if not content:
        assert answer.data == b""
        return
    media = re.sub(r";.*", "", answer.content_type)
    described = {re.sub(r";.*", "", name): one["schema"] for name, one in content.items()}
    assert media in described, (method, path, answer.status_code)
    if media.endswith("json"):
        schema = {**described[media], "components": document["components"]}
        Draft202012Validator(schema).validate(answer.json)
    for name in response.get("headers", {}):
        assert name in answer.headers or name == "Preference-Applied", (method, path, name)


PORTS = [{"host_port": 8080, "port": 80}, {"host_port": 9000, "host_port_end": 9009, "sources": ["192.0.2.0/24"]}]
ASKED = "from=i-0000000001&to=10.0.0.1&proto=icmp"


def walk(client: FlaskClient) -> list[tuple[str, str, TestResponse]]:
    """Every route in its good case; some in more than one."""
    vm1 = "/v1/vms/i-0000000001"
    later = client.put("/v1/vms/i-0000000002", json=vm(2), headers={"Prefer": "wait=0"})
    pair = "/v1/peerings/vpc-bbbbbbbbbb/vpc-aaaaaaaaaa"
    operation = later.headers.get("Location") or f"/v1/operations/{client.get('/v1/operations').json['items'][0]['id']}"
    plain = [
        "/v1/vms", "/v1/vpcs", "/v1/subnets", "/v1/images", "/v1/operations", "/v1/strays", "/healthz", "/readyz",
        "/v1/peerings", "/metrics",
        "/v1/events", "/openapi.json", "/docs",
    ]  # fmt: skip
    return [
        ("PUT", "/v1/vms/{id}", later),
        ("GET", "/v1/operations/{id}", client.get(f"{operation}?wait=10")),
        ("POST", "/v1/vms", client.post("/v1/vms", json=full())),
        ("POST", "/v1/vms", client.post("/v1/vms", json=full())),
        ("PUT", "/v1/vms/{id}", client.put("/v1/vms/i-0000000003", json=vm(3))),
        ("PUT", "/v1/vms/{id}", client.put("/v1/vms/i-0000000003", json=vm(3, cpus=2))),
        ("POST", "/v1/vms/{id}/{action}", client.post(f"{vm1}/pause")),
        ("POST", "/v1/vms/{id}/accept", client.post(f"{vm1}/accept")),
        ("POST", "/v1/vms/{id}/restore", client.post(f"{vm1}/restore")),
        ("GET", "/v1/vms/{id}", client.get(vm1)),
        ("PUT", "/v1/vms/{id}/ports", client.put(f"{vm1}/ports", json=PORTS)),
        ("PUT", "/v1/floating/{address}", client.put("/v1/floating/192.0.2.50", json={"vm": "i-0000000001"})),
        ("GET", "/v1/floating", client.get("/v1/floating")),
        ("GET", "/v1/floating/{address}", client.get("/v1/floating/192.0.2.50")),
        ("DELETE", "/v1/floating/{address}", client.delete("/v1/floating/192.0.2.50")),
        ("GET", "/v1/vms/{id}/ports", client.get(f"{vm1}/ports")),
        ("GET", "/v1/vms/{id}", client.get(vm1)),
        ("GET", "/v1/vms/{id}/rules", client.get(f"{vm1}/rules")),
        ("GET", "/v1/vms/{id}/status", client.get(f"{vm1}/status")),
        ("GET", "/v1/vms/{id}/domain.xml", client.get(f"{vm1}/domain.xml")),
        ("GET", "/v1/vms/{id}/console", client.get(f"{vm1}/console?tail=100")),
        ("POST", "/v1/vms/{id}/qmp", client.post(f"{vm1}/qmp", json={"execute": "query-status"})),
        ("POST", "/v1/vms/{id}/hmp", client.post(f"{vm1}/hmp", json={"command": "info status"})),
        ("GET", "/v1/vpcs/{name}", client.get("/v1/vpcs/vpc-aaaaaaaaaa")),
        ("PUT", "/v1/vpcs/{name}", client.put("/v1/vpcs/vpc-aaaaaaaaaa", json={"uplink": "nat"})),
        ("DELETE", "/v1/vpcs/{name}", client.delete("/v1/vpcs/vpc-aaaaaaaaaa")),
        ("GET", "/v1/subnets/{name}", client.get("/v1/subnets/subnet-aaaaaaaaaa")),
        ("PUT", "/v1/peerings/{a}/{b}", client.put(pair)),
        ("PUT", "/v1/peerings/{a}/{b}", client.put(pair, json={})),
        ("GET", "/v1/peerings/{a}/{b}", client.get(pair)),
        ("POST", "/v1/plan", client.post("/v1/plan", json=full(9))),
        ("GET", "/v1/explain", client.get(f"/v1/explain?{ASKED}")),
        ("GET", "/v1/explain", client.get("/v1/explain?from=world&to=i-0000000001&proto=tcp&port=22")),
        ("POST", "/v1/explain", client.post(f"/v1/explain?{ASKED}", json={})),
        ("GET", "/v1/vms/{id}/timeline", client.get(f"{vm1}/timeline")),
        ("POST", "/v1/sweep", client.post("/v1/sweep")),
        *(("GET", path, client.get(path)) for path in plain),
        ("POST", "/v1/strays/{pid}/kill", client.post("/v1/strays/4711/kill", json={"identity": "123456"})),
        ("POST", "/v1/sweep", client.post("/v1/sweep?force=true")),
        ("DELETE", "/v1/peerings/{a}/{b}", client.delete(pair)),
        ("DELETE", "/v1/vms/{id}", client.delete("/v1/vms/i-0000000003?volumes=delete&grace=0.5")),
    ]


def test_every_route_answers_as_it_is_described(document: Json, client: FlaskClient) -> None:
    walked = walk(client)
    for method, path, answer in walked:
        assert answer.status_code < 300, (method, path, answer.text)
        check(document, method, path, answer)
    assert {(method, path) for method, path, _ in walked} == described(document)


def test_errors_are_described_too(document: Json, client: FlaskClient, agent: FakeAgent) -> None:
    client.post("/v1/vms", json=vm())
    agent.ready = False
    bad: list[tuple[str, str, TestResponse, int]] = [
        ("GET", "/v1/vms", client.get("/v1/vms?x=1"), 422),
        ("GET", "/v1/vms/{id}", client.get("/v1/vms/i-0000000009"), 404),
        ("POST", "/v1/vms", client.post("/v1/vms", json=vm(cpus=2)), 409),
        ("POST", "/v1/vms", client.post("/v1/vms", data=b"{}", content_type="text/plain"), 415),
        ("PUT", "/v1/peerings/{a}/{b}", client.put("/v1/peerings/vpc-aaaaaaaaaa/vpc-aaaaaaaaaa"), 422),
        ("POST", "/v1/plan", client.post("/v1/plan", data=b" " * (2 << 20)), 413),
        ("PUT", "/v1/vms/{id}", client.put("/v1/vms/i-0000000001", json=vm(), headers={"If-Match": '"9"'}), 412),
        ("POST", "/v1/vms/{id}/{action}", client.post("/v1/vms/i-0000000001/resume"), 409),
        ("DELETE", "/v1/peerings/{a}/{b}", client.delete("/v1/peerings/vpc-aaaaaaaaaa/vpc-bbbbbbbbbb"), 404),
        ("DELETE", "/v1/vms/{id}", client.delete("/v1/vms/i-0000000009"), 404),
        ("GET", "/readyz", client.get("/readyz"), 503),
    ]
    agent.failure = HostError("disk", "fill", "full")
    bad.append(("PUT", "/v1/vms/{id}", client.put("/v1/vms/i-0000000005", json=vm(5)), 500))
    agent.failure = RuntimeError("surprise")
    bad.append(("PUT", "/v1/vms/{id}", client.put("/v1/vms/i-0000000005", json=vm(5)), 500))
    for method, path, answer, status in bad:
        assert answer.status_code == status, (method, path, answer.text)
        check(document, method, path, answer)


def test_a_failed_operation_is_described(document: Json, client: FlaskClient, agent: FakeAgent) -> None:
    agent.failure = HostError("disk", "fill", "full")
    client.put("/v1/vms/i-0000000005", json=vm(5))
    check(document, "GET", "/v1/operations", client.get("/v1/operations"))


def test_the_page_shows_every_route_and_loads_nothing(client: FlaskClient, document: Json) -> None:
    answer = client.get("/docs")
    page = answer.text
    for method, path in described(document):
        assert f"<code>{method} {path}</code>" in page
    for name in document["components"]["schemas"]:
        assert f'id="schema-{name}"' in page
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert re.findall(r"(?:src|href)=\"(?!#|/openapi\.json)", page) == []
    assert "<script" not in page
