"""Requests that are not served: each gets a problem document that says why, and touches nothing."""

from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient

from lvagent.api.problems import TITLES
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm

VM1 = "/v1/vms/i-0000000001"
DEEP = b"[" * 100_000
GOOD = json.dumps(vm()).encode()


@pytest.mark.parametrize(
    ("body", "path", "detail"),
    [
        pytest.param(b"", "", "the document is empty", id="empty"),
        pytest.param(b"{", "", "this is not JSON", id="cut"),
        pytest.param(DEEP, "", "lists and objects are nested 100000 deep", id="deep"),
        pytest.param(b"[" * 50_000 + b"]" * 50_000, "", "nested 50000 deep", id="deep and closed"),
        pytest.param(GOOD.replace(b"128", b"NaN"), "memory_mb", "NaN is not a JSON number", id="NaN"),
        pytest.param(GOOD.replace(b"128", b"-Infinity"), "memory_mb", "-Infinity", id="infinity"),
        pytest.param(b'{"id":"i-0000000001","Id":"i-0000000001"}', "Id", "the same key", id="key twice"),
        pytest.param(GOOD[:-1] + b',"cpus":2}', "cpus", "there twice", id="key exactly twice"),
        pytest.param(GOOD.replace(b"i-0000000001", b"i-\\u00000001"), "id", "NUL", id="NUL"),
        pytest.param(b"\xff\xfe" + GOOD, "", "not UTF-8", id="UTF-16"),
        pytest.param(b"[]", "", "", id="a list"),
        pytest.param(b"null", "", "", id="null"),
        pytest.param(GOOD.replace(b"vxlanid", b"vlanid"), "networks[0]", "", id="unknown key"),
        pytest.param(GOOD.replace(b": 100,", b": 2000001,"), "networks[0].vxlanid", "", id="VNI"),
    ],
)
@pytest.mark.parametrize("route", [("PUT", VM1), ("POST", "/v1/vms"), ("POST", "/v1/plan")])
def test_a_bad_body(
    client: FlaskClient, agent: FakeAgent, route: tuple[str, str], body: bytes, path: str, detail: str
) -> None:
    refused = client.open(route[1], method=route[0], data=body, content_type="application/json")
    told = refused.json
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
    assert (told["type"], told["status"], told["instance"]) == ("urn:lvagent:error:spec", 422, route[1])
    assert told.get("path", "").startswith(path)
    assert detail in told["detail"]
    assert agent.calls == []


def test_the_id_in_the_path_is_that_of_the_body(client: FlaskClient) -> None:
    other = client.put("/v1/vms/i-0000000002", json=vm()).json
    assert (other["status"], other["path"]) == (422, "id")
    assert other["detail"] == "the path says i-0000000002, the body i-0000000001"
    assert client.put("/v1/vms/i-1", json=vm()).status_code == 422


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
def test_a_wrong_content_type(client: FlaskClient, agent: FakeAgent, kind: str) -> None:
    refused = client.put(VM1, data=GOOD, content_type=kind)
    assert (refused.status_code, refused.json["type"]) == (415, "urn:lvagent:error:media-type")
    assert agent.calls == []


@pytest.mark.parametrize("kind", [None, "application/json", "Application/JSON; Charset=UTF-8"])
def test_a_right_content_type(client: FlaskClient, kind: str | None) -> None:
    assert client.put(VM1, data=GOOD, content_type=kind).status_code == 201


def test_a_body_that_is_too_large(client: FlaskClient, agent: FakeAgent) -> None:
    refused = client.put(VM1, data=b" " * ((1 << 20) + 1), content_type="application/json")
    assert (refused.status_code, refused.json["detail"]) == (413, "the body has more than 1048576 bytes")
    assert refused.json["type"] == "urn:lvagent:error:too-large"
    assert agent.calls == []


@pytest.mark.parametrize(
    ("target", "path", "detail", "hint"),
    [
        ("?force=1", "query.force", "DELETE /v1/vms/{id} has no such query parameter", "it has grace, volumes"),
        ("?grace=1&grace=2", "query.grace", "the query parameter is there twice", "say it once"),
        ("?grace=-1", "query.grace", '"-1" is not a number from 0 to 3600', None),
        ("?grace=nan", "query.grace", '"nan" is not a number from 0 to 3600', None),
        ("?grace=%D9%A3", "query.grace", '"\\u0663" is not a number from 0 to 3600', None),
        ("?grace=1e3", "query.grace", '"1e3" is not a number from 0 to 3600', None),
        ("?volumes=yes", "query.volumes", '"yes" is not one of keep, delete', None),
    ],
)
def test_a_bad_query(
    client: FlaskClient, agent: FakeAgent, target: str, path: str, detail: str, hint: str | None
) -> None:
    client.put(VM1, json=vm())
    told = client.delete(VM1 + target).json
    assert (told["status"], told["path"], told["detail"], told.get("hint")) == (422, path, detail, hint)
    assert agent.calls == [("put", "i-0000000001")]


def test_a_query_where_there_is_none(client: FlaskClient) -> None:
    told = client.get("/v1/vms?limit=3").json
    assert (told["status"], told["hint"]) == (422, "it has none")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/vms/",
        "//v1/vms",
        "/v1/vms/i-0000000009",
        "/v1/vms/i-0000000009/console",
        "/v1/vms/i-0000000009/domain.xml",
        "/v1/vms/i-00000000011",
        "/v1/vms/i-000000000\u0661",
        "/v1/vms/..%2f..%2fetc%2fpasswd/console",
        "/v1/vms/../../etc/passwd",
        "/v1/vpcs/vpc-zzzzzzzzzz",
        "/v1/vpcs/x",
        "/v1/subnets/subnet-zzzzzzzzzz",
        "/v1/operations/op-0123456789abcdef",
        "/v1/operations/../x",
    ],
)
def test_what_is_not_there(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert (answer.json["type"], answer.json["status"]) == ("urn:lvagent:error:not-found", 404)
    assert answer.json["hint"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", VM1, "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("DELETE", "/v1/vms", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("TRACE", "/v1/vms", "GET, HEAD, OPTIONS, POST"),
        ("POST", f"{VM1}/console", "GET, HEAD, OPTIONS"),
        ("DELETE", f"{VM1}/domain.xml", "GET, HEAD, OPTIONS"),
        ("GET", f"{VM1}/start", "OPTIONS, POST"),
    ],
)
def test_a_method_that_a_path_does_not_know(client: FlaskClient, method: str, path: str, allow: str) -> None:
    refused = client.open(path, method=method)
    assert (refused.status_code, refused.headers["Allow"]) == (405, allow)
    assert refused.json == {
        "type": "urn:lvagent:error:method",
        "title": TITLES["method"],
        "status": 405,
        "detail": f"this path does not know {method}",
        "instance": path,
        "hint": f"it knows {allow}",
    }


def test_an_action_that_no_vm_knows(client: FlaskClient) -> None:
    client.put(VM1, json=vm())
    answer = client.post(f"{VM1}/explode")
    assert (answer.status_code, answer.json["detail"]) == (404, "there is no such action")
    assert answer.json["hint"].startswith("a VM knows start, shutdown")
    assert client.get(f"{VM1}/explode").json["detail"] == "there is no such path"


def test_head_is_get_without_a_body_and_options_tells_the_methods(client: FlaskClient) -> None:
    client.put(VM1, json=vm())
    get, head, options = client.get(VM1), client.head(VM1), client.options(VM1)
    assert (head.status_code, head.data, head.content_length) == (200, b"", get.content_length)
    assert (options.status_code, options.data, options.content_type) == (200, b"", None)
    assert set(options.allow or ()) == {"DELETE", "GET", "HEAD", "OPTIONS", "PUT"}
    assert client.head("/v1/vms/i-0000000009").status_code == 404


def test_a_request_without_a_body_takes_none(client: FlaskClient, agent: FakeAgent) -> None:
    client.put(VM1, json=vm())
    refused = client.post(f"{VM1}/stop", data=b'{"force":true}', content_type="application/json")
    assert (refused.status_code, refused.json["detail"]) == (422, "this request takes no body")
    assert client.post(f"{VM1}/stop", json={}).status_code == 200
    assert agent.calls == [("put", "i-0000000001"), ("stop", "i-0000000001")]


def test_nothing_is_cached_or_guessed_at(client: FlaskClient) -> None:
    for path in ("/v1/vms", "/nowhere"):
        headers = client.get(path).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
